"""The whole product in a home of its own, with models that cost nothing to run."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from embedded import ports
from tests import stack
from tests.chaos.children import list_triton_names, wait_for
from tests.e2e.terminal import Creator, manage
from tests.stack import Stack

TINY, WIDE = 16, 262_144
PRICE_DOLLARS = "0.000001"
SERVED_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Sold:
    """A model on sale.

    Args:
        name: `owner/name`.
        triton_name: Of its one replica.
        width: Numbers in a row of x.
    """

    name: str
    triton_name: str
    width: int


@contextlib.contextmanager
def run(folder: Path) -> Iterator[Stack]:
    """Start the product, and stop it at the end."""
    running = stack.start(folder)
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(stack.STOP_TIMEOUT_S)


def sell(product: Stack, folder: Path, name: str, width: int) -> Sold:
    """Push y = -x, approve it, and wait until the gateway serves it."""
    (folder / name).mkdir()
    (folder / name / "model.onnx").write_bytes(_negate(width))
    creator = Creator(product, folder)
    creator.run(
        "init", name, "--name", name, "--title", name, "--price", PRICE_DOLLARS,
        "--task", "regression", "--licence", "MIT",
    )  # fmt: skip
    pushed = json.loads(creator.run("push", name, "--wait", "--json"))
    admin = product.demo["admin"]["email"]
    manage(product, "review_version", pushed["id"], "--approve", "--reason", "x", "--email", admin)
    model = f"demo/{name}"
    url = f"{product.demo['gateway_url']}/v2/models/{model}/ready"
    key = product.demo["consumer"]["api_key"]
    headers = {"Authorization": f"Bearer {key}"}
    wait_for(
        lambda: httpx.get(url, headers=headers).status_code == 200, name, within_s=SERVED_WITHIN_S
    )
    [triton_name] = list_triton_names(product, model)
    return Sold(model, triton_name, width)


def _negate(width: int) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "minus"], ["y"])],
        "negate",
        [value("x", TensorProto.FLOAT, ["batch", width])],
        [value("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(np.array([-1], np.float32), "minus")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


@contextlib.contextmanager
def serve(
    *command: str, url: str, env: dict[str, str], python: str = sys.executable
) -> Iterator[int]:
    """Run another server beside the product until the block ends; yields its pid."""
    process = subprocess.Popen([python, "-m", *command], env=env)
    try:
        deadline = time.monotonic() + 60
        while not ports.is_listening(int(url.rpartition(":")[2])):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not come up")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)
