"""Loopback ports: which are free, and a choice that stays free."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterable

# Below the range from which Linux takes ports of outgoing connections (32768 on): one of
# those could sit on our port at the moment a child is restarted.
_CHOICE = range(20_000, 32_000)
_ATTEMPTS = 1_000
# From a start of each process's own, each port once before any comes again: two that are
# chosen one after the other, before anybody listens, are never the same.
_steps = itertools.count(random.randrange(len(_CHOICE)))  # noqa: S311 - no secret


def is_free(port: int) -> bool:
    """Whether a server could listen there now, on loopback."""
    with socket.socket() as probe:
        # As servers do: a port of connections that just ended counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose(taken: Iterable[int] = ()) -> int:
    """A free port, none of `taken`."""
    avoid = set(taken)
    for _ in range(_ATTEMPTS):
        port = _CHOICE[next(_steps) % len(_CHOICE)]
        if port not in avoid and is_free(port):
            return port
    raise OSError("no free port found")


def is_listening(port: int, timeout_s: float = 1.0) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=timeout_s).close()
    except OSError:
        return False
    return True
