"""A client that watches a prediction, and reads its events as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

WAIT_S = 60.0


@dataclass(frozen=True)
class Told:
    kind: str
    id: str
    text: str

    @property
    def document(self) -> dict[str, Any]:
        return orjson.loads(self.text)


class Watcher:
    """Reads in a thread of its own; `events` has all so far."""

    def __init__(self, client: httpx.Client, prediction_id: str, **how: Any) -> None:
        self.events: list[Told] = []
        self.comments = 0
        self.status = 0
        self.headers: httpx.Headers | None = None
        self.body = b""
        self._query = {"events": how["events"]} if "events" in how else {}
        self._last = {"Last-Event-ID": how["last"]} if "last" in how else {}
        # With the address that a prediction names, the signature in it takes the key's place.
        self._path = how.get("address") or f"/v1/predictions/{prediction_id}/stream"
        self._client = client
        self._news: queue.Queue[Told | None] = queue.Queue()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self._client.stream(
                "GET", self._path, params=self._query or None, headers=self._last
            ) as response:
                self.status, self.headers = response.status_code, response.headers
                if response.headers.get("content-type") != "text/event-stream":
                    self.body = response.read()
                    return
                for told in self._parse(response):
                    self.events.append(told)
                    self._news.put(told)
                    if self._leave.is_set():
                        return
        except httpx.TransportError:
            pass
        finally:
            self._news.put(None)

    def _parse(self, response: httpx.Response) -> Iterator[Told]:
        fields: dict[str, list[str]] = {}
        for line in response.iter_lines():
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                fields.setdefault(name, []).append(value)
            elif fields:
                [kind], [event_id] = fields["event"], fields["id"]
                yield Told(kind, event_id, "\n".join(fields["data"]))
                fields = {}

    def next(self, *kinds: str) -> Told:
        """The next event of these kinds."""
        while True:
            told = self._news.get(timeout=WAIT_S)
            assert told is not None, ("the stream is over", self.status, self.body, self.events)
            if not kinds or told.kind in kinds:
                return told

    def leave(self) -> None:
        """Close the connection with the next event."""
        self._leave.set()

    def finish(self) -> list[Told]:
        """All events, once the stream is over."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), self.events
        return self.events

    @property
    def text(self) -> str:
        """What was put out since it last began anew."""
        pieces: list[str] = []
        for one in self.events:
            if one.kind == "restart":
                pieces = []
            elif one.kind == "output":
                pieces.append(one.text)
        return "".join(pieces)
