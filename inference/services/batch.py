"""Begin, cancel and resume batches, as people and their programs ask for it."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from django.db import connection, transaction

from inference.core.batch_lines import FILE_BYTES_MAX
from inference.errors import (
    BatchOverError,
    FileGoneError,
    RetentionZeroError,
    TooManyBatchesError,
)
from inference.models import Batch, BatchLine, File
from inference.selectors import batch as selectors
from inference.services import file as files
from inference.services import outgoing
from inference.services.file import Readable
from inference.tasks import batch as tasks
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError, PayloadTooLargeError
from marketplace.models import Account, APIKey, ModelVersion
from marketplace.selectors.access import Actor, require_right
from marketplace.services import audit
from marketplace.services.validation import check_row

State = Batch.State

# Of one account, that are not over: together they may have a twentieth of its queue.
BATCHES_OPEN_MAX = 10
# From the beginning to the end, with a day for what is usual.
CANCEL_AFTER_MIN, CANCEL_AFTER_MAX = timedelta(minutes=1), timedelta(days=7)
CANCEL_AFTER_DEFAULT = timedelta(hours=24)
CONTENT_TYPE = "application/jsonl"
NAME_LENGTH_MAX = 200
IDEMPOTENCY_KEY_LENGTH_MAX = 255
# Jobs that are given up in one transaction each, in one turn of a worker.
CANCELS_AT_ONCE_MAX = 1_000


def create_batch(
    *,
    actor: Actor,
    account: Account,
    version: ModelVersion,
    file: File,
    name: str = "",
    tag: str = "",
    webhook: str = "",
    idempotency_key: str = "",
    cancel_after: timedelta = CANCEL_AFTER_DEFAULT,
) -> Batch:
    """Take a file of inputs, to run a version on each of its lines.

    Args:
        actor: Who asks; needs the right `predict`. A key's budget and limits hold for the lines.
        account: Who pays.
        version: What runs; it stays the same until the end.
        file: Of the account, as `inference.core.batch_lines` reads it; only read.
        name: For people; that of the file, if nothing else is said.
        tag: What the usage is called; empty for nothing.
        webhook: Told once, when all is over; empty for nobody.
        idempotency_key: Of the request; a batch that it began before is returned. Empty for none.
        cancel_after: After which what has not run by then fails.

    Raises:
        InvalidInputError: The file is empty, or something else that was said cannot be kept.
        PayloadTooLargeError: More bytes than a batch may have.
        FileGoneError: The file is none that can be read.
        RetentionZeroError: The account keeps nothing, and so no results.
        TooManyBatchesError: The account has `BATCHES_OPEN_MAX` that are not over.
    """
    require_right(actor, account, "predict")
    if not CANCEL_AFTER_MIN <= cancel_after <= CANCEL_AFTER_MAX:
        raise _invalid("/cancel_after_s", "Between a minute and seven days.")
    if len(idempotency_key) > IDEMPOTENCY_KEY_LENGTH_MAX or not idempotency_key.isprintable():
        raise _invalid("", f"An Idempotency-Key has up to {IDEMPOTENCY_KEY_LENGTH_MAX} characters.")
    if webhook:
        outgoing.check_target(webhook, pointer="/webhook")
    _check_file(account, file)
    now = utc_now()
    batch = Batch(
        account=account,
        api_key_id=actor.api_key.pk if actor.api_key is not None else None,
        version=version,
        name=_clean(name or file.name)[:NAME_LENGTH_MAX],
        tag=tag,
        idempotency_key=idempotency_key,
        webhook_url=webhook,
        input_file=file,
        next_at=now,
        deadline_at=now + cancel_after,
    )
    with transaction.atomic():
        # Two that begin at once must not pass the limit together.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if (earlier := selectors.find_earlier(account, idempotency_key)) is not None:
            return earlier
        if Batch.objects.filter(account=account, finished_at=None).count() >= BATCHES_OPEN_MAX:
            raise TooManyBatchesError(limit=BATCHES_OPEN_MAX)
        check_row(batch)
        batch.save()
        payload = {"version": str(version), "file": file.public_id, "tag": tag}
        audit.record(actor.label, "batch.create", batch, account_id=account.pk, payload=payload)
        transaction.on_commit(tasks.advance_batches.delay)
    return batch


def create_batch_of(
    *,
    actor: Actor,
    account: Account,
    version: ModelVersion,
    file_name: str,
    stream: Readable,
    bytes_max: int = FILE_BYTES_MAX,
    **said: Any,
) -> Batch:
    """The same of lines that are no file of the account yet; they become one.

    Args:
        actor: As for `create_batch`, and so are the others that it has.
        account: As there.
        version: As there.
        file_name: What that file is called.
        stream: The lines.
        bytes_max: How many bytes they may have here.
        **said: As there.

    Raises:
        PayloadTooLargeError: More bytes than `bytes_max`.
        MarketplaceError: As `create_batch` and `inference.services.file.store_file`.
    """
    require_right(actor, account, "predict")
    bounded = _Bounded(stream, bytes_max)
    file = files.store_file(account, file_name, CONTENT_TYPE, bounded, File.Purpose.BATCH)
    try:
        return create_batch(actor=actor, account=account, version=version, file=file, **said)
    except BaseException:
        files.delete_file(file)
        raise


def _check_file(account: Account, file: File) -> None:
    if account.retention_days == 0:
        raise RetentionZeroError
    if file.state != File.State.READY or file.expires_at <= utc_now():
        raise FileGoneError
    if file.size_bytes > FILE_BYTES_MAX:
        raise PayloadTooLargeError(f"The file of a batch has at most {FILE_BYTES_MAX} bytes.")
    if file.size_bytes == 0:
        raise _invalid("/input_file", "There is nothing in the file.")


class _Bounded:
    """A source of bytes that refuses to give too many."""

    def __init__(self, stream: Readable, bytes_max: int) -> None:
        self._stream = stream
        self._left_bytes = self._bytes_max = bytes_max

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise PayloadTooLargeError(f"At most {self._bytes_max} bytes are taken here.")
        return data


@transaction.atomic
def cancel_batch(*, actor: Actor, batch: Batch) -> Batch:
    """Give up what has not run: what waits at once, what runs as soon as it stops.

    Asked twice it does nothing more.

    Raises:
        BatchOverError: There is nothing left to cancel.
    """
    require_right(actor, batch.account, "predict")
    row = _lock(batch)
    if row.is_over:
        raise BatchOverError
    if row.state != State.CANCELING:
        row.state, row.reason, row.detail = State.CANCELING, "", ""
        row.save(update_fields=["state", "reason", "detail"])
        audit.record(actor.label, "batch.cancel", row, account_id=row.account_id)
        transaction.on_commit(tasks.advance_batches.delay)
    return row


@transaction.atomic
def resume_batch(*, actor: Actor, batch: Batch) -> Batch:
    """Have a paused batch go on now, on the account of who asks for it.

    Whoever resumes it stands for its lines from then on: a key with its budget and limits, a
    person with those of the account. One that runs stays as it is.

    Raises:
        BatchOverError: It is over, or comes to its end.
    """
    require_right(actor, batch.account, "predict")
    row = _lock(batch)
    if row.state in (State.READING, State.RUNNING):
        return row
    if row.state != State.PAUSED:
        raise BatchOverError
    row.state, row.reason, row.detail = State.RUNNING, "", ""
    row.paused_at, row.next_at = None, utc_now()
    row.api_key_id = actor.api_key.pk if actor.api_key is not None else None
    row.save(update_fields=["state", "reason", "detail", "paused_at", "next_at", "api_key_id"])
    audit.record(actor.label, "batch.resume", row, account_id=row.account_id)
    return row


@transaction.atomic
def delete_batch(*, actor: Actor, batch: Batch) -> None:
    """Forget a batch that is over, with its results, before its time.

    Raises:
        BatchOverError: It is not over; cancel it first.
    """
    require_right(actor, batch.account, "predict")
    row = _lock(batch)
    if not row.is_over:
        raise BatchOverError("The batch is not over yet. Cancel it first.")
    audit.record(actor.label, "batch.delete", row, account_id=row.account_id)
    erase_batch(row)


def erase_batch(batch: Batch) -> None:
    """Delete a batch with all its lines; its predictions and what they cost stay."""
    with connection.cursor() as cursor:
        # In the database alone: a hundred thousand rows are not to be fetched first.
        cursor.execute("DELETE FROM inference_batchline WHERE batch_id = %s", [batch.pk])
    results = [one for one in (batch.output_file, batch.error_file) if one is not None]
    batch.delete()
    for one in results:
        transaction.on_commit(partial(files.delete_file, one))


def forget_batches() -> int:
    """Delete batches whose time is over; returns how many."""
    count = 0
    for pk in Batch.objects.filter(expires_at__lte=utc_now()).values_list("pk", flat=True)[:100]:
        with transaction.atomic():
            row = Batch.objects.select_for_update(skip_locked=True).filter(pk=pk).first()
            if row is not None:
                erase_batch(row)
                count += 1
    return count


def stop_batches(account: Account) -> None:
    """Of an account that goes: nothing more of its batches is begun."""
    for batch in Batch.objects.filter(account=account, finished_at=None):
        with transaction.atomic():
            row = _lock(batch)
            row.state = State.CANCELING
            row.save(update_fields=["state"])
            end_waiting(row)


def erase_batches(account: Account) -> int:
    """Delete all batches of an account that goes; returns how many. What runs was canceled."""
    count = 0
    for batch in Batch.objects.filter(account=account):
        with transaction.atomic():
            erase_batch(_lock(batch))
        count += 1
    return count


def end_waiting(batch: Batch) -> int:
    """Of a batch that comes to its end: none that waits is begun. Returns how many waited."""
    is_canceled = batch.state == State.CANCELING
    waiting = BatchLine.objects.filter(batch=batch, state=BatchLine.State.WAITING)
    if is_canceled:
        return waiting.update(state=BatchLine.State.CANCELED, code="canceled", input=None)
    detail = "It had not run when the batch's time was over."
    return waiting.update(
        state=BatchLine.State.FAILED, code="deadline_exceeded", detail=detail, input=None
    )


def cancel_lines(batch: Batch) -> int:
    """Give up jobs of a canceled batch, one by one: each locks money. Returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT j.id FROM inference_batchline l JOIN inference_job j ON j.id = l.prediction_id
               WHERE l.batch_id = %s AND l.state = 'queued'
                   AND j.state IN ('queued', 'leased', 'running') AND j.cancel_requested_at IS NULL
               ORDER BY l.number LIMIT %s""",
            [batch.pk, CANCELS_AT_ONCE_MAX],
        )
        ids = [job_id for (job_id,) in cursor.fetchall()]
        for job_id in ids:
            cursor.execute("SELECT inference_cancel_job(%s, %s)", [batch.account_id, job_id])
    return len(ids)


def check_key(api_key: APIKey | None, version: ModelVersion) -> None:
    """Refuse what a key would not run, before anything is stored.

    Raises:
        InvalidInputError: The key is made for other models, or for tests of its own.
    """
    if api_key is None:
        return
    model = f"{version.model.account.slug}/{version.model.name}"
    if api_key.allowed_models and model not in api_key.allowed_models:
        raise _invalid("/model", f"The key does not run {model}.")
    is_test = api_key.mode == APIKey.Mode.TEST
    if is_test and version.model.account_id != api_key.account_id:
        raise _invalid("/model", "A test key runs only models of its own account.")


def _lock(batch: Batch) -> Batch:
    rows = Batch.objects.select_for_update(of=("self",), no_key=True).select_related("account")
    return rows.get(pk=batch.pk)


def _clean(text: str) -> str:
    return "".join(one for one in text if one.isprintable()).strip()


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(detail, errors=[{"pointer": pointer, "detail": detail}])
