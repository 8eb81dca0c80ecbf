"""Read batches: what an account has, how far each is, and what came out of its lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Count, QuerySet, Sum

from inference.models import Batch, BatchLine, File
from inference.models.file import read_file_id
from marketplace.core.clock import to_wire, utc_now
from marketplace.core.errors import InvalidInputError, NotFoundError
from marketplace.core.ids import to_public
from marketplace.models import Account, AIModel, Channel, ModelVersion
from marketplace.selectors.access import Actor, access_model, list_accounts, require_right
from marketplace.selectors.catalog import find_channel_version
from marketplace.selectors.found import get_one

State = Batch.State
LineState = BatchLine.State

RIGHT = "predict"
PAGE_SIZE = 50
# Failed lines that a page or an answer shows; all are in the file of errors.
FAULTS_SHOWN = 20
# Rows that are fetched at once; each may carry an output.
FETCH = 500
RESULTS = ("output_file", "error_file")
_WITH = ("account", "version__model__account", "input_file", "output_file", "error_file")
_REFERENCE = re.compile(
    r"(?P<owner>[a-z0-9-]{1,39})/(?P<name>[a-z0-9._-]{1,63})"
    r"(?::(?P<number>[0-9]{1,9})|:(?P<sha256>[0-9a-f]{64})|@(?P<channel>[a-z]{1,16}))?"
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is. `running` is a part of `queued`'s jobs, and not counted there."""

    total: int
    waiting: int
    queued: int
    running: int
    succeeded: int
    failed: int
    canceled: int
    cost_nanos: int
    # None while nobody can know.
    eta_s: int | None

    @property
    def done(self) -> int:
        """Lines that are over."""
        return self.succeeded + self.failed + self.canceled

    @property
    def percent(self) -> int:
        """Of the lines, rounded down; 100 only when all are over."""
        return self.done * 100 // self.total if self.total else 0


@dataclass(frozen=True, slots=True)
class BatchPage:
    """One page of batches, and where the next one begins."""

    rows: list[Batch]
    next_before: str


def access_batch(actor: Actor, batch_id: UUID, right: str = "read") -> Batch:
    """A batch of one of the actor's accounts.

    Raises:
        NotFoundError: None of that id among the actor's accounts.
        ForbiddenError: The actor lacks the right there.
    """
    rows = Batch.objects.filter(account__in=list_accounts(actor), pk=batch_id)
    found = get_one(rows.select_related(*_WITH), "No such batch.")
    require_right(actor, found.account, right)
    return found


def find_earlier(account: Account, idempotency_key: str) -> Batch | None:
    """The batch that a request with the same key began; None for no key."""
    if not idempotency_key:
        return None
    rows = Batch.objects.filter(account=account, idempotency_key=idempotency_key)
    return rows.select_related(*_WITH).first()


