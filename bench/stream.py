"""What the gateway adds to a stream: time to the first token, and between two tokens.

The same prompt to the same model, in turns through the gateway and directly from Triton's gRPC
stream, one at a time. The whole product is started for it in a home of its own.

Run: .venv/bin/python -m bench.stream [--rounds 20] [--tokens 24]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median

import httpx

from bench import product
from embedded.demo.smollm2 import QUESTION
from inference.gateway.triton_stream import TritonStreams
from inference.triton import tensors
from strongroom.interface import Interface
from tests.chaos import database
from tests.chaos.children import list_triton_names
from tests.stack import Stack

MODEL = "demo/smollm2"
DIRECT, GATEWAY = "Triton, gRPC stream", "gateway, /openai/v1"
_LIMIT_S = 60.0
_INTERFACE = """
    SELECT v.interface FROM marketplace_modelversion v
    JOIN marketplace_aimodel m ON m.id = v.model_id
    JOIN marketplace_account a ON a.id = m.account_id WHERE a.slug || '/' || m.name = %s"""

Arrivals = Callable[[], AsyncIterator[float]]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.stream", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=20, help="streams of each way")
    parser.add_argument("--tokens", type=int, default=24, help="the most tokens of a stream")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with product.run(folder) as running:
            load = os.getloadavg()[0]
            lines = asyncio.run(_measure(running, options.rounds, options.tokens))
    print(f"{os.cpu_count()} cores, load {load:.1f} before the first stream", *lines, sep="\n")
    return 0


async def _measure(running: Stack, rounds: int, tokens: int) -> list[str]:
    streams = TritonStreams()
    key = running.demo["consumer"]["api_key"]
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(timeout=_LIMIT_S, headers=headers) as client:
        ways: dict[str, Arrivals] = {
            DIRECT: lambda: _stream_directly(running, streams, tokens),
            GATEWAY: lambda: _stream_through(running, client, tokens),
        }
        found: dict[str, list[list[float]]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, way in ways.items():
                arrived_s = [moment async for moment in way()]
                # The first of each opens connections.
                if turn:
                    found[name].append(arrived_s)
    await streams.close()
    return _render(found)


async def _stream_directly(
    running: Stack, streams: TritonStreams, tokens: int
) -> AsyncIterator[float]:
    """Seconds from the request to each piece."""
    [row] = database.fetch(running.home, _INTERFACE, [MODEL])
    interface = Interface.parse(row[0])
    [name] = list_triton_names(running, MODEL)
    given = interface.check_input({"prompt": QUESTION, "max_new_tokens": tokens})
    outputs = [one.name for one in interface.wire_outputs]
    address = running.demo["nodes"][0]["triton_grpc"]
    began_s = time.perf_counter()
    parts = streams.stream(
        address,
        name,
        tensors.encode(interface, [given]),
        outputs,
        deadline_s=time.monotonic() + _LIMIT_S,
    )
    async for part in parts:
        if part["text"][0, 0]:
            yield time.perf_counter() - began_s


async def _stream_through(
    running: Stack, client: httpx.AsyncClient, tokens: int
) -> AsyncIterator[float]:
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": MODEL, "messages": messages, "max_tokens": tokens, "stream": True}
    url = f"{running.demo['gateway_url']}/openai/v1/chat/completions"
    began_s = time.perf_counter()
    async with client.stream("POST", url, json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                [choice] = json.loads(line.removeprefix("data: "))["choices"]
                if choice["delta"].get("content"):
                    yield time.perf_counter() - began_s


def _render(found: dict[str, list[list[float]]]) -> list[str]:
    firsts = {name: median(one[0] for one in many) * 1e3 for name, many in found.items()}
    gaps = {
        name: median((one[-1] - one[0]) / (len(one) - 1) for one in many) * 1e3
        for name, many in found.items()
    }
    lines = ["| way | TTFT ms | added | ratio | ITL ms | added | ratio |", "|---|" + "---|" * 6]
    for name in found:
        added = (firsts[name] - firsts[DIRECT], gaps[name] - gaps[DIRECT])
        ratios = (firsts[name] / firsts[DIRECT], gaps[name] / gaps[DIRECT])
        lines.append(
            f"| {name} | {firsts[name]:.2f} | {added[0]:+.2f} | {ratios[0]:.2f}"
            f" | {gaps[name]:.3f} | {added[1]:+.3f} | {ratios[1]:.2f} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
