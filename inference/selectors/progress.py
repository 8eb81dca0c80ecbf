"""Onboarding as a page shows it: how far, how long, what to do about a failure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inference.models import OnboardingStep
from inference.selectors.onboarding import is_moving
from inference.selectors.remedies import find_remedy
from marketplace.core.clock import utc_now
from marketplace.models import ModelVersion

State = OnboardingStep.State


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step for people."""

    step: OnboardingStep
    duration: str
    remedy: str

    @property
    def key(self) -> str:
        """Names the step's part of the page; another state is another part."""
        return f"step-{self.step.pk}-{self.step.state}"

    @property
    def is_over(self) -> bool:
        """Whether its log will not change any more."""
        return self.step.state in (State.SUCCEEDED, State.FAILED)


@dataclass(frozen=True, slots=True)
class VersionProgress:
    """A version with its steps, and whether it is worth looking again."""

    version: ModelVersion
    lines: list[StepLine]
    done: int
    is_moving: bool

    @property
    def total(self) -> int:
        """How many steps there are; 0 for a version that is still uploading."""
        return len(self.lines)

    @property
    def current(self) -> StepLine | None:
        """The step that runs or has failed."""
        active = (State.RUNNING, State.FAILED)
        return next((line for line in self.lines if line.step.state in active), None)


def describe_progress(version: ModelVersion, now: datetime | None = None) -> VersionProgress:
    """The progress of a version that was fetched `with_steps`."""
    now = now or utc_now()
    lines = [
        StepLine(
            step, _duration(step, now), find_remedy(step.reason_code) if step.reason_code else ""
        )
        for step in version.onboarding_steps.all()
    ]
    done = sum(line.step.state == State.SUCCEEDED for line in lines)
    return VersionProgress(version, lines, done, is_moving(version))


def digest_progress(progresses: Iterable[VersionProgress]) -> str:
    """A short mark of all that is shown; the same mark means that nothing has changed."""
    digest = hashlib.sha256()
    for progress in progresses:
        version = progress.version
        channels = sorted(channel.name for channel in version.channels.all())
        digest.update(f"{version.pk} {version.state} {channels}\n".encode())
        for line in progress.lines:
            step = line.step
            shown = (step.name, step.state, step.attempt, step.reason_code, line.duration)
            digest.update(f"{shown} {len(step.log)}\n".encode())
    return digest.hexdigest()[:16]


def _duration(step: OnboardingStep, now: datetime) -> str:
    if step.started_at is None:
        return ""
    seconds = max(0.0, ((step.finished_at or now) - step.started_at).total_seconds())
    if seconds < 10 and step.finished_at is not None:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{int(seconds)} s"
    if seconds < 7200:
        return f"{int(seconds // 60)} min"
    return f"{int(seconds // 3600)} h"


def _show_bytes(value: float) -> str:
    return f"{value / 2**20:,.1f} MiB" if value >= 2**20 else f"{value:,.0f} bytes"


# What of a certificate says something to a buyer: part, member, label, and how it is shown.
_FACTS: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("benchmark", "load_ms", "Cold start", lambda value: f"{value / 1000:,.2f} s"),
    ("benchmark", "memory_bytes", "Memory while serving", _show_bytes),
    ("load", "plain_size_bytes", "Model size", _show_bytes),
    ("load", "threads", "Threads", lambda value: f"{value:g}"),
    ("benchmark", "cpu_count", "CPUs of the node", lambda value: f"{value:g}"),
)


def read_facts(certificate: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What was measured besides the curve, as names and values with their units."""
    facts = []
    for part, name, label, show in _FACTS:
        members = (certificate or {}).get(part)
        value = members.get(name) if isinstance(members, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            facts.append((label, show(value)))
    return facts


def read_measured_at(certificate: dict[str, Any] | None) -> datetime | None:
    """When it was measured."""
    text = (certificate or {}).get("measured_at")
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def read_curve(certificate: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The measured points of a certificate, those that are complete; a node wrote them."""
    benchmark = (certificate or {}).get("benchmark")
    points = benchmark.get("points") if isinstance(benchmark, dict) else None
    if not isinstance(points, list):
        return []
    names = ("batch", "p50_ms", "p95_ms", "rows_per_s")
    return [
        {name: one[name] for name in names}
        for one in points
        if isinstance(one, dict) and all(isinstance(one.get(name), int | float) for name in names)
    ]
