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
    with urllib.request.urlopen(metrics_url, timeout=timeout_s) as answer:  # noqa: S310 - loopback
        text = answer.read(_BODY_BYTES_MAX).decode(errors="replace")
    return count_by_model(parse_samples(text))


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
