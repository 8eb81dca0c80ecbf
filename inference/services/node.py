"""Nodes: let them in, take their word on their own replicas, put them out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from inference.errors import JoinTokenInvalidError, RefusedError
from inference.models import Node, NodeJoinToken, OnboardingStep, Replica, ReplicaWork
from inference.selectors.node import QUIET_AFTER
from inference.services import deployment, onboarding
from inference.services.untrusted import clean_code, clean_fraction, clean_object, clean_text
from marketplace.core import keys
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.selectors.access import Actor
from marketplace.services import audit
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.errors import CanonicalError

# Long enough to start a machine with it, short enough to be useless in an old log.
JOIN_TOKEN_LIFETIME = timedelta(hours=24)
# Replicas that one report may speak of; far above what fits on one GPU.
REPORTED_REPLICAS_MAX = 256
REASON_UNKNOWN = "reason_unknown"

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_URL = re.compile(
    r"(?:(?:https?|grpcs?)://)?(?:[A-Za-z0-9.-]{1,120}|\[[0-9A-Fa-f:]{2,45}\]):\d{1,5}"
    r"(?:/[A-Za-z0-9/_-]{0,40})?"
)
_URL_MEMBERS = ("http_url", "grpc_url", "metrics_url")

State = Replica.State
# What a node may say of a replica. That one is lost is for us to say.
REPORTABLE_STATES = frozenset(State.values) - {State.LOST}
REPORT_MEMBERS = ("validation", "load")
REPORT_TOO_LARGE = "The report was too large to be kept."


def create_join_token(*, name: str) -> str:
    """A secret with which one node of this name may enrol once; it is shown only here.

    Raises:
        RefusedError: `node_name_invalid`.
    """
    _check_name(name)
    secret = keys.generate(keys.NODE)
    NodeJoinToken.objects.create(
        digest=secret.digest, name=name, expires_at=utc_now() + JOIN_TOKEN_LIFETIME
    )
    return secret.text


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        detail = "Lowercase letters, digits and hyphens inside, at most 63 characters."
        raise RefusedError("node_name_invalid", detail, pointer="/name")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a new node says of itself."""

    name: str
    public_key: str
    urls: dict[str, str]
    info: dict[str, Any] = field(default_factory=dict)


def enrol_node(*, join_token: str, enrolment: Enrolment) -> tuple[Node, str]:
    """Let a node in; returns it with its token, which is shown only here.

    A node of the same name is replaced: its machine was set up anew. The same node may
    repeat the call with the same token, in case the answer was lost, and gets a new token.

    Raises:
        JoinTokenInvalidError: Unknown, expired, used by another node, or for another name.
        RefusedError: Name, key or addresses are not in their form.
    """
    _check_name(enrolment.name)
    public_key = _check_public_key(enrolment.public_key)
    urls = _check_urls(enrolment.urls)
    secret = keys.generate(keys.NODE)
    with transaction.atomic():
        token = _lock_join_token(join_token, enrolment.name)
        node = Node.objects.select_for_update(no_key=True).filter(name=enrolment.name).first()
        if token.used_at is not None and not _is_repeated(node, public_key):
            raise JoinTokenInvalidError
        if node is None:
            node = Node(name=enrolment.name)
        else:
            deployment.mark_lost(node)
        node.public_key = public_key
        node.token_digest = secret.digest
        node.triton_http_url = urls["http_url"]
        node.triton_grpc_url = urls["grpc_url"]
        node.triton_metrics_url = urls["metrics_url"]
        node.info = clean_object(enrolment.info)
        node.triton_ready = False
        node.revoked_at = None
        node.last_seen_at = node.heard_since = utc_now()
        node.save()
        token.used_at = utc_now()
        token.save(update_fields=["used_at"])
        payload = {"name": node.name, "public_key": public_key}
        audit.record(f"node:{node.name}", "node.enrol", node, payload=payload)
    return node, secret.text


def _is_repeated(node: Node | None, public_key: str) -> bool:
    """Whether a used token comes from the node that used it; a revoked one needs a new token."""
    return node is not None and node.public_key == public_key and node.revoked_at is None


