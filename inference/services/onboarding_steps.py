"""What each onboarding step does when it is looked at, once.

A handler gets the running step and its version, does what can be done now, and says how
far it came. It never waits: a step that depends on a node says so and is looked at again.
"""

from __future__ import annotations

import enum
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inference.errors import (
    KeyBrokerUnavailableError,
    ObjectStoreUnavailableError,
    RefusedError,
)
from inference.models import Artifact, OnboardingStep, Replica, ReplicaWork, UploadPart
from inference.selectors import artifact as artifacts
from inference.selectors import deployment as deployments
from inference.services import deployment, keybroker_client, object_store, scan
from inference.services.untrusted import clean_text
from marketplace.core.clock import to_wire
from marketplace.models import ModelVersion
from marketplace.services import catalog, doubt
from strongroom.errors import StrongroomError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.manifest import Manifest

# One look at the verify step hashes for about this long; a killed worker loses no more.
VERIFY_SLICE_S = 15.0
# Findings of the second scanner that stand in the log; all are in the step's detail.
FINDINGS_SHOWN_MAX = 10


class Verdict(enum.Enum):
    """How far a look at a step came."""

    DONE = "done"
    # There is more to do at once.
    AGAIN = "again"
    # Somebody else must act first: a node, a service, a person.
    WAIT = "wait"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """What came of one look at a step."""

    verdict: Verdict
    lines: tuple[str, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)
    reason_code: str = ""
    # The code the step fails with, should this be what its time runs out on.
    waiting_for: str = ""
    attempt: int = 0

    @classmethod
    def done(cls, *lines: str, detail: dict[str, Any] | None = None) -> Progress:
        """The step is over and well."""
        return cls(Verdict.DONE, lines, detail or {})

    @classmethod
    def again(cls, *lines: str, detail: dict[str, Any] | None = None) -> Progress:
        """The step has more to do."""
        return cls(Verdict.AGAIN, lines, detail or {})

    @classmethod
    def wait(cls, *lines: str, waiting_for: str = "", attempt: int = 0) -> Progress:
        """The step waits for somebody."""
        return cls(Verdict.WAIT, lines, waiting_for=waiting_for, attempt=attempt)

    @classmethod
    def failed(
        cls, reason_code: str, line: str, *, detail: dict[str, Any] | None = None
    ) -> Progress:
        """The step is over, and so is the onboarding."""
        return cls(Verdict.FAILED, (line,), {**(detail or {}), "message": line}, reason_code)


def verify(step: OnboardingStep, version: ModelVersion) -> Progress:
    """The stored parts are the ones the creator signed, and the wrap opens their headers."""
    artifact = artifacts.get_artifact(version.pk)
    try:
        manifest = _verify_manifest(artifact)
    except StrongroomError as error:
        return Progress.failed(error.code, error.detail)
    done = int(step.detail.get("parts_verified", 0))
    parts = list(artifact.upload.parts.order_by("file_index", "part"))
    try:
        done = _verify_parts(manifest, parts, done)
    except RefusedError as error:
        return Progress.failed(error.code, error.detail)
    except ObjectStoreUnavailableError as error:
        return Progress.wait("The object store does not answer.", waiting_for=error.code)
    if done < len(parts):
        line = f"{done} of {len(parts)} parts are what was signed."
        return Progress.again(line, detail={"parts_verified": done, "parts": len(parts)})
    try:
        keybroker_client.check_upload_key(artifact_id=version.pk)
    except RefusedError as error:
        return Progress.failed(error.code, error.detail)
    except KeyBrokerUnavailableError as error:
        return Progress.wait(error.detail, waiting_for=error.code)
    return Progress.done(
        f"The signature of {artifact.signing_key.fingerprint} is right.",
        f"All {len(parts)} parts are what was signed, {artifact.size_bytes} bytes.",
        "The key broker opens the header of every file.",
        detail={"parts_verified": done, "parts": len(parts)},
    )


