"""Make an archive of all that is kept of an account, in recorded steps that survive any kill.

One step writes one file, sealed, into the object store; the last one packs them into a ZIP with
a list of their checksums. A worker that dies has written files that no row names; the step is
done once more, and what is left over is deleted at the end.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.urls import reverse

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.errors import MarketplaceError
from marketplace.errors import ExportGoneError, ExportLimitError, ExportRunningError
from marketplace.models import Account, DataExport, DataExportStep, Notification
from marketplace.selectors.access import Actor
from marketplace.services import audit, export_file
from marketplace.services.exporter import Exporter, list_exporters
from marketplace.services.notice import owe_notice
from marketplace.tasks import data_export as tasks

logger = logging.getLogger(__name__)

State = DataExport.State
ARCHIVE = "archive"
SYSTEM_LABEL = "system:export"
# The same moment in every entry of the ZIP: its format knows no time zones.
_ZIP_MOMENT = (1980, 1, 1, 0, 0, 0)


def request_export(*, actor: Actor, account: Account) -> DataExport:
    """Have an archive made.

    Args:
        actor: Who wants it; the caller has checked the right `members`.
        account: Whose data.

    Raises:
        ExportRunningError: One is being made.
        ExportLimitError: As many were made today as may be.
    """
    with transaction.atomic():
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        exports = DataExport.objects.filter(account=account)
        if exports.filter(state=State.RUNNING).exists():
            raise ExportRunningError
        _check_rate(account)
        export = DataExport(account=account, requested_by=actor.user)
        export.sealed_key = export_file.seal_key(export.pk)
        export.save(force_insert=True)
        DataExportStep.objects.bulk_create(
            DataExportStep(export=export, position=position, name=name)
            for position, name in enumerate([*list_exporters(), ARCHIVE])
        )
        audit.record(actor.label, "export.request", export, account_id=account.pk)
        enqueue(export.pk)
    return export


def enqueue(export_id: UUID) -> None:
    """Have a worker go on with it soon after this transaction; else the sweep will."""

    def ask() -> None:
        tasks.advance_data_export.delay(str(export_id))

    transaction.on_commit(ask, robust=True)


def sweep() -> int:
    """Go on with what is unfinished, and delete what is too old; returns how many."""
    running = list(DataExport.objects.filter(state=State.RUNNING).values_list("pk", flat=True))
    for export_id in running:
        tasks.advance_data_export.delay(str(export_id))
    old = DataExport.objects.filter(state=State.READY, expires_at__lte=utc_now())
    return len(running) + sum(expire(export_id) for export_id in old.values_list("pk", flat=True))


def advance(*, export_id: UUID) -> None:
    """Do all steps that are left. Safe to repeat, also at once and after a kill in the middle."""
    while _begin_step(export_id) and _do_step(export_id):
        pass


def expire(export_id: UUID) -> bool:
    """Delete an archive and its key; false if it is not ready or its files stay for now."""
    with transaction.atomic():
        rows = DataExport.objects.select_for_update(skip_locked=True, no_key=True)
        export = rows.filter(pk=export_id, state__in=[State.READY, State.FAILED]).first()
        if export is None:
            return False
        if not export_file.delete_all(export.pk):
            # Its key goes at once all the same: what stays in the store opens nowhere.
            DataExport.objects.filter(pk=export.pk).update(sealed_key=b"")
            return False
        export.state, export.sealed_key, export.storage_name = State.EXPIRED, b"", ""
        export.save(update_fields=["state", "sealed_key", "storage_name"])
    return True


def download(*, actor: Actor, export: DataExport) -> Iterator[bytes]:
    """The bytes of an archive.

    Args:
        actor: Who fetches it; the caller has checked the right `members`.
        export: Which.

    Raises:
        ExportGoneError: It is not ready, or not there any more.
    """
    is_there = export.state == State.READY and export.expires_at is not None
    if not is_there or export.expires_at <= utc_now():  # type: ignore[operator]
        raise ExportGoneError
    key = export_file.open_key(export.pk, bytes(export.sealed_key))
    chunks = export_file.read(export.storage_name, key, ARCHIVE, export.size_bytes)
    with transaction.atomic():
        audit.record(actor.label, "export.download", export, account_id=export.account_id)
    return chunks


def _check_rate(account: Account) -> None:
    since = utc_now() - limits.EXPORT_WINDOW
    recent = DataExport.objects.filter(account=account, created_at__gt=since)
    times = list(recent.order_by("-created_at").values_list("created_at", flat=True))
    if len(times) >= limits.EXPORTS_PER_DAY_MAX:
        free_at = times[limits.EXPORTS_PER_DAY_MAX - 1] + limits.EXPORT_WINDOW
        raise ExportLimitError(retry_after_s=max(1, round((free_at - utc_now()).total_seconds())))


def _begin_step(export_id: UUID) -> bool:
    """Note that the next step begins, before it does: a step that kills workers is given up."""
    with transaction.atomic():
        export = _claim(export_id)
        step = _find_next(export) if export is not None else None
        if export is None or step is None:
            return False
        if step.attempts >= limits.EXPORT_ATTEMPTS_MAX:
            _fail(export, f"{step.name} was tried {step.attempts} times.")
            return False
        step.attempts += 1
        step.started_at = utc_now()
        step.save(update_fields=["attempts", "started_at"])
    return True


def _do_step(export_id: UUID) -> bool:
    """Work on the next step; false where somebody else does, or it has to be tried again."""
    try:
        with transaction.atomic():
            export = _claim(export_id)
            step = _find_next(export) if export is not None else None
            if export is None or step is None:
                return False
            if step.name == ARCHIVE:
                _pack(export, step)
            else:
                _write(export, step)
    except export_file.TooMuchDataError as error:
        with transaction.atomic():
            found = _claim(export_id)
            if found is not None:
                _fail(found, error.detail)
        return False
    except (OSError, MarketplaceError) as error:
        logger.warning("export %s: %s; it is tried again", export_id, error)
        return False
    return True


def _claim(export_id: UUID) -> DataExport | None:
    """The archive, locked; None if another is at work or it is over."""
    rows = DataExport.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
    return rows.select_related("account").filter(pk=export_id, state=State.RUNNING).first()


def _find_next(export: DataExport) -> DataExportStep | None:
    return export.steps.filter(finished_at=None).order_by("position").first()


def _write(export: DataExport, step: DataExportStep) -> None:
    exporter = list_exporters().get(step.name)
    if exporter is not None:
        counter = _Counter()
        rows = counter.count(exporter, export.account)
        write = export_file.write_json if exporter.is_json else export_file.write_csv
        key = export_file.open_key(export.pk, bytes(export.sealed_key))
        stored = export_file.store(export.pk, key, step.name, write(exporter.columns, rows))
        step.rows, step.storage_name = counter.rows, stored.name
        step.size_bytes, step.sha256 = stored.size_bytes, stored.sha256
    # One that a later release does not know any more leaves no file.
    step.finished_at = utc_now()
    step.save()


def _pack(export: DataExport, step: DataExportStep) -> None:
    key = export_file.open_key(export.pk, bytes(export.sealed_key))
    with export_file.spool() as file:
        writer = export_file.SealedWriter(file, key, ARCHIVE)
        _zip(export, key, writer)
        export.sha256 = writer.close()
        export.size_bytes = writer.size_bytes
        export.storage_name = export_file.put(export.pk, file)
    now = utc_now()
    step.finished_at, step.size_bytes, step.sha256 = now, export.size_bytes, export.sha256
    step.save()
    export.state, export.ready_at = State.READY, now
    export.expires_at = now + limits.EXPORT_LIFETIME
    export.save()
    export_file.delete_all(export.pk, but=export.storage_name)
    payload = {"sha256": export.sha256, "size_bytes": export.size_bytes}
    audit.record(
        SYSTEM_LABEL, "export.ready", export, account_id=export.account_id, payload=payload
    )
    context = {"account": export.account, "export": export}
    path = reverse("marketplace:account-data", args=[export.account.slug])
    owe_notice(
        "data_export",
        context,
        kind=Notification.Kind.ACCOUNT,
        path=path,
        account=export.account,
    )


def _zip(export: DataExport, key: bytes, writer: export_file.SealedWriter) -> None:
    done = list(export.steps.exclude(name=ARCHIVE).exclude(storage_name="").order_by("position"))
    files = [(list_exporters()[step.name], step) for step in done if step.name in list_exporters()]
    # Written forwards only, so that nothing of it has to lie in memory.
    with zipfile.ZipFile(writer, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        _add(archive, "README.txt", iter([_describe(export, files).encode()]))
        _add(archive, "manifest.json", iter([_make_manifest(export, files).encode()]))
        for exporter, step in files:
            chunks = export_file.read(step.storage_name, key, step.name, step.size_bytes)
            _add(archive, exporter.path, chunks)


def _add(archive: zipfile.ZipFile, path: str, chunks: Iterator[bytes]) -> None:
    entry = zipfile.ZipInfo(path, _ZIP_MOMENT)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    with archive.open(entry, "w", force_zip64=True) as target:
        for chunk in chunks:
            target.write(chunk)


def _make_manifest(export: DataExport, files: list[tuple[Exporter, DataExportStep]]) -> str:
    document = {
        "format": "strongroom-data-export/1",
        "account": export.account.slug,
        "export": str(export.pk),
        "requested_at": _wire(export.created_at),
        "files": [
            {
                "path": exporter.path,
                "sha256": step.sha256,
                "size_bytes": step.size_bytes,
                "rows": step.rows,
                "read_at": _wire(step.started_at),
            }
            for exporter, step in files
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _describe(export: DataExport, files: list[tuple[Exporter, DataExportStep]]) -> str:
    lines = [
        f"Data of the account {export.account.slug}",
        "",
        f"Asked for on {_wire(export.created_at)}. Each file was read at the time that",
        "manifest.json says, with its number of rows and the SHA-256 of its bytes.",
        "",
        "Times are UTC. Amounts that end in `_nanos` are billionths of a dollar, `_cents` are",
        "hundredths. In CSV files a text that a spreadsheet would take for a formula begins with",
        "an apostrophe.",
        "",
        *(f"{exporter.path}: {exporter.title}" for exporter, _ in files),
        "",
        "Not in here: keys and passwords, which are stored nowhere as text; the sealed files of",
        "models, which `strongroom` downloads; what others did, but for your part of it.",
    ]
    return "\n".join(lines) + "\n"


def _wire(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""


def _fail(export: DataExport, why: str) -> None:
    logger.error("export %s is given up: %s", export.pk, why)
    export_file.delete_all(export.pk)
    export.state, export.sealed_key = State.FAILED, b""
    export.save(update_fields=["state", "sealed_key"])
    audit.record(
        SYSTEM_LABEL, "export.fail", export, account_id=export.account_id, payload={"reason": why}
    )


class _Counter:
    """Counts rows on their way."""

    def __init__(self) -> None:
        self.rows = 0

    def count(self, exporter: Exporter, account: Account) -> Iterator[tuple[object, ...]]:
        for row in exporter.read(account):
            self.rows += 1
            yield tuple(row)
