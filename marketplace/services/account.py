"""People and accounts: sign up, organisations, members and their roles, suspension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth import authenticate
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from marketplace.core import limits
from marketplace.core.confusable import skeleton
from marketplace.core.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidInputError,
)
from marketplace.core.reserved import RESERVED_SLUGS, is_reserved
from marketplace.errors import (
    CountLimitError,
    EmailTakenError,
    LastOwnerError,
    MemberExistsError,
    NameConfusableError,
    NameReservedError,
    NameTakenError,
)
from marketplace.models import Account, APIKey, Membership, Notification, User
from marketplace.models.account import Skeleton
from marketplace.selectors.access import Actor
from marketplace.selectors.found import get_one
from marketplace.selectors.retired_name import is_retired
from marketplace.services import audit, throttle
from marketplace.services.admin import check_reason, require_admin
from marketplace.services.limits import check_rates, describe_changes
from marketplace.services.notice import owe_notice
from marketplace.services.security_notice import Kind, notify
from marketplace.services.validation import check_row

Role = Membership.Role

_LOOK_LOCK = 0x5352_4C4B
_RESERVED_LOOKS = frozenset(skeleton(one) for one in RESERVED_SLUGS)


def sign_up(*, email: str, password: str, slug: str, name: str = "") -> tuple[User, Account]:
    """Make a person and the account of the same person, which it owns.

    Raises:
        InvalidInputError: E-mail address, password or name is not acceptable.
        EmailTakenError, NameTakenError, NameReservedError: Nothing was written.
    """
    email = email.strip().lower()
    user = User(email=email, name=name.strip())
    _check_password(password, user)
    user.set_password(password)
    try:
        with transaction.atomic():
            if User.objects.filter(email=email).exists():
                raise EmailTakenError
            check_row(user)
            user.save(force_insert=True)
            audit.record(Actor(user=user).label, "user.sign_up", user)
            account = _make_account(user, slug, name or slug, Account.Kind.PERSON)
    except IntegrityError as error:
        # Somebody else took the address between the look and the insert.
        raise EmailTakenError from error
    return user, account


def create_account(*, user: User, slug: str, name: str) -> Account:
    """Make an organisation, which the person owns.

    Raises:
        InvalidInputError, NameTakenError, NameReservedError: Nothing was written.
        CountLimitError: The person belongs to as many accounts as one may.
    """
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if user.memberships.count() >= limits.ACCOUNTS_PER_PERSON_MAX:
            raise CountLimitError(
                f"A person belongs to at most {limits.ACCOUNTS_PER_PERSON_MAX} accounts."
            )
        return _make_account(user, slug, name, Account.Kind.ORGANISATION)


def _make_account(user: User, slug: str, name: str, kind: Account.Kind) -> Account:
    slug = slug.strip()
    if is_reserved(slug) or skeleton(slug) in _RESERVED_LOOKS:
        raise NameReservedError(errors=[{"pointer": "/slug", "detail": "This name is reserved."}])
    if Account.objects.filter(slug=slug).exists() or is_retired(slug):
        raise NameTakenError
    _refuse_look_alike(slug)
    account = Account(slug=slug, name=name.strip(), kind=kind)
    check_row(account)
    try:
        with transaction.atomic():
            account.save(force_insert=True)
    except IntegrityError as error:
        raise NameTakenError from error
    Membership.objects.create(account=account, user=user, role=Role.OWNER)
    audit.record(
        Actor(user=user).label,
        "account.create",
        account,
        account_id=account.pk,
        payload={"slug": slug, "kind": str(kind)},
    )
    return account


def _refuse_look_alike(slug: str) -> None:
    """Nobody gets a name that an eye takes for another's, whoever the other is."""
    look = skeleton(slug)
    with connection.cursor() as cursor:
        # Two that look alike take turns: the second finds the first. Held to the commit.
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOOK_LOCK, look])
    if Account.objects.alias(look=Skeleton("slug")).filter(look=look).exists():
        raise NameConfusableError(
            errors=[{"pointer": "/slug", "detail": NameConfusableError.title}]
        )