def _verify_manifest(artifact: Artifact) -> Manifest:
    raw = artifact.manifest.encode()
    signature.verify(
        decode_base64(artifact.signing_key.public_key),
        signature.MANIFEST_TYPE,
        raw,
        decode_base64(artifact.signature),
    )
    if hashlib.sha256(raw).hexdigest() != artifact.manifest_sha256:
        raise StrongroomError("manifest_mismatch", "The manifest is not the one that was accepted.")
    return Manifest.parse(raw)


def _verify_parts(manifest: Manifest, parts: list[UploadPart], done: int) -> int:
    """Hash parts from number `done` on, until the slice of time is over; returns how far."""
    promised = [
        (file_index, part, one)
        for file_index, file in enumerate(manifest.files)
        for part, one in enumerate(file.parts)
    ]
    if [(one.file_index, one.part) for one in parts] != [one[:2] for one in promised]:
        raise RefusedError("part_missing", "The stored parts are not those of the manifest.")
    ends_at = time.monotonic() + VERIFY_SLICE_S
    while done < len(parts):
        file_index, part, wanted = promised[done]
        place = f"Part {part} of {manifest.files[file_index].path}"
        try:
            found = object_store.hash_part(parts[done].storage_name)
        except FileNotFoundError:
            raise RefusedError("part_missing", f"{place} is not in the store.") from None
        if found != (wanted.sha256, wanted.size_bytes):
            raise RefusedError("part_checksum_mismatch", f"{place} is not what was signed.")
        done += 1
        # Looked at behind the part, so that each look gets at least one done.
        if time.monotonic() >= ends_at:
            break
    return done


def validate(step: OnboardingStep, version: ModelVersion) -> Progress:
    """The loader has opened the files in its sandbox and found nothing that is refused."""
    replica = _use_replica(version)
    if isinstance(replica, Progress):
        return replica
    validation = replica.report.get("validation")
    if validation is not None:
        line = f"The files were opened and checked on node {replica.node.name}."
        line += _describe_opinion(validation.get("second_opinion"))
        return Progress.done(line, detail={"validation": validation})
    return _refuse_or_wait(replica)


def _describe_opinion(opinion: Any) -> str:
    """What the second scanner said, as one sentence; the node's word, so nothing is taken as is."""
    if not isinstance(opinion, dict):
        return ""
    scanner = f"{clean_text(opinion.get('scanner'), 40)} {clean_text(opinion.get('version'), 40)}"
    findings = opinion.get("findings")
    rules = [
        f"{clean_text(one.get('rule'), 40)} ({clean_text(one.get('severity'), 20)})"
        for one in (findings if isinstance(findings, list) else [])[:FINDINGS_SHOWN_MAX]
        if isinstance(one, dict)
    ]
    found = f"notes on {', '.join(rules)}, none of which stops it" if rules else "nothing"
    return f" A second scanner, {scanner}, found {found}."


def load(step: OnboardingStep, version: ModelVersion) -> Progress:
    """The model is in memory and answers."""
    replica = _use_replica(version)
    if isinstance(replica, Progress):
        return replica
    if replica.state == Replica.State.READY:
        line = f"The model is loaded on node {replica.node.name}."
        return Progress.done(line, detail={"load": replica.report.get("load", {})})
    return _refuse_or_wait(replica)


def test(step: OnboardingStep, version: ModelVersion) -> Progress:
    """The creator's test vectors give what the creator says."""
    vectors = len(artifacts.get_manifest(version.pk).test_vectors)
    if not vectors:
        return Progress.done("The manifest holds no test vectors; none were run.")
    done = _work(version, ReplicaWork.Kind.TEST)
    if isinstance(done, Progress):
        return done
    line = f"All {vectors} test vectors are right."
    return Progress.done(line, detail={"test": done.result})


