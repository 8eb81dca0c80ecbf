"""Describe versions for the API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from inference.models import OnboardingStep
from marketplace.core.clock import to_wire
from marketplace.models import ModelVersion


def describe_version(version: ModelVersion) -> dict[str, Any]:
    """A version with its steps; fetch it `with_steps` for a list of them."""
    return {
        "id": str(version.pk),
        "model": str(version.model),
        "version": version.number,
        "state": version.state,
        "created_at": to_wire(version.created_at),
        "runtime": version.runtime,
        "interface": version.interface,
        "manifest_sha256": version.manifest_sha256,
        "size_bytes": version.size_bytes,
        "publish_channel": version.publish_channel or None,
        "channels": sorted(channel.name for channel in version.channels.all()),
        "steps": [describe_step(step) for step in version.onboarding_steps.all()],
        "certificate": version.certificate,
        "refusal_reason": version.refusal_reason,
    }


def describe_step(step: OnboardingStep) -> dict[str, Any]:
    """One onboarding step."""
    return {
        "name": step.name,
        "state": step.state,
        "attempt": step.attempt,
        "started_at": _wire(step.started_at),
        "finished_at": _wire(step.finished_at),
        "reason_code": step.reason_code,
        "log": step.log,
        "detail": step.detail,
    }


def _wire(moment: datetime | None) -> str | None:
    return to_wire(moment) if moment is not None else None
