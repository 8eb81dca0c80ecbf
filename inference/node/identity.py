"""Who this node is: a key that signs its requests for leases, and a token for the node API.

Both lie in one file that only its owner may read. The key is made first and kept through
every enrolment, so that repeating one whose answer was lost is known to be the same node.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inference.node.errors import IdentityError
from strongroom.errors import StrongroomError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64


@dataclass(frozen=True, slots=True)
class Identity:
    """The key and, once enrolled, the node's id and token."""

    private_key: bytes = field(repr=False)
    node_id: str = ""
    token: str = field(default="", repr=False)

    @property
    def public_key(self) -> str:
        """In base64, as the platform stores it."""
        return encode_base64(signature.derive_public_key(self.private_key))

    @property
    def is_enrolled(self) -> bool:
        return bool(self.node_id and self.token)

    def sign_lease_request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body with this node's signature over all of it."""
        payload = signature.lease_request_payload(body)
        signed = signature.sign(self.private_key, signature.LEASE_REQUEST_TYPE, payload)
        return {**body, "signature": encode_base64(signed)}


class IdentityStore:
    """Keeps the identity in a file and hands out the present one to every thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "identity.json"
        self._lock = threading.Lock()
        self._current = self._read() or self._write(Identity(signature.generate_signing_key()))

    @property
    def current(self) -> Identity:
        """The identity as of now; an enrolment replaces it."""
        with self._lock:
            return self._current

    def enrol(self, *, node_id: str, token: str) -> Identity:
        """Keep what an enrolment gave; the key stays."""
        with self._lock:
            self._current = self._write(replace(self._current, node_id=node_id, token=token))
            return self._current

    def _read(self) -> Identity | None:
        try:
            document = json.loads(self._path.read_text())
            key = decode_base64(document["private_key"], size_bytes=signature.PRIVATE_KEY_BYTES)
            return Identity(key, str(document["node_id"]), str(document["token"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, StrongroomError) as error:
            # A new key would be another node, so nobody but a person may decide that.
            detail = f"{self._path} cannot be read ({type(error).__name__})"
            raise IdentityError(detail) from error

    def _write(self, identity: Identity) -> Identity:
        document = {
            "private_key": encode_base64(identity.private_key),
            "node_id": identity.node_id,
            "token": identity.token,
        }
        draft = self._path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        return identity
