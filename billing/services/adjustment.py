"""Move money by a person's decision: small amounts alone, large ones by four eyes.

A proposal is a row; nothing moves before it is posted. The database refuses one that is posted
by the person who proposed it, posted as something else, or changed once it is there.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from billing.models import Adjustment, Invoice, LedgerAccount, Transfer
from billing.models.adjustment import ALONE_NANOS_MAX
from billing.services import ledger
from billing.services.invoice import mirror_invoice
from billing.services.write_off import find_debt_nanos, note_write_off, try_to_tell_stripe
from marketplace.core import limits
from marketplace.core.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from marketplace.core.ids import new_id
from marketplace.core.money import AMOUNT_NANOS_MAX, NANOS_PER_CENT, format_nanos
from marketplace.models import Account, User
from marketplace.selectors.access import Actor
from marketplace.services import audit

REFERENCE_LENGTH_MAX = 120
# More proposals than two people can read; a script gone wrong stops here.
PENDING_MAX = 500
# What one person moves alone in this time counts together: no large sum in small parts.
ALONE_WINDOW = timedelta(days=1)

Kind = LedgerAccount.Kind
# Between which ledger accounts money may be moved by hand. The others say what is at Stripe, or
# on its way there: only what happens at Stripe moves them.
MOVABLE_KINDS = frozenset(
    {
        Kind.WALLET,
        Kind.RECEIVABLE,
        Kind.CREATOR_RESERVE,
        Kind.CREATOR_PAYABLE,
        Kind.PLATFORM_REVENUE,
        Kind.PROMO_POOL,
        Kind.GOODWILL,
        Kind.BAD_DEBT,
        Kind.DISPUTE_LOSS,
        Kind.ROUNDING,
        Kind.TAX_PAYABLE,
    }
)


def propose_credit(
    actor: Actor, account: Account, *, amount_nanos: int, reason: str, reference: str = ""
) -> Adjustment:
    """Give credit to a wallet, at the platform's cost; see `propose_adjustment`."""
    return _propose(
        actor,
        Adjustment.Kind.CREDIT,
        source_id=ledger.get_ledger_account_id(Kind.GOODWILL),
        target_id=ledger.get_ledger_account_id(Kind.WALLET, holder_id=account.pk),
        amount_nanos=amount_nanos,
        reason=reason,
        reference=reference,
    )


def propose_adjustment(
    actor: Actor,
    *,
    source_id: UUID,
    target_id: UUID,
    amount_nanos: int,
    reason: str,
    reference: str = "",
) -> Adjustment:
    """Move money between two ledger accounts: at once if it is little, else once approved.

    Args:
        actor: A platform admin.
        source_id: The ledger account that gives.
        target_id: The ledger account that gets.
        amount_nanos: How much; above zero.
        reason: Kept for good.
        reference: What it belongs to elsewhere, such as a ticket.

    Returns:
        The row, posted or waiting for somebody else's approval.

    Raises:
        ForbiddenError: Not a platform admin.
        InvalidInputError: An amount, reason or ledger account that is not possible.
        InsufficientCreditError: The source does not hold so much; nothing was written.
        ConflictError: Too many proposals wait.
    """
    kinds = dict(
        LedgerAccount.objects.filter(pk__in=[source_id, target_id]).values_list("pk", "kind")
    )
    if len(kinds) != 2 or not set(kinds.values()) <= MOVABLE_KINDS:
        raise _invalid("/source", "Two ledger accounts between which money may be moved by hand.")
    return _propose(
        actor,
        Adjustment.Kind.ADJUSTMENT,
        source_id=source_id,
        target_id=target_id,
        amount_nanos=amount_nanos,
        reason=reason,
        reference=reference,
    )


