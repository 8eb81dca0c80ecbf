"""Payouts: each transfer to a creator at Stripe is an item of ours, and so is what came back."""

from __future__ import annotations

from uuid import UUID

from billing.models import PayoutItem, PayoutReversal
from billing.services.reconciliation.finding import (
    Comparison,
    Explanation,
    Fact,
    Fault,
    Finding,
    Kind,
    Period,
    pair,
)
from billing.services.reconciliation.stripe_side import StripeSide, choose_theirs
from billing.services.reconciliation.traces import has_heard_of, read_id
from billing.stripe.connect import ConnectTransfer, TransferReversal
from marketplace.core.money import NANOS_PER_CENT

METADATA_KEY = "payout"
REVERSAL_METADATA_KEY = "payout_reversal"


def compare_payouts(period: Period, stripe: StripeSide) -> Comparison:
    """Transfers to connected accounts, and items that were paid."""
    paid = PayoutItem.objects.filter(state=PayoutItem.State.PAID)
    inside = paid.filter(finished_at__gte=period.since, finished_at__lt=period.until)
    ours = list(inside | paid.filter(connect_transfer_id__in=list(stripe.transfers)))
    theirs = choose_theirs(
        stripe.transfers, (row.connect_transfer_id for row in ours), stripe.find_transfer, period
    )
    compared = pair(
        Kind.PAYOUT, [_our_fact(row) for row in ours], [_their_fact(one) for one in theirs]
    )
    compared.findings = [_explain(finding, period, stripe) for finding in compared.findings]
    return compared


def compare_reversals(period: Period, stripe: StripeSide) -> Comparison:
    """What was taken back of transfers, and what we took back of items."""
    done = PayoutReversal.objects.select_related("item").filter(state=PayoutReversal.State.DONE)
    inside = done.filter(finished_at__gte=period.since, finished_at__lt=period.until)
    transfers = {row.id for row in stripe.transfers.values() if row.amount_reversed}
    transfers |= {row.item.connect_transfer_id or "" for row in inside}
    theirs = [found for one in sorted(transfers) for found in stripe.list_reversals(one)]
    ours = list(inside | done.filter(connect_reversal_id__in=[row.id for row in theirs]))
    known = {row.connect_reversal_id for row in ours}
    compared = pair(
        Kind.REVERSAL,
        [_our_reversal_fact(row) for row in ours],
        [
            _their_reversal_fact(found)
            for found in theirs
            if found.id in known or found.created_at in period
        ],
    )
    by_id = {found.id: found for found in theirs}
    compared.findings = [
        _explain_reversal(finding, period, by_id.get(finding.stripe_id), stripe)
        for finding in compared.findings
    ]
    return compared


def _our_fact(row: PayoutItem) -> Fact:
    assert row.finished_at is not None, "it was paid"
    return Fact(
        key=row.connect_transfer_id or "",
        id=str(row.pk),
        amount_nanos=-row.amount_nanos,
        happened_at=row.finished_at,
        owner=f"{row.destination} for {row.pk}",
    )


def _their_fact(transfer: ConnectTransfer) -> Fact:
    named = transfer.metadata.get(METADATA_KEY, "")
    return Fact(
        key=transfer.id,
        id=transfer.id,
        amount_nanos=-transfer.amount * NANOS_PER_CENT,
        happened_at=transfer.created_at,
        owner=f"{transfer.destination or ''} for {named}",
    )


def _explain(finding: Finding, period: Period, stripe: StripeSide) -> Finding:
    if finding.fault is not Fault.MISSING_HERE:
        return finding
    transfer = stripe.find_transfer(finding.key)
    item_id = read_id(transfer.metadata.get(METADATA_KEY, "") if transfer else "")
    if item_id is None:
        return finding.explained(Explanation.NONE, "It names no payout of ours.")
    item = PayoutItem.objects.filter(pk=item_id).first()
    if item is None and not _is_known(item_id):
        return finding.explained(
            Explanation.RESTORED_DATABASE, f"Nothing here has ever heard of payout {item_id}."
        )
    if item is None or not item.is_open:
        return finding
    young = period.is_young(finding.happened_at)
    return finding.explained(
        Explanation.IN_FLIGHT if young else Explanation.NOT_YET_APPLIED,
        f"It is payout {item_id}; its answer was lost.",
    )


def _is_known(item_id: UUID) -> bool:
    """Whether there is such a payout, or anything here tells of one that is gone."""
    if PayoutItem.objects.filter(pk=item_id).exists():
        return True
    return has_heard_of(item_id, f"payout:{item_id}")


def _our_reversal_fact(row: PayoutReversal) -> Fact:
    assert row.finished_at is not None, "it is done"
    return Fact(
        key=row.connect_reversal_id or "",
        id=str(row.pk),
        amount_nanos=row.amount_nanos,
        happened_at=row.finished_at,
        owner=row.item.connect_transfer_id or "",
    )


def _their_reversal_fact(found: TransferReversal) -> Fact:
    return Fact(
        key=found.id,
        id=found.id,
        amount_nanos=found.amount * NANOS_PER_CENT,
        happened_at=found.created_at,
        owner=found.transfer_id or "",
    )


def _explain_reversal(
    finding: Finding, period: Period, found: TransferReversal | None, stripe: StripeSide
) -> Finding:
    if finding.fault is not Fault.MISSING_HERE or found is None:
        return finding
    is_ours = PayoutItem.objects.filter(connect_transfer_id=found.transfer_id or "").exists()
    if not is_ours:
        transfer = stripe.find_transfer(found.transfer_id or "")
        item_id = read_id(transfer.metadata.get(METADATA_KEY, "") if transfer else "")
        if item_id is None or _is_known(item_id):
            return finding
        return finding.explained(
            Explanation.RESTORED_DATABASE, f"It was taken back of {found.transfer_id}."
        )
    young = period.is_young(finding.happened_at)
    return finding.explained(
        Explanation.IN_FLIGHT if young else Explanation.NOT_YET_APPLIED,
        f"It was taken back of {found.transfer_id}.",
    )