def benchmark(step: OnboardingStep, version: ModelVersion) -> Progress:
    """How fast the model is and what it needs; this becomes the version's certificate."""
    done = _work(version, ReplicaWork.Kind.BENCHMARK)
    if isinstance(done, Progress):
        return done
    replica = done.replica
    assert done.finished_at is not None
    certificate = {
        "measured_at": to_wire(done.finished_at),
        "node": replica.node.name,
        "load": replica.report.get("load", {}),
        "benchmark": done.result,
    }
    scan.release(version)
    catalog.submit_for_review(version=version, certificate=certificate)
    line = f"Measured on node {replica.node.name}."
    return Progress.done(line, detail={"benchmark": done.result})


def review(step: OnboardingStep, version: ModelVersion) -> Progress:
    """A person looks at it."""
    if version.state == ModelVersion.State.APPROVED:
        return Progress.done("The version was approved.")
    if version.state == ModelVersion.State.REFUSED:
        return Progress.failed("refused", version.refusal_reason or "The version was refused.")
    doubts = [one.text for one in doubt.find_doubts(version)]
    # One line: two that take turns would be told again at every look.
    return Progress.wait(" ".join(["Waiting for a reviewer.", *doubts]))


def publish(step: OnboardingStep, version: ModelVersion) -> Progress:
    """The version serves, and the channel that its creator named moves to it.

    In this order: consumers who follow the channel keep the earlier version until then.
    """
    channel = version.publish_channel
    if not channel:
        return Progress.done("No channel was asked for. Publish the version when you like.")
    deployment.ensure_deployment(version=version)
    if not deployments.has_ready_replica(version):
        return Progress.wait("Waiting for a serving replica.", waiting_for=scan.NODE_UNAVAILABLE)
    catalog.publish_version(version=version, channel=channel)
    return Progress.done(f"The channel {channel} names this version.")


def _use_replica(version: ModelVersion) -> Replica | Progress:
    """The scan replica to go on with, whatever its state; or what is to be done about it."""
    replica = scan.find_replica(version)
    if replica is None:
        replica = scan.place_replica(version)
        if replica is None:
            line = "No node is live; waiting for one."
            return Progress.wait(line, waiting_for=scan.NODE_UNAVAILABLE)
        attempt = scan.count_attempts(version)
        line = f"Assigned to node {replica.node.name} (attempt {attempt} of {scan.ATTEMPTS_MAX})."
        return Progress.wait(line, waiting_for=scan.NODE_UNAVAILABLE, attempt=attempt)
    return replica


def _refuse_or_wait(replica: Replica, work: ReplicaWork | None = None) -> Progress:
    trouble = scan.find_trouble(replica, work)
    if trouble is None:
        name = replica.node.name
        line = f"Node {name} runs the {work.kind}." if work else f"Node {name}: {replica.state}."
        return Progress.wait(line, waiting_for=scan.NODE_UNAVAILABLE)
    if trouble.is_final:
        detail = {str(work.kind): work.result} if work else None
        return Progress.failed(trouble.reason_code, trouble.line, detail=detail)
    scan.release(replica.version)
    return Progress.again(trouble.line, "Trying again.")


def _work(version: ModelVersion, kind: ReplicaWork.Kind) -> ReplicaWork | Progress:
    """The finished work of this kind; or what is to be waited for."""
    replica = _use_replica(version)
    if isinstance(replica, Progress):
        return replica
    work = ReplicaWork.objects.filter(replica=replica, kind=kind).first()
    if work is not None and work.state == ReplicaWork.State.SUCCEEDED:
        work.replica = replica
        return work
    if work is None and replica.state == Replica.State.READY:
        work = ReplicaWork.objects.create(replica=replica, kind=kind)
    return _refuse_or_wait(replica, work)


HANDLERS: dict[str, Callable[[OnboardingStep, ModelVersion], Progress]] = {
    OnboardingStep.Name.VERIFY: verify,
    OnboardingStep.Name.VALIDATE: validate,
    OnboardingStep.Name.LOAD: load,
    OnboardingStep.Name.TEST: test,
    OnboardingStep.Name.BENCHMARK: benchmark,
    OnboardingStep.Name.REVIEW: review,
    OnboardingStep.Name.PUBLISH: publish,
}
