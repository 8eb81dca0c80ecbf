"""Talk to the platform: the node API of the web, and the key broker.

Each call is tried once and comes to one of three ends: an answer, `RefusedError` where the
platform said no, `UnreachableError` for everything that may pass. Who calls decides how
long to go on trying; `retry` waits in between, longer each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

import httpx

from inference.node.errors import CancelledError, RefusedError, UnreachableError
from inference.node.evidence import Evidence, NoEvidence
from inference.node.identity import Identity, IdentityStore
from inference.node_certificate import CertificateError, make_request
from inference.triton import frames
from marketplace.core.clock import to_wire, utc_now
from strongroom.sealing import signature

Answer = dict[str, Any]
T = TypeVar("T")

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 10.0
# A part streams for as long as it takes, but never this long without an octet.
STREAM_TIMEOUT_S = 30.0
# A manifest of 1 MiB in which every character is escaped, and its frame.
_ANSWER_BYTES_MAX = 8 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_TRY_AGAIN_STATUS = frozenset({408, 425, 429})


class _Api:
    """JSON over one pool of connections; may be used by several threads."""

    def __init__(self, base_url: str) -> None:
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        # What the environment says of proxies is for the world outside, not for our own.
        self._client = httpx.Client(base_url=base_url, timeout=timeout, trust_env=False)
        # How far our clock is ahead of the other end's; None until an answer has told the time.
        self.clock_skew_s: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def headers(self) -> dict[str, str]:
        """Sent with every request."""
        return {}

    def connected(self) -> AbstractContextManager[httpx.Client]:
        """What one call goes over."""
        return nullcontext(self._client)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """One request and its decoded answer."""
        octets = None if body is None else _encode(body, path)
        headers = self.headers() | ({"Content-Type": "application/json"} if octets else {})
        try:
            with self.connected() as client:
                request = client.build_request(method, path, headers=headers, content=octets)
                answer = client.send(request, stream=True)
                self._note_clock(answer)
                try:
                    received = _read_bounded(answer)
                finally:
                    answer.close()
        except httpx.HTTPError as error:
            raise UnreachableError(f"{type(error).__name__} at {path}") from error
        document = _decode(answer, received)
        _raise_for_status(answer.status_code, document, path)
        return document

    def _note_clock(self, answer: httpx.Response) -> None:
        """Compare our clock with the answer's `Date`, which has no fractions."""
        try:
            theirs = parsedate_to_datetime(answer.headers.get("Date", ""))
        except ValueError:
            return
        if theirs.tzinfo is not None:
            skew_s = (utc_now() - theirs).total_seconds()
            # Up to a second is theirs to cut off.
            self.clock_skew_s = 0.0 if 0 <= skew_s < 1 else round(skew_s - 0.5)

    @contextmanager
    def stream(self, path: str, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """The octets of an answer from an offset on, in chunks."""
        timeout = httpx.Timeout(STREAM_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        headers = self.headers() | ({"Range": f"bytes={offset}-"} if offset else {})
        try:
            with self._client.stream("GET", path, headers=headers, timeout=timeout) as got:
                if got.status_code not in (200, 206):
                    document = _decode(got, _read_bounded(got))
                    _raise_for_status(got.status_code, document, path)
                    raise UnreachableError(f"status {got.status_code} at {path}")
                yield read_from(got, offset)
        except httpx.HTTPError as error:
            raise UnreachableError(f"{type(error).__name__} at {path}") from error


def read_from(
    answer: httpx.Response, offset: int, chunk_bytes: int | None = _CHUNK_BYTES
) -> Iterator[bytes]:
    """The octets of an answer to a range that has no end, from the offset that was asked for.

    Args:
        answer: Not read yet.
        offset: That was asked for.
        chunk_bytes: Of one chunk; None gives out what has come, as it comes.

    Raises:
        UnreachableError: It is another range.
    """
    chunks = answer.iter_raw(chunk_bytes)
    if answer.status_code == 206:
        if not answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            raise UnreachableError("the answer is another range than was asked for")
        yield from chunks
        return
    # Whoever knows no ranges sends all of it.
    for chunk in chunks:
        yield chunk[offset:]
        offset = max(0, offset - len(chunk))


def _encode(body: Mapping[str, Any], path: str) -> bytes:
    """A body as JSON. What a model's files or loader brought into it must not stop us.

    Half of a surrogate pair becomes a question mark: no encoding has it.

    Raises:
        RefusedError: It holds a number that JSON has not.
    """
    try:
        text = json.dumps(body, allow_nan=False, ensure_ascii=False)
    except ValueError:
        raise RefusedError(0, "report_invalid", f"no JSON can be made for {path}") from None
    return text.encode(errors="replace")


class ControlPlane(_Api):
    """The node API of the web."""

    def __init__(self, web_url: str, identities: IdentityStore) -> None:
        super().__init__(f"{web_url}/api/node")
        self._identities = identities

    def headers(self) -> dict[str, str]:
        token = self._identities.current.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def enrol(self, *, name: str, triton: Answer, info: Answer) -> None:
        """Show the web the key broker's certificate; it may be repeated at any time."""
        identity = self._identities.current
        body = {
            "certificate": identity.certificate,
            "name": name,
            # Not the token: whoever reads or repeats this request gets nothing by it.
            "token_sha256": hashlib.sha256(identity.token.encode()).hexdigest(),
            "triton": triton,
            "info": info,
            "signed_at": to_wire(utc_now()),
        }
        self.call("POST", "/enrol", identity.sign(signature.NODE_ENROLMENT_TYPE, body))

    def get_desired(self) -> Answer:
        """What this node should hold."""
        return self.call("GET", "/desired")

    def post_report(self, report: Answer) -> None:
        """What this node holds."""
        self.call("POST", "/report", report)

    def get_artifact(self, version_id: UUID) -> Answer:
        """The manifest of a version with its signature."""
        return self.call("GET", f"/artifacts/{version_id}")

    @contextmanager
    def stream_part(
        self, version_id: UUID, file_index: int, part: int, offset: int = 0
    ) -> Iterator[Iterator[bytes]]:
        """The ciphertext of one part, from an offset on."""
        path = f"/artifacts/{version_id}/files/{file_index}/parts/{part}"
        with self.stream(path, offset) as chunks:
            yield chunks

    def get_prefetch(self) -> Answer:
        """Versions that this node may be asked for soon."""
        return self.call("GET", "/prefetch")

    def post_work(self, work_id: UUID, body: Answer) -> None:
        """What came of a piece of work."""
        self.call("POST", f"/work/{work_id}", body)


class JobQueue(_Api):
    """The queue of jobs, at a gateway; only this side opens connections."""

    def __init__(self, gateway_url: str, identities: IdentityStore) -> None:
        super().__init__(f"{gateway_url}/node/v1")
        self._identities = identities

    def headers(self) -> dict[str, str]:
        token = self._identities.current.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def start(self) -> None:
        """What this node held before it was started goes back into the queue."""
        self.call("POST", "/start", {})

    def claim(self, slot: int, version_ids: Sequence[UUID], wait_s: float) -> bytes:
        """A job as a frame; empty if there was none within `wait_s`."""
        body = {"slot": slot, "version_ids": [str(one) for one in version_ids], "wait_s": wait_s}
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S + wait_s, connect=CONNECT_TIMEOUT_S)
        return self._post("/claim", _encode(body, "/claim"), "application/json", timeout)

    def heartbeat(self, beats: Sequence[Mapping[str, Any]]) -> Answer:
        """Say which jobs are still held; the answer has a word for each."""
        return self.call("POST", "/heartbeat", {"jobs": list(beats)})

    def append(self, job_id: UUID, epoch: int, number: int, chunks: Sequence[str]) -> str:
        """Say what a job has said so far; returns kept, cancel, stale, full or away."""
        body = {"epoch": epoch, "seq": number, "chunks": list(chunks)}
        return str(self.call("POST", f"/jobs/{job_id}/output", body)["word"])

    def finish(self, job_id: UUID, frame: bytes) -> str:
        """Hand a result in; returns how it was booked."""
        timeout = httpx.Timeout(STREAM_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        octets = self._post(f"/jobs/{job_id}/finish", frame, frames.CONTENT_TYPE, timeout)
        return str(json.loads(octets)["outcome"])

    def hand_back(self, job_id: UUID, epoch: int, code: str, detail: str) -> str:
        """Give a job back; returns its state."""
        body = {"epoch": epoch, "code": code, "detail": detail}
        return str(self.call("POST", f"/jobs/{job_id}/hand-back", body)["state"])

    def _post(self, path: str, octets: bytes, kind: str, timeout: httpx.Timeout) -> bytes:
        headers = self.headers() | {"Content-Type": kind}
        try:
            answer = self._client.post(path, content=octets, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise UnreachableError(f"{type(error).__name__} at {path}") from error
        if answer.status_code >= 400:
            _raise_for_status(answer.status_code, _decode(answer, answer.content), path)
        return answer.content


class KeyBroker(_Api):
    """The key broker. Over TLS the node shows its certificate; requests are signed as well.

    Each request has a nonce of its own. So has each call a connection: a certificate belongs
    to a connection, and calls are minutes apart.

    Args:
        keybroker_url: Where it is.
        identities: Whose key and certificate are used.
        evidence: What is shown of the machine when a key is asked for.
        ca: File with the authority of the broker's own certificate; None: those of the system.
    """

    def __init__(
        self,
        keybroker_url: str,
        identities: IdentityStore,
        evidence: Evidence | None = None,
        *,
        ca: Path | None = None,
    ) -> None:
        super().__init__(keybroker_url)
        self._url = keybroker_url
        self._identities = identities
        self._evidence = evidence or NoEvidence()
        self._ca = ca
        self._renewing = threading.Lock()
        # Without a certificate there is none to read again.
        self._context: tuple[str, ssl.SSLContext] | None = None

    @property
    def node_id(self) -> str:
        """Under which id requests are signed."""
        return self._identities.current.node_id

    def connected(self) -> AbstractContextManager[httpx.Client]:
        """A connection with the certificate as it is now."""
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        if not self._url.startswith("https://"):
            return httpx.Client(base_url=self._url, timeout=timeout, trust_env=False)
        context = self._find_context(self._identities.current)
        return httpx.Client(base_url=self._url, timeout=timeout, trust_env=False, verify=context)

    def join(self, *, join_token: str, name: str, pool: str = "") -> None:
        """Become a node of the platform; the identity is kept.

        Args:
            join_token: For this name, or for a pool.
            name: Of the node.
            pool: Which pool the token must be for; empty: whichever it is for.

        Raises:
            RefusedError: The token is not good for that.
        """
        request = make_request(self._identities.current.private_key, name)
        body = {"join_token": join_token, "name": name, "pool": pool, "csr": request}
        answer = self.call("POST", "/v1/nodes/join", body)
        try:
            self._identities.join(
                node_id=str(UUID(answer["node_id"])), certificate=str(answer["certificate"])
            )
        except (KeyError, ValueError, TypeError, AttributeError, CertificateError) as error:
            raise UnreachableError("the key broker's answer to joining is malformed") from error

    def renew_certificate(self, known: str | None = None) -> None:
        """Get a new certificate for the same key, also when the present one has ended.

        Args:
            known: The certificate that is to be replaced; where another thread has replaced
                it already, nothing is left to do.

        Raises:
            RefusedError: The node is revoked, unknown, or was away for too long.
        """
        with self._renewing:
            identity = self._identities.current
            if known is not None and identity.certificate != known:
                return
            body = {"node_id": identity.node_id, "nonce": self._get_nonce(identity)}
            signed = identity.sign(signature.NODE_RENEWAL_TYPE, body)
            answer = self.call("POST", "/v1/nodes/renew", signed)
            try:
                self._identities.renew(str(answer["certificate"]))
            except (KeyError, CertificateError) as error:
                raise UnreachableError("the key broker's new certificate is malformed") from error

    def request_lease(self, body: Mapping[str, Any]) -> Answer:
        """A lease with the data key, sealed to the loader that asked.

        Raises:
            ReplicaError: `evidence_unavailable`.
        """
        return self._signed("/v1/leases", body, self._evidence)

    def renew_lease(self, lease_id: str) -> Answer:
        """Move the end of a lease."""
        return self._signed(f"/v1/leases/{lease_id}/renew", {"lease_id": lease_id})

    def release_lease(self, lease_id: str) -> None:
        """End a lease."""
        self._signed(f"/v1/leases/{lease_id}/release", {"lease_id": lease_id})

    def _signed(
        self, path: str, body: Mapping[str, Any], evidence: Evidence | None = None
    ) -> Answer:
        identity = self._identities.current
        try:
            return self._send_signed(identity, path, body, evidence)
        except RefusedError as error:
            if error.code != "certificate_expired":
                raise
        # This machine slept, or its clock is wrong: nobody renewed it in time.
        self.renew_certificate(identity.certificate)
        return self._send_signed(self._identities.current, path, body, evidence)

    def _send_signed(
        self, identity: Identity, path: str, body: Mapping[str, Any], evidence: Evidence | None
    ) -> Answer:
        request = {**body, "node_id": identity.node_id, "nonce": self._get_nonce(identity)}
        if evidence is not None:
            request["evidence"] = evidence.collect(signature.evidence_context(request))
        return self.call("POST", path, identity.sign_lease_request(request))

    def _get_nonce(self, identity: Identity) -> str:
        answer = self.call("POST", "/v1/leases/challenge", {"node_id": identity.node_id})
        nonce = answer.get("nonce")
        if not isinstance(nonce, str):
            raise UnreachableError("the key broker's challenge is malformed")
        return nonce

    def _find_context(self, identity: Identity) -> ssl.SSLContext:
        found = self._context
        if found is None or found[0] != identity.certificate:
            found = (identity.certificate, self._make_context(identity))
            self._context = found
        return found[1]

    def _make_context(self, identity: Identity) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca)
        if identity.certificate:
            # OpenSSL reads files only; this one is in memory, and gone with its descriptor.
            handle = os.memfd_create("identity", os.MFD_CLOEXEC)
            with os.fdopen(handle, "wb") as file:
                file.write(identity.pem())
                file.flush()
                context.load_cert_chain(f"/proc/self/fd/{handle}")
        return context


class Backoff:
    """Waits that double up to a limit, with some chance in them: nodes must not act in step."""

    def __init__(self, first_s: float, limit_s: float) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._count = 0

    def next_s(self) -> float:
        """How long to wait after one more failure."""
        wait_s = min(self._limit_s, self._first_s * 2 ** min(self._count, 16))
        self._count += 1
        return wait_s * random.uniform(0.75, 1.0)  # noqa: S311 - no secret

    def reset(self) -> None:
        """It worked: begin with short waits again."""
        self._count = 0


class Stop(Protocol):
    """What ends a wait early: a `threading.Event`, or something like it."""

    def wait(self, timeout: float) -> bool: ...


def retry(call: Callable[[], T], *, timeout_s: float, cancelled: Stop, first_s: float = 0.25) -> T:
    """Repeat a call that cannot be answered now.

    Raises:
        UnreachableError: The last failure, once the time is over.
        CancelledError: Nobody needs it any more.
        RefusedError: At once; asking again would not help.
    """
    deadline = time.monotonic() + timeout_s
    backoff = Backoff(first_s, 4.0)
    while True:
        try:
            return call()
        except UnreachableError:
            wait_s = backoff.next_s()
            if time.monotonic() + wait_s > deadline:
                raise
            if cancelled.wait(wait_s):
                raise CancelledError from None


def _read_bounded(answer: httpx.Response) -> bytes:
    octets = bytearray()
    for chunk in answer.iter_bytes():
        octets += chunk
        if len(octets) > _ANSWER_BYTES_MAX:
            raise UnreachableError("an answer is larger than any that is expected")
    return bytes(octets)


def _decode(answer: httpx.Response, octets: bytes) -> Answer:
    try:
        document = json.loads(octets) if octets else {}
    except ValueError:
        document = None
    if isinstance(document, dict):
        return document
    if answer.status_code >= 400:
        return {}
    raise UnreachableError(f"the answer of {answer.url.path} is no JSON object")


def _raise_for_status(status: int, document: Mapping[str, Any], path: str) -> None:
    if status < 400:
        return
    code, detail = str(document.get("code") or ""), str(document.get("detail") or "")
    if status >= 500 or status in _TRY_AGAIN_STATUS:
        raise UnreachableError(f"status {status} {code} at {path}")
    raise RefusedError(status, code or f"status_{status}", detail[:500])
