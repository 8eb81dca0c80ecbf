"""What anybody who sees a model may know of how a version was sealed, checked and measured.

Less than its creator sees: no log, no name of a node, and nothing of the manifest but its digest,
which holds test vectors that the creator may want to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inference.models import Artifact, OnboardingStep, WrappedKey
from inference.selectors.progress import read_curve, read_facts
from marketplace.core.errors import NotFoundError
from marketplace.models import AIModel, ModelVersion
from marketplace.selectors.access import Actor, access_model
from marketplace.selectors.catalog import get_version

Step = OnboardingStep.Name
# Of the certificate: what a buyer can use. The rest tells of our machines.
_BENCHMARK = ("load_ms", "memory_bytes", "triton_version", "cpu_count")


@dataclass(frozen=True, slots=True)
class Seal:
    """One thing that was established, in words, and when; `is_kept` says whether it holds."""

    name: str
    text: str
    at: datetime | None
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of a version's seals, and the artifact that they are about."""

    version: ModelVersion
    artifact: Artifact | None
    suite: str
    seals: list[Seal]


def access_public_version(actor: Actor, owner: str, name: str, number: int) -> ModelVersion:
    """An approved version of a model that the actor may see.

    Raises:
        NotFoundError: No such version, or one that is the creator's own business.
    """
    version = get_version(access_model(actor, owner, name), number)
    if version.state != ModelVersion.State.APPROVED:
        raise NotFoundError("No such version.")
    return version


def find_prod_version(model: AIModel) -> ModelVersion | None:
    """What `owner/name` runs."""
    return ModelVersion.objects.filter(
        channels__model=model, channels__name="prod", state=ModelVersion.State.APPROVED
    ).first()


def describe_evidence(version: ModelVersion) -> Evidence:
    """The seals of a version, as they were recorded when it came in."""
    artifact = Artifact.objects.filter(version=version).select_related("signing_key").first()
    wrap = WrappedKey.objects.filter(
        version=version, recipient=WrappedKey.Recipient.PLATFORM
    ).first()
    steps = {
        step.name: step
        for step in version.onboarding_steps.filter(state=OnboardingStep.State.SUCCEEDED)
    }
    seals = [
        _sealed(artifact, wrap),
        _signed(artifact, steps.get(Step.VERIFY)),
        _scanned(steps.get(Step.VALIDATE)),
        _tested(steps.get(Step.TEST)),
        _reviewed(version),
    ]
    return Evidence(version, artifact, wrap.suite if wrap else "", seals)


def describe_certificate(version: ModelVersion) -> dict[str, Any]:
    """The benchmark certificate as it is given away.

    Raises:
        NotFoundError: The version was never measured.
    """
    points = read_curve(version.certificate)
    if not points:
        raise NotFoundError("This version has no certificate.")
    certificate = version.certificate or {}
    benchmark = certificate.get("benchmark", {})
    return {
        "model": str(version.model),
        "version": version.number,
        "manifest_sha256": version.manifest_sha256,
        "measured_at": certificate.get("measured_at"),
        "points": points,
        **{name: benchmark[name] for name in _BENCHMARK if name in benchmark},
    }


def list_certificate_facts(version: ModelVersion) -> list[tuple[str, str]]:
    """What was measured besides the curve."""
    return read_facts(version.certificate)


def _sealed(artifact: Artifact | None, wrap: WrappedKey | None) -> Seal:
    is_kept = artifact is not None and wrap is not None
    text = (
        "Encrypted on the creator's machine, segment by segment, with AES-256-GCM. Its key is "
        "wrapped to the key broker; this site holds ciphertext alone."
    )
    at = artifact.created_at if artifact else None
    return Seal("Sealed", text if is_kept else "No sealed files are recorded.", at, is_kept)


def _signed(artifact: Artifact | None, step: OnboardingStep | None) -> Seal:
    if artifact is None or step is None:
        return Seal("Signed", "No signature was verified.", None, is_kept=False)
    key = artifact.signing_key
    if key.revoked_at is not None:
        text = "Signed by a key of the creator's that was revoked since."
        return Seal("Signed", text, step.finished_at, is_kept=False)
    text = "The manifest carries the creator's Ed25519 signature, and every stored part fits it."
    return Seal("Signed", text, step.finished_at, is_kept=True)


def _scanned(step: OnboardingStep | None) -> Seal:
    if step is None:
        return Seal("Scanned", "No scan is recorded.", None, is_kept=False)
    text = "Opened and checked in a sandbox without network: no code, no operators but known ones."
    if isinstance(_read(step, "validation").get("second_opinion"), dict):
        text += " A second scanner found nothing that stops it."
    return Seal("Scanned", text, step.finished_at, is_kept=True)


def _tested(step: OnboardingStep | None) -> Seal:
    passed = _read(step, "test").get("passed") if step is not None else None
    if step is None or not isinstance(passed, int) or isinstance(passed, bool):
        text = "The creator gave no test vectors."
        return Seal("Tested", text, None, is_kept=False)
    plural = "" if passed == 1 else "s"
    text = f"Gave the right answer to {passed} test vector{plural} of its creator."
    return Seal("Tested", text, step.finished_at, is_kept=True)


def _reviewed(version: ModelVersion) -> Seal:
    review = version.reviews.filter(decision="approved").order_by("-created_at").first()
    if review is None:
        return Seal("Reviewed", "No review is recorded.", None, is_kept=False)
    text = "A person of the platform looked at it and approved it."
    return Seal("Reviewed", text, review.created_at, is_kept=True)


def _read(step: OnboardingStep, name: str) -> dict[str, Any]:
    found = step.detail.get(name)
    return found if isinstance(found, dict) else {}
