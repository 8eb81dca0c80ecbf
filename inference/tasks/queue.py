from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.cancel_waiting")
def cancel_waiting(account_id: str, model: str, tag: str, until: str) -> None:
    """Go on with what a person has given up."""
    from inference.selectors.job import JobFilter, read_id
    from inference.services import queue
    from marketplace.models import Account

    account = Account.objects.get(pk=account_id)
    chosen = JobFilter(model=model, tag=tag)
    queue.go_on_canceling(account=account, chosen=chosen, until=read_id(until))
