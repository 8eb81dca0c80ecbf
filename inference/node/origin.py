"""Where ciphertext comes from: a mirror if there is one, else the platform.

A mirror is any HTTP server with the objects of the store: a cache of the site, a gateway, or the
folder of another node. It is believed nothing. What it sends is hashed like everything else, it is
told no token and no signed query, its redirects are not followed, and one that is slow, silent
or wrong is left alone for a while. The worst that it can do is to cost time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit
from uuid import UUID

import httpx

from inference.node.control_plane import ControlPlane, read_from
from inference.node.errors import UnreachableError
from inference.node.log import event
from marketplace.core.env import SettingError
from strongroom.sealing.manifest import Part

logger = logging.getLogger("node.origin")

CONNECT_TIMEOUT_S = 1.0
# Without an octet.
SILENCE_S = 5.0
# Below this, over all that it sent of a part and after the first seconds, it is given up.
RATE_MIN_BYTES_PER_S = 1024 * 1024
RATE_AFTER_S = 3.0
# So many failures in a row, and it is left alone for a while; after a lie for longer.
FAILURES_MAX = 3
PAUSE_S = 30.0
LIE_PAUSE_S = 600.0
_PLACEHOLDERS = ("{object}", "{sha256}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One part of a version, under all names that it has."""

    version_id: UUID
    file_index: int
    number: int
    part: Part
    # In the object store; empty where the platform did not say.
    object_name: str = ""


class MirrorError(Exception):
    """The mirror did not give a part, or no more of it."""


class Mirror:
    """An HTTP server that may have parts; may be used by several threads.

    Args:
        template: Its address, with `{object}` or `{sha256}` in it; without either,
            `/{object}` is put at its end.

    Raises:
        SettingError: It is no such address.
    """

    def __init__(self, template: str) -> None:
        self._template = read_template(template)
        self._client = httpx.Client(
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            follow_redirects=False,
        )
        self._lock = threading.Lock()
        self._failure_count = 0
        self._paused_until = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def has(self, wanted: Wanted) -> bool:
        """Whether it is worth asking for this part now."""
        is_named = bool(wanted.object_name) or "{object}" not in self._template
        return is_named and time.monotonic() >= self._paused_until

    def address(self, wanted: Wanted) -> str:
        """What is asked for, without a query."""
        name = quote(wanted.object_name, safe="/")
        return self._template.replace("{object}", name).replace("{sha256}", wanted.part.sha256)

    def stream(self, wanted: Wanted, offset: int) -> Iterator[bytes]:
        """The octets of a part from an offset on, at most as many as it has.

        Raises:
            MirrorError: It failed, or is too slow; what came before may be kept.
        """
        left_bytes = wanted.part.size_bytes - offset
        headers = {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
        started_at, received_bytes = time.monotonic(), 0
        try:
            with self._client.stream("GET", self.address(wanted), headers=headers) as answer:
                if answer.status_code not in (200, 206):
                    raise MirrorError(f"status {answer.status_code}")
                # As it comes: to collect a chunk would be to wait for one that sends drop by drop.
                for chunk in read_from(answer, offset, None):
                    received_bytes += len(chunk)
                    _check_rate(received_bytes, time.monotonic() - started_at)
                    if len(chunk) > left_bytes:
                        raise MirrorError("more than the part has")
                    left_bytes -= len(chunk)
                    yield chunk
            if left_bytes:
                raise MirrorError(f"it ended {left_bytes} octets early")
        except (httpx.HTTPError, httpx.InvalidURL, UnreachableError, MirrorError) as error:
            self._note_failure(error)
            raise MirrorError(str(error)) from error
        self._failure_count = 0

    def note_lie(self, wanted: Wanted) -> None:
        """What it sent is not what was signed: it is left alone for a good while."""
        self._paused_until = time.monotonic() + LIE_PAUSE_S
        event(logger, "mirror.lied", level=logging.WARNING, part=wanted.part.sha256)

    def _note_failure(self, error: Exception) -> None:
        with self._lock:
            self._failure_count += 1
            if self._failure_count < FAILURES_MAX:
                return
            self._failure_count = 0
            self._paused_until = max(self._paused_until, time.monotonic() + PAUSE_S)
        event(logger, "mirror.paused", level=logging.WARNING, error=error)


class Origin:
    """The platform, and before it a mirror.

    Args:
        control_plane: Has every part.
        mirror: Asked first.
    """

    def __init__(self, control_plane: ControlPlane, mirror: Mirror | None = None) -> None:
        self._control_plane = control_plane
        self.mirror = mirror

    def find_mirror(self, wanted: Wanted) -> Mirror | None:
        """The mirror, if it is worth asking for this part now."""
        return self.mirror if self.mirror is not None and self.mirror.has(wanted) else None

    @contextmanager
    def stream(self, wanted: Wanted, offset: int) -> Iterator[Iterator[bytes]]:
        """The octets of a part from an offset on, from the platform.

        Raises:
            RefusedError: It is not for this node.
            UnreachableError: Not now.
        """
        with self._control_plane.stream_part(
            wanted.version_id, wanted.file_index, wanted.number, offset
        ) as chunks:
            yield chunks

    def close(self) -> None:
        """Close the mirror's connections; the platform's belong to others."""
        if self.mirror is not None:
            self.mirror.close()


def _check_rate(received_bytes: int, passed_s: float) -> None:
    if passed_s > RATE_AFTER_S and received_bytes < RATE_MIN_BYTES_PER_S * passed_s:
        raise MirrorError("it is too slow")


def read_template(text: str) -> str:
    """The address of a mirror, with a placeholder in it.

    Raises:
        SettingError: It is none, or would tell the mirror a secret.
    """
    text = text.rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingError("STRONGROOM_NODE_MIRROR_URL must begin with http:// or https://")
    if parts.query or parts.fragment or parts.username is not None:
        detail = "must have neither a query nor a user: a mirror is told no secret"
        raise SettingError(f"STRONGROOM_NODE_MIRROR_URL {detail}")
    if not any(one in parts.path for one in _PLACEHOLDERS):
        text += "/{object}"
    return text
