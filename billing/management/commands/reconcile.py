"""Compare our books with Stripe's: a line per kind and per difference; exit 1 if unexplained."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils.dateparse import parse_date, parse_datetime

from billing.models import ReconcileDifference, ReconcileRun
from billing.selectors.reconcile import describe, find_difference, list_differences
from billing.services.reconcile import mail_runs, reconcile
from marketplace.core.errors import MarketplaceError
from marketplace.core.money import format_nanos

UNEXPLAINED, NOT_DONE = 1, 2


class Command(BaseCommand):
    help = (
        "Compare our books with Stripe's, object by object. Exits 1 if a difference is "
        "unexplained, 2 if the comparison did not come about."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--since", help="a date or time, UTC; three days ago")
        parser.add_argument("--until", help="a date or time, UTC, not included; now")
        parser.add_argument(
            "--repair", action="store_true", help="book what Stripe has and we only missed"
        )
        parser.add_argument("--mail", action="store_true", help="tell the admins, as at night")
        parser.add_argument("--json", action="store_true", help="one JSON document")
        parser.add_argument("--explain", metavar="ID", help="tell all about one difference")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["explain"]:
            self._explain(options["explain"], is_json=options["json"])
            return
        try:
            run = reconcile(
                since=_read_moment(options["since"], "--since"),
                until=_read_moment(options["until"], "--until"),
                is_repairing=options["repair"],
            )
        except MarketplaceError as error:
            faults = " ".join(fault["detail"] for fault in error.errors)
            self.stderr.write(self.style.ERROR(f"not compared: {error.detail} {faults}".strip()))
            raise SystemExit(NOT_DONE) from error
        if options["mail"]:
            mail_runs()
        if options["json"]:
            self.stdout.write(json.dumps(_to_json(run), indent=2))
        else:
            self._print(run)
        if run.unexplained_count:
            raise SystemExit(UNEXPLAINED)

    def _print(self, run: ReconcileRun) -> None:
        for kind, tally in run.counts.items():
            ours, theirs = format_nanos(tally["ours_nanos"]), format_nanos(tally["stripe_nanos"])
            self.stdout.write(
                f"{kind:10} ours {tally['ours']} ({ours}), Stripe's {tally['stripe']} ({theirs}), "
                f"{tally['matched']} agree"
            )
        for row in list_differences(run):
            is_explained = row.explanation != ReconcileDifference.Explanation.NONE
            style = self.style.WARNING if is_explained else self.style.ERROR
            self.stdout.write(style(describe(row)))
        if run.repaired_count:
            self.stdout.write(f"repaired   {run.repaired_count}")
        self.stdout.write(f"{run.get_state_display()}: {run}")

    def _explain(self, text: str, *, is_json: bool) -> None:
        try:
            row = find_difference(UUID(text))
        except ValueError:
            row = None
        if row is None:
            raise CommandError(f"There is no difference {text}.")
        if is_json:
            self.stdout.write(json.dumps(_difference_to_json(row), indent=2))
            return
        self.stdout.write(describe(row))
        for name, value in _difference_to_json(row).items():
            self.stdout.write(f"  {name}: {value}")


def _read_moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = parse_datetime(text)
        if moment is None and (day := parse_date(text)) is not None:
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
    except ValueError:
        moment = None
    if moment is None:
        raise CommandError(
            f"{option} must be a date or time such as 2026-11-22T06:00, not {text!r}"
        )
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _to_json(run: ReconcileRun) -> dict[str, Any]:
    return {
        "id": str(run.pk),
        "since": run.since.isoformat(),
        "until": run.until.isoformat(),
        "state": run.state,
        "counts": run.counts,
        "repaired": run.repaired_count,
        "unexplained": run.unexplained_count,
        "differences": [_difference_to_json(row) for row in list_differences(run)],
    }


def _difference_to_json(row: ReconcileDifference) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "kind": row.kind,
        "fault": row.fault,
        "our_id": row.our_id,
        "stripe_id": row.stripe_id,
        "our_nanos": row.our_nanos,
        "stripe_nanos": row.stripe_nanos,
        "gap_nanos": row.gap_nanos,
        "explanation": row.explanation or None,
        "note": row.note,
        "happened_at": row.happened_at.isoformat(),
        "first_seen_at": row.first_seen_at.isoformat(),
        "resolved_at": row.resolved_at.isoformat() if row.resolved_at else None,
        "mark_reason": row.mark_reason,
    }
