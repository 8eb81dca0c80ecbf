"""Nodes: let them in, take their word on their own replicas, put them out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q

from inference.errors import (
    CertificateExpiredError,
    CertificateInvalidError,
    CertificateMismatchError,
    EnrolmentStaleError,
    NodeRevokedError,
    RefusedError,
)
from inference.models import (
    Node,
    NodeIdentity,
    NodeJoinToken,
    OnboardingStep,
    Replica,
    ReplicaWork,
)
from inference.models.node import POOL_DEFAULT
from inference.node_certificate import NODE_NAME, CertificateError, NodeCertificate
from inference.selectors.node import CLOCK_AHEAD, CLOCK_OFF_S_MAX, QUIET_AFTER
from inference.services import deployment, keybroker_client, onboarding
from inference.services.untrusted import clean_code, clean_fraction, clean_object, clean_text
from marketplace.core import keys
from marketplace.core.clock import utc_now
from marketplace.core.errors import ConflictError, InvalidInputError
from marketplace.selectors.access import Actor
from marketplace.services import audit
from strongroom.errors import StrongroomError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64

# Long enough to start a machine with it, short enough to be useless in an old log.
JOIN_TOKEN_LIFETIME = timedelta(hours=24)
# A pool's token lies where machines start by themselves: it is to be replaced once a quarter.
JOIN_TOKEN_LIFETIME_MAX = timedelta(days=90)
JOIN_TOKEN_USES_MAX = 10_000
# Machines of a pool come and go. One that did not say goodbye has left after this silence.
LEFT_AFTER = timedelta(hours=1)
# An enrolment is signed when it is sent; the rest is for clocks that differ.
ENROLMENT_AGE_MAX = timedelta(seconds=CLOCK_OFF_S_MAX)
# Replicas that one report may speak of; far above what fits on one GPU.
REPORTED_REPLICAS_MAX = 256
REASON_UNKNOWN = "reason_unknown"

_URL = re.compile(
    r"(?:(?:https?|grpcs?)://)?(?:[A-Za-z0-9.-]{1,120}|\[[0-9A-Fa-f:]{2,45}\]):\d{1,5}"
    r"(?:/[A-Za-z0-9/_-]{0,40})?"
)
_URL_MEMBERS = ("http_url", "grpc_url", "metrics_url")

State = Replica.State
# What a node may say of a replica. That one is lost is for us to say.
REPORTABLE_STATES = frozenset(State.values) - {State.LOST}
REPORT_MEMBERS = ("validation", "load", "canary")
REPORT_TOO_LARGE = "The report was too large to be kept."


def create_join_token(
    *, name: str, pool: str = POOL_DEFAULT, lifetime: timedelta = JOIN_TOKEN_LIFETIME
) -> str:
    """A secret with which one node of this name may join once; it is shown only here.

    For the schema's owner alone: the web's role may not write it.

    Raises:
        RefusedError: `node_name_invalid`.
        InvalidInputError: The lifetime is out of bounds.
    """
    _check_name(name)
    return _create_token(name=name, pool=pool, use_count_max=1, lifetime=lifetime)


def create_pool_token(
    *, pool: str, use_count_max: int, lifetime: timedelta = JOIN_TOKEN_LIFETIME
) -> str:
    """A secret with which so many nodes, whatever their names, may join a pool.

    For the schema's owner alone, as `create_join_token`.

    Raises:
        RefusedError: `node_name_invalid`.
        InvalidInputError: The lifetime or the number of uses is out of bounds.
    """
    if not 1 <= use_count_max <= JOIN_TOKEN_USES_MAX:
        detail = f"A token is good for 1 to {JOIN_TOKEN_USES_MAX} nodes."
        raise InvalidInputError(detail)
    return _create_token(name="", pool=pool, use_count_max=use_count_max, lifetime=lifetime)


def _create_token(*, name: str, pool: str, use_count_max: int, lifetime: timedelta) -> str:
    _check_name(pool, pointer="/pool")
    if not timedelta(0) < lifetime <= JOIN_TOKEN_LIFETIME_MAX:
        detail = f"A token is good for up to {JOIN_TOKEN_LIFETIME_MAX.days} days."
        raise InvalidInputError(detail)
    secret = keys.generate(keys.NODE)
    NodeJoinToken.objects.create(
        digest=secret.digest,
        name=name,
        pool=pool,
        use_count_max=use_count_max,
        expires_at=utc_now() + lifetime,
    )
    return secret.text


def revoke_join_tokens(*, name: str = "", pool: str = "") -> int:
    """Make the tokens of a name, or of a pool, worthless; returns how many still were of use.

    Nodes that joined stay. For the schema's owner alone.
    """
    live = NodeJoinToken.objects.filter(revoked_at=None, expires_at__gt=utc_now(), name=name)
    return (live if name else live.filter(pool=pool)).update(revoked_at=utc_now())


def note_departures() -> int:
    """Nodes of pools that have long been silent have left; returns how many did now."""
    pooled = Node.objects.filter(left_at=None, revoked_at=None).exclude(pool=POOL_DEFAULT)
    now = utc_now()
    return pooled.filter(last_seen_at__lt=now - LEFT_AFTER).update(left_at=now)


def _check_name(name: str, *, pointer: str = "/name") -> None:
    if not NODE_NAME.fullmatch(name):
        detail = "Lowercase letters, digits and hyphens inside, at most 63 characters."
        raise RefusedError("node_name_invalid", detail, pointer=pointer)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a node says of itself, and `signed`: the request, whose signature covers it all."""

    certificate: str
    name: str
    token_digest: bytes
    urls: dict[str, str]
    info: dict[str, Any]
    signed_at: datetime
    signed: Mapping[str, Any]


