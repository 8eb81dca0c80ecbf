"""Make the people and accounts of the demo; prints them as one JSON object.

The models of the demo are not made here: they are pushed, onboarded and reviewed like any
other.
"""

from __future__ import annotations

import json
import secrets
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from marketplace.models import Account, APIKey, Membership, User
from marketplace.selectors.access import Actor
from marketplace.services import key

CREATOR = ("demo", "Strongroom demo", "creator@demo.example")
CONSUMER = ("acme", "Acme Analytics", "consumer@demo.example")
ADMIN_EMAIL = "admin@demo.example"
TOKEN_NAME = "demo seed"  # noqa: S105 - the name of a token, no secret


class Command(BaseCommand):
    help = "Make the demo's creator, consumer and admin (development only)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--reset-passwords", action="store_true", help="set new passwords where they exist"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEVELOPMENT:
            raise CommandError("the demo is for development only")
        with transaction.atomic():
            people = {
                "creator": seed_owner(*CREATOR, reset=options["reset_passwords"]),
                "consumer": seed_owner(*CONSUMER, reset=options["reset_passwords"]),
                "admin": seed_admin(reset=options["reset_passwords"]),
            }
            people["creator"]["api_token"] = seed_token()
        self.stdout.write(json.dumps(people))


def seed_owner(slug: str, name: str, email: str, *, reset: bool) -> dict[str, str | None]:
    """A person and the account that it owns; the password only if it was set now."""
    user, password = seed_person(email, reset=reset)
    account, _ = Account.objects.get_or_create(
        slug=slug, defaults={"name": name, "kind": Account.Kind.ORGANISATION}
    )
    Membership.objects.get_or_create(
        account=account, user=user, defaults={"role": Membership.Role.OWNER}
    )
    return {"email": email, "password": password, "account": slug}


def seed_admin(*, reset: bool) -> dict[str, str | None]:
    """The platform's admin; owns no account."""
    user, password = seed_person(ADMIN_EMAIL, reset=reset)
    user.is_staff = user.is_superuser = True
    user.save(update_fields=["is_staff", "is_superuser"])
    return {"email": ADMIN_EMAIL, "password": password}


def seed_person(email: str, *, reset: bool) -> tuple[User, str | None]:
    """A person with a random password; None if the old one was kept."""
    password = secrets.token_urlsafe(12)
    user = User.objects.filter(email=email).first()
    if user is None:
        return User.objects.create_user(email, password), password
    if not reset:
        return user, None
    user.set_password(password)
    user.save(update_fields=["password"])
    return user, password


def seed_token() -> str:
    """A fresh token of the creator; earlier ones of this command end."""
    account = Account.objects.get(slug=CREATOR[0])
    actor = Actor(user=User.objects.get(email=CREATOR[2]))
    earlier = account.api_keys.filter(mode=APIKey.Mode.TOKEN, name=TOKEN_NAME, revoked_at=None)
    for token in earlier:
        key.revoke_key(actor=actor, api_key=token)
    _, secret = key.issue_key(actor=actor, account=account, name=TOKEN_NAME, mode=APIKey.Mode.TOKEN)
    return secret.text
