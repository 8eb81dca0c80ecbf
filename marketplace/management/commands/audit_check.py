"""Check the audit log's chain; a non-zero exit if it is broken."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from marketplace.core.errors import InvalidInputError
from marketplace.models import AuditEvent
from marketplace.services.audit import find_first_break
from marketplace.services.audit_export import find_export_break


class Command(BaseCommand):
    help = "Check that no event of the audit log was altered, removed or put in between."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--export", type=Path, help="check an exported file instead of the database"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["export"] is not None:
            self._check_file(options["export"])
            return
        seq = find_first_break()
        if seq is not None:
            self.stdout.write(self.style.ERROR(f"BROKEN at event {seq}"))
            raise SystemExit(1)
        self.stdout.write(
            f"ok     {AuditEvent.objects.count()} events, each bound to the one before"
        )

    def _check_file(self, path: Path) -> None:
        try:
            with path.open(newline="", encoding="utf-8") as lines:
                seq = find_export_break(lines)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{path} cannot be read: {type(error).__name__}") from error
        except InvalidInputError as error:
            raise CommandError(error.detail) from error
        if seq is not None:
            self.stdout.write(self.style.ERROR(f"BROKEN at event {seq}"))
            raise SystemExit(1)
        self.stdout.write("ok     each row is as it was written")
