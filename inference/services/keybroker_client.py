"""Talk to the key broker, the only process that can open a data key.

Nothing secret comes back over this way: public keys, signatures, and yes or no.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

import httpx
from django.conf import settings

from inference.errors import KeyBrokerUnavailableError, RefusedError

# Two statements and one key generation take milliseconds; slower means broken.
TIMEOUT = httpx.Timeout(10.0, connect=2.0)
# Each key pair that survives is sealed anew; whoever gives up can repeat the request.
SHRED_TIMEOUT = httpx.Timeout(60.0, connect=2.0)
# One statement, on the way to a page that wants to know.
PROBE_TIMEOUT = httpx.Timeout(3.0)
RETRY_AFTER_S = 5

_KEY_MEMBERS = frozenset({"kid", "suite", "public_key", "signature", "expires_at"})
_CHECKPOINT_MEMBERS = frozenset({"artifact_id", "seq", "hash", "at", "signature", "kid"})
_PLATFORM_KEY_MEMBERS = frozenset({"kid", "public_key", "fingerprint", "successions"})
# The authority stays for years; a restart of the broker must not keep a node from enrolling.
NODE_CA_TTL_S = 300


@dataclass(frozen=True, slots=True)
class _NodeCA:
    broker_url: str
    certificate: str
    expires_at: float  # On the monotonic clock.


_node_ca: _NodeCA | None = None


def get_platform_key() -> dict[str, Any]:
    """The public key that signs the keys of uploads, and how it came to be.

    Raises:
        KeyBrokerUnavailableError: Try again later.
    """
    return _call("GET", "/v1/platform-key", None, _PLATFORM_KEY_MEMBERS)


def get_node_ca() -> str:
    """The certificate (PEM) of the authority that issues those of the nodes; kept for a while.

    Raises:
        KeyBrokerUnavailableError: It is not known yet and the broker does not answer.
    """
    global _node_ca  # noqa: PLW0603
    now, url = time.monotonic(), settings.KEYBROKER_URL
    if _node_ca is None or _node_ca.expires_at < now or _node_ca.broker_url != url:
        document = _call("GET", "/v1/node-ca", None, frozenset({"certificate"}))
        _node_ca = _NodeCA(url, str(document["certificate"]), now + NODE_CA_TTL_S)
    return _node_ca.certificate


def create_upload_key(
    *,
    upload_id: UUID,
    artifact_id: UUID,
    account_id: UUID,
    model_id: UUID,
    expires_at: datetime,
    suites: list[str] | None = None,
) -> dict[str, str]:
    """The public key to which this upload's data key is to be sealed; the same when repeated.

    Raises:
        KeyBrokerUnavailableError: Try again later.
        RefusedError: The broker refuses; `shredded` if the model's key was destroyed,
            `suite_unsupported` if none of `suites` is known.
    """
    body = {
        "upload_id": str(upload_id),
        "artifact_id": str(artifact_id),
        "account_id": str(account_id),
        "model_id": str(model_id),
        "expires_at": expires_at.astimezone(UTC).isoformat(),
    } | ({} if suites is None else {"suites": suites})
    return _call("POST", "/v1/upload-keys", body, _KEY_MEMBERS)


def check_upload_key(*, artifact_id: UUID) -> None:
    """Have the broker prove that the stored wrap opens the header of every file.

    Raises:
        KeyBrokerUnavailableError: Try again later.
        RefusedError: It does not: `key_wrap_invalid`, `header_tag_invalid`, `shredded`.
    """
    _call("POST", "/v1/upload-keys/check", {"artifact_id": str(artifact_id)}, frozenset({"ok"}))


def sign_checkpoint(*, artifact_id: UUID) -> dict[str, Any]:
    """The broker's signed word on where a version's release log ends now.

    Raises:
        KeyBrokerUnavailableError: Try again later.
        RefusedError: `not_found`: nothing was ever asked for this version.
    """
    body = {"artifact_id": str(artifact_id)}
    return _call("POST", "/v1/release-log/checkpoint", body, _CHECKPOINT_MEMBERS)


def shred(
    *, model_id: UUID, artifact_ids: Sequence[UUID] | None, by: str, reason: str
) -> list[dict[str, Any]]:
    """Have the keys of some versions destroyed, or of a whole model; returns the proofs.

    Args:
        model_id: Whose.
        artifact_ids: Which versions; None for all there ever were.
        by: Who wants it.
        reason: Why; it stands in the proof.

    Raises:
        KeyBrokerUnavailableError: Repeat it: what was begun is finished then.
        RefusedError: A version is not withdrawn, or there never was a key.
    """
    body = {
        "model_id": str(model_id),
        "artifact_ids": None if artifact_ids is None else [str(one) for one in artifact_ids],
        "by": by,
        "reason": reason,
    }
    answer = _call("POST", "/v1/shred", body, frozenset({"shreds"}), timeout=SHRED_TIMEOUT)
    return list(answer["shreds"])


def is_answering() -> bool:
    """Whether the key broker is there, and its database with it."""
    try:
        response = _client().get(f"{settings.KEYBROKER_URL}/health", timeout=PROBE_TIMEOUT)
    except httpx.HTTPError:
        return False
    return response.status_code == httpx.codes.OK


@cache
def _client() -> httpx.Client:
    # One per process: building a client costs tens of milliseconds. Proxies of the
    # environment are not for loopback and cluster addresses.
    authority = settings.KEYBROKER_CA
    context = ssl.create_default_context(cafile=authority) if authority else True
    return httpx.Client(timeout=TIMEOUT, trust_env=False, verify=context)


def _call(
    method: str,
    path: str,
    body: dict[str, Any] | None,
    members: frozenset[str],
    *,
    timeout: httpx.Timeout = TIMEOUT,
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {settings.KEYBROKER_TOKEN}"}
    try:
        response = _client().request(
            method, settings.KEYBROKER_URL + path, json=body, headers=headers, timeout=timeout
        )
        document = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise KeyBrokerUnavailableError(retry_after_s=RETRY_AFTER_S) from error
    if not isinstance(document, dict):
        raise KeyBrokerUnavailableError(retry_after_s=RETRY_AFTER_S)
    if response.status_code == 200 and members <= document.keys():
        return document
    # A refusal is about what was sent. A 401 is a wrong setting of ours, not the creator's.
    code = document.get("code")
    if response.status_code in (404, 409, 410, 422) and isinstance(code, str):
        raise RefusedError(code, str(document.get("detail", "")))
    raise KeyBrokerUnavailableError(retry_after_s=RETRY_AFTER_S)
