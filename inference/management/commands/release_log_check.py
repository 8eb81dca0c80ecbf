"""Check the chains of all release logs, and what the audit log says of them."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from inference.models import KeyRelease
from inference.selectors.release_log import find_first_break
from inference.services.release_log import find_lost_anchor


class Command(BaseCommand):
    help = "Check that no entry of a release log was altered, removed or cut off."

    def handle(self, *args: Any, **options: Any) -> None:
        for what, found in (("BROKEN", find_first_break()), ("CUT OFF", find_lost_anchor())):
            if found is not None:
                artifact_id, seq = found
                chain = f"version {artifact_id}" if artifact_id else "requests of nobody"
                self.stdout.write(self.style.ERROR(f"{what} at entry {seq} of {chain}"))
                raise SystemExit(1)
        count = KeyRelease.objects.exclude(seq=None).count()
        self.stdout.write(f"ok     {count} entries, each bound to the one before")
