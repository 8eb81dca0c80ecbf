"""The node's side of the loader's conversation, played by a thread of the test."""

from __future__ import annotations

import array
import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from marketplace.core.ids import new_id
from strongroom.sealing import wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from tests.inference.serving.sealed import SealedModel

FDS_PER_MESSAGE = 200


class Peer:
    """Serves one conversation. `messages` is what the stub said, in order."""

    def __init__(self, path: Path, sealed: SealedModel, replica_id: str) -> None:
        self.sealed = sealed
        self.replica_id = replica_id
        self.messages: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        # Tests bend one of these to play a broken or hostile node.
        self.dek = sealed.dek
        self.manifest_text = sealed.manifest.canonical_bytes().decode()
        self.lease_changes: dict[str, Any] = {}
        self.open_part: Callable[[Path], int] = lambda place: os.open(place, os.O_RDONLY)
        self.refuse_with = ""
        self.before_lease: Callable[[Peer], None] = lambda _: None
        self.pid = 0
        path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        path.chmod(0o600)
        self._server.listen(1)
        self._server.settimeout(60)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._thread.join(30)

    def find(self, member: str) -> Any:
        found = [one[member] for one in self.messages if member in one]
        return found[-1] if found else None

    @property
    def phases(self) -> list[str]:
        """Phases in order, without repetitions."""
        names = [one["phase"] for one in self.messages if "phase" in one]
        return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]

    def _run(self) -> None:
        try:
            connection, _ = self._server.accept()
            connection.settimeout(60)
            with connection, connection.makefile("rb") as lines:
                self._converse(connection, lines)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def _converse(self, connection: socket.socket, lines: BinaryIO) -> None:
        hello = self._read(lines)
        self.pid = hello["pid"]
        # The stub may have refused the artifact already; then its reason is still read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send_artifact(connection)
        if "ready_for_key" in self._read(lines):
            self.before_lease(self)
            answer = {"refused": self.refuse_with} if self.refuse_with else self._lease(hello)
            connection.sendall(json.dumps(answer).encode() + b"\n")
            while True:
                line = lines.readline()
                if not line:
                    return
                self.messages.append(json.loads(line))

    def _read(self, lines: BinaryIO) -> dict[str, Any]:
        line = lines.readline()
        self.messages.append(json.loads(line) if line else {})
        return self.messages[-1]

    def _send_artifact(self, connection: socket.socket) -> None:
        handles = [self.open_part(place) for place in self.sealed.parts]
        try:
            self._send_handles(connection, handles)
        finally:
            for handle in handles:
                os.close(handle)

    def _send_handles(self, connection: socket.socket, handles: list[int]) -> None:
        message = {"artifact": self.manifest_text, "fds": len(handles)}
        data = json.dumps(message).encode() + b"\n"
        first, rest = handles[:FDS_PER_MESSAGE], handles[FDS_PER_MESSAGE:]
        self._send_with(connection, data, first)
        for begin in range(0, len(rest), FDS_PER_MESSAGE):
            chunk = rest[begin : begin + FDS_PER_MESSAGE]
            self._send_with(connection, json.dumps({"fds": len(chunk)}).encode() + b"\n", chunk)

    def _send_with(self, connection: socket.socket, data: bytes, handles: list[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))]
        sent = connection.sendmsg([data], ancillary)
        connection.sendall(data[sent:])

    def _lease(self, hello: dict[str, Any]) -> dict[str, Any]:
        lease = {
            "lease_id": str(new_id()),
            "node_id": str(new_id()),
            "expires_at": "2026-11-21T04:00:00Z",
        }
        info = wrap.lease_info(
            replica_id=self.replica_id, artifact_id=self.sealed.manifest.artifact_id, **lease
        )
        sealed = wrap.seal(self.dek, decode_base64(hello["ephemeral_public_key"]), info)
        return {"lease": {**lease, "sealed_dek": encode_base64(sealed), **self.lease_changes}}
