from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.score_abuse")
def score_abuse() -> None:
    """Score consumers of watched models anew, and tell creators of those who stand out."""
    from inference.services import abuse

    abuse.score_consumers()
    abuse.mail_alerts()


@shared_task(name="inference.forget_queries")
def forget_queries() -> None:
    """Drop embeddings, counts of days and scores that are too old."""
    from inference.services import abuse

    abuse.forget_queries()
