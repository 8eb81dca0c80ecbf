"""Keep the leases of loaded replicas alive, and notice when one is lost.

A lease is renewed when a third of its time is over, so that two more thirds are left to
bridge an outage of the key broker. One that is refused is lost at once, one that cannot be
renewed when its time is over. The replica is then unloaded: what is in memory was lent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from inference.node import metrics
from inference.node.control_plane import KeyBroker
from inference.node.errors import RefusedError, ReplicaError, UnreachableError
from inference.node.log import event
from marketplace.core.clock import utc_now

logger = logging.getLogger("node.leases")

# The broker's own time to live; a longer one would only come from clocks that differ.
TTL_S_MAX = 600.0
# A lease is renewed when this share of its time is over.
RENEW_SHARE = 1 / 3
# After a renewal that could not be answered.
RETRY_S = 5.0
_TICK_S = 0.5


@dataclass(slots=True)
class Lease:
    """A key's loan to one replica. Times are of the monotonic clock."""

    lease_id: str
    replica_id: UUID
    expires_at: float
    renew_at: float
    # Why it ended, once it did.
    loss: ReplicaError | None = field(default=None)

    @classmethod
    def parse(cls, answer: dict[str, Any], replica_id: UUID) -> Lease:
        """Read the broker's answer.

        Raises:
            UnreachableError: It is malformed.
        """
        lease_id, ttl_s = answer.get("lease_id"), _read_ttl_s(answer)
        try:
            lease = cls(str(UUID(str(lease_id))), replica_id, 0.0, 0.0)
        except ValueError as error:
            raise UnreachableError("the key broker's lease is malformed") from error
        lease.extend(ttl_s)
        return lease

    def extend(self, ttl_s: float) -> None:
        """It ends in `ttl_s` from now."""
        now = time.monotonic()
        self.expires_at = now + ttl_s
        self.renew_at = now + ttl_s * RENEW_SHARE


class LeaseKeeper:
    """Renews leases in a thread of its own.

    Args:
        broker: Who grants them.
        list_leases: The leases that are held now.
        on_loss: Called once for each that is lost, from the keeper's thread.
    """

    def __init__(
        self,
        broker: KeyBroker,
        *,
        list_leases: Callable[[], Iterable[Lease]],
        on_loss: Callable[[Lease], None],
    ) -> None:
        self._broker = broker
        self._list_leases = list_leases
        self._on_loss = on_loss
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; leases are not released by this."""
        self._stopped.set()
        self._thread.join(timeout=15)

    def look(self) -> None:
        """Give up what has ended, then renew what is due, once."""
        # First: a broker that does not answer keeps each renewal waiting.
        for lease in self._list_leases():
            self._check_end(lease)
        for lease in self._list_leases():
            if lease.loss is None and time.monotonic() >= lease.renew_at:
                self._renew(lease)

    def release(self, lease: Lease) -> None:
        """End a lease early; one that cannot be ended now runs out by itself."""
        try:
            self._broker.release_lease(lease.lease_id)
        except (RefusedError, UnreachableError) as error:
            event(logger, "lease.release_failed", lease=lease.lease_id, error=error)

    def _run(self) -> None:
        while not self._stopped.wait(_TICK_S):
            self.look()

    def _renew(self, lease: Lease) -> None:
        try:
            answer = self._broker.renew_lease(lease.lease_id)
            lease.extend(_read_ttl_s(answer))
        except RefusedError as error:
            if error.code == "nonce_replayed":
                # Its nonce ran out on the way; the lease itself was not judged.
                lease.renew_at = time.monotonic() + RETRY_S
            else:
                detail = f"The key broker does not renew the lease: {error.code}."
                self._lose(lease, ReplicaError("lease_lost", detail))
        except UnreachableError as error:
            now = time.monotonic()
            lease.renew_at = min(now + RETRY_S, max(now, lease.expires_at))
            event(logger, "lease.renew_failed", level=logging.WARNING, error=error)
        self._check_end(lease)

    def _check_end(self, lease: Lease) -> None:
        if lease.loss is None and time.monotonic() >= lease.expires_at:
            detail = "The lease ran out before the key broker could be asked to renew it."
            self._lose(lease, ReplicaError("lease_expired", detail))

    def _lose(self, lease: Lease, loss: ReplicaError) -> None:
        lease.loss = loss
        metrics.LEASES_LOST.add()
        event(logger, "lease.lost", replica=lease.replica_id, reason=loss.reason_code)
        self._on_loss(lease)


def _read_ttl_s(answer: dict[str, Any]) -> float:
    """Seconds from now; what this machine's clock says is of no account.

    A broker of before it told seconds is taken at its date.
    """
    try:
        if "ttl_s" in answer:
            left_s = float(answer["ttl_s"])
        else:
            left_s = (datetime.fromisoformat(answer["expires_at"]) - utc_now()).total_seconds()
    except (KeyError, TypeError, ValueError) as error:
        raise UnreachableError("the key broker's answer has no end of the lease") from error
    # Whatever is no number ends it at once.
    return min(TTL_S_MAX, left_s) if left_s > 0 else 0.0
