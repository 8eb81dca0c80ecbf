"""A chat completion by the gateway with everything on, against LiteLLM's proxy and the bare Triton.

    .venv/bin/python -m bench.chat [--duration 5] [--rounds 3] [--json FILE]

Starts the product in a home of its own, sells a model that answers at once with what it was
asked, and sends the same question to each server in turn, on the same cores, in one run. What
counts are the ratios: absolute figures are the machine's. Needs wrk. Stops by itself. LiteLLM is
installed once, into an environment of its own below var/bench.

The comparison favours LiteLLM. Its answer is a `mock_response` of its configuration: it calls
nothing, has no database, and books nothing. Ours runs the model on Triton, holds and books the
price in Postgres, and counts against the limits of the key. Both check a key; each has one worker.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench import compare, product, servers
from bench.compare import FLOOR
from bench.load import LoadError, Request, Result
from bench.product import Sold
from bench.servers import Server
from tests.stack import Stack

CONNECTIONS = (1, 64)
TEXT = "Say this again, and nothing else."
GATEWAY = "gateway /openai/v1"
LITELLM = "LiteLLM's proxy"
_LITELLM_KEY = "sk-bench"
# One that it knows: a name of its own would cost it an exception at each request.
_LITELLM_MODEL = "gpt-4o"
_JSON = {"Content-Type": "application/json"}
_ANSWERED_WITHIN_S = 30.0

ReadText = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Row:
    """A measured server among others that got the same question.

    Args:
        connections: Open at the same time.
        server: Its name.
        result: What was measured.
        throughput_ratio: Its requests per second, of LiteLLM's.
        p50_ratio: Its median, of LiteLLM's.
    """

    connections: int
    server: str
    result: Result
    throughput_ratio: float
    p50_ratio: float


def main() -> int:
    """Measure and print; 1 if a measurement failed."""
    return compare.run("bench.chat", __doc__, _measure_all, _draw_table)


def _measure_all(options: argparse.Namespace, folder: Path) -> list[Row]:
    rows: list[Row] = []
    with ExitStack() as stack:
        running = stack.enter_context(product.run(folder))
        sold = product.sell_echo(running, folder, "echo")
        asked = [
            _serve_litellm(stack, folder),
            _find_gateway(running, sold),
            _find_triton(running, sold),
        ]
        for connections in CONNECTIONS:
            found = compare.measure_in_turn("chat", asked, connections, options, folder)
            rows += _make_rows(connections, found)
    return rows


def _serve_litellm(stack: ExitStack, folder: Path) -> Server:
    python = servers.install("litellm")
    url, port = servers.choose_address()
    # JSON is YAML too.
    config = folder / "litellm.yaml"
    config.write_text(json.dumps(_configure_litellm()))
    command = ["litellm.proxy.proxy_cli", "--config", str(config), "--num_workers", "1"]
    pid = stack.enter_context(
        servers.serve(
            *(*command, "--host", "127.0.0.1", "--port", port),
            url=url,
            env=_make_litellm_environment(folder),
            python=str(python),
        )
    )
    request = _ask_chat(f"{url}/v1/chat/completions", _LITELLM_MODEL, _LITELLM_KEY)
    _check_answer(request, _read_chat)
    _check_key(request)
    return Server(LITELLM, request, [pid])


def _configure_litellm() -> dict[str, Any]:
    stub = {"model": f"openai/{_LITELLM_MODEL}", "api_key": "none", "mock_response": TEXT}
    return {
        "model_list": [{"model_name": _LITELLM_MODEL, "litellm_params": stub}],
        "litellm_settings": {"num_retries": 0, "callbacks": []},
        "general_settings": {"master_key": _LITELLM_KEY},
    }


def _make_litellm_environment(folder: Path) -> dict[str, str]:
    """Nothing of the caller's: a database or a key of its own would change what is measured."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        # In production it reads no .env of the folder that it stands in.
        "LITELLM_MODE": "PRODUCTION",
        # Neither its own lines for each request nor those of its web server.
        "LITELLM_LOG": "ERROR",
        # It fetches nothing.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def _find_gateway(running: Stack, sold: Sold) -> Server:
    url = f"{running.demo['gateway_url']}/openai/v1/chat/completions"
    request = _ask_chat(url, sold.name, running.demo["consumer"]["api_key"])
    _check_answer(request, _read_chat)
    _check_key(request)
    return Server(GATEWAY, request, [running.pid_of("gateway"), running.pid_of("postgres")])


def _find_triton(running: Stack, sold: Sold) -> Server:
    triton = running.demo["nodes"][0]["triton_http"]
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1, sold.width], "data": [TEXT]}
    body = json.dumps({"inputs": [tensor]}).encode()
    request = Request(f"{triton}/v2/models/{sold.triton_name}/infer", _JSON, body)
    _check_answer(request, _read_tensor)
    return Server(FLOOR, request, [running.pid_of("node")])


def _ask_chat(url: str, model: str, key: str) -> Request:
    body = {"model": model, "messages": [{"role": "user", "content": TEXT}]}
    headers = {**_JSON, "Authorization": f"Bearer {key}"}
    return Request(url, headers, json.dumps(body).encode())


def _check_answer(request: Request, read_text: ReadText) -> None:
    """An error page would be fast."""
    response = _send(request)
    if response.status_code != 200 or read_text(response.json()) != TEXT:
        found = f"{response.status_code} {response.text[:500]}"
        raise LoadError(f"{request.url} gives another answer: {found}")


def _check_key(request: Request) -> None:
    """A server that asks nobody who they are would be fast, too."""
    headers = {**_JSON, "Authorization": "Bearer sk-somebody"}
    status = _send(Request(request.url, headers, request.body)).status_code
    # LiteLLM without a database answers an unknown key by 400.
    if status not in (400, 401):
        raise LoadError(f"{request.url} answers {status} to an unknown key")


def _send(request: Request) -> httpx.Response:
    return httpx.post(
        request.url,
        headers=dict(request.headers),
        content=request.body,
        timeout=_ANSWERED_WITHIN_S,
        trust_env=False,
    )


def _read_chat(document: Any) -> str:
    return document["choices"][0]["message"]["content"]


def _read_tensor(document: Any) -> str:
    return document["outputs"][0]["data"][0]


def _make_rows(connections: int, found: dict[str, Result]) -> Iterator[Row]:
    other = found[LITELLM]
    for server, result in found.items():
        throughput_ratio = result.requests_per_s / other.requests_per_s
        yield Row(connections, server, result, throughput_ratio, result.p50_ms / other.p50_ms)


def _draw_table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| connections | server | /s | of LiteLLM | p50 ms | of LiteLLM | p99 ms | CPU µs |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        one = row.result
        yield (
            f"| {row.connections} | {row.server} | {one.requests_per_s:.0f}"
            f" | {row.throughput_ratio:.1f} | {one.p50_ms:.2f} | {row.p50_ratio:.3f}"
            f" | {one.p99_ms:.2f} | {one.cpu_us:.0f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
