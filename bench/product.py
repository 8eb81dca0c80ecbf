"""The whole product in a home of its own, with models that cost nothing to run."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from onnx import GraphProto, TensorProto, helper, numpy_helper

from strongroom.interface import Interface
from strongroom.listing import LISTING_FILE, Listing, parse_price
from tests import stack
from tests.chaos.children import list_triton_names, wait_for
from tests.e2e.terminal import Creator, manage
from tests.stack import Stack

TINY, WIDE = 16, 262_144
PRICE_DOLLARS = "0.000001"
# What `strongroom init` proposes for graphs that take several rows.
ROWS_MAX = 32
SERVED_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Sold:
    """A model on sale.

    Args:
        name: `owner/name`.
        triton_name: Of its one replica.
        width: Elements in a row of its input.
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
    return _publish(product, creator, name, width)


def sell_echo(product: Stack, folder: Path, name: str) -> Sold:
    """The same with a model that writes text: what it was asked, at once."""
    (folder / name).mkdir()
    (folder / name / "model.onnx").write_bytes(_echo())
    # `strongroom init` drafts no texts of a graph, but a listing may well name them.
    listing = Listing(
        owner="demo",
        name=name,
        title=name,
        task="text-generation",
        licence="MIT",
        price_nanos=parse_price(PRICE_DOLLARS),
        interface=Interface.parse(
            {
                "inputs": [{"name": "prompt", "kind": "text"}],
                "outputs": [{"name": "text", "kind": "text"}],
                "batch": {"max_size": ROWS_MAX},
            }
        ),
    )
    (folder / name / LISTING_FILE).write_text(listing.to_toml())
    return _publish(product, Creator(product, folder), name, width=1)


def _publish(product: Stack, creator: Creator, name: str, width: int) -> Sold:
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
    return _serialise(
        helper.make_graph(
            [helper.make_node("Mul", ["x", "minus"], ["y"])],
            "negate",
            [value("x", TensorProto.FLOAT, ["batch", width])],
            [value("y", TensorProto.FLOAT, ["batch", width])],
            [numpy_helper.from_array(np.array([-1], np.float32), "minus")],
        )
    )


def _echo() -> bytes:
    value = helper.make_tensor_value_info
    return _serialise(
        helper.make_graph(
            [helper.make_node("Identity", ["prompt"], ["text"])],
            "echo",
            [value("prompt", TensorProto.STRING, ["batch", 1])],
            [value("text", TensorProto.STRING, ["batch", 1])],
        )
    )


def _serialise(graph: GraphProto) -> bytes:
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()
