"""Who this node is: a key, the key broker's certificate for it, and a token for the node API.

All lie in one file that only its owner may read. The key is made first and kept for good, so
that joining again after a lost answer is known to be the same node. The token is the node's
own: the web is told its SHA-256 alone.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from inference.node.errors import IdentityError
from inference.node_certificate import CertificateError, NodeCertificate
from marketplace.core import keys
from strongroom.errors import StrongroomError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64

# A certificate is renewed when this share of its time is over: two thirds are left to try again.
RENEW_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class Identity:
    """The key and, once joined, the node's id, certificate (PEM) and token."""

    private_key: bytes = field(repr=False)
    node_id: str = ""
    token: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)

    @property
    def public_key(self) -> str:
        """In base64, as the platform stores it."""
        return encode_base64(signature.derive_public_key(self.private_key))

    @property
    def has_joined(self) -> bool:
        """Whether the key broker has made a node of it; it may still be refused."""
        return bool(self.node_id and self.token and self.certificate)

    @property
    def renew_at(self) -> datetime:
        """When the certificate is due; only of one that has joined."""
        read = NodeCertificate.parse(self.certificate)
        return read.issued_at + (read.not_after - read.issued_at) * RENEW_SHARE

    @property
    def expires_at(self) -> datetime:
        """When the certificate ends; only of one that has joined."""
        return NodeCertificate.parse(self.certificate).not_after

    def pem(self) -> bytes:
        """Key and certificate, as TLS wants them."""
        key = Ed25519PrivateKey.from_private_bytes(self.private_key)
        encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return encoded + self.certificate.encode()

    def sign_lease_request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body with this node's signature over all of it."""
        return self.sign(signature.LEASE_REQUEST_TYPE, body)

    def sign(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request of a kind with this node's signature over all of it."""
        signed = signature.sign(self.private_key, kind, signature.node_request_payload(body))
        return {**body, "signature": encode_base64(signed)}


class IdentityStore:
    """Keeps the identity in a file and hands out the present one to every thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "identity.json"
        self._lock = threading.Lock()
        self._current = self._read() or self._write(Identity(signature.generate_signing_key()))

    @property
    def current(self) -> Identity:
        """The identity as of now; joining and renewing replace it."""
        with self._lock:
            return self._current

    def join(self, *, node_id: str, certificate: str) -> Identity:
        """Keep what joining gave; the key stays, the token is a new one.

        Raises:
            CertificateError: The certificate is not that of this node and key.
        """
        return self._take(node_id, certificate, token=keys.generate(keys.NODE).text)

    def renew(self, certificate: str) -> Identity:
        """Keep a newer certificate of the same node.

        Raises:
            CertificateError: It is that of another node or key.
        """
        return self._take(self.current.node_id, certificate, token=self.current.token)

    def _take(self, node_id: str, certificate: str, *, token: str) -> Identity:
        with self._lock:
            read = NodeCertificate.parse(certificate)
            if (str(read.node_id), read.public_key) != (node_id, self._current.public_key):
                raise CertificateError("it is not this node's")
            self._current = self._write(
                replace(self._current, node_id=node_id, token=token, certificate=certificate)
            )
            return self._current

    def _read(self) -> Identity | None:
        try:
            document = json.loads(self._path.read_text())
            key = decode_base64(document["private_key"], size_bytes=signature.PRIVATE_KEY_BYTES)
            # Files of before the broker gave certificates have none.
            certificate = str(document.get("certificate", ""))
            return Identity(key, str(document["node_id"]), str(document["token"]), certificate)
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
            "certificate": identity.certificate,
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
