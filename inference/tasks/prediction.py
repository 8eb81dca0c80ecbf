from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.forget_predictions")
def forget_predictions() -> None:
    """Drop what predictions carried: no retry awaits it, or its time to be shown is over."""
    from inference.services import prediction, run

    run.forget_runs()
    prediction.forget_predictions()
