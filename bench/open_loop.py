"""An open loop of requests to a gateway of this machine, with the times of every token.

    .venv/bin/python -m bench.open_loop --url http://127.0.0.1:8001 --model owner/name \\
        --input '{"prompt": "…"}' [--rate 5] [--seconds 30] [--trace FILE] [--no-stream] \\
        [--slo-first-ms 500] [--slo-gap-ms 100] [--slo-end-ms 5000] [--json FILE]

Requests start when they are due, whether or not earlier ones were answered, and every time counts
from the moment a request was due: a driver that falls behind, or a server that makes it wait,
cannot hide it. A trace is a file with one start a line, in seconds. The key comes from
STRONGROOM_API_KEY. It stops by itself: after the last start it waits `--limit-s` at most.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from bench.k6 import require_loopback

# A driver with more open requests than this measures itself.
OPEN_MAX = 2_000
EVENT_BYTES_MAX = 1 << 20
END = "[DONE]"


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request: where it goes, and whether its answer is a stream."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    is_stream: bool


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request has to keep to count: seconds to the first token, between two, to the end."""

    first_s: float
    gap_s: float
    end_s: float


@dataclass(slots=True)
class Outcome:
    """One request; its times are seconds after the first moment of the run.

    Args:
        due_s: When it was to start.
        started_s: When the driver got to it.
        ended_s: When its answer was whole, or was known not to come.
        tokens_s: When each piece of text arrived.
        error: Why it failed; empty for an answer.
        text: The answer of a request that is no stream.
    """

    due_s: float
    started_s: float = math.nan
    ended_s: float = math.nan
    tokens_s: list[float] = field(default_factory=list)
    error: str = ""
    text: str = ""

    @property
    def first_s(self) -> float:
        """From due to the first token; nan without one."""
        return self.tokens_s[0] - self.due_s if self.tokens_s else math.nan

    @property
    def gaps_s(self) -> list[float]:
        """Between each token and the next."""
        return [
            later - sooner for sooner, later in zip(self.tokens_s, self.tokens_s[1:], strict=False)
        ]

    @property
    def whole_s(self) -> float:
        """From due to the end."""
        return self.ended_s - self.due_s


class EventParser:
    """The data of server-sent events, from bytes that may be cut anywhere.

    Lines end with LF, CR or CRLF; an event ends with an empty line; comments and other fields are
    passed over. Source: HTML, "Server-sent events".
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[str] = []
        self._after_cr = False

    def feed(self, piece: bytes) -> Iterator[str]:
        """The events that are whole with this piece.

        Raises:
            ValueError: A line is longer than 1 MiB.
        """
        for byte in piece:
            if self._after_cr and byte == 0x0A:
                self._after_cr = False
                continue
            self._after_cr = byte == 0x0D
            if byte not in (0x0A, 0x0D):
                self._line.append(byte)
                if len(self._line) > EVENT_BYTES_MAX:
                    raise ValueError("an event is longer than 1 MiB")
                continue
            line, self._line = self._line.decode(), bytearray()
            if line:
                self._take(line)
            elif self._data:
                data, self._data = "\n".join(self._data), []
                yield data

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))


def make_poisson_starts(rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds at which independent visitors come, `rate` a second on average."""
    chance, at_s, starts = random.Random(seed), 0.0, []
    while (at_s := at_s + chance.expovariate(rate)) < seconds:
        starts.append(at_s)
    return starts


def read_trace(text: str) -> list[float]:
    """The starts of a trace, in seconds after its first moment.

    Raises:
        ValueError: It is empty, not sorted, negative or not of numbers.
    """
    starts = [float(line) for line in text.split()]
    if not starts or starts[0] < 0 or not all(map(math.isfinite, starts)):
        raise ValueError("a trace needs starts of at least 0 seconds")
    if starts != sorted(starts):
        raise ValueError("the starts of a trace must rise")
    return starts


async def drive(
    call: Call,
    starts: Sequence[float],
    *,
    limit_s: float,
    began_s: float | None = None,
    headers_of: Callable[[int], Mapping[str, str]] = lambda _: {},
) -> list[Outcome]:
    """Send a request at each start; all outcomes, in the order of the starts.

    Args:
        call: What is sent; only to this machine.
        starts: Seconds, rising.
        limit_s: For each request from its due moment; then it has failed.
        began_s: The first moment, by `time.perf_counter`; now, if it is not given.
        headers_of: More headers for the request of this number, from 0.
    """
    require_loopback(call.url)
    limits = httpx.Limits(max_connections=OPEN_MAX, max_keepalive_connections=OPEN_MAX)
    outcomes = [Outcome(due_s) for due_s in starts]
    first_s = time.perf_counter() if began_s is None else began_s

    def now() -> float:
        return time.perf_counter() - first_s

    async with httpx.AsyncClient(timeout=None, limits=limits, trust_env=False) as client:
        tasks = []
        for number, outcome in enumerate(outcomes):
            await asyncio.sleep(max(0.0, outcome.due_s - now()))
            one = replace(call, headers={**call.headers, **headers_of(number)})
            tasks.append(asyncio.create_task(_send(client, one, outcome, limit_s, now)))
        await asyncio.gather(*tasks)
    return outcomes


