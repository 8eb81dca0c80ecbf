"""Clients of the two gateways: impatient ones, limited ones, poor ones, and some who err."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.journal import Journal
from tests.chaos.own_servers import Seat

PATH = "/v1/models/maker/echo/predictions"
# Longer than the deadline of a gateway here and its wait for Postgres together.
ANSWER_TIMEOUT_S = 60.0
RETRY_S = 0.25
# Nobody listens at an address: a moment until the next try, there or elsewhere.
AWAY_S = 0.1
# Requests of one client that it will repeat; it begins no others meanwhile.
OPEN_MAX = 8
# How often a client that counts its attempts makes one, as the known libraries do.
COUNTED_MAX = 6
# How many of a hundred connections are closed in mid-request, and how many answered keyed
# requests are sent once more.
LEAVING_PERCENT = 12
ASKING_AGAIN_PERCENT = 10


@dataclass(frozen=True)
class Wrong:
    """A request that must be refused, and with which code."""

    code: str
    given: dict[str, Any] = field(default_factory=dict)
    path: str = PATH
    api_key: str = ""
    body: bytes = b""


WRONGS = (
    Wrong("validation", {"x": [1]}),
    Wrong("validation", {"x": "many"}),
    Wrong("model_failed", {"mode": "fail"}),
    Wrong("output_invalid", {"mode": "nan"}),
    Wrong("bad_request", body=b'{"input": '),
    Wrong("not_found", path="/v1/models/maker/none/predictions"),
    Wrong("unauthenticated", api_key="none"),
)


@dataclass(frozen=True)
class Kind:
    """What the clients of an API key do.

    Args:
        name: Of the kind; unique.
        api_key: The key's text.
        count: How many clients.
        is_keyed: They send idempotency keys and never take no for an answer.
        is_counted: They count their attempts instead, and give up some time.
        is_wrong: They send nothing but what must be refused.
        leaves: They sometimes close their connection in mid-request.
        expects: Codes of refusals that they run into on purpose.
        wait_s: How long the model takes.
        pause_s: Between two requests.
    """

    name: str
    api_key: str
    count: int = 1
    is_keyed: bool = False
    is_counted: bool = False
    is_wrong: bool = False
    leaves: bool = False
    expects: tuple[str, ...] = ()
    wait_s: float = 0.0
    pause_s: float = 0.02


@dataclass
class Request:
    """What a client wants to be answered."""

    id: str
    given: dict[str, Any]
    key: str | None = None
    wrong: Wrong | None = None
    tries: int = 0
    retry_at: float = 0.0

    @property
    def body(self) -> bytes:
        if self.wrong is not None and self.wrong.body:
            return self.wrong.body
        return json.dumps({"input": self.given}).encode()

    def is_answered_by(self, document: dict[str, Any]) -> bool:
        """Whether it is this input's own output."""
        output = document["output"]
        return (
            self.wrong is None
            and document["status"] == "succeeded"
            and output["y"] == [2 * one for one in self.given["x"]]
            and output["echo"] == self.given["note"]
        )


