"""Bring batches from their file to their end: read it, note what became of its lines, and tell.

What puts lines into the queue is the gateway (`inference.gateway.batches`), where every request is
checked. Each step here is one transaction that says how far it came; who is killed in between is
followed by another worker, which goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Count, Sum
from django.urls import reverse

from inference.core.batch_lines import FileTooLargeError, Line, TooManyLinesError, read_lines
from inference.errors import FileGoneError, FileLimitError, RetentionZeroError
from inference.errors import FileTooLargeError as StoredFileTooLargeError
from inference.models import (
    Batch,
    BatchLine,
    EventType,
    File,
    WebhookEndpoint,
    WebhookEvent,
)
from inference.models.batch import RESULTS_KEPT
from inference.selectors import batch as selectors
from inference.services import batch as services
from inference.services import file as files
from marketplace.core.clock import utc_now
from marketplace.models import Notification
from marketplace.services.notice import owe_mails
from marketplace.services.notification import notify

logger = logging.getLogger(__name__)

State = Batch.State
LineState = BatchLine.State

# Lines of one transaction: a second's work, and what a killed worker does again.
READ_AT_ONCE = 1_000
COLLECT_AT_ONCE = 500
_ENDS = {
    State.RUNNING: State.COMPLETED,
    State.PAUSED: State.COMPLETED,
    State.CANCELING: State.CANCELED,
    State.EXPIRING: State.EXPIRED,
}
# What is over is a prediction; what no node could run is a dead job.
_COLLECT = """
    WITH over AS MATERIALIZED (
        SELECT * FROM (
            SELECT l.id, p.state, p.error, p.cost_nanos, p.output
            FROM inference_batchline l JOIN inference_prediction p ON p.id = l.prediction_id
            WHERE l.batch_id = %(batch)s AND l.state = 'queued'
                AND p.state IN ('succeeded', 'failed', 'canceled')
            UNION ALL
            SELECT l.id, 'failed', j.error, 0, NULL
            FROM inference_batchline l JOIN inference_job j ON j.id = l.prediction_id
            WHERE l.batch_id = %(batch)s AND l.state = 'queued' AND j.state = 'dead'
        ) o LIMIT %(limit)s
    )
    UPDATE inference_batchline l SET state = o.state, code = left(o.error, 64),
        cost_nanos = o.cost_nanos, output = o.output
    FROM over o WHERE l.id = o.id AND l.state = 'queued'
"""
_INSERT = """
    INSERT INTO inference_batchline
        (batch_id, number, custom_id, state, input, code, detail, cost_nanos)
    SELECT %s, g.number, g.custom_id, CASE g.code WHEN '' THEN 'waiting' ELSE 'failed' END,
        g.input::jsonb, g.code, g.detail, 0
    FROM unnest(%s::integer[], %s::text[], %s::text[], %s::text[], %s::text[])
        AS g (number, custom_id, input, code, detail)
