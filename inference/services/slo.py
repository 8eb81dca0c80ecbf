"""Promise, or take a promise back."""

from __future__ import annotations

from django.db import transaction

from inference.models import SLO
from marketplace.models import AIModel
from marketplace.selectors.access import Actor, require_right
from marketplace.services import audit
from marketplace.services.validation import check_row


@transaction.atomic
def set_slo(
    *,
    actor: Actor,
    model: AIModel,
    availability_target: int,
    window_days: int,
    latency_ms: int | None,
    latency_target: int,
) -> SLO:
    """Set what is promised of a model; it holds for the past of its window as well.

    Args:
        actor: Who promises; needs the right to push.
        model: Of what.
        availability_target: Of a hundred thousand events, how many must be good.
        window_days: Over how long.
        latency_ms: Successes must not take longer; None for no such promise.
        latency_target: Of a hundred thousand successes, how many.

    Raises:
        InvalidInputError: A number is out of its range.
    """
    require_right(actor, model.account, "push")
    slo = SLO.objects.select_for_update().filter(model=model).first() or SLO(model=model)
    slo.availability_target = availability_target
    slo.window_days = window_days
    slo.latency_ms = latency_ms
    slo.latency_target = latency_target
    check_row(slo)
    slo.save()
    payload = {
        "model": str(model),
        "availability_target": availability_target,
        "window_days": window_days,
        "latency_ms": latency_ms,
        "latency_target": latency_target,
    }
    audit.record(actor.label, "slo.set", slo, account_id=model.account_id, payload=payload)
    return slo


@transaction.atomic
def remove_slo(*, actor: Actor, model: AIModel) -> None:
    """Promise nothing any more."""
    require_right(actor, model.account, "push")
    slo = SLO.objects.select_for_update().filter(model=model).first()
    if slo is not None:
        payload = {"model": str(model)}
        audit.record(actor.label, "slo.remove", slo, account_id=model.account_id, payload=payload)
        slo.delete()
