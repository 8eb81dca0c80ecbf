"""The unix socket at which loaders get their artifact and, through us, their key.

A peer is believed to be the loader of a replica only if the kernel says so: it runs under
our user, descends from our tritonserver, is Triton's stub where that can still be read, and
was started with that very replica's folder. And only while that replica is being loaded:
each gets one conversation, every other peer a refusal.

The key passes through sealed to a key pair that exists in the loader alone.
"""

from __future__ import annotations

import array
import json
import logging
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from inference.node.cache import CachedArtifact
from inference.node.control_plane import KeyBroker, retry
from inference.node.errors import (
    CancelledError,
    RefusedError,
    ReplicaError,
    UnreachableError,
)
from inference.node.leases import Lease
from inference.node.log import event
from inference.triton import processes

logger = logging.getLogger("node.stub_socket")

FDS_PER_MESSAGE = 200
# What a loader says of itself and of the files; the longest is the list of 64 files.
LINE_BYTES_MAX = 256 * 1024
HELLO_BYTES_MAX = 4096
HELLO_TIMEOUT_S = 10.0
# Importing the libraries takes seconds, on a busy machine many.
READY_TIMEOUT_S = 180.0
# The loader waits a minute for its key; the refusal must come before.
LEASE_TIMEOUT_S = 45.0
# Peers beyond this are strangers: Triton loads four models at once.
CONNECTIONS_MAX = 16
# A report of a loader goes to the platform, which stores it: larger ones are left out.
REPORT_BYTES_MAX = 32 * 1024
REPORT_DEPTH_MAX = 5
DETAIL_LENGTH_MAX = 500
PHASES = frozenset({"sandboxed", "decrypting", "validating", "loading", "warming"})

_CREDENTIALS = struct.Struct("3i")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# The loader's words for us not being there: not the model's fault.
SESSION_CODES = frozenset(
    {"node_unreachable", "node_lost", "node_timeout", "protocol_error", "lease_invalid"}
)


@dataclass(slots=True)
class LoadSession:
    """One replica's load: what its loader is given, and what it said.

    Args:
        on_phase: Called with each phase and its share, from the conversation's thread.
        cancelled: Ends a wait for the key broker.
    """

    replica_id: UUID
    model_name: str
    purpose: str
    artifact: CachedArtifact
    on_phase: Callable[[str, float], None]
    cancelled: threading.Event
    stub_pid: int = 0
    lease: Lease | None = None
    validation: dict[str, Any] | None = None
    loaded: dict[str, Any] | None = None
    failure: ReplicaError | None = None
    # Set when the conversation is over, or when it is certain that there will be none.
    over: threading.Event = field(default_factory=threading.Event)


