"""What a reviewer sees of the sealed files of a version, beside those of the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.template.defaultfilters import filesizeformat

from inference.models import Artifact, OnboardingStep, Replica
from inference.selectors.custody import describe_canary, describe_confinement
from marketplace.models import ModelVersion
from marketplace.selectors.review import Row, find_previous
from strongroom.sealing.errors import ManifestError
from strongroom.sealing.manifest import Manifest, SealedFile

# How much of what a node wrote is shown of one finding.
TEXT_LENGTH_MAX = 300


@dataclass(frozen=True, slots=True)
class FileReview:
    """Files, the terms of the manifest, and what the scan found."""

    previous: ModelVersion | None
    artifact: Artifact | None
    terms: list[Row]
    files: list[Row]
    findings: list[tuple[str, str]]
    steps: list[OnboardingStep]


def review_files(version: ModelVersion) -> FileReview:
    """What the signed manifests say of a version and of the one that was approved before it."""
    previous = find_previous(version)
    artifact = Artifact.objects.select_related("signing_key").filter(version=version).first()
    older = Artifact.objects.filter(version=previous).first() if previous else None
    before, after = _parse(older), _parse(artifact)
    steps = list(OnboardingStep.objects.filter(version=version).order_by("position"))
    return FileReview(
        previous=previous,
        artifact=artifact,
        terms=_compare(_describe_terms(before), _describe_terms(after)),
        files=_compare(_describe_files(before), _describe_files(after)),
        findings=_list_findings(version, steps),
        steps=steps,
    )


def _parse(artifact: Artifact | None) -> Manifest | None:
    if artifact is None:
        return None
    try:
        return Manifest.parse(artifact.manifest)
    except ManifestError:
        return None


def _describe_terms(manifest: Manifest | None) -> dict[str, str]:
    if manifest is None:
        return {}
    return {
        "Task": manifest.task,
        "Licence": manifest.licence,
        "Files": str(len(manifest.files)),
        "Size in memory": filesizeformat(manifest.plain_size_bytes),
        "Test vectors": str(len(manifest.test_vectors)),
        "Sealed": manifest.created_at,
    }


def _describe_files(manifest: Manifest | None) -> dict[str, str]:
    return {one.path: _describe_file(one) for one in manifest.files} if manifest else {}


def _describe_file(one: SealedFile) -> str:
    digest = one.parts[0].sha256[:12] if one.parts else ""
    parts = f"{len(one.parts)} part{'' if len(one.parts) == 1 else 's'}"
    return f"{one.kind}, {one.plain_size_bytes:,} bytes, {parts}, {digest}…"


def _compare(before: dict[str, str], after: dict[str, str]) -> list[Row]:
    names = [*after, *(name for name in before if name not in after)]
    return [Row(name, before.get(name, ""), after.get(name, "")) for name in names]


def _list_findings(version: ModelVersion, steps: list[OnboardingStep]) -> list[tuple[str, str]]:
    """What the machines that looked at it said, each in a line."""
    found = []
    for step in steps:
        if step.name in (OnboardingStep.Name.VALIDATE, OnboardingStep.Name.TEST):
            inner = step.detail.get("validation") or step.detail.get("test") or {}
            found += _flatten(step.get_name_display(), inner)
    scan = Replica.objects.filter(version=version, purpose=Replica.Purpose.SCAN)
    replica = scan.order_by("-created_at").first()
    if replica is not None:
        for label, text in (
            ("Confined by", describe_confinement(replica.report)),
            ("Known answers", describe_canary(replica.report)),
        ):
            if text:
                found.append((label, text))
    return found


def _flatten(label: str, value: Any) -> list[tuple[str, str]]:
    """What a step noted as names and texts, one level deep; deeper things are counted."""
    if not isinstance(value, dict):
        return []
    return [(f"{label}: {name.replace('_', ' ')}", _show(one)) for name, one in value.items()]


def _show(value: Any) -> str:
    if isinstance(value, dict):
        text = ", ".join(
            f"{name.replace('_', ' ')} {inner}"
            for name, inner in value.items()
            if isinstance(inner, str | int | float)
        )
    elif isinstance(value, list):
        text = f"{len(value)}"
    else:
        text = str(value)
    return text[:TEXT_LENGTH_MAX]
