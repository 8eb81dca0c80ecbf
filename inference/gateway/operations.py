"""What the operator's machines ask: is it alive, is it ready, what did it count.

These are answered also when too many requests are open, for then they matter most.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from inference.gateway import openapi
from inference.gateway.http import Answer, Headers, Request, json_answer
from inference.gateway.metrics import METRICS
from inference.gateway.metrics_page import render
from marketplace.core import metrics_listener
from marketplace.core.errors import AuthenticationError, NotFoundError
from marketplace.core.exposition import CONTENT_TYPE
from marketplace.core.metrics_listener import FORWARDED

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

ROOTS = frozenset({"health", "metrics", "openapi.json"})


class Operations:
    """Answers the routes below /health, /metrics and /openapi.json."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def answer(self, request: Request, peer: str) -> Answer:
        """Find the route and answer.

        Args:
            request: Of one of `ROOTS`.
            peer: Address and port of the other end.

        Raises:
            NotFoundError: There is no such route.
            AuthenticationError: The metrics are not for everyone.
        """
        match [request.method, *request.segments]:
            case ["GET", "health"] | ["GET", "health", "ready"]:
                return self._answer_ready()
            case ["GET", "health", "live"]:
                return json_answer({"status": "ok"})
            case ["GET", "openapi.json"]:
                return Answer(200, openapi.render(self.gateway.config.gateway_url))
            case ["GET", "metrics"]:
                self._require_operator(request.headers, peer)
                return Answer(200, render(self.gateway, METRICS), content_type=CONTENT_TYPE)
        raise NotFoundError

    def _answer_ready(self) -> Answer:
        is_ready, is_draining = self.gateway.is_ready(), self.gateway.closing.is_draining
        state = "draining" if is_draining else "unavailable"
        document: dict[str, Any] = {
            "status": "ok" if is_ready else state,
            "database": self.gateway.has_database(),
            # Without Redis predictions go on, each gateway within its share of the limits.
            "limits": self.gateway.limits.scope,
        }
        return json_answer(document, status=200 if is_ready else 503)

    def _require_operator(self, headers: Headers, peer: str) -> None:
        token = self.gateway.config.metrics_token
        scheme, _, given = (headers.get("authorization") or "").partition(" ")
        if token and scheme.lower() == "bearer":
            # In octets: compare_digest takes no text beyond ASCII.
            if hmac.compare_digest(given.strip().encode(), token.encode()):
                return
            raise AuthenticationError("The token is not that of the metrics.")
        # On loopback, the peer of a request that was passed on is the proxy: it tells nothing.
        if not is_loopback(peer) or any(name in headers for name in FORWARDED):
            raise AuthenticationError("The metrics are for this machine, or for a token.")


def is_loopback(peer: str) -> bool:
    """Whether an `address:port` is of this machine; a name never is."""
    return metrics_listener.is_loopback(peer.rpartition(":")[0].strip("[]"))
