"""Numbers of a process in the text format of Prometheus: declared once, rendered when asked for.

Source: Prometheus, "Exposition formats", text-based format 0.0.4.

A counter has its known label values from the start, at 0: `increase()` compares two samples,
so a series that is born with its first failure would hide that very failure.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import resource
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from marketplace.core.logs import describe_error

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"

# Upper ends of the buckets for what people and programs wait for, in seconds.
WAIT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_STARTED_AT_S = time.time()
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """The samples of one name, and what they mean. docs/observability.md lists them all.

    Args:
        name: As it is scraped.
        kind: `counter`, `gauge` or `histogram`.
        help: One sentence.
        labels: Names of its labels, in order.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    def list_samples(self) -> set[str]:
        """The names of its samples: of a histogram there are three."""
        if self.kind != "histogram":
            return {self.name}
        return {f"{self.name}_{part}" for part in ("bucket", "sum", "count")}


class Histogram:
    """How often a value fell between two of the edges, and the sum of all."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        """Count one value; an edge belongs to the bucket that it ends."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class Page:
    """Lines by family; a family without a sample is left out.

    Args:
        families: What may be added, by the key that `add` is called with.
    """

    def __init__(self, families: Mapping[str, Family]) -> None:
        self._families = families
        self._lines: dict[str, list[str]] = {name: [] for name in families}

    def add(self, name: str, value: float, labels: Labels | None = None) -> None:
        """One sample of a counter or a gauge."""
        family = self._families[name]
        self._lines[name].append(f"{family.name}{render_labels(labels or {})} {value}")

    def add_counts(self, name: str, label: str, counts: Mapping[str, int]) -> None:
        """A counter with one label."""
        for value, count in counts.items():
            self.add(name, count, {label: value})

    def add_histogram(self, name: str, histogram: Histogram, labels: Labels | None = None) -> None:
        """The buckets, the sum and the count; nothing if nothing was observed."""
        if not histogram.count:
            return
        family, labels = self._families[name].name, labels or {}
        inner = render_labels(labels)[1:-1]
        before = f"{family}_bucket{{{inner}{',' if inner else ''}le="
        lines, below = self._lines[name], 0
        for edge, count in zip((*histogram.edges, "+Inf"), histogram.counts, strict=True):
            below += count
            lines.append(f'{before}"{edge}"}} {below}')
        lines.append(f"{family}_sum{render_labels(labels)} {histogram.total}")
        lines.append(f"{family}_count{render_labels(labels)} {below}")

    def to_bytes(self) -> bytes:
        """All families that have a sample, each after its head."""
        return "".join(self._render()).encode()

    def _render(self) -> Iterator[str]:
        for name, lines in self._lines.items():
            if lines:
                family = self._families[name]
                yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
                yield "\n".join(lines) + "\n"


def render_labels(labels: Labels) -> str:
    """Labels as they stand behind a name; nothing if there are none."""
    if not labels:
        return ""
    inner = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{inner}}}"


class Counter:
    """A number for each combination of label values; may be added to by several threads.

    Args:
        family: What it counts.
        known: Label values that are there at 0 from the start.
        series_max: Combinations beyond this share one whose labels are all `other`.
    """

    def __init__(
        self, family: Family, known: Iterable[tuple[str, ...]] = (), *, series_max: int = 4000
    ) -> None:
        self.family = family
        self._series_max = series_max
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], float] = {}
        self.ensure(known if family.labels else [()])

    def ensure(self, known: Iterable[tuple[str, ...]]) -> None:
        """Have these label values at 0, if they are not there yet."""
        with self._lock:
            for values in known:
                self._counts.setdefault(values, 0)

    def add(self, *values: str, by: float = 1) -> None:
        """Count; `values` in the order of the family's labels."""
        with self._lock:
            if values not in self._counts and len(self._counts) >= self._series_max:
                values = (OTHER,) * len(values)
            self._counts[values] = self._counts.get(values, 0) + by

    def read(self, *values: str) -> float:
        """The count of these label values; 0 if there is none."""
        with self._lock:
            return self._counts.get(values, 0)

    def write(self, page: Page) -> None:
        """Add the samples to a page."""
        with self._lock:
            counts = dict(self._counts)
        for values, count in counts.items():
            labels = dict(zip(self.family.labels, values, strict=True))
            page.add(self.family.name, count, labels)


