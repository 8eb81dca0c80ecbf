"""Faults that tests order: lost answers, limits, errors after the effect.

A fault applies to the next requests that match its method and address pattern, as often as
it was ordered. The connection faults act on the real socket: the peer sees the end of the
stream or a reset, with no answer, as when a network or a machine fails.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fakestripe import errors
from fakestripe.store import Store

Json = dict[str, Any]

BEFORE_EFFECT = ("reset", "rate_limit", "lock_timeout", "conflict", "unavailable", "error")
AFTER_EFFECT = ("drop_after_effect", "error_after_effect")
KINDS = (*BEFORE_EFFECT, "delay", *AFTER_EFFECT)


def take(store: Store, method: str, path: str) -> Json:
    """The fault for this request, used up once; empty if there is none."""
    for seq, _remaining, fault in store.list_rules("fault"):
        if fault["method"] in ("*", method) and fnmatchcase(path, fault["path"]):
            with store.transaction():
                store.use_rule(seq)
            return fault
    return {}


def refusal(kind: str, key: str | None) -> errors.ApiError | None:
    """The answer of a fault that stops a request before it did anything."""
    match kind:
        case "rate_limit":
            return errors.rate_limited()
        case "lock_timeout":
            return errors.lock_timeout()
        case "conflict":
            return errors.key_in_use(key or "")
        case "error":
            return errors.internal()
        case "unavailable":
            return errors.internal(503)
    return None


def cut_connection(peer_port: int, *, reset: bool) -> None:
    """End the connection to a peer at once, without another byte.

    ASGI has no word for it, so the socket is looked up among the open files by its peer.

    Args:
        peer_port: The peer's port; loopback peers are told apart by it.
        reset: Send a reset instead of an orderly end.
    """
    for entry in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError), _as_socket(int(entry.name)) as found:
            peer = found.getpeername()
            if isinstance(peer, tuple) and peer[1] == peer_port:
                if reset:  # Lingering for 0 s turns the close into a reset.
                    linger = struct.pack("ii", 1, 0)
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                found.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
                return


def _as_socket(descriptor: int) -> socket.socket:
    """A second handle on an open socket; closing it leaves the first alone."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise OSError("not a socket")
    return socket.socket(fileno=os.dup(descriptor))
