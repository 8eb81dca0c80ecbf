"""Approve or refuse a version in review, as an admin does in the console."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from marketplace.core.errors import MarketplaceError
from marketplace.models import ModelVersion, User
from marketplace.services import review


class Command(BaseCommand):
    help = "Approve or refuse a version in review."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("version_id", type=UUID)
        decision = parser.add_mutually_exclusive_group(required=True)
        decision.add_argument("--approve", action="store_true")
        decision.add_argument("--refuse", action="store_true")
        parser.add_argument("--reason", required=True)
        parser.add_argument("--email", required=True, help="the admin who decides")

        parser.add_argument(
            "--key-confirmed",
            action="store_true",
            help="the creator confirmed the new key that signed the version",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        version = ModelVersion.objects.filter(pk=options["version_id"]).first()
        reviewer = User.objects.filter(email=options["email"].lower()).first()
        if version is None or reviewer is None:
            raise CommandError("no such version" if version is None else "no such person")
        decision = {"version": version, "reviewer": reviewer, "reason": options["reason"]}
        try:
            if options["approve"]:
                row = review.approve_version(**decision, is_confirmed=options["key_confirmed"])
            else:
                row = review.refuse_version(**decision)
        except MarketplaceError as error:
            raise CommandError(f"{error.code}: {error.detail}") from error
        self.stdout.write(f"{version} {row.decision}")
