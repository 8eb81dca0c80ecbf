"""Consumers who predict steadily, and never take no for an answer."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.journal import Journal

# Longer than the gateway's own deadline and its wait for Postgres together.
ANSWER_TIMEOUT_S = 110.0
PAUSE_S = 0.03
RETRY_S = 0.25
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sample:
    """An input, and the output that a client must get for it."""

    body: bytes
    probabilities: Sequence[float]

    def is_answered_by(self, document: dict[str, Any]) -> bool:
        found = document["output"]["probabilities"]
        return len(found) == len(self.probabilities) and all(
            abs(one - other) <= TOLERANCE
            for one, other in zip(found, self.probabilities, strict=True)
        )


@dataclass
class Request:
    """What a client wants to be answered."""

    sample: Sample
    key: str | None
    id: str
    first_sent_at: float = 0.0
    retry_at: float = 0.0


class Client(threading.Thread):
    """One consumer with one connection.

    With idempotency keys it repeats each request until it is answered, other requests in
    between. Without, it lets go of a request that failed.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        api_key: str,
        journal: Path,
        samples: Sequence[Sample],
        is_keyed: bool,
    ) -> None:
        super().__init__(name=name, daemon=True)
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            address.hostname, address.port, timeout=ANSWER_TIMEOUT_S
        )
        self._path = "/v1/models/demo/digits/predictions"
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._journal = Journal(journal)
        self._samples = samples
        self._is_keyed = is_keyed
        self._again: deque[Request] = deque()
        self._is_stopping = threading.Event()
        self._give_up_at = float("inf")
        # When each answered request was first sent; and when each other attempt was made.
        self.answered: list[float] = []
        self.failed: list[tuple[float, str]] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._is_stopping.is_set() or self._again:
                if time.time() > self._give_up_at:
                    return
                request = self._next()
                if request is not None:
                    self._attempt(request)
                time.sleep(PAUSE_S)
        except Exception as error:  # noqa: BLE001 - told by whoever joins this thread
            self.error = error
        finally:
            self._connection.close()
            self._journal.close()

    def finish(self, *, within_s: float) -> None:
        """Begin no other request; what is open is repeated for so long."""
        self._give_up_at = time.time() + within_s
        self._is_stopping.set()

    def _next(self) -> Request | None:
        if self._again and self._again[0].retry_at <= time.time():
            return self._again.popleft()
        if self._is_stopping.is_set():
            return None
        key = f"chaos-{uuid.uuid4()}" if self._is_keyed else None
        return Request(random.choice(self._samples), key, str(uuid.uuid4()))

    def _attempt(self, request: Request) -> None:
        attempt, sent_at = str(uuid.uuid4()), time.time()
        request.first_sent_at = request.first_sent_at or sent_at
        self._journal.write(attempt=attempt, request=request.id, key=request.key, sent_at=sent_at)
        headers = self._headers | ({"Idempotency-Key": request.key} if request.key else {})
        try:
            self._connection.request("POST", self._path, request.sample.body, headers)
            answer = self._connection.getresponse()
            document = json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._journal.write(attempt=attempt, ended_at=time.time(), error=repr(error))
            self._fail(request, sent_at, type(error).__name__)
            return
        is_answered = answer.status in (200, 201)
        self._journal.write(
            attempt=attempt,
            ended_at=time.time(),
            status=answer.status,
            id=document["id"] if is_answered else answer.headers["inference-id"],
            code=document.get("code", ""),
            cost_nanos=int(answer.headers["x-cost-nano-usd"]),
            is_right=is_answered and request.sample.is_answered_by(document),
        )
        if is_answered:
            self.answered.append(request.first_sent_at)
        else:
            self._fail(request, sent_at, document["code"])

    def _fail(self, request: Request, sent_at: float, why: str) -> None:
        self.failed.append((sent_at, why))
        if request.key:
            request.retry_at = time.time() + RETRY_S
            self._again.append(request)


def count_answered(clients: Sequence[Client], *, since: float) -> int:
    """Requests that were first sent after a moment and have been answered."""
    return sum(at > since for client in clients for at in client.answered)


def list_failed(clients: Sequence[Client], *, since: float) -> list[str]:
    """Why attempts that were made after a moment failed; those on old business left out."""
    return [
        why
        for client in clients
        for at, why in client.failed
        if at > since and why != "idempotency_in_flight"
    ]
