"""Is the ciphertext there that the database names? A non-zero exit if some of it is not."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from inference.errors import ObjectStoreUnavailableError
from inference.services.stored_objects import compare_objects


class Command(BaseCommand):
    help = "Compare the names and sizes of stored ciphertext with the database; exits 1 for gaps."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            found = compare_objects()
        except ObjectStoreUnavailableError as error:
            raise CommandError(error.detail) from error
        for line in found.sample:
            self.stdout.write(self.style.ERROR(f"BROKEN {line}"))
        if not found.is_whole:
            wrong = found.missing_count + found.wrong_size_count
            self.stdout.write(self.style.ERROR(f"BROKEN {wrong} of {found.count} parts"))
            raise SystemExit(1)
        self.stdout.write(f"ok     {found.count} parts are stored; {found.unknown_count} others")
