"""Traffic as a gateway gets it: predictions, retries, mistakes, and callers who leave.

Sent over raw kept connections, so that the sender costs little beside what it watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded import descendants
from marketplace.core import keys

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ANSWER_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sending:
    """One request.

    Args:
        raw: All of it.
        kind: Under which it is counted.
        leaves: Whether the connection is closed before the answer.
    """

    raw: bytes
    kind: str
    leaves: bool = False


# Makes the request of a number.
MakeSending = Callable[[int], Sending]


@dataclass(frozen=True, slots=True)
class Shape:
    """A model that takes the same input each time."""

    model: str
    values: Sequence[float]

    def native(self) -> bytes:
        return json.dumps({"input": {"x": self.values}}).encode()

    def inference(self) -> bytes:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(self.values)]}
        return json.dumps({"inputs": [{**tensor, "data": self.values}]}).encode()


def mix(shape: Shape, key: str, *, run: str) -> MakeSending:
    """Mixed traffic: of twenty requests fourteen are plain, the others everything else.

    Args:
        shape: What is asked for.
        key: An API key.
        run: Distinguishes the idempotency keys of this run.
    """
    native, inference = f"/v1/models/{shape.model}/predictions", f"/v2/models/{shape.model}/infer"
    plain = [
        Sending(_render(native, key, shape.native()), "plain"),
        Sending(_render(inference, key, shape.inference()), "plain"),
    ]
    wrong = json.dumps({"input": {"x": "nothing"}}).encode()
    stray = f"/v1/models/{shape.model}-none/predictions"
    fixed = {
        14: Sending(_render(native, key, wrong), "wrong"),
        15: Sending(_render(stray, key, shape.native()), "stray"),
        16: Sending(_render(native, key, b"{"), "broken"),
        17: Sending(_render(native, key, shape.native()), "left", leaves=True),
    }

    def make(number: int) -> Sending:
        at = number % 20
        if at < 14:
            return plain[number % 2]
        if at in fixed:
            return fixed[at]
        if at == 18:
            # Nobody's key, and another one each time.
            unknown = keys.generate(keys.LIVE).text
            return Sending(_render(native, unknown, shape.native()), "unknown")
        # Every second one repeats the key before it.
        name = f"Idempotency-Key: {run}-{number // 40}"
        return Sending(_render(native, key, shape.native(), name), "keyed")

    return make


def _render(path: str, key: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def drive(
    port: int, make: MakeSending, numbers: range, *, connections: int
) -> Counter[tuple[str, int]]:
    """Send the requests of these numbers, and count the answers by kind and status."""
    answered: Counter[tuple[str, int]] = Counter()
    # One iterator for all: each number is sent once.
    rest = iter(numbers)
    await asyncio.gather(*(_keep_sending(port, make, rest, answered) for _ in range(connections)))
    return answered


async def _keep_sending(
    port: int, make: MakeSending, rest: Iterator[int], answered: Counter[tuple[str, int]]
) -> None:
    reader = writer = None
    for number in rest:
        sending = make(number)
        if writer is None:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, limit=_ANSWER_BYTES_MAX
            )
        writer.write(sending.raw)
        if sending.leaves:
            await writer.drain()
            writer.transport.abort()
            reader = writer = None
            continue
        answered[sending.kind, await _read_status(reader)] += 1
    if writer is not None:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _read_status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
    await reader.readexactly(int(length))
    return int(head[9:12])


def find_worker(pid: int) -> int:
    """The process that answers: of a server and its descendants the one with the most memory."""
    return max((pid, *descendants.list_descendants(pid)), key=read_rss_bytes)


def read_rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class Sample:
    """How much memory was in use after so many requests."""

    requests: int
    rss_bytes: int


async def soak(
    port: int,
    pid: int,
    make: MakeSending,
    *,
    total: int,
    steps: int,
    connections: int,
    on_sample: Callable[[Sample], None] = lambda sample: None,
) -> tuple[list[Sample], Counter[tuple[str, int]]]:
    """Send so many requests, and look at the memory of a process after each step."""
    samples: list[Sample] = [Sample(0, read_rss_bytes(pid))]
    answered: Counter[tuple[str, int]] = Counter()
    places = [total * step // steps for step in range(steps + 1)]
    for begin, end in itertools.pairwise(places):
        answered += await drive(port, make, range(begin, end), connections=connections)
        samples.append(Sample(end, read_rss_bytes(pid)))
        on_sample(samples[-1])
    return samples, answered


def fit_growth(samples: Sequence[Sample]) -> float:
    """Bytes a request by which memory grows, after the method of least squares."""
    count = len(samples)
    mean_x = sum(one.requests for one in samples) / count
    mean_y = sum(one.rss_bytes for one in samples) / count
    spread = sum((one.requests - mean_x) ** 2 for one in samples)
    return sum((one.requests - mean_x) * (one.rss_bytes - mean_y) for one in samples) / spread
