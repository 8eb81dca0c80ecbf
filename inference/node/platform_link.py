"""Hold the line to the platform: join, enrol, read what is wanted, tell what is the case.

One thread does all three. The platform may be away for as long as it likes: what was wanted
last stays wanted, replicas serve on while their leases last, and the line is taken up
again by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from inference.node.control_plane import Backoff, ControlPlane, KeyBroker
from inference.node.errors import RefusedError, UnreachableError
from inference.node.identity import IdentityStore
from inference.node.log import event
from inference.node.replica import Desired, parse_desired

logger = logging.getLogger("node.platform")

DESIRED_EVERY_S = 1.0
# The platform takes a node for lost after seven of these.
REPORT_EVERY_S = 2.0
BACKOFF_LIMIT_S = 5.0
ENROL_BACKOFF_LIMIT_S = 30.0
# The web does not know this certificate, or does not want this node any more.
_REJECTED_CODES = frozenset({"node_revoked", "certificate_invalid", "certificate_mismatch"})


class PlatformLink:
    """The thread, and what it needs of the rest of the node.

    Args:
        name: Of the node.
        pool: Which pool its join token must be for; empty: whichever it is for.
        control_plane: The node API.
        broker: Where a join token becomes a certificate.
        identities: Where that is kept.
        read_join_token: The secret to join with, empty if there is none.
        on_desired: Given each new desired state.
        describe: The body of a report: `triton`, `info` and `replicas`.
        on_reported: Given each body that arrived.
    """

    def __init__(
        self,
        *,
        name: str,
        pool: str = "",
        control_plane: ControlPlane,
        broker: KeyBroker,
        identities: IdentityStore,
        read_join_token: Callable[[], str],
        on_desired: Callable[[list[Desired]], None],
        describe: Callable[[], dict[str, Any]],
        on_reported: Callable[[dict[str, Any]], None],
    ) -> None:
        self._name = name
        self._pool = pool
        self._control_plane = control_plane
        self._broker = broker
        self._identities = identities
        self._read_join_token = read_join_token
        self._on_desired = on_desired
        self._describe = describe
        self._on_reported = on_reported
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="platform", daemon=True)
        self._backoff = Backoff(0.5, BACKOFF_LIMIT_S)
        self._enrol_backoff = Backoff(1.0, ENROL_BACKOFF_LIMIT_S)
        self._must_join = not identities.current.has_joined
        self._must_enrol = self._must_join
        self._desired_at = 0.0
        self._report_at = 0.0
        self._trouble = ""
        # When the platform last took a report, since 1970; 0: never.
        self.heard_at_s = 0.0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, *, timeout_s: float) -> None:
        """End; a call under way may outlast this."""
        self._stopped.set()
        self._changed.set()
        self._thread.join(timeout_s)

    def wake(self) -> None:
        """Something changed: report it now."""
        self._changed.set()

    def join_anew(self) -> None:
        """The certificate is good for nothing any more: only a new join token helps."""
        self._must_join = self._must_enrol = True
        self._changed.set()

    def report_once(self, body: dict[str, Any]) -> bool:
        """Send one last report; false if it did not arrive."""
        try:
            self._control_plane.post_report(body)
        except (UnreachableError, RefusedError) as error:
            event(logger, "platform.last_report_failed", error=error)
            return False
        return True

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                wait_s = self._look()
            except UnreachableError as error:
                wait_s = self._note_trouble(str(error), self._backoff)
            except RefusedError as error:
                wait_s = self._note_refusal(error)
            except Exception:
                # Without this thread the node would be taken for lost and its replicas moved.
                logger.exception("the line to the platform failed")
                wait_s = BACKOFF_LIMIT_S
            else:
                self._note_answer()
                self._changed.wait(wait_s)
                continue
            self._stopped.wait(wait_s)

    def _look(self) -> float:
        """Do what is due; returns for how long nothing else is."""
        if self._must_enrol:
            self._enrol()
        if self._changed.is_set() or time.monotonic() >= self._report_at:
            self._changed.clear()
            self._report()
        if time.monotonic() >= self._desired_at:
            self._read_desired()
        return max(0.0, min(self._desired_at, self._report_at) - time.monotonic())

    def _report(self) -> None:
        body = self._describe()
        try:
            self._control_plane.post_report(body)
        except BaseException:
            self._changed.set()  # It has not been said yet.
            raise
        self._report_at = time.monotonic() + REPORT_EVERY_S
        self.heard_at_s = time.time()
        self._on_reported(body)

    def _read_desired(self) -> None:
        document = self._control_plane.get_desired()
        self._desired_at = time.monotonic() + DESIRED_EVERY_S
        try:
            self._on_desired(parse_desired(document))
        except ValueError as error:
            event(logger, "platform.desired_malformed", level=logging.ERROR, error=error)

    def _enrol(self) -> None:
        """Join if need be, then show the web the certificate."""
        if self._must_join:
            self._join()
        body = self._describe()
        try:
            self._control_plane.enrol(
                name=self._name, triton=_only_urls(body["triton"]), info=body["info"]
            )
        except RefusedError as error:
            if error.code == "certificate_expired":
                self._renew()
            # Only a new token makes a node of it again.
            self._must_join = error.code in _REJECTED_CODES
            raise
        self._must_enrol = False
        self._enrol_backoff.reset()
        event(logger, "node.enrolled", node=self._identities.current.node_id, name=self._name)

    def _join(self) -> None:
        token = self._read_join_token()
        if not token:
            raise RefusedError(401, "join_token_missing", "There is no token to join with.")
        self._broker.join(join_token=token, name=self._name, pool=self._pool)
        self._must_join = False
        event(logger, "node.joined", node=self._identities.current.node_id, name=self._name)

    def _renew(self) -> None:
        try:
            self._broker.renew_certificate()
        except RefusedError:
            self._must_join = True
            raise

    def _note_refusal(self, error: RefusedError) -> float:
        if self._must_enrol:
            return self._note_trouble(f"enrolment: {error}", self._enrol_backoff)
        # The token is of no use: revoked, or the platform was set up anew.
        self._must_enrol = error.status == 401
        return self._note_trouble(str(error), self._backoff)

    def _note_trouble(self, trouble: str, backoff: Backoff) -> float:
        """Log a trouble when it begins or changes, not each time it is met."""
        if trouble != self._trouble:
            event(logger, "platform.trouble", level=logging.WARNING, error=trouble)
            self._trouble = trouble
        return backoff.next_s()

    def _note_answer(self) -> None:
        self._backoff.reset()
        if self._trouble:
            event(logger, "platform.answers_again")
            self._trouble = ""


def _only_urls(triton: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in triton.items() if name.endswith("_url")}
