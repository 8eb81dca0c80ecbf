from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.forget_predictions")
def forget_predictions() -> None:
    """Drop keys and contents of predictions whose retries are not awaited any more."""
    from inference.services import prediction

    prediction.forget_predictions()
