"""After a restore: does everything fit together, and what happened elsewhere since?"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import timedelta
from io import StringIO
from typing import Any, TextIO

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Max

from marketplace.core.clock import utc_now
from marketplace.models import AuditEvent

# What must hold by itself. By name: each belongs to another package.
CHECKS = ("audit_check", "ledger_check", "receipts_check", "check_objects")
# Before the last event that is known: what Stripe did then may have been on its way to us.
MARGIN = timedelta(hours=6)
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

    def handle(self, *args: Any, **options: Any) -> None:
        last = AuditEvent.objects.aggregate(at=Max("at"))["at"]
        if last is None:
            raise CommandError("The audit log is empty: this is no database of a platform.")
        self.stdout.write(f"The last thing that is known happened at {last:%F %T} UTC.")
        wrong = [name for name in CHECKS if not self._passes(name)]
        if not options["without_stripe"]:
            now = utc_now()
            since = max(last - MARGIN, now - PERIOD_MAX + timedelta(hours=1))
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
