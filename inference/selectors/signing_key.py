"""Read the keys that sign manifests."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import OuterRef, QuerySet, Subquery

from inference.models import Artifact, SigningKey
from marketplace.core.clock import to_wire
from marketplace.core.errors import NotFoundError
from marketplace.models import Account, Membership, User
from marketplace.selectors.access import Actor, list_accounts, require_right


def list_signing_keys(account: Account) -> QuerySet[SigningKey]:
    """All keys of an account, the newest first, with the last version that each signed."""
    last = Artifact.objects.filter(signing_key=OuterRef("pk")).order_by("-created_at")
    return (
        SigningKey.objects.filter(account=account)
        .select_related("account", "confirmed_by")
        .annotate(
            last_used_at=Subquery(last.values("created_at")[:1]),
            last_model=Subquery(last.values("version__model__name")[:1]),
            last_number=Subquery(last.values("version__number")[:1]),
        )
        .order_by("-created_at", "-pk")
    )


def access_signing_key(actor: Actor, key_id: UUID) -> SigningKey:
    """A key of one of the actor's accounts, to which it may push.

    Raises:
        NotFoundError: None of that id among the actor's accounts.
        ForbiddenError: The actor may not push there.
    """
    key = (
        SigningKey.objects.select_related("account", "confirmed_by")
        .filter(pk=key_id, account__in=list_accounts(actor))
        .first()
    )
    if key is None:
        raise NotFoundError("No such signing key.")
    require_right(actor, key.account, "push")
    return key


def is_owner(user: User, account: Account) -> bool:
    """Whether the person owns the account; other roles may push and confirm nothing."""
    return account.memberships.filter(user=user, role=Membership.Role.OWNER).exists()


def describe_signing_key(key: SigningKey) -> dict[str, Any]:
    """A key as the API shows it; of `list_signing_keys`, else without its last use."""
    number = getattr(key, "last_number", None)
    last_used_at = getattr(key, "last_used_at", None)
    return {
        "id": str(key.pk),
        "fingerprint": key.fingerprint,
        "state": str(key.state),
        "created_at": to_wire(key.created_at),
        "registered_by": key.registered_by,
        "confirmed_at": to_wire(key.confirmed_at) if key.confirmed_at else None,
        "trusted_at": to_wire(key.trusted_at) if key.trusted_at else None,
        "revoked_at": to_wire(key.revoked_at) if key.revoked_at else None,
        "last_used_at": to_wire(last_used_at) if last_used_at else None,
        "last_used_for": f"{key.account.slug}/{key.last_model}:{number}"  # type: ignore[attr-defined]
        if number
        else None,
    }