"""


def advance_batches() -> int:
    """Bring every open batch as far as it goes now; returns how many there were."""
    ids = list(Batch.objects.filter(finished_at=None).order_by("pk").values_list("pk", flat=True))
    for batch_id in ids:
        try:
            advance_batch(batch_id)
        except Exception:  # One must not stop all others.
            logger.exception("batch %s does not go on", batch_id)
    return len(ids)


def advance_batch(batch_id: UUID) -> None:
    """Bring one batch as far as it goes now. Safe to repeat, and for several at once."""
    batch = Batch.objects.filter(pk=batch_id, finished_at=None).first()
    if batch is None:
        return
    if batch.state == State.READING:
        read_file(batch)
        batch.refresh_from_db()
    _expire(batch)
    batch.refresh_from_db()
    if batch.state in (State.CANCELING, State.EXPIRING):
        services.end_waiting(batch)
    if batch.state == State.CANCELING:
        services.cancel_lines(batch)
    while collect(batch) == COLLECT_AT_ONCE:
        pass
    if batch.state == State.PAUSED:
        _tell_paused(batch)
    _finish(batch)


# --- The file ---------------------------------------------------------------------


def read_file(batch: Batch) -> None:
    """Make a line of each line of the file, from the one on where the last reader ended."""
    if batch.input_file is None:
        _fail(batch, FileGoneError.code, "The file was deleted before it was read.")
        return
    try:
        lines = read_lines(_read_chunks(batch.input_file))
        while some := list(islice(lines, READ_AT_ONCE)):
            # Those that are there already are read as well: their names must not come again.
            new = [one for one in some if one.number > batch.read_number]
            if new and not _add_lines(batch, new):
                return
    except TooManyLinesError:
        _fail(batch, "too_many_lines", "The file has more lines than a batch may.")
        return
    except FileGoneError as error:
        _fail(batch, error.code, "The file was deleted before it was read.")
        return
    except FileTooLargeError:
        _fail(batch, "payload_too_large", "The file has more bytes than a batch may.")
        return
    _end_reading(batch)


def _read_chunks(file: File) -> Iterator[bytes]:
    with files.open_file(file) as stream:
        yield from iter(lambda: stream.read(files.CHUNK_BYTES), b"")


@transaction.atomic
def _add_lines(batch: Batch, lines: Iterable[Line]) -> bool:
    """Whether they were added; if not, somebody else reads, or the batch is given up."""
    row = Batch.objects.select_for_update(no_key=True).get(pk=batch.pk)
    if row.state != State.READING or row.read_number != batch.read_number:
        return False
    found = list(lines)
    columns = zip(
        *((one.number, one.custom_id, one.input, one.code, one.detail) for one in found),
        strict=True,
    )
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [row.pk, *map(list, columns)])
    row.read_number = batch.read_number = found[-1].number
    row.save(update_fields=["read_number"])
    return True


@transaction.atomic
def _end_reading(batch: Batch) -> None:
    row = _lock(batch)
    if row.state != State.READING or row.read_number != batch.read_number:
        return
    row.total_count = BatchLine.objects.filter(batch=row).count()
    if row.total_count == 0:
        _close(row, State.FAILED, "empty_file", "The file has no line with anything in it.")
        return
    row.state, row.ready_at, row.next_at = State.RUNNING, utc_now(), utc_now()
    row.save(update_fields=["state", "ready_at", "next_at", "total_count"])


@transaction.atomic
def _fail(batch: Batch, code: str, detail: str) -> None:
    """Nothing of it has run: there is nothing to be kept of its lines."""
    row = _lock(batch)
    if row.state != State.READING:
        return
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM inference_batchline WHERE batch_id = %s", [row.pk])
    _close(row, State.FAILED, code, detail)


def _lock(batch: Batch) -> Batch:
    rows = Batch.objects.select_for_update(of=("self",), no_key=True)
    return rows.select_related("account", "version__model__account").get(pk=batch.pk)


# --- The end ----------------------------------------------------------------------


def collect(batch: Batch) -> int:
    """Note what became of some lines whose jobs are over; returns of how many."""
    with connection.cursor() as cursor:
        cursor.execute(_COLLECT, {"batch": batch.pk, "limit": COLLECT_AT_ONCE})
        return cursor.rowcount


@transaction.atomic
def _expire(batch: Batch) -> None:
    if batch.deadline_at > utc_now():
        return
    row = Batch.objects.select_for_update(no_key=True).get(pk=batch.pk)
    if row.state not in (State.READING, State.RUNNING, State.PAUSED):
        return
    row.state, row.reason, row.detail = State.EXPIRING, "", ""
    row.save(update_fields=["state", "reason", "detail"])


def _finish(batch: Batch) -> None:
    if batch.state not in _ENDS or _has_open_lines(batch):
        return
    # Before the row is locked: a store may be slow. What is not used goes with its time.
    output_file, error_file = _store_results(batch)
    with transaction.atomic():
        row = _lock(batch)
        if not row.is_over and row.state in _ENDS and not _has_open_lines(row):
            row.output_file, row.error_file = output_file, error_file
            _close(row, _ENDS[State(row.state)])
            if output_file is not None:
                BatchLine.objects.filter(batch=row, output__isnull=False).update(output=None)
            return
    for one in (output_file, error_file):
        if one is not None:
            files.delete_file(one)


def _has_open_lines(batch: Batch) -> bool:
    states = (LineState.WAITING, LineState.QUEUED)
    return BatchLine.objects.filter(batch=batch, state__in=states).exists()


def _store_results(batch: Batch) -> tuple[File | None, File | None]:
    """The files of outputs and of errors; none where there is nothing, or no room for a file.

    What is in no file stays with its lines, and is answered from there.
    """
    return (
        _store(batch, "output", selectors.iterate_output(batch)),
        _store(batch, "errors", selectors.iterate_errors(batch)),
    )


def _store(batch: Batch, what: str, lines: Iterator[bytes]) -> File | None:
    first = next(lines, None)
    if first is None:
        return None
    name = f"batch-{batch.pk}-{what}.jsonl"
    stream = _LineStream(chain([first], lines))
    try:
        return files.store_file(
            *(batch.account, name, services.CONTENT_TYPE, stream, File.Purpose.BATCH_OUTPUT),
            utc_now() + RESULTS_KEPT,
        )
    except (FileLimitError, StoredFileTooLargeError, RetentionZeroError) as error:
        logger.info("batch %s keeps its %s with its lines: %s", batch.pk, what, error.code)
        return None


class _LineStream:
    """Lines as a source of bytes."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._held = b""

    def read(self, size: int, /) -> bytes:
        parts, length = [self._held], len(self._held)
        while length < size:
            line = next(self._lines, None)
            if line is None:
                break
            parts.append(line)
            length += len(line)
        data = b"".join(parts)
        self._held = data[size:]
        return data[:size]