def _check_public_key(text: str) -> str:
    try:
        return encode_base64(decode_base64(text, size_bytes=signature.PUBLIC_KEY_BYTES))
    except CanonicalError as error:
        raise RefusedError("public_key_invalid", error.detail, pointer="/public_key") from error


def _check_urls(urls: Any) -> dict[str, str]:
    found = {name: urls.get(name, "") for name in _URL_MEMBERS} if isinstance(urls, dict) else {}
    for name in _URL_MEMBERS:
        value = found.get(name)
        if value == "" and name == "metrics_url":
            continue
        if not isinstance(value, str) or not _URL.fullmatch(value):
            detail = "Must be host:port, with a scheme before it or not."
            raise RefusedError("triton_url_invalid", detail, pointer=f"/triton/{name}")
    return found


def _lock_join_token(text: str, name: str) -> NodeJoinToken:
    if not keys.is_well_formed(text):
        raise JoinTokenInvalidError
    token = (
        NodeJoinToken.objects.select_for_update()
        .filter(digest=keys.digest(text), name=name, expires_at__gt=utc_now())
        .first()
    )
    if token is None:
        raise JoinTokenInvalidError
    return token


def record_report(*, node: Node, report: dict[str, Any]) -> None:
    """Take a node's word on itself and on its replicas.

    Rows are written only where something changed: a change of a replica wakes every gateway.
    A replica of which the node says nothing is not loaded there.

    Args:
        node: Who reports.
        report: Decoded JSON. Replicas that are not this node's are passed over.

    Raises:
        InvalidInputError: The report is not in its form; nothing is written.
    """
    triton, info = report.get("triton"), report.get("info")
    said = _read_replicas(report.get("replicas"))
    node_changes = _read_node(node, triton, info)
    with transaction.atomic():
        # By key, as every writer does, so that two never wait for each other.
        rows = node.replicas.exclude(_SETTLED).order_by("pk")
        changed = [
            replica
            for replica in rows.select_for_update(no_key=True)
            if _apply(replica, said.get(str(replica.pk)))
        ]
        Node.objects.filter(pk=node.pk).update(**node_changes)
        _wake_onboarding({replica.version_id for replica in changed})


# Rows of the past, which nothing that a node says changes any more. A failure is one at once:
# the node forgets it as soon as it reads that the replica is not wanted.
_SETTLED = Q(state=State.FAILED) | Q(wanted=False, state__in=(State.UNLOADED, State.LOST))


def _read_node(node: Node, triton: Any, info: Any) -> dict[str, Any]:
    if not isinstance(triton, dict):
        raise InvalidInputError("An object was expected.", errors=[_fault("/triton")])
    now = utc_now()
    changes: dict[str, Any] = {"last_seen_at": now}
    if node.last_seen_at is None or node.last_seen_at < now - QUIET_AFTER:
        changes["heard_since"] = now
    is_ready = triton.get("ready") is True
    if is_ready != node.triton_ready:
        changes["triton_ready"] = is_ready
    if any(name in triton for name in _URL_MEMBERS):
        urls = {f"triton_{name}": value for name, value in _check_urls(triton).items()}
        # Only what differs: these columns wake the gateways.
        changes |= {name: value for name, value in urls.items() if value != getattr(node, name)}
    cleaned = clean_object(info if info is not None else {})
    cleaned["triton_version"] = clean_text(triton.get("version"), 40)
    if cleaned != node.info:
        changes["info"] = cleaned
    return changes


def _fault(pointer: str) -> Any:
    return {"pointer": pointer, "detail": "Is not in its form."}


@dataclass(frozen=True, slots=True)
class _Said:
    """What a report says of one replica."""

    state: str
    progress: float
    reason_code: str
    detail: str
    report: dict[str, Any]


def _read_replicas(value: Any) -> dict[str, _Said]:
    if not isinstance(value, list) or len(value) > REPORTED_REPLICAS_MAX:
        detail = f"A list of at most {REPORTED_REPLICAS_MAX} was expected."
        raise InvalidInputError(detail, errors=[_fault("/replicas")])
    return dict(_read_replica(one, f"/replicas/{index}") for index, one in enumerate(value))


