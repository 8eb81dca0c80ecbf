"""Give a charged prediction back: a transfer of its own, linked to it, at most once."""

from __future__ import annotations

from uuid import UUID

from django.db import DatabaseError, connection, transaction

from billing.models import UsageEvent, UsageReversal
from billing.selectors.reversal import access_charge
from billing.services.ledger import ERRORS_BY_SQLSTATE
from marketplace.core import limits
from marketplace.core.errors import ConflictError, InvalidInputError, NotFoundError
from marketplace.core.ids import new_id
from marketplace.core.money import format_nanos
from marketplace.selectors.access import Actor
from marketplace.services import audit


def reverse_usage(
    actor: Actor,
    public_id: str,
    *,
    reason: str,
    gross_nanos: int | None = None,
    creator_id: UUID | None = None,
) -> UsageReversal:
    """Give back what a prediction cost, to the wallet or debt it was paid from.

    The creator's part comes out of its reserve first, then out of its payable; the platform's
    part out of its revenue. The receipt of the charge stays as it is.

    Args:
        actor: A platform admin, or somebody with the right `billing` on the model's account.
        public_id: The prediction.
        reason: Kept for good; the consumer reads it.
        gross_nanos: How much of it; None gives all of it.
        creator_id: Only a prediction of this creator's models.

    Raises:
        NotFoundError: No such charge, or not one of the actor's.
        ForbiddenError: The right is missing.
        InvalidInputError: More than it cost, nothing, or no reason.
        ConflictError: It was given back before.
    """
    event = access_charge(actor, public_id, "billing")
    if creator_id not in (None, event.creator_id):
        raise NotFoundError("No such prediction.")
    reason = reason.strip()
    if not 0 < len(reason) <= limits.REASON_LENGTH_MAX:
        raise _invalid("/reason", f"A reason has 1 to {limits.REASON_LENGTH_MAX} characters.")
    amount_nanos = event.gross_nanos if gross_nanos is None else gross_nanos
    if not 0 < amount_nanos <= event.gross_nanos:
        most = format_nanos(event.gross_nanos)
        raise _invalid("/amount", f"It cost {most}; more than nothing and at most that goes back.")
    with transaction.atomic():
        return _reverse(actor, event, amount_nanos, reason)


def _reverse(actor: Actor, event: UsageEvent, gross_nanos: int, reason: str) -> UsageReversal:
    transfer_id = new_id()
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT creator_nanos FROM billing_reverse_usage(%s, %s, %s)",
                [transfer_id, event.pk, gross_nanos],
            )
            row = cursor.fetchone()
    except DatabaseError as error:
        known = ERRORS_BY_SQLSTATE.get(getattr(error.__cause__, "sqlstate", ""))
        if known is None:
            raise
        raise known() from error
    if row is None:
        raise ConflictError("This prediction was given back before.")
    reversal = UsageReversal.objects.create(
        prediction_id=event.pk,
        account_id=event.account_id,
        creator_id=event.creator_id,
        gross_nanos=gross_nanos,
        creator_nanos=row[0],
        reason=reason,
        is_by_platform=actor.is_admin,
        created_by=actor.user,
        transfer_id=transfer_id,
    )
    # In the log of both: one gets money, the other gives it. In the order of their ids, as
    # everybody who writes into two.
    for account_id in sorted({event.account_id, event.creator_id}):
        audit.record(
            actor.label if account_id == event.creator_id or actor.is_admin else "the creator",
            "prediction.give_back",
            reversal,
            account_id=account_id,
            payload={"gross_nanos": gross_nanos, "reason": reason},
        )
    return reversal


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(errors=[{"pointer": pointer, "detail": detail}])
