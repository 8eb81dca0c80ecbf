"""Talk to the key broker, the only process that can open a data key.

Nothing secret comes back over this way: public keys, signatures, and yes or no.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

import httpx
from django.conf import settings

from inference.errors import KeyBrokerUnavailableError, RefusedError

# Two statements and one key generation take milliseconds; slower means broken.
TIMEOUT = httpx.Timeout(10.0, connect=2.0)
RETRY_AFTER_S = 5

_KEY_MEMBERS = frozenset({"kid", "suite", "public_key", "signature", "expires_at"})
_PLATFORM_KEY_MEMBERS = frozenset({"kid", "public_key", "fingerprint"})


def get_platform_key() -> dict[str, str]:
    """The public key that signs the keys of uploads.

    Raises:
        KeyBrokerUnavailableError: Try again later.
    """
    return _call("GET", "/v1/platform-key", None, _PLATFORM_KEY_MEMBERS)


def create_upload_key(
    *, upload_id: UUID, artifact_id: UUID, account_id: UUID, model_id: UUID, expires_at: datetime
) -> dict[str, str]:
    """The public key to which this upload's data key is to be sealed; the same when repeated.

    Raises:
        KeyBrokerUnavailableError: Try again later.
        RefusedError: The broker refuses; `shredded` if the model's key was destroyed.
    """
    body = {
        "upload_id": str(upload_id),
        "artifact_id": str(artifact_id),
        "account_id": str(account_id),
        "model_id": str(model_id),
        "expires_at": expires_at.astimezone(UTC).isoformat(),
    }
    return _call("POST", "/v1/upload-keys", body, _KEY_MEMBERS)


def check_upload_key(*, artifact_id: UUID) -> None:
    """Have the broker prove that the stored wrap opens the header of every file.

    Raises:
        KeyBrokerUnavailableError: Try again later.
        RefusedError: It does not: `key_wrap_invalid`, `header_tag_invalid`, `shredded`.
    """
    _call("POST", "/v1/upload-keys/check", {"artifact_id": str(artifact_id)}, frozenset({"ok"}))


@cache
def _client() -> httpx.Client:
    # One per process: building a client costs tens of milliseconds. Proxies of the
    # environment are not for loopback and cluster addresses.
    return httpx.Client(timeout=TIMEOUT, trust_env=False)


def _call(
    method: str, path: str, body: dict[str, Any] | None, members: frozenset[str]
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {settings.KEYBROKER_TOKEN}"}
    try:
        response = _client().request(
            method, settings.KEYBROKER_URL + path, json=body, headers=headers
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
