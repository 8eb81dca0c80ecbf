from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.apply_stripe_event")
def apply_stripe_event(event_id: str) -> None:
    from billing.services.stripe_event import apply_event

    apply_event(event_id)


@shared_task(name="billing.sweep_stripe_events")
def sweep_stripe_events() -> None:
    from billing.services.stripe_event import sweep_events

    sweep_events()