class PeerRefusedError(Exception):
    """Whoever connected is not the loader that it says it is."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class StubSocket:
    """Accepts loaders; one thread for each conversation.

    Args:
        path: Of the socket; what lies there is replaced.
        broker: Grants leases.
        find_server_pid: The tritonserver whose stubs may come.
        repository_dir: Where that server's model folders lie.
    """

    def __init__(
        self,
        path: Path,
        *,
        broker: KeyBroker,
        find_server_pid: Callable[[], int | None],
        repository_dir: Path,
    ) -> None:
        self._path = path
        self._broker = broker
        self._find_server_pid = find_server_pid
        self._repository_dir = repository_dir
        self._sessions: dict[UUID, LoadSession] = {}
        self._connections: dict[UUID, socket.socket] = {}
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._server: socket.socket | None = None

    def start(self) -> None:
        """Listen; the folder and the socket are ours alone."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            server.bind(str(self._path))
        finally:
            os.umask(mask)
        server.listen(CONNECTIONS_MAX)
        self._server = server
        threading.Thread(target=self._accept, args=[server], name="socket", daemon=True).start()

    def close(self) -> None:
        """Stop listening and end every conversation."""
        server, self._server = self._server, None
        if server is not None:
            # A thread that waits in accept() is not woken by close() alone.
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        self._path.unlink(missing_ok=True)
        with self._lock:
            connections = list(self._connections.values())
        for connection in connections:
            _hang_up(connection)

    def expect(self, session: LoadSession) -> None:
        """From now on the loader of this replica may come, once."""
        with self._lock:
            assert session.replica_id not in self._sessions, "this replica is being loaded already"
            self._sessions[session.replica_id] = session

    def forget(self, session: LoadSession) -> None:
        """The load is over: the loader of this replica may not come any more."""
        with self._lock:
            if self._sessions.get(session.replica_id) is session:
                del self._sessions[session.replica_id]
            connection = self._connections.get(session.replica_id)
        if connection is not None:
            _hang_up(connection)

    def abort(self, session: LoadSession) -> None:
        """End a load that runs: hang up, and kill the loader, which may be busy."""
        self.forget(session)
        processes.kill_descendant(session.stub_pid, self._find_server_pid())

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                if self._server is not server:
                    return
                time.sleep(0.1)  # Out of descriptors, say: others will be closed.
                continue
            if not self._slots.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=[connection], name="loader", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        session: LoadSession | None = None
        try:
            with connection:
                talk = _Conversation(connection)
                session, hello = self._admit(talk, connection)
                try:
                    self._converse(talk, session, hello)
                except BrokenPipeError:
                    # The loader gave up while we spoke; it may have said why.
                    _take_last_words(talk, session)
                    raise
        except PeerRefusedError as error:
            event(logger, "loader.refused", level=logging.WARNING, reason=error)
        except (OSError, ValueError, ReplicaError, CancelledError) as error:
            event(logger, "loader.session_ended", error=type(error).__name__, detail=error)
            if session is not None and session.failure is None:
                session.failure = _as_failure(error)
        finally:
            self._slots.release()
            if session is not None:
                with self._lock:
                    self._connections.pop(session.replica_id, None)
                session.over.set()

    def _admit(
        self, talk: _Conversation, connection: socket.socket
    ) -> tuple[LoadSession, Mapping[str, Any]]:
        """Find out who speaks; raises PeerRefusedError, with the refusal sent."""
        try:
            # Read first: to hang up on somebody who speaks would eat the refusal.
            hello = _read_hello(talk)
            pid = self._check_peer(connection)
            session = self._claim(hello, pid, connection)
        except PeerRefusedError as error:
            with suppress(OSError):
                talk.send({"refused": error.code})
            raise
        return session, hello

    def _check_peer(self, connection: socket.socket) -> int:
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(data)
        if uid != os.geteuid():
            raise PeerRefusedError("peer_refused", f"uid {uid} is not ours")
        server_pid = self._find_server_pid()
        if not server_pid or not processes.is_descendant(pid, server_pid):
            raise PeerRefusedError("peer_refused", f"pid {pid} is not a child of our tritonserver")
        # Unreadable once the loader has made itself undumpable, unless we are root.
        program = processes.find_program(pid)
        if program is not None and program != processes.STUB_PROGRAM:
            raise PeerRefusedError("peer_refused", f"pid {pid} runs {program}")
        return int(pid)

    def _claim(self, hello: Mapping[str, Any], pid: int, connection: socket.socket) -> LoadSession:
        try:
            replica_id = UUID(str(hello.get("hello")))
        except ValueError:
            raise PeerRefusedError("protocol_error", "no hello") from None
        with self._lock:
            session = self._sessions.get(replica_id)
            if session is None or session.stub_pid:
                raise PeerRefusedError("replica_not_loading", str(replica_id))
            folder = f"{self._repository_dir / session.model_name}/"
            if not any(one.startswith(folder) for one in processes.read_command(pid)):
                raise PeerRefusedError("peer_refused", f"pid {pid} serves another replica")
            session.stub_pid = pid
            self._connections[replica_id] = connection
        return session

    def _converse(
        self, talk: _Conversation, session: LoadSession, hello: Mapping[str, Any]
    ) -> None:
        _send_artifact(talk, session.artifact)
        session.on_phase("starting", 0.0)
        message = talk.read(READY_TIMEOUT_S)
        if message.get("ready_for_key") is not True:
            _take(session, message)
            return
        session.on_phase("sandboxed", 0.0)
        try:
            answer = self._lease(session, hello)
        except ReplicaError as error:
            session.failure = error
            talk.send({"refused": error.reason_code})
            return
        talk.send({"lease": answer})
        while not session.over.is_set():
            # The load as a whole has a limit; silence in between is the model's right.
            message = talk.read(None)
            if not message:
                return
            _take(session, message)

    def _lease(self, session: LoadSession, hello: Mapping[str, Any]) -> dict[str, Any]:
        digest = hello.get("loader_digest")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ReplicaError("protocol_error", "The loader did not say which code it runs.")
        body = {
            "purpose": session.purpose,
            "replica_id": str(session.replica_id),
            "artifact_id": session.artifact.manifest.artifact_id,
            "loader_digest": digest,
            "ephemeral_public_key": str(hello.get("ephemeral_public_key"))[:64],
        }
        try:
            answer = retry(
                lambda: self._broker.request_lease(body),
                timeout_s=LEASE_TIMEOUT_S,
                cancelled=session.cancelled,
            )
            session.lease = Lease.parse(answer, session.replica_id)
        except RefusedError as error:
            code = error.code if _CODE.fullmatch(error.code) else "lease_refused"
            raise ReplicaError(code, f"The key broker refused: {error.detail}") from error
        except UnreachableError as error:
            detail = "The key broker did not answer in time."
            raise ReplicaError("keybroker_unavailable", detail) from error
        return {**answer, "node_id": self._broker.node_id}