def _read_replica(value: Any, pointer: str) -> tuple[str, _Said]:
    if not isinstance(value, dict) or value.get("state") not in REPORTABLE_STATES:
        raise InvalidInputError("A replica was expected.", errors=[_fault(pointer)])
    try:
        replica_id = str(UUID(value.get("id")))
    except (ValueError, TypeError, AttributeError):
        raise InvalidInputError("An id was expected.", errors=[_fault(f"{pointer}/id")]) from None
    is_failed = value["state"] == State.FAILED
    return replica_id, _Said(
        state=value["state"],
        progress=round(clean_fraction(value.get("progress")), 3),
        reason_code=clean_code(value.get("reason_code"), REASON_UNKNOWN) if is_failed else "",
        detail=clean_text(value.get("detail") or value.get("phase")),
        report=_read_report(value.get("report")),
    )


def _read_report(value: Any) -> dict[str, Any]:
    """The loader's word on files and load. One that is too large must not silence the node."""
    report = {}
    for name in REPORT_MEMBERS:
        if isinstance(value, dict) and isinstance(value.get(name), dict):
            try:
                report[name] = clean_object(value[name])
            except InvalidInputError:
                report[name] = {"note": REPORT_TOO_LARGE}
    return report


def _apply(replica: Replica, said: _Said | None) -> bool:
    """Write what changed of one replica; false if nothing did."""
    if said is None:
        said = _Said(State.ASSIGNED if replica.wanted else State.UNLOADED, 0.0, "", "", {})
    changes: dict[str, Any] = {
        name: getattr(said, name)
        for name in ("state", "progress", "reason_code", "detail")
        if getattr(said, name) != getattr(replica, name)
    }
    merged = replica.report | said.report
    if merged != replica.report:
        changes["report"] = merged
    if not changes:
        return False
    Replica.objects.filter(pk=replica.pk).update(changed_at=utc_now(), **changes)
    return True


def _wake_onboarding(version_ids: set[UUID]) -> None:
    running = OnboardingStep.objects.filter(
        version_id__in=version_ids, state=OnboardingStep.State.RUNNING
    )
    for version_id in running.values_list("version_id", flat=True) if version_ids else ():
        onboarding.enqueue(version_id)


def record_work(
    *, work: ReplicaWork, state: str, reason_code: str, result: dict[str, Any]
) -> ReplicaWork:
    """Take the result of a piece of work; the first one counts, a repeated one changes nothing.

    Raises:
        InvalidInputError: The state or the result is not in its form.
    """
    if state not in (ReplicaWork.State.SUCCEEDED, ReplicaWork.State.FAILED):
        raise InvalidInputError("The state must be succeeded or failed.", errors=[_fault("/state")])
    cleaned = clean_object(result)
    with transaction.atomic():
        work = (
            ReplicaWork.objects.select_for_update(no_key=True, of=("self",))
            .select_related("replica")
            .get(pk=work.pk)
        )
        if work.state != ReplicaWork.State.WAITING:
            return work
        work.state = ReplicaWork.State(state)
        if work.state == ReplicaWork.State.FAILED:
            work.reason_code = clean_code(reason_code, REASON_UNKNOWN)
        work.result = cleaned
        work.finished_at = utc_now()
        work.save(update_fields=["state", "reason_code", "result", "finished_at"])
        _wake_onboarding({work.replica.version_id})
    return work


def revoke_node(*, node: Node, actor: Actor) -> None:
    """Put a node out: none of its tokens works any more, its replicas go elsewhere."""
    with transaction.atomic():
        node = Node.objects.select_for_update(no_key=True).get(pk=node.pk)
        if node.revoked_at is not None:
            return
        node.revoked_at = utc_now()
        node.save(update_fields=["revoked_at"])
        # Also a token that was made for it and lies unused on its disk.
        NodeJoinToken.objects.filter(name=node.name).update(expires_at=node.revoked_at)
        deployment.mark_lost(node)
        audit.record(actor.label, "node.revoke", node, payload={"name": node.name})
