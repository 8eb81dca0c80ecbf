"""Read archives of an account's data."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from marketplace.core import limits
from marketplace.models import Account, DataExport
from marketplace.selectors.found import get_one


@dataclass(frozen=True, slots=True)
class ExportLine:
    """An archive for people."""

    export: DataExport
    done: int
    total: int


def list_exports(account: Account) -> list[ExportLine]:
    """The account's archives, newest first."""
    exports = DataExport.objects.filter(account=account).select_related("requested_by")
    found = exports.prefetch_related("steps").order_by("-created_at")[: limits.EXPORTS_SHOWN_MAX]
    return [_describe(export) for export in found]


def get_export(account: Account, export_id: UUID) -> DataExport:
    """One of the account's archives.

    Raises:
        NotFoundError: None of this account.
    """
    return get_one(DataExport.objects.filter(account=account, pk=export_id), "No such archive.")


def _describe(export: DataExport) -> ExportLine:
    steps = list(export.steps.all())
    return ExportLine(export, sum(step.finished_at is not None for step in steps), len(steps))