async def _send(
    client: httpx.AsyncClient,
    call: Call,
    outcome: Outcome,
    limit_s: float,
    now: Callable[[], float],
) -> None:
    outcome.started_s = now()
    try:
        async with asyncio.timeout(max(0.0, outcome.due_s + limit_s - outcome.started_s)):
            outcome.error = await _receive(client, call, outcome, now)
    except TimeoutError:
        outcome.error = "timeout"
    except (httpx.HTTPError, ValueError) as error:
        outcome.error = type(error).__name__
    outcome.ended_s = now()


async def _receive(
    client: httpx.AsyncClient, call: Call, outcome: Outcome, now: Callable[[], float]
) -> str:
    """What was wrong with the answer; nothing if it is whole."""
    parser, is_over = EventParser(), False
    request = client.stream("POST", call.url, headers=call.headers, json=call.body)
    async with request as response:
        if not response.is_success:
            return f"status {response.status_code}"
        if not call.is_stream:
            outcome.text = (await response.aread()).decode()
            return ""
        async for piece in response.aiter_bytes():
            for data in parser.feed(piece):
                if data == END:
                    is_over = True
                elif _has_text(data):
                    outcome.tokens_s.append(now())
    return "" if is_over else "cut off"


def _has_text(data: str) -> bool:
    """Whether an event of a chat completion carries text.

    Raises:
        ValueError: It is no such event, or tells of an error.
    """
    found = json.loads(data)
    if "error" in found:
        raise ValueError(str(found["error"]))
    return any(choice.get("delta", {}).get("content") for choice in found.get("choices", []))


def is_good(outcome: Outcome, objective: Objective) -> bool:
    """Whether a request was answered within all of its objectives."""
    if outcome.error or outcome.whole_s > objective.end_s:
        return False
    if outcome.tokens_s and outcome.first_s > objective.first_s:
        return False
    return all(gap_s <= objective.gap_s for gap_s in outcome.gaps_s)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all do not exceed; nan for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def summarise(outcomes: Sequence[Outcome], objective: Objective) -> dict[str, Any]:
    """The figures of a run: times in milliseconds, rates a second; None where nothing was seen."""
    answered = [one for one in outcomes if not one.error]
    # The window of the rates is from the first moment to the last end, so late answers cost.
    window_s = max((one.ended_s for one in outcomes), default=0.0)
    offered_s = max((one.due_s for one in outcomes), default=0.0)
    good = sum(is_good(one, objective) for one in outcomes)
    errors: dict[str, int] = {}
    for one in outcomes:
        if one.error:
            errors[one.error] = errors.get(one.error, 0) + 1
    times = {
        "first_ms": [one.first_s for one in answered if one.tokens_s],
        "gap_ms": [gap_s for one in answered for gap_s in one.gaps_s],
        "end_ms": [one.whole_s for one in answered],
        "late_start_ms": [one.started_s - one.due_s for one in outcomes],
    }
    return {
        "requests": len(outcomes),
        # Not what was asked for: starts are drawn, and come as many as come.
        "rate_per_s": len(outcomes) / offered_s if offered_s else None,
        "answered": len(answered),
        "errors": errors,
        "within_objectives": good,
        "goodput_per_s": good / window_s if window_s else None,
        **{name: _spread(values) for name, values in times.items()},
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {f"p{share}": percentile(values, share / 100) * 1e3 for share in (50, 95, 99)}


def make_call(url: str, key: str, model: str, given: Mapping[str, Any], *, stream: bool) -> Call:
    """A chat completion that streams, or a prediction that is answered whole."""
    headers = {"Authorization": f"Bearer {key}"}
    base = url.rstrip("/")
    if not stream:
        address = f"{base}/v1/models/{model}/predictions"
        return Call(address, headers, {"input": dict(given)}, is_stream=False)
    rest = dict(given)
    messages = rest.pop("messages", None) or [{"role": "user", "content": rest.pop("prompt")}]
    body = {"model": model, "messages": messages, "stream": True, **rest}
    return Call(f"{base}/openai/v1/chat/completions", headers, body, is_stream=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Drive, print, and write what was asked for; 1 if no request was answered."""
    options = _parse(arguments)
    require_loopback(options.url)
    key = os.environ.get("STRONGROOM_API_KEY", "")
    given = json.loads(options.input)
    call = make_call(options.url, key, options.model, given, stream=options.stream)
    starts = (
        read_trace(options.trace.read_text())
        if options.trace
        else make_poisson_starts(options.rate, options.seconds, options.seed)
    )
    objective = Objective(
        options.slo_first_ms / 1e3, options.slo_gap_ms / 1e3, options.slo_end_ms / 1e3
    )
    outcomes = asyncio.run(drive(call, starts, limit_s=options.limit_s))
    found = summarise(outcomes, objective)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found | {"each": [asdict(one) for one in outcomes]}))
    return 0 if found["answered"] else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.open_loop", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", default="{}")
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second on average")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--no-stream", dest="stream", action="store_false")
    parser.add_argument("--limit-s", type=float, default=60.0)
    parser.add_argument("--slo-first-ms", type=float, default=500.0)
    parser.add_argument("--slo-gap-ms", type=float, default=100.0)
    parser.add_argument("--slo-end-ms", type=float, default=5_000.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if not options.rate > 0 or not options.seconds > 0:
        parser.error("--rate and --seconds must be more than 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
