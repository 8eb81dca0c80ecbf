"""How long an account keeps what its predictions carry, and its files: what it says counts at once.

To keep it shorter deletes what is older; to keep nothing deletes everything. What was booked stays
in any case: who ran what, when, and for how much.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import DateTimeField, ExpressionWrapper, F, Value
from django.db.models.functions import Least

from inference.errors import ConfirmationMissingError
from inference.models import File, SharedRun
from inference.services import job
from marketplace.core.errors import FieldError, InvalidInputError
from marketplace.core.limits import RETENTION_DAYS_MAX
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit

# Whoever may change the account's settings.
RIGHT = "members"


@transaction.atomic
def change_retention(
    *, actor: Actor, account: Account, days: int, is_confirmed: bool = False
) -> Account:
    """Have an account keep contents and files for so many days; 0: not at all.

    Args:
        actor: Who says so; the caller has checked the right.
        account: Whose.
        days: From 0 to `RETENTION_DAYS_MAX`.
        is_confirmed: Whether somebody has said that what is older may be deleted.

    Raises:
        InvalidInputError: So many days there are not.
        ConfirmationMissingError: It would become shorter, and nobody said that it may.
    """
    if not 0 <= days <= RETENTION_DAYS_MAX:
        detail = f"Must be 0 to {RETENTION_DAYS_MAX}."
        raise InvalidInputError(detail, errors=[FieldError(pointer="/days", detail=detail)])
    # After whoever stores a file just now, and before whoever comes next.
    locked = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
    before = locked.retention_days
    if days < before and not is_confirmed:
        raise ConfirmationMissingError(
            "What is older than that is deleted, and cannot be brought back: say that it may be."
        )
    if days == before:
        return locked
    locked.retention_days = days
    locked.save(update_fields=["retention_days"])
    if days < before:
        _shorten(locked)
    payload = {"days": days, "days_before": before}
    audit.record(actor.label, "account.retention", locked, account_id=locked.pk, payload=payload)
    return locked


def _shorten(account: Account) -> None:
    """End what is too old now; contents of predictions are emptied by the next sweep."""
    files = File.objects.filter(account=account)
    if account.retention_days:
        lifetime = ExpressionWrapper(
            F("created_at") + Value(timedelta(days=account.retention_days)),
            output_field=DateTimeField(),
        )
        files.update(expires_at=Least(F("expires_at"), lifetime))
        return
    # Without its key nobody opens a file any more; the store lets go of it with the next sweep.
    files.update(state=File.State.DELETING, sealed_key=b"")
    SharedRun.objects.filter(account=account).delete()
    job.erase_jobs(account)
