"""Promise a part of a version's earnings to the owners of what it was made from.

Only predictions that are booked afterwards are shared. Before its version is approved a
royalty can be taken back by who promised it; after that it is the beneficiary's, who alone
can let go of it. Royalties are of the creator's share, and of the version that names them:
they are not handed on to the parents of parents.
"""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from billing.models import LedgerAccount, Royalty
from billing.services import ledger
from marketplace.core.errors import ConflictError, FieldError, ForbiddenError, InvalidInputError
from marketplace.models import ModelVersion
from marketplace.selectors.access import Actor, has_right
from marketplace.services import audit

# Each is a ledger entry more in every booking of the version.
ROYALTIES_MAX = 8
BPS_MAX = 10_000
# While it is in one of these states a version earns nothing, so nobody counts on it.
UNSOLD_STATES = frozenset(
    {
        ModelVersion.State.UPLOADING,
        ModelVersion.State.ONBOARDING,
        ModelVersion.State.IN_REVIEW,
        ModelVersion.State.FAILED,
        ModelVersion.State.REFUSED,
    }
)


def promise_royalty(
    actor: Actor, version: ModelVersion, *, parent: ModelVersion, bps: int
) -> Royalty:
    """Share what `version` earns its creator from now on.

    Args:
        actor: Has the right `push` on the version's account; the caller has checked.
        version: Whose predictions are shared.
        parent: What it was made from; its owner gets the share.
        bps: Hundredths of a percent of the creator's share.

    Raises:
        InvalidInputError: The share is out of bounds, or the parent is the account's own.
        ConflictError: There are as many as there may be, or this parent has one already.
    """
    if not 1 <= bps <= BPS_MAX:
        raise _field_error("/bps", f"A royalty is 1 to {BPS_MAX:,} hundredths of a percent.")
    owner = parent.model.account
    if owner == version.model.account:
        raise _field_error("/parent", "This version is your own: nothing would change hands.")
    with transaction.atomic():
        # One promise at a time; bookings refer to the version and do not wait for this lock.
        ModelVersion.objects.select_for_update(no_key=True).get(pk=version.pk)
        present = list(Royalty.objects.filter(version=version, ended_at=None))
        if any(one.parent_id == parent.pk for one in present):
            raise ConflictError(f"{parent} has a royalty of this version already.")
        if len(present) >= ROYALTIES_MAX:
            raise ConflictError(f"A version has at most {ROYALTIES_MAX} royalties.")
        left_bps = BPS_MAX - sum(one.bps for one in present)
        if bps > left_bps:
            raise _field_error("/bps", f"Only {left_bps:,} hundredths of a percent are left.")
        royalty = Royalty.objects.create(
            version=version,
            parent=parent,
            beneficiary=owner,
            reserve_id=ledger.get_ledger_account_id(
                LedgerAccount.Kind.CREATOR_RESERVE, holder_id=owner.pk
            ),
            bps=bps,
            created_by=actor.user,
        )
        payload = {"version": str(version), "parent": str(parent), "bps": bps}
        for account_id in sorted((version.model.account_id, owner.pk)):
            audit.record(
                actor.label, "royalty.promise", royalty, account_id=account_id, payload=payload
            )
    return royalty


def end_royalty(actor: Actor, royalty: Royalty) -> Royalty:
    """End a royalty: predictions that are booked from now on are not shared.

    Raises:
        ForbiddenError: The version is sold already, and the actor is not the beneficiary.
    """
    with transaction.atomic():
        royalty = (
            Royalty.objects.select_for_update(of=("self",))
            .select_related("version__model__account", "beneficiary")
            .get(pk=royalty.pk)
        )
        if royalty.ended_at is not None:
            return royalty
        if not can_end(actor, royalty):
            raise ForbiddenError(
                "The version is on sale, or you have not the right: only the beneficiary's "
                "billing can let go of this royalty."
            )
        royalty.ended_at = timezone.now()
        royalty.save(update_fields=["ended_at"])
        payload = {"version": str(royalty.version), "bps": royalty.bps}
        for account_id in sorted((royalty.version.model.account_id, royalty.beneficiary_id)):
            audit.record(
                actor.label, "royalty.end", royalty, account_id=account_id, payload=payload
            )
    return royalty


def can_end(actor: Actor, royalty: Royalty) -> bool:
    """Whether this actor may end it: the beneficiary always, who promised it until it is sold."""
    if royalty.ended_at is not None:
        return False
    if has_right(actor, royalty.beneficiary, "billing"):
        return True
    is_sold = royalty.version.state not in UNSOLD_STATES
    return not is_sold and has_right(actor, royalty.version.model.account, "push")


def _field_error(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(errors=[FieldError(pointer=pointer, detail=detail)])
