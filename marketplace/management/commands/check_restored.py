"""After a restore: does everything fit together, and what happened elsewhere since?"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any, TextIO

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Max
from django.utils.dateparse import parse_datetime

from marketplace.core.clock import utc_now
from marketplace.models import AuditEvent

# What must hold by itself. By name: each belongs to another package.
CHECKS = ("audit_check", "ledger_check", "receipts_check", "check_objects")
# Before the moment that was restored: what Stripe did then may have been on its way to us.
MARGIN = timedelta(hours=6)
# Where nobody says what was restored. The last event that is known says little: whoever started
# the platform before this has new ones in the log.
PERIOD = timedelta(days=7)
PERIOD_MAX = timedelta(days=400)


class Command(BaseCommand):
    help = (
        "Check a restored database: every invariant, the chain of the audit log, the receipts,"
        " the ciphertext, and what Stripe has that we lost. Exits 1 if anything is wrong."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--repair", action="store_true", help="book what Stripe has and the backup has not"
        )
        parser.add_argument("--without-stripe", action="store_true", help="leave Stripe out")
        parser.add_argument(
            "--since",
            metavar="TIME",
            help="the moment that was restored, as bin/backup says it (UTC); else the last"
            f" {PERIOD.days} days are compared with Stripe, or all since the last known event",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        restored_at = None if options["since"] is None else read_moment(options["since"])
        last = AuditEvent.objects.aggregate(at=Max("at"))["at"]
        if last is None:
            raise CommandError("The audit log is empty: this is no database of a platform.")
        self.stdout.write(f"The last thing that is known happened at {last:%F %T} UTC.")
        wrong = [name for name in CHECKS if not self._passes(name)]
        if not options["without_stripe"]:
            since = choose_since(last, restored_at, utc_now())
            self.stdout.write(f"Stripe is compared from {since:%F %T} UTC on.")
            words = ["--since", since.isoformat(), *(["--repair"] if options["repair"] else [])]
            if not self._is_agreed(words):
                wrong.append("reconcile")
        if wrong:
            self.stdout.write(self.style.ERROR(f"Look at: {', '.join(wrong)}."))
            raise SystemExit(1)
        self.stdout.write("Everything fits together.")

    def _is_agreed(self, words: list[str]) -> bool:
        """Whether Stripe has nothing that we lost, and the other way round."""
        said = StringIO()
        if not self._passes("reconcile", "--json", *words, to=said) and not said.getvalue():
            return False
        run = json.loads(said.getvalue())
        for one in (row for row in run["differences"] if row["resolved_at"] is None):
            what = one["stripe_id"] or one["our_id"]
            self.stdout.write(
                self.style.ERROR(f"LOST   {one['kind']} {one['fault']} {what}: {one['note']}")
            )
        self.stdout.write(f"{run['state']}; {run['repaired']} booked by this run")
        lost = [row for row in run["differences"] if row["resolved_at"] is None]
        if lost and "--repair" not in words:
            self.stdout.write("What Stripe has and we only missed, --repair books.")
        return not lost

    def _passes(self, name: str, *words: str, to: TextIO | None = None) -> bool:
        self.stdout.write(f"-- {name}")
        try:
            call_command(name, *words, stdout=to or self.stdout, stderr=self.stderr)
        except (CommandError, SystemExit) as error:
            if isinstance(error, CommandError):
                self.stdout.write(self.style.ERROR(str(error)))
            return False
        return True


def read_moment(text: str) -> datetime:
    """A moment of the past, such as 2026-11-22T06:00:00Z; UTC where it names no zone.

    Raises:
        CommandError: It is none, or longer ago than can be compared.
    """
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        raise CommandError(f"--since must be a time such as 2026-11-22T06:00:00Z, not {text!r}")
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not _oldest(utc_now()) <= moment <= utc_now():
        detail = f"--since must be in the past, up to {PERIOD_MAX.days} days ago, not {text}"
        raise CommandError(detail)
    return moment


def choose_since(last: datetime, restored_at: datetime | None, now: datetime) -> datetime:
    """From when on what Stripe has is compared with the books.

    Args:
        last: When the last event happened that is known.
        restored_at: The moment that was restored, if somebody said it.
        now: The present.
    """
    begin = restored_at or min(last, now - PERIOD + MARGIN)
    return max(begin - MARGIN, _oldest(now))


def _oldest(now: datetime) -> datetime:
    # An hour less than is allowed: time goes on meanwhile.
    return now - PERIOD_MAX + timedelta(hours=1)
