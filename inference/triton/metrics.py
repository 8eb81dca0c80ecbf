"""Read the few of Triton's metrics that say how it is doing.

Source: Prometheus text format 0.0.4; Triton, "Metrics".
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

# A server with hundreds of models stays far below; more is not Triton that answers.
_BODY_BYTES_MAX = 16 << 20
_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)(?: [0-9]+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """What one model has done since it was loaded, and how many wait for it now."""

    succeeded: int = 0
    failed: int = 0
    pending: int = 0
    rows: int = 0
    executions: int = 0


@dataclass(frozen=True, slots=True)
class GPU:
    """How busy and how full one GPU is."""

    busy_bps: int
    memory_used_bytes: int
    memory_total_bytes: int


def parse_samples(text: str) -> Iterator[Sample]:
    """Every sample of a metrics page; comments and lines of another form are skipped."""
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and not line.startswith("#"):
            try:
                value = float(match[3])
            except ValueError:
                continue
            yield Sample(match[1], dict(_LABEL.findall(match[2] or "")), value)


def read_counts(metrics_url: str, *, timeout_s: float = 2.0) -> dict[str, ModelCounts]:
    """The counters of every model by its name.

    Raises:
        OSError: The server does not answer.
    """
    return count_by_model(_fetch(metrics_url, timeout_s))


def read_gpus(metrics_url: str, *, timeout_s: float = 2.0) -> list[GPU]:
    """The GPUs that the server sees; none where it runs without.

    Raises:
        OSError: The server does not answer.
    """
    return list_gpus(_fetch(metrics_url, timeout_s))


def _fetch(metrics_url: str, timeout_s: float) -> Iterator[Sample]:
    with urllib.request.urlopen(metrics_url, timeout=timeout_s) as answer:  # noqa: S310 - loopback
        text = answer.read(_BODY_BYTES_MAX).decode(errors="replace")
    return parse_samples(text)


def list_gpus(samples: Iterator[Sample]) -> list[GPU]:
    """By their identifiers; one of which something is missing is left out."""
    names = ("nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes")
    values: dict[str, dict[str, float]] = {}
    for sample in samples:
        if sample.name in names and "gpu_uuid" in sample.labels:
            values.setdefault(sample.labels["gpu_uuid"], {})[sample.name] = sample.value
    complete = [found for _, found in sorted(values.items()) if len(found) == len(names)]
    return [
        GPU(round(one[names[0]] * 10_000), int(one[names[1]]), int(one[names[2]]))
        for one in complete
    ]


def count_by_model(samples: Iterator[Sample]) -> dict[str, ModelCounts]:
    """Add the samples up by model; failures count whatever their reason."""
    members = {
        "nv_inference_request_success": "succeeded",
        "nv_inference_request_failure": "failed",
        "nv_inference_pending_request_count": "pending",
        "nv_inference_count": "rows",
        "nv_inference_exec_count": "executions",
    }
    sums: dict[str, dict[str, int]] = {}
    for sample in samples:
        member = members.get(sample.name)
        if member and "model" in sample.labels:
            counts = sums.setdefault(sample.labels["model"], {})
            counts[member] = counts.get(member, 0) + int(sample.value)
    return {model: ModelCounts(**counts) for model, counts in sums.items()}