def propose_write_off(actor: Actor, invoice: Invoice, *, reason: str) -> Adjustment:
    """Give up an invoice that nobody will pay: at once if it is little, else once approved.

    Its debt becomes our loss, and Stripe is told to ask for it no more. It can still be paid.

    Raises:
        ForbiddenError: Not a platform admin.
        InvalidInputError: No reason.
        ConflictError: It is paid, written off or proposed already, or not what was used.
        StripeUnavailableError: Whether it was paid is not known now; nothing has moved.
    """
    _require_admin(actor)
    _check_reason(reason)
    invoice = mirror_invoice(invoice.stripe_id) or invoice
    row = _propose(
        actor,
        Adjustment.Kind.WRITE_OFF,
        source_id=ledger.get_ledger_account_id(Kind.BAD_DEBT),
        target_id=ledger.get_ledger_account_id(Kind.RECEIVABLE, holder_id=invoice.account_id),
        amount_nanos=find_debt_nanos(invoice),
        reason=reason,
        reference=str(invoice),
        invoice=invoice,
    )
    if row.state == Adjustment.State.POSTED:
        try_to_tell_stripe(invoice)
    return row


def approve(actor: Actor, adjustment_id: UUID, *, reason: str = "") -> Adjustment:
    """Post what somebody else proposed. Who approves it again gets what was posted.

    Raises:
        ForbiddenError: Not a platform admin, or the one who proposed it.
        ConflictError: It was refused or withdrawn.
        InsufficientCreditError: The source does not hold so much any more; it stays pending.
    """
    user = _require_admin(actor)
    with transaction.atomic():
        adjustment = _lock(adjustment_id)
        if adjustment.state == Adjustment.State.POSTED:
            return adjustment
        _require_pending(adjustment)
        if adjustment.needs_two and adjustment.created_by_id == user.pk:
            raise ForbiddenError("Somebody else has to approve what you proposed.")
        _post(adjustment, user, reason)
        _record(actor, "adjustment.approve", adjustment, reason=reason)
    if adjustment.invoice is not None:
        try_to_tell_stripe(adjustment.invoice)
    return adjustment


def refuse(actor: Actor, adjustment_id: UUID, *, reason: str) -> Adjustment:
    """Turn a proposal down: nothing moves, now or later. Raises as `approve`."""
    user = _require_admin(actor)
    reason = _check_reason(reason)
    with transaction.atomic():
        adjustment = _lock(adjustment_id)
        _require_pending(adjustment)
        if adjustment.created_by_id == user.pk:
            raise ForbiddenError("What you proposed yourself is withdrawn, not refused.")
        _end(adjustment, user, Adjustment.State.REFUSED, reason)
        _record(actor, "adjustment.refuse", adjustment, reason=reason)
    return adjustment


def withdraw(actor: Actor, adjustment_id: UUID) -> Adjustment:
    """Take a proposal of one's own back.

    Raises:
        ForbiddenError: Somebody else's proposal.
        ConflictError: It was decided.
    """
    user = _require_admin(actor)
    with transaction.atomic():
        adjustment = _lock(adjustment_id)
        _require_pending(adjustment)
        if adjustment.created_by_id != user.pk:
            raise ForbiddenError("Only who proposed it can withdraw it.")
        _end(adjustment, user, Adjustment.State.WITHDRAWN, "")
        _record(actor, "adjustment.withdraw", adjustment)
    return adjustment


def get_alone_nanos_max() -> int:
    """What one person may move alone in a day."""
    setting: int = settings.ADJUSTMENT_ALONE_MAX_CENTS
    return min(setting * NANOS_PER_CENT, ALONE_NANOS_MAX)


def _propose(
    actor: Actor,
    kind: Adjustment.Kind,
    *,
    source_id: UUID,
    target_id: UUID,
    amount_nanos: int,
    reason: str,
    reference: str,
    invoice: Invoice | None = None,
) -> Adjustment:
    user = _require_admin(actor)
    reason = _check_reason(reason)
    if not 0 < amount_nanos <= AMOUNT_NANOS_MAX:
        raise _invalid("/amount", f"An amount is above zero, to {format_nanos(AMOUNT_NANOS_MAX)}.")
    if source_id == target_id:
        raise _invalid("/target", "Money moves between two ledger accounts.")
    if len(reference) > REFERENCE_LENGTH_MAX:
        raise _invalid("/reference", f"A reference has up to {REFERENCE_LENGTH_MAX} characters.")
    with transaction.atomic():
        # One after the other, so that what a person moves alone is counted right.
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if Adjustment.objects.filter(state=Adjustment.State.PENDING).count() >= PENDING_MAX:
            raise ConflictError(f"{PENDING_MAX} proposals wait for approval; decide some first.")
        _require_no_other(invoice)
        adjustment = Adjustment.objects.create(
            kind=kind,
            source_id=source_id,
            target_id=target_id,
            amount_nanos=amount_nanos,
            reason=reason,
            reference=reference.strip(),
            invoice=invoice,
            needs_two=_moved_alone_nanos(user) + amount_nanos > get_alone_nanos_max(),
            created_by=user,
        )
        if not adjustment.needs_two:
            # Before the log: whoever moves money locks the ledger first, and the log after it.
            _post(adjustment, user, "")
        _record(actor, "adjustment.propose", adjustment)
    return adjustment


