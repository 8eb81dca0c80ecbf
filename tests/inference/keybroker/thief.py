"""Somebody who has taken a process over, and tries to get at a version's data key.

Run with the environment of that process: `python -m tests.inference.keybroker.thief ID`. What it
tries, it tries with what that environment names: every database, the folder of a key store,
every secret as if it were the key, and all that the broker can be asked. It prints as JSON the
data key in hex, or null, and what each attempt met with.

It does not look about on the disk. Where everything runs as one user, as under `bin/up`, that
would find the broker's folder: a known limit, which production has not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psycopg

from inference.keybroker.kms import KeyDestroyedError, LocalKms
from strongroom.errors import StrongroomError
from strongroom.sealing import wrap
from strongroom.sealing.canonical import encode_base64

KEY_STORE = "STRONGROOM_KEYBROKER_KMS_DIR"


@dataclass
class Loot:
    """What was found on the way."""

    artifact_id: str
    wrapped: wrap.WrappedKey | None = None
    kek_ref: str = ""
    sealed_private_key: bytes = b""
    met_with: list[str] = field(default_factory=list)

    def open(self, private_key: bytes) -> str | None:
        """The data key in hex, if this is the key it is sealed to."""
        assert self.wrapped is not None
        try:
            return wrap.unwrap_dek(self.wrapped, private_key, artifact_id=self.artifact_id).hex()
        except StrongroomError:
            return None


def read_database(loot: Loot, url: str) -> None:
    """Fetch the wrap, and the private key that it was sealed to."""
    with psycopg.connect(url, autocommit=True) as database:
        for sql, keep in ((WRAP, keep_wrap), (PRIVATE_KEY, keep_private_key)):
            try:
                if row := database.execute(sql, [loot.artifact_id]).fetchone():
                    keep(loot, row)
            except psycopg.Error as error:
                loot.met_with.append(str(error).splitlines()[0])


WRAP = """SELECT recipient, kid, suite, blob FROM inference_wrappedkey
    WHERE version_id = %s AND recipient = 'platform'"""
PRIVATE_KEY = "SELECT kek_ref, sealed_private_key FROM inference_uploadkey WHERE artifact_id = %s"


def keep_wrap(loot: Loot, row: tuple) -> None:
    names = ("recipient", "kid", "suite", "blob")
    loot.wrapped = wrap.WrappedKey.parse(dict(zip(names, row, strict=True)))


def keep_private_key(loot: Loot, row: tuple) -> None:
    loot.kek_ref, loot.sealed_private_key = row[0], bytes(row[1])


def use_key_store(loot: Loot, folder: str) -> str | None:
    """Unseal the private key, as the broker does."""
    assert loot.wrapped is not None
    context = {
        "purpose": "upload-key",
        "artifact_id": loot.artifact_id,
        "kid": loot.wrapped.kid,
    }
    try:
        private_key = LocalKms(Path(folder)).unwrap(loot.kek_ref, loot.sealed_private_key, context)
    except (KeyDestroyedError, ValueError, OSError) as error:
        loot.met_with.append(f"key store: {type(error).__name__}")
        return None
    return loot.open(private_key)


def keys_in(text: str) -> Iterator[bytes]:
    """Every way in which a text could be a key of 32 bytes."""
    raw = text.encode()
    yield hashlib.sha256(raw).digest()
    yield raw
    for decode in (bytes.fromhex, base64.b64decode):
        try:
            yield decode(text)
        except ValueError:
            continue


def ask_broker(loot: Loot, url: str, token: str, ca: str) -> str:
    """All that the broker answers to its token; the text of all answers."""
    now = datetime.now(UTC)
    ids = dict.fromkeys(("upload_id", "account_id", "model_id"), str(uuid4()))
    expiry = {"expires_at": (now + timedelta(hours=1)).isoformat()}
    node = {"node_id": str(uuid4()), "replica_id": str(uuid4()), "purpose": "serve"}
    mine = encode_base64(wrap.derive_public_key(wrap.generate_private_key()))
    named = {"artifact_id": loot.artifact_id}
    calls = {
        "/v1/upload-keys": named | ids | expiry,
        "/v1/upload-keys/check": named | {"ephemeral_public_key": mine},
        "/v1/leases/challenge": {"node_id": node["node_id"]},
        "/v1/leases": named | node | {"nonce": "x", "ephemeral_public_key": mine},
        "/v1/unwrap": named,
    }
    said = []
    context = ssl.create_default_context(cafile=ca)
    for path, body in calls.items():
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.post(url + path, json=body, headers=headers, timeout=10, verify=context)
        loot.met_with.append(f"{path} {answer.status_code}")
        said.append(answer.text)
    return "\n".join(said)


def steal(artifact_id: str, env: dict[str, str]) -> dict[str, object]:
    """Try it all; returns the data key, the attempts, and what the broker said."""
    loot = Loot(str(UUID(artifact_id)))
    for url in [text for text in env.values() if text.startswith("postgresql://")]:
        read_database(loot, url)
    dek, said = None, ""
    if broker := env.get("STRONGROOM_KEYBROKER_URL"):
        token = env.get("STRONGROOM_KEYBROKER_TOKEN", "none")
        said = ask_broker(loot, broker, token, env["STRONGROOM_KEYBROKER_CA"])
    if loot.wrapped is not None:
        if loot.sealed_private_key and KEY_STORE in env:
            dek = use_key_store(loot, env[KEY_STORE])
        guesses = [key for text in env.values() for key in keys_in(text) if len(key) == 32]
        guesses += [loot.sealed_private_key[:32]] if loot.sealed_private_key else []
        loot.met_with.append(f"{len(guesses)} guesses")
        dek = dek or next(filter(None, map(loot.open, guesses)), None)
    return {"dek": dek, "met_with": loot.met_with, "said": said}


if __name__ == "__main__":
    print(json.dumps(steal(sys.argv[1], dict(os.environ))))