def log_in(request: HttpRequest | None, *, email: str, password: str, address: str) -> User:
    """Check a password, and count the tries.

    Args:
        request: Handed to Django's authentication backends.
        email: Who it claims to be.
        password: Never logged.
        address: Where the try comes from.

    Raises:
        LoginThrottledError: Too many failed tries; the password was not looked at.
        AuthenticationError: It is wrong, or nobody has this address.
    """
    throttle.count_login(email=email, address=address)
    user = authenticate(request, username=email.strip().lower(), password=password)
    if not isinstance(user, User):
        raise AuthenticationError("E-mail address and password do not fit.")
    throttle.forget_login(email=email, address=address)
    return user


def check_own_password(*, user: User, password: str, address: str) -> None:
    """Prove who sits at an open session, which must not become a place to guess.

    Raises:
        LoginThrottledError: Too many failed tries; the password was not looked at.
        AuthenticationError: It is wrong.
    """
    throttle.count_login(email=user.email, address=address)
    if not user.check_password(password):
        raise AuthenticationError("This is not your password.")
    throttle.forget_login(email=user.email, address=address)


def change_password(*, user: User, password: str) -> None:
    """Set a new password; other sessions of the person end.

    Raises:
        InvalidInputError: Too weak.
    """
    _check_password(password, user)
    with transaction.atomic():
        user.set_password(password)
        user.save(update_fields=["password"])
        audit.record(Actor(user=user).label, "user.password", user)
        notify(user, Kind.PASSWORD)


def rename_person(*, user: User, name: str) -> None:
    """Change the name that team mates see."""
    with transaction.atomic():
        user.name = name.strip()
        check_row(user)
        user.save(update_fields=["name"])
        audit.record(Actor(user=user).label, "user.rename", user)


def rename_account(*, actor: Actor, account: Account, name: str) -> None:
    """Change the name that others see; the slug never changes."""
    describe_account(actor=actor, account=account, name=name, bio=account.bio)


def describe_account(*, actor: Actor, account: Account, name: str, bio: str) -> None:
    """Change what the account's page says: the name that others see, and who it is."""
    with transaction.atomic():
        account.name = name.strip()
        account.bio = bio.strip()
        check_row(account)
        account.save(update_fields=["name", "bio"])
        audit.record(
            actor.label,
            "account.rename",
            account,
            account_id=account.pk,
            payload={"name": account.name, "bio": account.bio},
        )


def add_member(*, actor: Actor, account: Account, email: str, role: str) -> Membership:
    """Let a person act for the account.

    Args:
        actor: Who adds; the caller has checked the right `members`.
        account: The account.
        email: Whoever signs in with it.
        role: One of `Membership.Role`.

    Raises:
        InvalidInputError: Nobody signs in with this address, or there is no such role.
        MemberExistsError: The person is a member already.
        ForbiddenError: Only owners make owners.
        CountLimitError: Account or person have as many memberships as they may.
    """
    _check_role(role)
    user = User.objects.filter(email=email.strip().lower(), is_active=True).first()
    if user is None:
        detail = "Nobody signs in with this address. Ask the person to sign up first."
        raise InvalidInputError(errors=[{"pointer": "/email", "detail": detail}])
    with transaction.atomic():
        _lock(account)
        if role == Role.OWNER:
            _require_owner(actor, account)
        if account.memberships.filter(user=user).exists():
            raise MemberExistsError
        if (
            account.memberships.count() >= limits.MEMBERS_PER_ACCOUNT_MAX
            or user.memberships.count() >= limits.ACCOUNTS_PER_PERSON_MAX
        ):
            raise CountLimitError("The account or the person has as many memberships as allowed.")
        membership = Membership.objects.create(account=account, user=user, role=role)
        _record_member(actor, "member.add", account, user, {"role": role})
    return membership


def change_role(*, actor: Actor, account: Account, user: User, role: str) -> Membership:
    """Give a member another role.

    Raises:
        NotFoundError: The person is no member.
        ForbiddenError: Only owners make or unmake owners.
        LastOwnerError: Nobody else owns the account.
    """
    _check_role(role)
    with transaction.atomic():
        membership = _get_member(account, user)
        before = membership.role
        if before == role:
            return membership
        if Role.OWNER in (before, role):
            _require_owner(actor, account)
        if before == Role.OWNER:
            _require_other_owner(account, user)
        membership.role = role
        membership.save(update_fields=["role"])
        _record_member(actor, "member.role", account, user, {"from": before, "to": role})
    return membership


