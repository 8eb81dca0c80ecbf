"""The gateway with everything on, against the bare Triton behind it, a DRF view and BentoML.

    .venv/bin/python -m bench.gateway [--duration 5] [--rounds 3] [--json FILE]

Starts the product in a home of its own, sells two models that cost nothing to run, and sends
the same requests to each server in turn, on the same cores, in one run. What counts are the
ratios: absolute figures are the machine's. Needs wrk. Stops by itself. BentoML is installed
once, into an environment of its own below var/bench.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench import compare, product, servers
from bench.compare import FLOOR
from bench.load import Request, Result
from bench.product import TINY, WIDE, Sold
from bench.servers import Server
from embedded.environment import ROOT
from inference.gateway.config import SERVER_OPTIONS
from tests.stack import Stack

CONNECTIONS = (1, 8, 64, 256)
# A wide request is 2 MiB of JSON: more connections would measure this machine's memory.
WIDE_CONNECTIONS = (1, 8)
DRF = "DRF view"
BENTOML = "BentoML"

MakeBody = Callable[[Sold], tuple[bytes, dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Row:
    """A measured server among others that got the same request."""

    request: str
    connections: int
    server: str
    result: Result
    throughput_ratio: float
    added_p50_ms: float


def main() -> int:
    """Measure and print; 1 if a measurement failed."""
    return compare.run("bench.gateway", __doc__, _measure_all, _draw_table)


def _measure_all(options: argparse.Namespace, folder: Path) -> list[Row]:
    rows: list[Row] = []
    with ExitStack() as stack:
        running = stack.enter_context(product.run(folder))
        tiny = product.sell(running, folder, "tiny", TINY)
        wide = product.sell(running, folder, "wide", WIDE)
        drf_url, drf_pid = _serve_drf(stack, running, tiny)
        bento_url, bento_pid = _serve_bentoml(stack)
        two_url, two_pid = _serve_two_gateways(stack, running)
        extra = [
            Server(DRF, _oip_request(drf_url, tiny, _json_body), [drf_pid]),
            Server(BENTOML, _bentoml_request(bento_url, tiny), [bento_pid]),
            Server(
                "gateway /v2, 2 processes",
                _gateway_v2(running, tiny, two_url, _json_body),
                [two_pid, running.pid_of("postgres")],
            ),
        ]
        cases = [
            ("tiny, JSON", CONNECTIONS, [*_list_servers(running, tiny, _json_body), *extra]),
            ("tiny, binary", CONNECTIONS, _list_servers(running, tiny, _binary_body)),
            ("1 MiB, JSON", WIDE_CONNECTIONS, _list_servers(running, wide, _json_body)),
            ("1 MiB, binary", WIDE_CONNECTIONS, _list_servers(running, wide, _binary_body)),
        ]
        for name, steps, asked in cases:
            for connections in steps:
                found = compare.measure_in_turn(name, asked, connections, options, folder)
                rows += _make_rows(name, connections, found)
    return rows


def _list_servers(running: Stack, sold: Sold, make_body: MakeBody) -> list[Server]:
    """The floor, and the gateway by each protocol that carries such a body."""
    triton = running.demo["nodes"][0]["triton_http"]
    own = [running.pid_of("gateway"), running.pid_of("postgres")]
    gateway_url = running.demo["gateway_url"]
    floor_url = f"{triton}/v2/models/{sold.triton_name}/infer"
    asked = [
        Server(FLOOR, _oip_request(floor_url, sold, make_body), [running.pid_of("node")]),
        Server("gateway /v2", _gateway_v2(running, sold, gateway_url, make_body), own),
    ]
    if make_body is _json_body:
        headers = {"Content-Type": "application/json"} | _authorization(running)
        body = json.dumps({"input": {"x": _numbers(sold)}}).encode()
        url = f"{gateway_url}/v1/models/{sold.name}/predictions"
        asked.append(Server("gateway /v1", Request(url, headers, body), own))
    return asked


def _gateway_v2(running: Stack, sold: Sold, url: str, make_body: MakeBody) -> Request:
    request = _oip_request(f"{url}/v2/models/{sold.name}/infer", sold, make_body)
    return replace(request, headers={**request.headers, **_authorization(running)})


def _oip_request(url: str, sold: Sold, make_body: MakeBody) -> Request:
    body, headers = make_body(sold)
    return Request(url, headers, body)


def _authorization(running: Stack) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.demo['consumer']['api_key']}"}


def _numbers(sold: Sold) -> list[float]:
    return [(index % 97) / 10 for index in range(sold.width)]


def _json_body(sold: Sold) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, sold.width], "data": _numbers(sold)}
    return json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"}


def _binary_body(sold: Sold) -> tuple[bytes, dict[str, str]]:
    data = np.array(_numbers(sold), np.float32).tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, sold.width]}
    head = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}],
        "parameters": {"binary_data_output": True},
    }
    document = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(document))}
    return document + data, {"Content-Type": "application/octet-stream"} | headers


def _serve_drf(stack: ExitStack, running: Stack, sold: Sold) -> tuple[str, int]:
    triton = running.demo["nodes"][0]["triton_http"]
    env = os.environ | {
        "TRITON_INFER_URL": f"{triton}/v2/models/{sold.triton_name}/infer",
        "PYTHONPATH": str(ROOT),
    }
    return _serve(stack, "wsgi", "bench.drf_view:app", env, "--blocking-threads", "16")


def _bentoml_request(url: str, sold: Sold) -> Request:
    body = json.dumps({"x": [_numbers(sold)]}).encode()
    return Request(f"{url}/predict", {"Content-Type": "application/json"}, body)


def _serve_bentoml(stack: ExitStack) -> tuple[str, int]:
    """Serve `bench.bentoml_service`."""
    python = servers.install("bentoml")
    url, port = servers.choose_address()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(python.parents[1] / "home")}
    command = ["bentoml", "serve", "bentoml_service:Negate", "--host", "127.0.0.1"]
    pid = stack.enter_context(
        servers.serve(
            *(*command, "--port", port, "--working-dir", str(ROOT / "bench")),
            url=url,
            env=env,
            python=str(python),
        )
    )
    return url, pid


def _serve_two_gateways(stack: ExitStack, running: Stack) -> tuple[str, int]:
    environ = Path(f"/proc/{running.pid_of('gateway')}/environ").read_text().split("\0")
    env = dict(pair.split("=", 1) for pair in environ if pair)
    # Two processes cannot listen at one address for gRPC, and nobody calls them there.
    env.pop("STRONGROOM_GATEWAY_GRPC_LISTEN", None)
    options = ("--http", "1", "--no-ws", "--loop", "uvloop", "--workers", "2", *SERVER_OPTIONS)
    return _serve(stack, "rsgi", "inference.gateway.app:app", env, *options)


def _serve(
    stack: ExitStack, interface: str, app: str, env: dict[str, str], *options: str
) -> tuple[str, int]:
    url, port = servers.choose_address()
    command = ["granian", "--interface", interface, "--host", "127.0.0.1", "--port", port]
    pid = stack.enter_context(servers.serve(*command, *options, app, url=url, env=env))
    return url, pid


def _make_rows(name: str, connections: int, found: dict[str, Result]) -> Iterator[Row]:
    floor = found[FLOOR]
    for server, result in found.items():
        ratio = result.requests_per_s / floor.requests_per_s
        yield Row(name, connections, server, result, ratio, result.p50_ms - floor.p50_ms)


def _draw_table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| request | connections | server | /s | of Triton | p50 ms | added | p99 ms | CPU µs |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        one = row.result
        yield (
            f"| {row.request} | {row.connections} | {row.server} | {one.requests_per_s:.0f}"
            f" | {row.throughput_ratio:.2f} | {one.p50_ms:.2f} | {row.added_p50_ms:+.2f}"
            f" | {one.p99_ms:.2f} | {one.cpu_us:.0f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