class _Conversation:
    """Lines of JSON over one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    def send(self, message: Mapping[str, Any], handles: list[int] | None = None) -> None:
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self._connection.settimeout(HELLO_TIMEOUT_S)
        ancillary = []
        if handles:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))]
        # Descriptors travel with the first octet; the rest of a long line follows alone.
        sent = self._connection.sendmsg([data], ancillary)
        # An empty rest would still be a call, which fails once the peer has hung up.
        if sent < len(data):
            self._connection.sendall(data[sent:])

    def read(self, timeout_s: float | None, *, size_bytes_max: int = LINE_BYTES_MAX) -> Any:
        """The next message; an empty one where the peer has hung up.

        Raises:
            OSError: The time is over, or the connection broke.
            ValueError: The message is no JSON object, or too long.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if len(self._received) > size_bytes_max:
                raise ValueError("the line does not end")
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError("the loader did not answer in time")
            self._connection.settimeout(left_s)
            data = self._connection.recv(65536)
            if not data:
                return {}
            self._received += data
        line, _, rest = self._received.partition(b"\n")
        self._received = bytearray(rest)
        try:
            message = json.loads(line)
        except RecursionError:
            raise ValueError("the message is nested too deep") from None
        if not isinstance(message, dict):
            raise ValueError("the message is no object")
        return message


def _read_hello(talk: _Conversation) -> Mapping[str, Any]:
    try:
        hello: Mapping[str, Any] = talk.read(HELLO_TIMEOUT_S, size_bytes_max=HELLO_BYTES_MAX)
    except (OSError, ValueError) as error:
        raise PeerRefusedError("protocol_error", type(error).__name__) from error
    return hello


def _send_artifact(talk: _Conversation, artifact: CachedArtifact) -> None:
    handles = artifact.open_parts()
    try:
        first, rest = handles[:FDS_PER_MESSAGE], handles[FDS_PER_MESSAGE:]
        talk.send({"artifact": artifact.manifest_text, "fds": len(handles)}, first)
        for begin in range(0, len(rest), FDS_PER_MESSAGE):
            chunk = rest[begin : begin + FDS_PER_MESSAGE]
            talk.send({"fds": len(chunk)}, chunk)
    finally:
        for handle in handles:
            os.close(handle)


def _take_last_words(talk: _Conversation, session: LoadSession) -> None:
    with suppress(OSError, ValueError):
        while message := talk.read(1.0):
            _take(session, message)


def _take(session: LoadSession, message: Mapping[str, Any]) -> None:
    """Note what a loader says. It has read a stranger's files: nothing is taken as it is."""
    phase, progress = message.get("phase"), message.get("progress")
    if phase in PHASES:
        is_number = isinstance(progress, int | float) and 0 <= progress <= 1
        session.on_phase(str(phase), float(progress) if is_number else 0.0)  # type: ignore[arg-type]
    if "validation" in message:
        session.validation = _clean_report(message["validation"])
    if "loaded" in message:
        session.loaded = _clean_report(message["loaded"])
    failed = message.get("failed")
    if isinstance(failed, dict):
        session.failure = _read_failure(failed)


def _read_failure(failed: Mapping[str, Any]) -> ReplicaError:
    code, detail = failed.get("reason_code"), str(failed.get("detail", ""))
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        code = "internal_error"
    if code in SESSION_CODES:
        code = "session_broken"
    return ReplicaError(code, detail[:DETAIL_LENGTH_MAX])


def _as_failure(error: Exception) -> ReplicaError:
    if isinstance(error, ReplicaError):
        return error
    return ReplicaError("session_broken", "The conversation with the loader broke off.")


def _clean_report(value: Any) -> dict[str, Any]:
    """A report that the platform can store, else one that says that it was too large."""
    if not isinstance(value, dict) or not _is_shallow(value, REPORT_DEPTH_MAX):
        return {"left_out": True}
    return value if len(json.dumps(value)) <= REPORT_BYTES_MAX else {"left_out": True}


def _is_shallow(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    children = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in children)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
