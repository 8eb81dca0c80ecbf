"""Granian, that says before it stops that it is about to.

Run: python -m inference.gateway.server, with granian's own options; `python -m inference.gateway`
does so. The first SIGTERM (or SIGINT) begins the drain: the gateway's readiness is 503, and
whatever comes is still answered, each answer asking its client to connect anew. After
`STRONGROOM_GATEWAY_DRAIN_S`, or at the second signal, granian stops as it always does: it takes
nothing new, and ends when what runs has ended. A signal that goes to the whole process group
reaches the process that answers, too, and then there is no drain.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

from granian import cli
from granian.server import Server

from inference.gateway.closing import read_drain_s


class DrainingServer(Server):
    """Granian's own server, with the drain before its stop."""

    _is_draining = False

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        """What granian calls for SIGTERM and SIGINT, in its main process."""
        drain_s = read_drain_s()
        if self._is_draining or drain_s == 0:
            super().signal_handler_interrupt(*args, **kwargs)
            return
        self._is_draining = True
        for worker in self.wrks:
            with suppress(ProcessLookupError):
                os.kill(worker.inner.pid, signal.SIGUSR1)
        end = threading.Timer(drain_s, super().signal_handler_interrupt)
        end.daemon = True  # A second signal does not wait for it.
        end.start()


def main() -> None:
    """Granian's command line, with our server in place of its own."""
    # Until the application listens for it, which a signal may come before.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    cli.Server = DrainingServer
    cli.entrypoint()


if __name__ == "__main__":
    main()