def get_batches(account: Account, *, before: str = "") -> BatchPage:
    """A page of an account's batches, newest first.

    Raises:
        InvalidInputError: `before` is no id.
    """
    rows = Batch.objects.filter(account=account).order_by("-pk")
    rows = rows.select_related(*_WITH)
    if before:
        try:
            rows = rows.filter(pk__lt=UUID(before))
        except ValueError:
            raise InvalidInputError("This is no id of a batch.") from None
    found = list(rows[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    return BatchPage(shown, str(shown[-1].pk) if len(found) > len(shown) else "")


def find_version(actor: Actor, account: Account, reference: str) -> ModelVersion:
    """What a batch of an account may run: `owner/name`, with `:number`, `:sha256` or `@channel`.

    Raises:
        NotFoundError: There is none that the account may run.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise NotFoundError(
            "A model is named owner/name, owner/name:version or owner/name@channel."
        )
    model = access_model(actor, match["owner"], match["name"])
    version = _choose_version(model, match)
    is_foreign = model.visibility == AIModel.Visibility.PRIVATE and model.account_id != account.pk
    if version is None or is_foreign or version.state != ModelVersion.State.APPROVED:
        raise NotFoundError("There is no such model or version, or you may not see it.")
    return version


def _choose_version(model: AIModel, match: re.Match[str]) -> ModelVersion | None:
    versions = ModelVersion.objects.filter(model=model).select_related("model__account")
    if match["number"]:
        return versions.filter(number=int(match["number"])).first()
    if match["sha256"]:
        return versions.filter(manifest_sha256=match["sha256"]).first()
    return find_channel_version(model, match["channel"] or Channel.Name.PROD)


def measure(batch: Batch) -> Progress:
    """How far it is now. Of one that is over it is on the row; else its lines are counted."""
    if batch.is_over:
        return Progress(
            total=batch.total_count,
            waiting=0,
            queued=0,
            running=0,
            succeeded=batch.succeeded_count,
            failed=batch.failed_count,
            canceled=batch.canceled_count,
            cost_nanos=batch.cost_nanos,
            eta_s=None,
        )
    found = (
        BatchLine.objects.filter(batch=batch)
        .values("state")
        .annotate(count=Count("pk"), cost=Sum("cost_nanos"))
    )
    counts = {one["state"]: one["count"] for one in found}
    running = _count_running(batch) if counts.get(LineState.QUEUED) else 0
    total = sum(counts.values())
    done = sum(counts.get(one, 0) for one in ("succeeded", "failed", "canceled"))
    return Progress(
        total=total,
        waiting=counts.get(LineState.WAITING, 0),
        queued=counts.get(LineState.QUEUED, 0) - running,
        running=running,
        succeeded=counts.get(LineState.SUCCEEDED, 0),
        failed=counts.get(LineState.FAILED, 0),
        canceled=counts.get(LineState.CANCELED, 0),
        cost_nanos=sum(one["cost"] for one in found),
        eta_s=_predict_s(batch, counts.get(LineState.SUCCEEDED, 0), total - done),
    )


def _count_running(batch: Batch) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT count(*) FROM inference_batchline l JOIN inference_job j
                   ON j.id = l.prediction_id AND j.state IN ('leased', 'running')
               WHERE l.batch_id = %s AND l.state = 'queued'""",
            [batch.pk],
        )
        return int(cursor.fetchone()[0])


def _predict_s(batch: Batch, succeeded: int, left: int) -> int | None:
    """As long as it would take at the pace that it had; None before it had one."""
    if batch.ready_at is None or not succeeded or batch.state != State.RUNNING:
        return None
    passed_s = (utc_now() - batch.ready_at).total_seconds()
    return int(passed_s * left / succeeded)


def list_faults(batch: Batch) -> QuerySet[BatchLine]:
    """The first lines that failed."""
    lines = BatchLine.objects.filter(batch=batch, state=LineState.FAILED).order_by("number")
    return lines.defer("input", "output")[:FAULTS_SHOWN]


def describe(batch: Batch) -> dict[str, Any]:
    """A batch on the wire."""
    progress = measure(batch)
    model = batch.version.model
    return {
        "id": str(batch.pk),
        "account": batch.account.slug,
        "model": f"{model.account.slug}/{model.name}",
        "version": batch.version.manifest_sha256 or str(batch.version.number),
        "name": batch.name,
        "tag": batch.tag,
        **{name: _name_file(getattr(batch, name)) for name in ("input_file", *RESULTS)},
        "status": batch.state,
        "reason": batch.reason or None,
        "detail": batch.detail or None,
        "counts": {
            "total": progress.total,
            "waiting": progress.waiting,
            "queued": progress.queued,
            "running": progress.running,
            "succeeded": progress.succeeded,
            "failed": progress.failed,
            "canceled": progress.canceled,
        },
        "cost_nano_usd": progress.cost_nanos,
        "eta_s": progress.eta_s,
        "created_at": to_wire(batch.created_at),
        "ready_at": _moment(batch.ready_at),
        "deadline": to_wire(batch.deadline_at),
        "finished_at": _moment(batch.finished_at),
        "expires_at": _moment(batch.expires_at),
    }


def iterate_output(batch: Batch) -> Iterator[bytes]:
    """Of each line that succeeded, in their order, one line of JSON. Also before all are over."""
    lines = BatchLine.objects.filter(batch=batch, state=LineState.SUCCEEDED).order_by("number")
    columns = ("number", "custom_id", "prediction_id", "output", "cost_nanos")
    for row in lines.values_list(*columns).iterator(FETCH):
        number, custom_id, prediction_id, output, cost_nanos = row
        yield _dump(
            {
                "line": number,
                "custom_id": custom_id or None,
                "id": to_public(prediction_id),
                "status": "succeeded",
                "output": output,
                "data_removed": output is None,
                "cost_nano_usd": cost_nanos,
            }
        )


def iterate_errors(batch: Batch) -> Iterator[bytes]:
    """Of each line that failed or was canceled, in their order, one line of JSON."""
    states = (LineState.FAILED, LineState.CANCELED)
    lines = BatchLine.objects.filter(batch=batch, state__in=states).order_by("number")
    columns = ("number", "custom_id", "prediction_id", "state", "code", "detail", "cost_nanos")
    for row in lines.values_list(*columns).iterator(FETCH):
        number, custom_id, prediction_id, state, code, detail, cost_nanos = row
        yield _dump(
            {
                "line": number,
                "custom_id": custom_id or None,
                "id": to_public(prediction_id) if prediction_id else None,
                "status": state,
                "error": {"code": code, "detail": detail or None},
                "cost_nano_usd": cost_nanos,
            }
        )


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def access_file(account: Account, public_id: str) -> File:
    """A file of the account, to be read as lines.

    Raises:
        NotFoundError: It has none of that id.
    """
    file_id = read_file_id(public_id)
    if file_id is None:
        raise NotFoundError("No such file.")
    return get_one(File.objects.filter(account=account, pk=file_id), "No such file.")


def _name_file(file: File | None) -> str | None:
    return file.public_id if file is not None else None


def _moment(moment: datetime | None) -> str | None:
    return to_wire(moment) if moment else None