def remove_member(*, actor: Actor, account: Account, user: User) -> None:
    """Take a person out of the account; also how a member leaves.

    Tokens that the person made for the account are revoked with it. Consumer keys belong to
    the account's services and stay.

    Raises:
        NotFoundError: The person is no member.
        ForbiddenError: Only owners remove owners.
        LastOwnerError: Nobody else owns the account.
    """
    with transaction.atomic():
        membership = _get_member(account, user)
        if membership.role == Role.OWNER:
            _require_owner(actor, account)
            _require_other_owner(account, user)
        membership.delete()
        tokens = APIKey.objects.filter(
            account=account, created_by=user, mode=APIKey.Mode.TOKEN, revoked_at=None
        )
        revoked = tokens.update(revoked_at=timezone.now())
        _record_member(actor, "member.remove", account, user, {"tokens_revoked": revoked})


def suspend_account(*, actor: Actor, account: Account, reason: str) -> None:
    """Stop an account at once: it can only read, its keys and models serve nothing."""
    _set_suspended(actor, account, reason, is_suspended=True)


def unsuspend_account(*, actor: Actor, account: Account, reason: str) -> None:
    """Let a suspended account act again."""
    _set_suspended(actor, account, reason, is_suspended=False)


def set_account_rates(
    *, actor: Actor, account: Account, rates: Mapping[str, Any], reason: str
) -> None:
    """Say how much all keys of an account may ask for together; the same changes nothing.

    Args:
        actor: A platform admin.
        account: The account.
        rates: Some of `RATE_FIELDS`; the others keep their value.
        reason: Kept in the audit log, which the account can read.

    Raises:
        ForbiddenError: Accounts do not limit themselves.
        InvalidInputError: A rate or reason that is not possible.
    """
    require_admin(actor, "Only platform admins limit accounts.")
    reason = check_reason(reason)
    check_rates(rates)
    with transaction.atomic():
        locked = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        changes = describe_changes(locked, rates)
        if changes:
            for name in changes:
                setattr(locked, name, rates[name])
            locked.save(update_fields=list(changes))
            audit.record(
                actor.label,
                "account.limit",
                locked,
                account_id=locked.pk,
                payload={**changes, "reason": reason},
            )
    for name in rates:
        setattr(account, name, getattr(locked, name))


def _set_suspended(actor: Actor, account: Account, reason: str, *, is_suspended: bool) -> None:
    require_admin(actor, "Only platform admins suspend accounts.")
    reason = check_reason(reason)
    with transaction.atomic():
        _lock(account)
        account.refresh_from_db(fields=["suspended_at"])
        if (account.suspended_at is not None) == is_suspended:
            return
        account.suspended_at = timezone.now() if is_suspended else None
        account.save(update_fields=["suspended_at"])
        action = "account.suspend" if is_suspended else "account.unsuspend"
        audit.record(
            actor.label, action, account, account_id=account.pk, payload={"reason": reason}
        )
        context = {"account": account, "is_suspended": is_suspended, "reason": reason}
        owe_notice(
            "account_suspended",
            context,
            kind=Notification.Kind.ACCOUNT,
            path=reverse("marketplace:account", args=[account.slug]),
            account=account,
        )


def _check_password(password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise InvalidInputError(
            errors=[{"pointer": "/password", "detail": text} for text in error.messages]
        ) from error


def _check_role(role: str) -> None:
    if role not in Role.values:
        detail = f"One of {', '.join(Role.values)}."
        raise InvalidInputError(errors=[{"pointer": "/role", "detail": detail}])


def _lock(account: Account) -> None:
    Account.objects.select_for_update(no_key=True).get(pk=account.pk)


def _get_member(account: Account, user: User) -> Membership:
    _lock(account)
    return get_one(account.memberships.filter(user=user), "No such member.")


def _require_owner(actor: Actor, account: Account) -> None:
    if not account.memberships.filter(user=actor.user, role=Role.OWNER).exists():
        raise ForbiddenError("Only an owner makes, changes or removes owners.")


def _require_other_owner(account: Account, user: User) -> None:
    if not account.memberships.filter(role=Role.OWNER).exclude(user=user).exists():
        raise LastOwnerError


def _record_member(
    actor: Actor, action: str, account: Account, user: User, payload: dict[str, object]
) -> None:
    audit.record(
        actor.label,
        action,
        account,
        account_id=account.pk,
        payload={"member": user.email, **payload},
    )