def enrol_node(enrolment: Enrolment) -> Node:
    """Let a node in that the key broker has certified; it may repeat itself at any time.

    What this writes gives no right to a key: the broker has its own table of nodes. A node of
    the same name is replaced: its machine was set up anew.

    Raises:
        CertificateInvalidError: The broker did not issue it, or the request is not signed with it.
        CertificateExpiredError: It has ended.
        CertificateMismatchError: It is for another name.
        EnrolmentStaleError: The request is an old one.
        NodeRevokedError: Here, or at the broker.
        RefusedError: Name or addresses are not in their form.
        KeyBrokerUnavailableError: The broker's authority is not known yet.
    """
    _check_name(enrolment.name)
    urls = _check_urls(enrolment.urls)
    certificate, pool = _check_certificate(enrolment)
    now = utc_now()
    try:
        with transaction.atomic():
            node = _lock_node(certificate)
            node.public_key = certificate.public_key
            node.token_digest = enrolment.token_digest
            node.triton_http_url = urls["http_url"]
            node.triton_grpc_url = urls["grpc_url"]
            node.triton_metrics_url = urls["metrics_url"]
            node.info = clean_object(enrolment.info)
            node.triton_ready = False
            node.pool = pool
            node.left_at = None
            node.last_seen_at = node.heard_since = now
            node.save()
            payload = {"name": node.name, "pool": pool, "public_key": node.public_key}
            audit.record(f"node:{node.name}", "node.enrol", node, payload=payload)
    except IntegrityError:
        raise ConflictError("Another enrolment came at the same time. Repeat this one.") from None
    return node


def _check_certificate(enrolment: Enrolment) -> tuple[NodeCertificate, str]:
    """The certificate, and the pool that the broker let the node in for."""
    authority = keybroker_client.get_node_ca()
    try:
        certificate = NodeCertificate.verify(enrolment.certificate, authority)
    except CertificateError as error:
        raise CertificateInvalidError(f"The certificate is not usable: {error}.") from None
    now = utc_now()
    if not certificate.not_before <= now <= certificate.not_after:
        raise CertificateExpiredError
    try:
        signature.verify(
            decode_base64(certificate.public_key),
            signature.NODE_ENROLMENT_TYPE,
            signature.node_request_payload(enrolment.signed),
            decode_base64(enrolment.signed.get("signature")),
        )
    except StrongroomError:
        raise CertificateInvalidError("The request is not signed with its key.") from None
    if abs(now - enrolment.signed_at) > ENROLMENT_AGE_MAX:
        raise EnrolmentStaleError
    if certificate.name != enrolment.name:
        raise CertificateMismatchError(f"The certificate is for {certificate.name}.")
    identity = NodeIdentity.objects.filter(pk=certificate.node_id).first()
    if identity is None or identity.revoked_at is not None:
        raise NodeRevokedError
    return certificate, identity.pool


