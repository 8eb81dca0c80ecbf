"""What a client must know of this installation before it seals anything."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from inference.services import keybroker_client
from strongroom.sealing import floe, manifest

NAME = "Strongroom"
_KEY_MEMBERS = ("kid", "public_key", "fingerprint", "successions")
# A restart of the broker must not be felt here; a new key is, by a push in this time.
CACHE_TTL_S = 30


@dataclass(frozen=True, slots=True)
class _Cached:
    broker_url: str
    key: dict[str, Any]
    expires_at: float  # On the monotonic clock.


_cached: _Cached | None = None


def get_platform() -> dict[str, Any]:
    """Addresses, the platform's key and the limits of uploads.

    Raises:
        KeyBrokerUnavailableError: The key is not known yet and the broker does not answer.
    """
    key = _get_platform_key()
    return {
        "name": NAME,
        "web_url": settings.WEB_URL,
        "gateway_url": settings.GATEWAY_URL,
        "platform_key": {name: key[name] for name in _KEY_MEMBERS},
        "limits": {
            "part_size_bytes": floe.PART_BYTES,
            "max_files": manifest.MAX_FILES,
            "max_file_bytes": manifest.MAX_FILE_BYTES,
            "max_version_bytes": settings.INFERENCE_VERSION_BYTES_MAX,
            "max_manifest_bytes": manifest.MAX_MANIFEST_BYTES,
            "max_test_vectors": manifest.MAX_TEST_VECTORS,
        },
    }


def _get_platform_key() -> dict[str, Any]:
    # Kept in the process, not in Redis: it is public, small, and wanted when Redis is down.
    global _cached  # noqa: PLW0603
    now = time.monotonic()
    if _cached is None or _cached.expires_at < now or _cached.broker_url != settings.KEYBROKER_URL:
        key = keybroker_client.get_platform_key()
        _cached = _Cached(settings.KEYBROKER_URL, key, now + CACHE_TTL_S)
    return _cached.key