def _close(row: Batch, state: str, reason: str = "", detail: str = "") -> None:
    """The end of a locked batch, with its counts; those who want to know are told of it."""
    now = utc_now()
    found = (
        BatchLine.objects.filter(batch=row)
        .values("state")
        .annotate(count=Count("pk"), cost=Sum("cost_nanos"))
    )
    counts = {one["state"]: one["count"] for one in found}
    row.total_count = sum(counts.values())
    row.succeeded_count = counts.get(LineState.SUCCEEDED, 0)
    row.failed_count = counts.get(LineState.FAILED, 0)
    row.canceled_count = counts.get(LineState.CANCELED, 0)
    row.cost_nanos = sum(one["cost"] for one in found)
    row.state, row.reason, row.detail = state, reason, detail
    kept = min(RESULTS_KEPT, files.read_lifetime_max(row.account))
    row.paused_at, row.finished_at, row.expires_at = None, now, now + kept
    row.save()
    _tell_over(row)


def _tell_over(row: Batch) -> None:
    words = (
        f"{row.succeeded_count} of {row.total_count} lines succeeded, {row.failed_count} failed."
    )
    notify(
        Notification.Kind.BATCH,
        row.account,
        key=f"batch-over:{row.pk}",
        title=f"Your batch {row.name or row.pk} is {row.get_state_display().lower()}",
        text=row.detail or words,
        path=reverse("inference:batch", args=[row.pk]),
    )
    _mail(row)
    endpoints = WebhookEndpoint.objects.filter(account=row.account, is_enabled=True)
    if row.webhook_url or endpoints.exists():
        WebhookEvent.objects.create(
            account_id=row.account_id,
            type=EventType.BATCH_COMPLETED,
            url=row.webhook_url,
            events=[EventType.BATCH_COMPLETED] if row.webhook_url else [],
            payload=selectors.describe(row),
            created_at=utc_now(),
        )


@transaction.atomic
def _tell_paused(batch: Batch) -> None:
    """Once for each pause."""
    rows = Batch.objects.select_for_update(no_key=True, of=("self",)).select_related("account")
    batch = rows.get(pk=batch.pk)
    if batch.state != State.PAUSED or batch.pause_told_at == batch.paused_at:
        return
    assert batch.paused_at is not None, "whoever pauses one says when"
    batch.pause_told_at = batch.paused_at
    batch.save(update_fields=["pause_told_at"])
    notify(
        Notification.Kind.BATCH,
        batch.account,
        key=f"batch-paused:{batch.pk}:{int(batch.paused_at.timestamp())}",
        title=f"Your batch {batch.name or batch.pk} stands still",
        text=batch.detail,
        path=reverse("inference:batch", args=[batch.pk]),
    )
    _mail(batch)


def _mail(batch: Batch) -> None:
    """To whoever wants mails about batches, how this one is."""
    context = {
        "batch": batch,
        "name": batch.name or str(batch.pk),
        "is_paused": batch.state == State.PAUSED,
        "path": reverse("inference:batch", args=[batch.pk]),
    }
    kind = Notification.Kind.BATCH
    owe_mails("batch", context, kind=kind, account=batch.account)
