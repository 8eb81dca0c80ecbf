from __future__ import annotations

from uuid import UUID

from celery import shared_task


@shared_task(name="inference.advance_onboarding")
def advance_onboarding(version_id: str) -> None:
    """Take a version one step further, if it is due."""
    from inference.services import onboarding

    onboarding.advance(version_id=UUID(version_id))


@shared_task(name="inference.sweep_onboarding")
def sweep_onboarding() -> None:
    """Carry on with every version that is due; also after a worker died."""
    from inference.services import onboarding

    onboarding.sweep()
