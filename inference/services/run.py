"""Keep a run to show it to others, because somebody asked for it; and let it go.

Nothing is kept before: the page that shows an answer carries the run itself, signed, and hands
it back with the wish to share it. So what is shared is what the model answered, whoever asks.
"""

from __future__ import annotations

import json
import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core import signing
from django.db import transaction
from django.utils import timezone

from inference.errors import (
    RetentionZeroError,
    RunOfferInvalidError,
    RunTooLargeError,
    TooManyRunsError,
)
from inference.models import SharedRun
from inference.models.run import RUN_BYTES_MAX
from marketplace.core import ids
from marketplace.models import Account, ModelVersion, User
from marketplace.selectors.access import Actor, list_visible_models, require_right
from marketplace.services.audit import record

# A page that lies open for longer is run again first.
OFFER_MAX_AGE_S = 3_600
RUNS_PER_ACCOUNT_MAX = 200
LIFETIMES = {days: timedelta(days=days) for days in (1, 7, 30, 365)}
LIFETIME_DAYS_DEFAULT = 7
_SALT = "inference.run"
_TOKEN_BYTES = 18


def make_offer(
    *,
    account: Account,
    user: User,
    version: ModelVersion,
    prediction_id: str,
    values: dict[str, Any],
    output: Any,
) -> str:
    """A run as signed text that `share_run` takes; empty where it is too large to be shared."""
    content = {"input": values, "output": output}
    if measure(content) > RUN_BYTES_MAX:
        return ""
    names = {"account": str(account.pk), "user": str(user.pk), "version": str(version.pk)}
    return signing.dumps(names | {"prediction": prediction_id} | content, salt=_SALT, compress=True)


def measure(content: dict[str, Any]) -> int:
    """How many bytes input and output have, as they are kept."""
    return len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())


@transaction.atomic
def share_run(actor: Actor, account: Account, *, offer: str, days: int) -> SharedRun:
    """Keep the run that `make_offer` signed; the same run is kept once.

    Args:
        actor: Who shares; needs the right `predict` on the account, as for the run itself.
        account: Who ran it.
        offer: The signed run.
        days: How long it is kept, one of `LIFETIMES`.

    Raises:
        RunOfferInvalidError: Not signed here for this person and account, or too old.
        RunTooLargeError: More than `RUN_BYTES_MAX`.
        TooManyRunsError: The account shares as many as it may.
        RetentionZeroError: It keeps nothing.
    """
    require_right(actor, account, "predict")
    run = _read_offer(actor, account, offer)
    version = (
        ModelVersion.objects.filter(pk=run["version"], model__in=list_visible_models(actor))
        .select_related("model__account")
        .first()
    )
    if version is None:
        raise RunOfferInvalidError
    content = {"input": _clean(run["input"]), "output": _clean(run["output"])}
    size_bytes = measure(content)
    if size_bytes > RUN_BYTES_MAX:
        raise RunTooLargeError
    prediction_id = ids.from_public(run["prediction"])
    # One after the other, so that the limit holds.
    locked = Account.objects.select_for_update().get(pk=account.pk)
    if locked.retention_days == 0:
        raise RetentionZeroError
    runs = SharedRun.objects.filter(account=account)
    expires_at = timezone.now() + LIFETIMES[days]
    if kept := runs.filter(prediction_id=prediction_id).first():
        kept.expires_at = expires_at
        kept.save(update_fields=["expires_at"])
        return kept
    if runs.count() >= RUNS_PER_ACCOUNT_MAX:
        raise TooManyRunsError(limit=RUNS_PER_ACCOUNT_MAX)
    made = SharedRun.objects.create(
        token=secrets.token_urlsafe(_TOKEN_BYTES),
        account=account,
        created_by=actor.user,
        version=version,
        prediction_id=prediction_id,
        size_bytes=size_bytes,
        expires_at=expires_at,
        **content,
    )
    _note(actor, "run.share", made, {"days": days, "model": str(version)})
    return made


@transaction.atomic
def revoke_run(actor: Actor, run: SharedRun) -> None:
    """Delete what was kept; the address is nobody's from then on."""
    require_right(actor, run.account, "predict")
    _note(actor, "run.revoke", run, {"model": str(run.version)})
    run.delete()


def forget_runs() -> int:
    """Delete runs whose time is over; returns how many."""
    count, _ = SharedRun.objects.filter(expires_at__lte=timezone.now()).delete()
    return count


def _note(actor: Actor, action: str, run: SharedRun, payload: dict[str, Any]) -> None:
    record(actor.label, action, run, account_id=run.account_id, payload=payload)


def _read_offer(actor: Actor, account: Account, offer: str) -> dict[str, Any]:
    try:
        run = signing.loads(offer, salt=_SALT, max_age=OFFER_MAX_AGE_S)
    except signing.BadSignature as error:
        raise RunOfferInvalidError from error
    names = (run["account"], run["user"])
    if actor.user is None or names != (str(account.pk), str(actor.user.pk)):
        raise RunOfferInvalidError
    run["version"] = UUID(run["version"])
    return dict(run)


def _clean(value: Any) -> Any:
    """The same without NUL, which the database does not take."""
    match value:
        case str():
            return value.replace("\x00", "\N{REPLACEMENT CHARACTER}")
        case list():
            return [_clean(one) for one in value]
        case dict():
            return {_clean(name): _clean(one) for name, one in value.items()}
    return value
