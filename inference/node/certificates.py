"""Keep the node's certificate young, whether or not the web is there.

It is renewed when a third of its time is over, so that sixteen hours are left to bridge an
outage of the key broker. One that ended all the same (the machine slept) is renewed by the
first request that is refused for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from inference.node import metrics
from inference.node.control_plane import Backoff, KeyBroker
from inference.node.errors import RefusedError, UnreachableError
from inference.node.identity import IdentityStore
from inference.node.log import event
from marketplace.core.clock import utc_now

logger = logging.getLogger("node.certificates")

# How often it is looked at; its time is a day.
TICK_S = 10.0
BACKOFF_FIRST_S = 10.0
BACKOFF_LIMIT_S = 300.0


class CertificateKeeper:
    """Renews in a thread of its own.

    Args:
        broker: Who certifies.
        identities: Whose certificate it is; one that has not joined has nothing to renew.
        on_rejected: Called when the broker will not have this node any more.
    """

    def __init__(
        self, broker: KeyBroker, identities: IdentityStore, *, on_rejected: Callable[[], None]
    ) -> None:
        self._broker = broker
        self._identities = identities
        self._on_rejected = on_rejected
        self._backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_LIMIT_S)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="certificates", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a call that is under way may outlast this."""
        self._stopped.set()
        self._thread.join(timeout=1.0)

    def look(self) -> float:
        """Renew if it is due; returns for how long nothing is to do."""
        identity = self._identities.current
        if not identity.has_joined or utc_now() < identity.renew_at:
            return TICK_S
        try:
            self._broker.renew_certificate(identity.certificate)
        except (RefusedError, UnreachableError) as error:
            metrics.RENEWALS_FAILED.add()
            event(logger, "certificate.renew_failed", level=logging.WARNING, error=error)
            if isinstance(error, RefusedError) and error.status in (401, 403):
                self._on_rejected()
            return self._backoff.next_s()
        self._backoff.reset()
        event(logger, "certificate.renewed", node=identity.node_id)
        return TICK_S

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stopped.wait(wait_s):
            wait_s = self.look()