class Buyer(threading.Thread):
    """One client, at both gateways by turns."""

    def __init__(
        self, kind: Kind, number: int, *, seats: Sequence[Seat], folder: Path, seed: int
    ) -> None:
        super().__init__(name=f"{kind.name}-{number}", daemon=True)
        self.kind = kind
        self.journal_path = folder / f"{self.name}.jsonl"
        self._journal = Journal(self.journal_path)
        self._random = random.Random(f"{seed}-{self.name}")
        self._seats = seats
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._again: deque[Request] = deque()
        self._is_stopping = threading.Event()
        self._give_up_at = float("inf")
        self.answered = 0
        self.refused: set[str] = set()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._is_stopping.is_set() or self._again:
                if time.time() > self._give_up_at:
                    return
                request = self._next()
                if request is not None:
                    self._attempt(request)
                time.sleep(self.kind.pause_s)
        except Exception as error:  # noqa: BLE001 - told by whoever joins this thread
            self.error = error
        finally:
            for one in self._connections.values():
                one.close()
            self._journal.close()

    def finish(self, *, within_s: float) -> None:
        """Begin no other request; what is open is repeated for so long."""
        self._give_up_at = time.time() + within_s
        self._is_stopping.set()

    def _next(self) -> Request | None:
        if self._again and self._again[0].retry_at <= time.time():
            return self._again.popleft()
        if self._is_stopping.is_set() or len(self._again) >= OPEN_MAX:
            return None
        identifier = str(uuid.uuid4())
        given = {
            "x": [float(self._random.randrange(50)) for _ in range(4)],
            "note": identifier[-12:],
            "wait_s": self.kind.wait_s,
        }
        request = Request(identifier, given)
        if self.kind.is_keyed:
            request.key = f"chaos-{identifier}"
        if self.kind.is_wrong:
            request.wrong = self._random.choice(WRONGS)
            request.given = given | request.wrong.given
        return request

    def _attempt(self, request: Request) -> None:
        attempt = str(uuid.uuid4())
        expects = (request.wrong.code,) if request.wrong else self.kind.expects
        self._journal.write(
            attempt=attempt,
            request=request.id,
            key=request.key,
            sent_at=time.time(),
            expects=expects,
        )
        url = self._random.choice(self._seats).url
        try:
            status, headers, document = self._send(url, request)
        except (OSError, http.client.HTTPException) as error:
            self._connections.pop(url).close()
            self._journal.write(attempt=attempt, ended_at=time.time(), error=repr(error))
            self._fail(request)
            if isinstance(error, ConnectionRefusedError):
                time.sleep(AWAY_S)
            return
        is_answered = status in (200, 201)
        self._journal.write(
            attempt=attempt,
            ended_at=time.time(),
            status=status,
            id=document["id"] if is_answered else headers["inference-id"],
            code=document.get("code", ""),
            cost_nanos=int(headers["x-cost-nano-usd"]),
            is_right=is_answered and request.is_answered_by(document),
            # A replay tells the time anew, from what is stored.
            **(_read_times(document) if status == 201 else {}),
        )
        if is_answered:
            self._be_answered(request)
        else:
            self.refused.add(document["code"])
            self._fail(request)

    def _send(self, url: str, request: Request) -> tuple[int, Any, dict[str, Any]]:
        connection = self._connections.get(url)
        if connection is None:
            address = urlsplit(url)
            connection = http.client.HTTPConnection(
                address.hostname or "", address.port, timeout=ANSWER_TIMEOUT_S
            )
            self._connections[url] = connection
        path, api_key = PATH, self.kind.api_key
        if request.wrong is not None:
            path, api_key = request.wrong.path, request.wrong.api_key or api_key
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        if request.key:
            headers["Idempotency-Key"] = request.key
        if self.kind.is_counted:
            headers["X-Stainless-Retry-Count"] = str(request.tries)
        request.tries += 1
        connection.request("POST", path, request.body, headers)
        if self.kind.leaves and self._random.randrange(100) < LEAVING_PERCENT:
            # Before the answer, or in the very moment in which it comes.
            connection.sock.settimeout(self._random.uniform(0.001, 0.05))
        elif connection.sock is not None:
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())

    def _be_answered(self, request: Request) -> None:
        self.answered += 1
        if request.key and self._random.randrange(100) < ASKING_AGAIN_PERCENT:
            self._ask_again(request)

    def _fail(self, request: Request) -> None:
        can_count = self.kind.is_counted and request.tries < COUNTED_MAX
        if request.key or can_count:
            self._ask_again(request)

    def _ask_again(self, request: Request) -> None:
        request.retry_at = time.time() + RETRY_S
        self._again.append(request)


def _read_times(document: dict[str, Any]) -> dict[str, float]:
    return {
        "began_at": datetime.fromisoformat(document["started_at"]).timestamp(),
        "completed_at": datetime.fromisoformat(document["completed_at"]).timestamp(),
    }
