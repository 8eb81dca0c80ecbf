"""What the status page is told of billing; see `marketplace.services.status`."""

from __future__ import annotations

from datetime import timedelta

from billing.models import ReceiptLeaf, StripeEvent, UsageEvent
from marketplace.core.clock import utc_now
from marketplace.core.ids import lowest_id
from marketplace.models import StatusDay, Vital
from marketplace.selectors.vital import CHECK_STALE_AFTER

State = StatusDay.State

# Receipts are sealed every ten seconds, and events applied every fifteen.
LATE_AFTER = timedelta(minutes=10)
# A charge is booked when its prediction ends, and its id tells when it began.
PREDICTION_MAX = timedelta(hours=1)


def probe_billing() -> StatusDay.State:
    """The ledger's last check, and whether charges and payments are worked off.

    That billing is down is never measured: without the books nothing else could be counted.
    """
    now = utc_now()
    ledger = Vital.objects.filter(name="ledger", at__gt=now - CHECK_STALE_AFTER).first()
    is_late = _has_unsealed_charge() or _has_waiting_event()
    if is_late or (ledger is not None and ledger.state == Vital.State.BAD):
        return State.DEGRADED
    return State.UNKNOWN if ledger is None else State.UP


def _has_unsealed_charge() -> bool:
    """Whether the newest charge that should have been sealed long ago was not."""
    late = utc_now() - LATE_AFTER
    charges = UsageEvent.objects.filter(
        prediction_id__gte=lowest_id(late - PREDICTION_MAX),
        prediction_id__lt=lowest_id(late),
        occurred_at__lt=late,
    )
    newest = charges.order_by("-prediction_id").values_list("prediction_id", flat=True).first()
    return newest is not None and not ReceiptLeaf.objects.filter(pk=newest).exists()


def _has_waiting_event() -> bool:
    late = utc_now() - LATE_AFTER
    return StripeEvent.objects.filter(
        state=StripeEvent.State.RECEIVED, received_at__lt=late
    ).exists()
