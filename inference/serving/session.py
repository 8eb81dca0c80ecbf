"""The stub's side of its one conversation with the node, over a unix socket.

Lines of JSON, and descriptors of the sealed parts. The stub speaks first, gets the
artifact, confines itself, and only then gets the key, sealed to a key pair that was made
here and is gone when the conversation ends. Every wait has an end and every message a
largest size: a node that hangs must not keep a model's load hanging with it.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from inference.serving.errors import SessionError

# A manifest of 1 MiB, with every character escaped, and the frame around it.
MAX_LINE_BYTES = 7 * 1024 * 1024
# 1 TiB in parts of 64 MiB.
MAX_DESCRIPTORS = 16_384
# The kernel takes at most 253 descriptors in one message.
_DESCRIPTORS_PER_MESSAGE = 253
_RECEIVE_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 10.0
ARTIFACT_TIMEOUT_S = 60.0
# The node asks the broker, which may have to wait for its database.
LEASE_TIMEOUT_S = 60.0
SEND_TIMEOUT_S = 10.0
MAX_DETAIL_LENGTH = 500


class NodeSession:
    """An open conversation. Use it as a context manager: nothing stays open after it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        self._descriptors: list[int] = []
        # Threads that decrypt report progress.
        self._send_lock = threading.Lock()

    @classmethod
    def connect(cls, path: str) -> Self:
        """Open the conversation.

        Raises:
            SessionError: `node_unreachable`.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONNECT_TIMEOUT_S)
            connection.connect(path)
        except OSError as error:
            connection.close()
            detail = f"The node does not answer on its socket: {error.strerror}."
            raise SessionError("node_unreachable", detail) from None
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor, which the sandbox must leave open."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close the socket and every descriptor that was not taken."""
        self._connection.close()
        for handle in self._descriptors:
            os.close(handle)
        self._descriptors.clear()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message.

        Raises:
            SessionError: `node_lost`.
        """
        line = json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            with self._send_lock:
                self._connection.settimeout(SEND_TIMEOUT_S)
                self._connection.sendall(line)
        except OSError:
            raise SessionError("node_lost", "The node ended the conversation.") from None

    def say_hello(self, *, replica_id: str, public_key: str, loader_digest: str) -> None:
        """Say who asks, and which key the data key must be sealed to."""
        self.send(
            {
                "hello": replica_id,
                "ephemeral_public_key": public_key,
                "loader_digest": loader_digest,
                "pid": os.getpid(),
            }
        )

    def receive_artifact(self) -> tuple[str, list[int]]:
        """Wait for the manifest and for the descriptors of all parts.

        Returns:
            The manifest's text, and the descriptors, which the caller must close.

        Raises:
            SessionError: `node_timeout`, `node_lost`, `protocol_error`, or the code of
                a refusal.
        """
        deadline = time.monotonic() + ARTIFACT_TIMEOUT_S
        message = self._receive(deadline)
        manifest, count = message.get("artifact"), message.get("fds")
        if not isinstance(manifest, str) or type(count) is not int:
            raise _refusal(message)
        if not 0 < count <= MAX_DESCRIPTORS:
            raise SessionError("protocol_error", f"The node announced {count} descriptors.")
        while len(self._descriptors) < count:
            self._fill(deadline)
        if len(self._descriptors) != count:
            raise SessionError("protocol_error", "The node sent more descriptors than announced.")
        handles, self._descriptors = self._descriptors, []
        return manifest, handles

    def receive_lease(self) -> dict[str, Any]:
        """Say that the sandbox is closed, and wait for the sealed key.

        Raises:
            SessionError: Like `receive_artifact`.
        """
        self.send({"ready_for_key": True, "phase": "sandboxed"})
        deadline = time.monotonic() + LEASE_TIMEOUT_S
        message = self._receive(deadline)
        # Between artifact and lease only descriptors may come, and they are complete.
        lease = message.get("lease")
        if not isinstance(lease, dict) or self._descriptors:
            raise _refusal(message)
        return lease

    def report_progress(self, phase: str, progress: float) -> None:
        """Say how far a phase is, from 0 to 1."""
        self.send({"phase": phase, "progress": round(progress, 3)})

    def report_failure(self, reason_code: str, detail: str) -> None:
        """Say why the replica ends; a node that is gone already is not an error now."""
        message = {"reason_code": reason_code, "detail": detail[:MAX_DETAIL_LENGTH]}
        try:
            self.send({"failed": message})
        except SessionError:
            return

    def _receive(self, deadline: float) -> dict[str, Any]:
        """The next message that is not only the company of descriptors."""
        while True:
            line = self._receive_line(deadline)
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                raise SessionError("protocol_error", "The node sent no JSON.") from None
            if not isinstance(message, dict):
                raise SessionError("protocol_error", "The node sent no JSON object.")
            # Descriptors beyond one message's worth travel with a line of their own.
            if set(message) != {"fds"}:
                return message

    def _receive_line(self, deadline: float) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) == -1:
            searched = len(self._received)
            if searched > MAX_LINE_BYTES:
                raise SessionError("protocol_error", "The node sent a line that does not end.")
            self._fill(deadline)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _fill(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise SessionError("node_timeout", "The node did not answer in time.")
        self._connection.settimeout(left_s)
        handles = array.array("i")
        space = socket.CMSG_SPACE(_DESCRIPTORS_PER_MESSAGE * handles.itemsize)
        try:
            data, ancillary, flags, _ = self._connection.recvmsg(
                _RECEIVE_BYTES, space, socket.MSG_CMSG_CLOEXEC
            )
        except TimeoutError:
            raise SessionError("node_timeout", "The node did not answer in time.") from None
        except OSError:
            raise SessionError("node_lost", "The node ended the conversation.") from None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                handles.frombytes(content[: len(content) // handles.itemsize * handles.itemsize])
        # Taken over first, so that they are closed with the session whatever comes.
        self._descriptors.extend(handles)
        if not data:
            raise SessionError("node_lost", "The node ended the conversation.")
        if flags & socket.MSG_CTRUNC:
            raise SessionError("protocol_error", "Descriptors were lost on the way.")
        if len(self._descriptors) > MAX_DESCRIPTORS:
            raise SessionError("protocol_error", "The node sent too many descriptors.")
        self._received += data


def check_parts(handles: Sequence[int], sizes: Sequence[int]) -> None:
    """Check that descriptors are files of the promised sizes, opened for reading only.

    Raises:
        SessionError: `protocol_error`, or `part_size_mismatch` for a file that is not as
            long as the manifest says.
    """
    if len(handles) != len(sizes):
        detail = f"The node sent {len(handles)} parts; the manifest has {len(sizes)}."
        raise SessionError("protocol_error", detail)
    for index, (handle, size_bytes) in enumerate(zip(handles, sizes, strict=True)):
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise SessionError("protocol_error", f"Part {index} is not a file.")
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
            raise SessionError("protocol_error", f"Part {index} is open for writing.")
        if status.st_size != size_bytes:
            detail = f"Part {index} has {status.st_size} bytes instead of {size_bytes}."
            raise SessionError("part_size_mismatch", detail)


def _refusal(message: dict[str, Any]) -> SessionError:
    code = message.get("refused")
    if isinstance(code, str) and code.isidentifier() and len(code) <= 64:
        return SessionError(code, "The node refused to go on.")
    return SessionError("protocol_error", "The node sent another message than expected.")