def _moved_alone_nanos(user: User) -> int:
    moved = Adjustment.objects.filter(
        created_by=user, needs_two=False, created_at__gt=timezone.now() - ALONE_WINDOW
    ).aggregate(nanos=Sum("amount_nanos"))
    return moved["nanos"] or 0


def _post(adjustment: Adjustment, user: User, reason: str) -> None:
    transfer_id = new_id()
    if adjustment.invoice_id is not None:
        note_write_off(adjustment.invoice_id, adjustment.amount_nanos)
    ledger.post_transfer(
        transfer_id=transfer_id,
        kind=Transfer.Kind(adjustment.kind),
        idempotency_key=f"adjustment:{adjustment.pk}",
        amounts_nanos={
            adjustment.source_id: -adjustment.amount_nanos,
            adjustment.target_id: adjustment.amount_nanos,
        },
        reference=adjustment.reference or str(adjustment.pk),
    )
    adjustment.transfer_id = transfer_id
    _end(adjustment, user, Adjustment.State.POSTED, reason)


def _end(adjustment: Adjustment, user: User, state: Adjustment.State, reason: str) -> None:
    adjustment.state, adjustment.decided_by, adjustment.decision_reason = state, user, reason
    adjustment.decided_at = timezone.now()
    adjustment.save(
        update_fields=["state", "decided_by", "decided_at", "decision_reason", "transfer"]
    )


def _lock(adjustment_id: UUID) -> Adjustment:
    adjustment = (
        Adjustment.objects.select_for_update(of=("self",))
        .select_related("source__holder", "target__holder", "invoice")
        .filter(pk=adjustment_id)
        .first()
    )
    if adjustment is None:
        raise NotFoundError("No such adjustment.")
    return adjustment


def _require_no_other(invoice: Invoice | None) -> None:
    """One write-off of an invoice at a time; a unique index stands behind this."""
    if invoice is None:
        return
    find_debt_nanos(Invoice.objects.select_for_update().get(pk=invoice.pk))
    if Adjustment.objects.filter(invoice=invoice, state=Adjustment.State.PENDING).exists():
        raise ConflictError(f"To write {invoice} off is proposed already.")


def _require_pending(adjustment: Adjustment) -> None:
    if adjustment.state != Adjustment.State.PENDING:
        raise ConflictError(f"It is {adjustment.get_state_display().lower()} already.")


def _require_admin(actor: Actor) -> User:
    if not (actor.is_admin and actor.user is not None and actor.user.is_active):
        raise ForbiddenError("Only platform admins move money by hand.")
    return actor.user


def _check_reason(reason: str) -> str:
    reason = reason.strip()
    if not 0 < len(reason) <= limits.REASON_LENGTH_MAX:
        raise _invalid("/reason", f"A reason has 1 to {limits.REASON_LENGTH_MAX} characters.")
    return reason


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(errors=[{"pointer": pointer, "detail": detail}])


def _record(actor: Actor, action: str, adjustment: Adjustment, *, reason: str = "") -> None:
    audit.record(
        actor.label,
        action,
        adjustment,
        account_id=adjustment.target.holder_id or adjustment.source.holder_id,
        payload={
            "kind": adjustment.kind,
            "amount_nanos": adjustment.amount_nanos,
            "source": str(adjustment.source),
            "target": str(adjustment.target),
            "needs_two": adjustment.needs_two,
            "state": adjustment.state,
            "reason": reason or adjustment.reason,
            "reference": adjustment.reference,
        },
    )