def _lock_node(certificate: NodeCertificate) -> Node:
    """The node's row, or a new one in the place of the others of its name."""
    rows = Node.objects.select_for_update(no_key=True)
    node = rows.filter(pk=certificate.node_id).first()
    if node is not None:
        if node.revoked_at is not None:
            raise NodeRevokedError
        return node
    for replaced in rows.filter(name=certificate.name, revoked_at=None):
        replaced.revoked_at = utc_now()
        replaced.save(update_fields=["revoked_at"])
        deployment.mark_lost(replaced)
    return Node(pk=certificate.node_id, name=certificate.name)


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
    node_changes = _read_node(node, triton, info, is_leaving=report.get("leaving") is True)
    _read_clock(node, report.get("at"), node_changes)
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


def _read_node(node: Node, triton: Any, info: Any, *, is_leaving: bool) -> dict[str, Any]:
    if not isinstance(triton, dict):
        raise InvalidInputError("An object was expected.", errors=[_fault("/triton")])
    now = utc_now()
    changes: dict[str, Any] = {"last_seen_at": now}
    if node.last_seen_at is None or node.last_seen_at < now - QUIET_AFTER:
        changes["heard_since"] = now
    if is_leaving != (node.left_at is not None):
        changes["left_at"] = now if is_leaving else None
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


def _read_clock(node: Node, at: Any, changes: dict[str, Any]) -> None:
    """Note in `info` how far the node's clock is ahead of this one, in seconds.

    A report takes a moment, and moments differ: what is within a second of what was noted before
    is not noted anew. Nodes of an earlier release do not tell their time.
    """
    if at is None:
        return
    try:
        said = datetime.fromisoformat(at)
        ahead_s = round((said - changes["last_seen_at"]).total_seconds())
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(
            "A time with a zone was expected.", errors=[_fault("/at")]
        ) from None
    before_s = node.info.get(CLOCK_AHEAD)
    if isinstance(before_s, int) and abs(before_s - ahead_s) <= 1:
        ahead_s = before_s
    info = changes.get("info", node.info) | {CLOCK_AHEAD: ahead_s}
    if info == node.info:
        changes.pop("info", None)
    else:
        changes["info"] = info


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


def drain_node(*, node: Node, actor: Actor, is_draining: bool) -> bool:
    """Have a node finish what it runs and take no more, or take its part again.

    What is loaded on it stays, and answers whoever waits; new replicas and jobs go elsewhere.

    Returns:
        Whether that changed anything.
    """
    with transaction.atomic():
        node = Node.objects.select_for_update(no_key=True).get(pk=node.pk)
        if node.revoked_at is not None or (node.drain_requested_at is not None) == is_draining:
            return False
        node.drain_requested_at = utc_now() if is_draining else None
        node.save(update_fields=["drain_requested_at"])
        action = "node.drain" if is_draining else "node.undrain"
        audit.record(actor.label, action, node, payload={"name": node.name})
    return True


def revoke_node(*, node: Node, actor: Actor) -> None:
    """Put a node out for good: its token opens nothing, its replicas go elsewhere.

    The key broker sees it here, gives it no key any more, and lets no token make a node of this
    name that was made before.
    """
    with transaction.atomic():
        node = Node.objects.select_for_update(no_key=True).get(pk=node.pk)
        if node.revoked_at is not None:
            return
        node.revoked_at = utc_now()
        node.save(update_fields=["revoked_at"])
        deployment.mark_lost(node)
        audit.record(actor.label, "node.revoke", node, payload={"name": node.name})
