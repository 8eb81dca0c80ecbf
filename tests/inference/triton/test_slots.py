"""Long runs hold a slot of their server: no two of them go on at once where it has one."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from inference.triton import repository
from inference.triton.control import TritonControl
from inference.triton.server import TritonConfig, TritonServer
from inference.triton.tensors import encode
from marketplace.core.ids import new_id
from strongroom.interface import Interface
from tests.gateway.conftest import TELLER, VECTORS
from tests.gateway.processes import TOY_LANGUAGE
from tests.inference.triton.conftest import make_config

RUN = "word repeat=20 pause=0.05"


class Slots:
    """A server with two models that tell and one that embeds."""

    def __init__(self, folder: Path, slot_count: int) -> None:
        config = make_config(folder)
        ports = (config.http_port, config.grpc_port, config.metrics_port)
        self.config = TritonConfig(folder, *ports, exit_timeout_s=2, slot_count=slot_count)
        self.server = TritonServer(self.config)
        self.server.start()
        self.server.wait_ready()
        self.control = TritonControl(self.config.grpc_url, self.config.secret)
        self.teller, self.vectors = Interface.parse(TELLER), Interface.parse(VECTORS)
        self.tellers = [self._load(self.teller) for _ in range(2)]
        self.embedder = self._load(self.vectors)

    def _load(self, interface: Interface) -> str:
        parameters = repository.Parameters(new_id(), Path("/nowhere/stub.sock"))
        folder = self.config.repository_dir
        name = repository.write_model(folder, interface, parameters, model_source=TOY_LANGUAGE)
        self.control.load(name, timeout_s=60)
        return name

    def tell(self, name: str, on_part: Callable[[dict[str, np.ndarray]], None]) -> None:
        row = {"prompt": RUN, "messages": "", "max_new_tokens": 100}
        done = threading.Event()
        outputs = [one.name for one in self.teller.wire_outputs]
        self.control.stream_until(
            name,
            encode(self.teller, [row]),
            outputs,
            timeout_s=60,
            cancelled=done,
            on_part=on_part,
        )
        done.set()

    def embed(self) -> float:
        """How long it took, in seconds."""
        outputs = [one.name for one in self.vectors.wire_outputs]
        began_s = time.monotonic()
        self.control.infer(
            self.embedder, encode(self.vectors, [{"text": "a"}]), outputs, timeout_s=60
        )
        return time.monotonic() - began_s

    def stop(self) -> None:
        self.control.close()
        self.server.stop()


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[[int], Slots]]:
    started: list[Slots] = []

    def make(slot_count: int) -> Slots:
        found = Slots(tmp_path / str(slot_count), slot_count)
        started.append(found)
        return found

    yield make
    for one in started:
        one.stop()


def run_both(slots: Slots) -> list[tuple[float, float]]:
    """From its first to its last part, of a run of each teller that begin together."""
    times: list[list[float]] = [[], []]

    def run(number: int) -> None:
        slots.tell(slots.tellers[number], lambda _: times[number].append(time.monotonic()))

    threads = [threading.Thread(target=run, args=[number]) for number in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    # Each piece, and what comes beside at the end.
    assert [len(one) for one in times] == [21, 21]
    return sorted((one[0], one[-1]) for one in times)


def test_one_slot_runs_one_at_a_time_and_does_not_hold_up_the_small_ones(start):
    slots = start(1)

    first, second = run_both(slots)
    assert first[1] <= second[0]

    # While it is held, what is small goes on.
    parts: list[dict[str, np.ndarray]] = []
    thread = threading.Thread(target=slots.tell, args=[slots.tellers[0], parts.append])
    thread.start()
    while not parts:
        time.sleep(0.01)
    took_s = [slots.embed() for _ in range(5)]
    assert thread.is_alive(), "the long run was over before the small ones had run"
    thread.join(120)
    assert max(took_s) < 5


@pytest.mark.parametrize("slot_count", [0, 2])
def test_control_more_slots_or_none_run_together(start, slot_count):
    first, second = run_both(start(slot_count))

    assert second[0] < first[1]


def test_a_run_that_is_given_up_frees_its_slot(start):
    slots = start(1)
    cancelled = threading.Event()
    outputs = [one.name for one in slots.teller.wire_outputs]
    row = {"prompt": "word repeat=600 pause=0.1", "messages": "", "max_new_tokens": 1000}

    was_whole = slots.control.stream_until(
        slots.tellers[0],
        encode(slots.teller, [row]),
        outputs,
        timeout_s=60,
        cancelled=cancelled,
        on_part=lambda _: cancelled.set(),
    )

    assert not was_whole
    began_s = time.monotonic()
    slots.tell(slots.tellers[1], lambda _: None)
    assert time.monotonic() - began_s < 30


def test_small_models_ask_for_no_slot():
    parameters = repository.Parameters(new_id(), Path("/s"))
    name = repository.model_name(parameters.replica_id)

    def find(interface: dict) -> list[str]:
        text = repository.render_config(name, Interface.parse(interface), parameters)
        return re.findall(repository.SLOT_RESOURCE, text)

    assert find(VECTORS) == []
    assert find(TELLER) == [repository.SLOT_RESOURCE]
