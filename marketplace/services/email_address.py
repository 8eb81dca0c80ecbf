"""Addresses of people: confirmed by a link, and changed by one that the new address got."""

from __future__ import annotations

import logging
from smtplib import SMTPException
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.core.mail import send_mail
from django.db import IntegrityError, transaction
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from marketplace.core import limits
from marketplace.core.errors import InvalidInputError
from marketplace.errors import EmailTakenError, LinkInvalidError
from marketplace.models import User
from marketplace.selectors.access import Actor
from marketplace.services import audit, throttle
from marketplace.services.security_notice import Kind, notify
from marketplace.services.validation import check_row

logger = logging.getLogger(__name__)

_SALT = "marketplace.email_address"


def mail_confirmation(user: User) -> bool:
    """Mail the link that confirms the person's address; returns whether it went.

    Raises:
        LimitExceededError: Too many were asked for.
    """
    throttle.count_confirm_mail(user_id=user.pk)
    return _mail(user, user.email)


def ask_for_change(user: User, email: str) -> bool:
    """Mail a link to the address that the person wants; the present one hears of it.

    Raises:
        InvalidInputError: No address, or the one it has.
        EmailTakenError: Somebody else signs in with it.
        LimitExceededError: Too many mails were asked for.
    """
    email = email.strip().lower()
    if email == user.email:
        detail = "This is your address already."
        raise InvalidInputError(errors=[{"pointer": "/email", "detail": detail}])
    throttle.count_confirm_mail(user_id=user.pk)
    if User.objects.filter(email=email).exists():
        raise EmailTakenError
    wanted = User.objects.get(pk=user.pk)
    wanted.email = email
    check_row(wanted)
    with transaction.atomic():
        audit.record(Actor(user=user).label, "user.ask_email", user, payload={"to": email})
        notify(user, Kind.EMAIL_WANTED, email)
    return _mail(user, email)


def read_link(token: str) -> tuple[User, str]:
    """Whom a link is about, and the address that it confirms.

    Raises:
        LinkInvalidError: Forged, too old, used, or overtaken by another change.
    """
    try:
        user_id, email, stamp = signing.loads(
            token, salt=_SALT, max_age=limits.CONFIRM_LINK_LIFETIME_S
        )
        user = User.objects.filter(pk=UUID(user_id), is_active=True).first()
    except (signing.BadSignature, ValueError, TypeError) as error:
        raise LinkInvalidError from error
    if user is None or _stamp(user) != stamp:
        raise LinkInvalidError
    return user, str(email)


def confirm_address(token: str) -> User:
    """Do what a link was mailed for. The same link again is refused after a change.

    Raises:
        LinkInvalidError: See `read_link`.
        EmailTakenError: Somebody took the address in the meantime.
    """
    user, email = read_link(token)
    try:
        with transaction.atomic():
            user = User.objects.select_for_update(no_key=True).get(pk=user.pk)
            before = user.email
            if before == email and user.email_verified_at is not None:
                return user
            user.email, user.email_verified_at = email, timezone.now()
            user.save(update_fields=["email", "email_verified_at"])
            _record(user, before)
    except IntegrityError as error:
        raise EmailTakenError from error
    return user


def _record(user: User, before: str) -> None:
    if before == user.email:
        audit.record(Actor(user=user).label, "user.confirm_email", user)
        return
    payload = {"from": before, "to": user.email}
    audit.record(Actor(user=user).label, "user.change_email", user, payload=payload)
    for address in (before, user.email):
        notify(user, Kind.EMAIL_CHANGED, f"{before} → {user.email}", address=address)


def _mail(user: User, email: str) -> bool:
    token = signing.dumps([str(user.pk), email, _stamp(user)], salt=_SALT)
    url = settings.WEB_URL + reverse("marketplace:email-confirm", args=[token])
    context = {"url": url, "email": email, "is_change": email != user.email}
    try:
        send_mail(
            render_to_string("emails/confirm_email_subject.txt", context).strip(),
            render_to_string("emails/confirm_email.txt", context),
            None,
            [email],
        )
    except (OSError, SMTPException) as error:
        logger.warning("a link could not be mailed: %s", type(error).__name__)
        return False
    return True


def _stamp(user: User) -> str:
    """Changes with address and password, so that links from before end with either."""
    text = f"{user.email}|{user.get_session_auth_hash()}"
    return signing.Signer(salt=_SALT).signature(text)[:20]