class Timer:
    """Histograms of seconds by label values; may be observed by several threads."""

    def __init__(
        self, family: Family, edges: Sequence[float] = WAIT_S, *, series_max: int = 1000
    ) -> None:
        self.family = family
        self._edges = edges
        self._series_max = series_max
        self._lock = threading.Lock()
        self._histograms: dict[tuple[str, ...], Histogram] = {}

    def observe(self, seconds: float, *values: str) -> None:
        """One duration; `values` in the order of the family's labels."""
        with self._lock:
            if values not in self._histograms and len(self._histograms) >= self._series_max:
                values = (OTHER,) * len(values)
            self._histograms.setdefault(values, Histogram(self._edges)).observe(seconds)

    def write(self, page: Page) -> None:
        """Add the samples to a page."""
        with self._lock:
            for values, histogram in self._histograms.items():
                labels = dict(zip(self.family.labels, values, strict=True))
                page.add_histogram(self.family.name, histogram, labels)


Collect = Callable[[Page], None]


class Registry:
    """All that one kind of process exports.

    Args:
        prefix: Of `build_info`'s name, as `strongroom_worker_`.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.families: dict[str, Family] = {}
        self._collects: list[Collect] = []
        self._declare(Family(f"{prefix}build_info", "gauge", "1; what runs.", BUILD_LABELS))
        for family in PROCESS_FAMILIES:
            self._declare(family)
        self._collects.append(self._write_process)

    def counter(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = (),
        *,
        known: Iterable[tuple[str, ...]] = (),
    ) -> Counter:
        """A new counter; `name` without the prefix, ending in `_total`."""
        counter = Counter(Family(self.prefix + name, "counter", text, labels), known)
        self._declare(counter.family)
        self._collects.append(counter.write)
        return counter

    def timer(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = (),
        *,
        edges: Sequence[float] = WAIT_S,
    ) -> Timer:
        """A new histogram of seconds; `name` without the prefix, ending in `_seconds`."""
        timer = Timer(Family(self.prefix + name, "histogram", text, labels), edges)
        self._declare(timer.family)
        self._collects.append(timer.write)
        return timer

    def gauges(self, families: Iterable[Family], collect: Collect) -> None:
        """Numbers that are looked up when they are asked for; `collect` adds them to the page."""
        for family in families:
            self._declare(family)
        self._collects.append(collect)

    def render(self) -> bytes:
        """The whole page. A part that fails is left out and logged, the others are there."""
        page = Page(self.families)
        for collect in list(self._collects):
            try:
                collect(page)
            except Exception as error:  # noqa: BLE001 - one number must not hide the others
                logger.warning("a part of the metrics is missing: %s", describe_error(error))
        return page.to_bytes()

    def _declare(self, family: Family) -> None:
        assert family.name not in self.families, family.name
        self.families[family.name] = family

    def _write_process(self, page: Page) -> None:
        page.add(f"{self.prefix}build_info", 1, describe_build())
        for name, value in read_process().items():
            page.add(name, value)


BUILD_LABELS = ("version", "python")
PROCESS_FAMILIES = (
    Family("process_cpu_seconds_total", "counter", "CPU time of the process."),
    Family("process_resident_memory_bytes", "gauge", "Memory of the process."),
    Family("process_open_fds", "gauge", "Open files and sockets of the process."),
    Family("process_max_fds", "gauge", "How many it may open."),
    Family("process_start_time_seconds", "gauge", "When it was started, since 1970."),
)


def describe_build() -> dict[str, str]:
    """What runs, as labels."""
    return {
        "version": importlib.metadata.version("strongroom"),
        "python": platform.python_version(),
    }


def read_process() -> dict[str, float]:
    """Values of `PROCESS_FAMILIES` by name."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "process_cpu_seconds_total": used.ru_utime + used.ru_stime,
        "process_resident_memory_bytes": pages * resource.getpagesize(),
        "process_open_fds": sum(1 for _ in os.scandir("/proc/self/fd")),
        "process_max_fds": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "process_start_time_seconds": _STARTED_AT_S,
    }
