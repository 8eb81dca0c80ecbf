"""Celery's scheduler, which also says that it lives (see `marketplace.core.probe`)."""

from __future__ import annotations

from typing import Any

from celery.beat import PersistentScheduler

from marketplace.core import probe


class NotedScheduler(PersistentScheduler):
    """Notes each look at the schedule: one that hangs looks no more."""

    def tick(self, *args: Any, **options: Any) -> float:
        """Send what is due; returns the seconds until the next entry is."""
        probe.note("beat")
        return float(super().tick(*args, **options))
