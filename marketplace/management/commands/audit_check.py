"""Check the audit log's chain; a non-zero exit if it is broken."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from marketplace.models import AuditEvent
from marketplace.services.audit import find_first_break


class Command(BaseCommand):
    help = "Check that no event of the audit log was altered, removed or put in between."

    def handle(self, *args: Any, **options: Any) -> None:
        seq = find_first_break()
        if seq is not None:
            self.stdout.write(self.style.ERROR(f"BROKEN at event {seq}"))
            raise SystemExit(1)
        self.stdout.write(
            f"ok     {AuditEvent.objects.count()} events, each bound to the one before"
        )
