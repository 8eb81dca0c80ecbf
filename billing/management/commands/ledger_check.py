"""Check the ledger: one line per invariant, and a non-zero exit if any is broken."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction

from billing.selectors.ledger import check_invariants


class Command(BaseCommand):
    help = "Check every invariant of the ledger; exits 1 if one is broken."

    def handle(self, *args: Any, **options: Any) -> None:
        with transaction.atomic(durable=True):
            findings = check_invariants()
        for finding in findings:
            if finding.count:
                rows = ", ".join(finding.sample)
                self.stdout.write(
                    self.style.ERROR(f"BROKEN {finding.invariant.name}: {finding.count} ({rows})")
                )
            else:
                self.stdout.write(f"ok     {finding.invariant.name}: {finding.invariant.sentence}")
        if any(finding.count for finding in findings):
            raise SystemExit(1)
