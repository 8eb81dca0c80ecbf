"""A stand-in for HashiCorp Vault with a Transit engine, in a thread of the test.

Stateful and with real cryptography. It knows what Vault documents for the paths that we use, and
refuses the rest as Vault does: unknown paths, members and types, other tokens, other
namespaces, deletions that were not allowed. What it says comes from Vault's own words.

Source: Vault's API documentation (Transit, AppRole), and the refusals of its transit backend.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NAME = re.compile(r"\w(?:[\w.-]*\w)?")
CREATE = {
    "type": str,
    "derived": bool,
    "exportable": bool,
    "allow_plaintext_backup": bool,
    "convergent_encryption": bool,
    "auto_rotate_period": (str, int),
}
CONFIG = {
    "deletion_allowed": bool,
    "min_decryption_version": int,
    "min_encryption_version": int,
    "exportable": bool,
    "allow_plaintext_backup": bool,
    "auto_rotate_period": (str, int),
}
ENCRYPT = {"plaintext": str, "associated_data": str, "context": str, "key_version": int}
DECRYPT = {"ciphertext": str, "associated_data": str, "context": str}


class RefusalError(Exception):
    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(*errors)
        self.status, self.errors = status, list(errors)


@dataclass
class Key:
    raw: bytes = field(default_factory=lambda: os.urandom(32))
    deletion_allowed: bool = False


@dataclass
class Vault:
    """The server's state."""

    url: str = ""
    mount: str = "transit"
    namespace: str = ""
    tokens: set[str] = field(default_factory=lambda: {secrets.token_urlsafe(16)})
    role_id: str = "role"
    secret_id: str = "secret"
    keys: dict[str, Key] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def token(self) -> str:
        return next(iter(self.tokens))

    def answer(self, method: str, path: str, headers: Any, body: dict[str, Any]) -> Any:
        with self.lock:
            if path == "/v1/auth/approle/login" and method == "POST":
                return self._log_in(body)
            if headers.get("X-Vault-Request") != "true":
                raise RefusalError(
                    412, "required header 'X-Vault-Request' is missing or set to false"
                )
            if headers.get("X-Vault-Namespace", "") != self.namespace:
                raise RefusalError(403, "permission denied")
            if headers.get("X-Vault-Token") not in self.tokens:
                raise RefusalError(403, "permission denied", "invalid token")
            return self._route(method, path, body)

    def _log_in(self, body: dict[str, Any]) -> Any:
        if (body.get("role_id"), body.get("secret_id")) != (self.role_id, self.secret_id):
            raise RefusalError(400, "invalid role or secret ID")
        token = secrets.token_urlsafe(16)
        self.tokens.add(token)
        return {"auth": {"client_token": token, "lease_duration": 3600, "renewable": True}}

    def _route(self, method: str, path: str, body: dict[str, Any]) -> Any:
        head = f"/v1/{self.mount}/"
        parts = path.removeprefix(head).split("/") if path.startswith(head) else []
        match (method, *parts):
            case (_, _, name, *_) if not NAME.fullmatch(name):
                pass
            case ("GET", "keys", name):
                return {"data": self._describe(name)}
            case ("POST" | "PUT", "keys", name):
                return self._create(name, body)
            case ("DELETE", "keys", name):
                return self._delete(name)
            case ("POST" | "PUT", "keys", name, "config"):
                return self._configure(name, body)
            case ("POST" | "PUT", "encrypt", name):
                return self._encrypt(name, body)
            case ("POST" | "PUT", "decrypt", name):
                return self._decrypt(name, body)
        relative = path.removeprefix("/v1/")
        raise RefusalError(404, f'no handler for route "{relative}". route entry not found.')

    def _describe(self, name: str) -> dict[str, Any]:
        if name not in self.keys:
            raise RefusalError(404)
        return {
            "name": name,
            "type": "aes256-gcm96",
            "deletion_allowed": self.keys[name].deletion_allowed,
            "derived": False,
            "exportable": False,
            "allow_plaintext_backup": False,
            "keys": {"1": 1442851412},
            "latest_version": 1,
            "min_available_version": 0,
            "min_decryption_version": 1,
            "min_encryption_version": 0,
            "supports_encryption": True,
            "supports_decryption": True,
            "supports_derivation": True,
            "supports_signing": False,
        }

    def _create(self, name: str, body: dict[str, Any]) -> Any:
        check(body, CREATE)
        if body.get("type", "aes256-gcm96") != "aes256-gcm96":
            raise RefusalError(400, f"unknown key type {body['type']}")
        if body.get("exportable") or body.get("allow_plaintext_backup"):
            raise AssertionError("a key that can be taken out of Vault protects nothing")
        is_new = self.keys.setdefault(name, key := Key()) is key
        warnings = None if is_new else [f"key {name} already existed"]
        return {"data": self._describe(name), "warnings": warnings}

    def _configure(self, name: str, body: dict[str, Any]) -> Any:
        check(body, CONFIG)
        if name not in self.keys:
            raise RefusalError(400, f"no existing key named {name} could be found")
        self.keys[name].deletion_allowed = body.get(
            "deletion_allowed", self.keys[name].deletion_allowed
        )
        return {"data": self._describe(name)}

    def _delete(self, name: str) -> Any:
        if name not in self.keys:
            raise RefusalError(
                400, f"error deleting policy {name}: could not delete key; not found"
            )
        if not self.keys[name].deletion_allowed:
            reason = "deletion is not allowed for this key"
            raise RefusalError(400, f"error deleting policy {name}: {reason}")
        del self.keys[name]
        return None

    def _encrypt(self, name: str, body: dict[str, Any]) -> Any:
        check(body, ENCRYPT)
        if body.get("context"):
            raise RefusalError(400, "derived keys only")
        # As for a token that may create: Vault makes the key.
        key = self.keys.setdefault(name, Key())
        nonce = os.urandom(12)
        plain, extra = decode(body, "plaintext"), decode(body, "associated_data")
        sealed = nonce + AESGCM(key.raw).encrypt(nonce, plain, extra)
        return {
            "data": {
                "ciphertext": "vault:v1:" + base64.b64encode(sealed).decode(),
                "key_version": 1,
            }
        }

    def _decrypt(self, name: str, body: dict[str, Any]) -> Any:
        check(body, DECRYPT)
        if name not in self.keys:
            raise RefusalError(400, "encryption key not found")
        prefix, version, text = [*body.get("ciphertext", "").split(":", 2), "", ""][:3]
        if prefix != "vault" or not version.startswith("v"):
            raise RefusalError(400, "invalid ciphertext: no prefix")
        if version != "v1":
            raise RefusalError(400, "invalid ciphertext: version is too new")
        try:
            sealed = base64.b64decode(text, validate=True)
        except ValueError:
            raise RefusalError(400, "invalid ciphertext: could not decode base64") from None
        if len(sealed) < 12:
            raise RefusalError(400, "invalid ciphertext length")
        extra = decode(body, "associated_data")
        try:
            plain = AESGCM(self.keys[name].raw).decrypt(sealed[:12], sealed[12:], extra)
        except InvalidTag:
            raise RefusalError(400, "cipher: message authentication failed") from None
        return {"data": {"plaintext": base64.b64encode(plain).decode()}}


def check(body: dict[str, Any], members: dict[str, Any]) -> None:
    """Only what is documented: a misspelt member would go unnoticed by Vault itself."""
    for name, value in body.items():
        assert name in members, f"{name} is no parameter of this path"
        if not isinstance(value, members[name]):
            raise RefusalError(400, f"Field validation failed: error converting input for {name!r}")


def decode(body: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(body.get(name, ""), validate=True)
    except ValueError:
        raise RefusalError(400, f"failed to base64-decode {name}") from None


@contextmanager
def serve(**settings: Any) -> Iterator[Vault]:
    vault = Vault(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self.respond()

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def respond(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            vault.calls.append((self.command, self.path))
            try:
                body = json.loads(raw) if raw else {}
                document = vault.answer(self.command, self.path, self.headers, body)
                status = 200 if document is not None else 204
            except RefusalError as refusal:
                status, document = refusal.status, {"errors": refusal.errors}
            except AssertionError as error:
                status, document = 500, {"errors": [f"stand-in: {error}"]}
                vault.calls.append(("FAULT", str(error)))
            self.say(status, document)

        def say(self, status: int, document: Any) -> None:
            content = b"" if document is None else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    vault.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield vault
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
