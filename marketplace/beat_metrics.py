"""What beat counts, and the numbers of the whole platform.

Of beat there is one: what it says of the platform is said once, however many workers there are.
"""

from __future__ import annotations

import time
from typing import Any

from celery.signals import after_task_publish

from marketplace.core.exposition import Family, Page, Registry
from marketplace.core.metrics_listener import MetricsListener
from marketplace.services.platform_metrics import PlatformWatch

SETTING = "STRONGROOM_BEAT_METRICS_LISTEN"
_LAST = Family(
    "strongroom_beat_last_sent_timestamp_seconds",
    "gauge",
    "When beat gave out its last task, since 1970; its start before the first.",
)


class BeatMetrics:
    """The registry of one beat.

    Args:
        task_names: Tasks of the schedule.
    """

    def __init__(self, task_names: set[str]) -> None:
        self.registry = Registry("strongroom_beat_")
        self.last_sent_s = time.time()
        self.sent = self.registry.counter(
            "tasks_sent_total",
            "Tasks of the schedule that went into the queue.",
            ("task",),
            known=[(name,) for name in sorted(task_names)],
        )
        self.registry.gauges([_LAST], self._write_last)
        watch = PlatformWatch()
        self.registry.gauges(watch.families, watch.write)

    def note_sent(self, sender: Any = None, **_: Any) -> None:
        """A task is in the queue; `sender` is its name."""
        self.last_sent_s = time.time()
        self.sent.add(str(sender))

    def _write_last(self, page: Page) -> None:
        page.add(_LAST.name, self.last_sent_s)


def make_metrics() -> BeatMetrics:
    """The numbers of a beat with our schedule."""
    from marketplace.celery import app

    return BeatMetrics({entry["task"] for entry in app.conf.beat_schedule.values()})


def start(address: tuple[str, int] | None, token: str) -> MetricsListener | None:
    """Count and serve from now on; None without an address.

    Raises:
        SystemExit: The address cannot be had. Celery would log any other error and go on.
    """
    if address is None:
        return None
    metrics = make_metrics()
    after_task_publish.connect(metrics.note_sent, weak=False)
    try:
        listener = MetricsListener(address, metrics.registry.render, token=token)
    except OSError as error:
        raise SystemExit(f"{SETTING}: {error}") from error
    listener.start()
    return listener
