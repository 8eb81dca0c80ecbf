from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from inference.triton import repository, tensors
from inference.triton.control import ModelState, TritonControl, clean_reason
from inference.triton.errors import (
    ModelExecutionError,
    ModelLoadError,
    ModelNotReadyError,
    ModelUnloadError,
    TensorError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from tests.inference.triton.conftest import INTERFACE, write_toy

OUTPUTS = [one.name for one in INTERFACE.wire_outputs]


def rows(*texts):
    return [{"x": [1.0, 3.0, 2.0], "text": text} for text in texts]


def infer(control, name, *texts, timeout_s=10.0):
    return control.infer(
        name, tensors.encode(INTERFACE, rows(*texts)), OUTPUTS, timeout_s=timeout_s
    )


def test_rows_go_in_and_answers_come_out(control, toy):
    answers = tensors.decode(INTERFACE, infer(control, toy, "Grüße", ""))

    label = {"label": "b", "score": 6.0}
    assert answers == [
        {"y": [2.0, 6.0, 4.0], "echo": "Grüße", "best": label},
        {"y": [2.0, 6.0, 4.0], "echo": "", "best": label},
    ]


def test_server_and_model_are_ready(control, toy):
    assert control.is_server_ready()
    assert control.server_version() == "2.51.0"
    assert control.is_model_ready(toy)
    assert control.find_model(toy) == ModelState(toy, "READY", "")


def test_a_loader_that_refuses_gives_its_reason_without_paths(server, control):
    name = write_toy(server.config, purpose="scan")

    with pytest.raises(ModelLoadError) as caught:
        control.load(name, timeout_s=30)

    assert caught.value.detail == "RuntimeError: reason_code_of_the_loader"
    found = control.find_model(name)
    assert found == ModelState(name, "UNAVAILABLE", "RuntimeError: reason_code_of_the_loader")


def test_a_model_without_a_folder_does_not_load(control):
    with pytest.raises(ModelLoadError):
        control.load("r" + "0" * 32, timeout_s=10)


def test_unload_returns_when_the_model_is_gone(server, control):
    name = write_toy(server.config)
    before = set(server.list_stubs())
    control.load(name, timeout_s=30)
    (stub,) = set(server.list_stubs()) - before

    control.unload(name, timeout_s=20)

    assert not control.is_model_ready(name)
    assert stub not in server.list_stubs()
    with pytest.raises(ModelNotReadyError):
        infer(control, name, "x")
    # Once more changes nothing.
    control.unload(name, timeout_s=5)
    repository.remove_model(server.config.repository_dir, name)
    control.load(write_toy(server.config), timeout_s=30)


def test_unload_waits_no_longer_than_it_may(server, control, monkeypatch):
    name = write_toy(server.config)
    control.load(name, timeout_s=30)
    # The index as it is while requests of the model still run.
    stays = ModelState(name, "UNLOADING", "")
    monkeypatch.setattr(TritonControl, "find_model", lambda *_: stays)

    with pytest.raises(ModelUnloadError):
        control.unload(name, timeout_s=0.2)


def test_a_model_that_fails_says_why(control, toy):
    with pytest.raises(ModelExecutionError) as caught:
        infer(control, toy, "fail")

    assert caught.value.detail == "model_failed: It went wrong."
    assert infer(control, toy, "fine")["echo"].tolist() == [[b"fine"]]


def test_wrong_tensors_are_refused(control, toy):
    good = tensors.encode(INTERFACE, rows("x"))
    short = replace(good[0], shape=(1, 2), data=np.zeros((1, 2), np.float32))

    with pytest.raises(TensorError):
        control.infer(toy, [short, good[1]], OUTPUTS, timeout_s=10)
    with pytest.raises(TensorError):
        control.infer(toy, good[:1], OUTPUTS, timeout_s=10)


def test_a_call_ends_with_its_time(control, toy):
    begin = time.monotonic()

    with pytest.raises(TritonDeadlineError):
        infer(control, toy, "sleep", timeout_s=0.3)

    assert time.monotonic() - begin < 1.0


def test_an_unknown_model_is_not_ready(control):
    with pytest.raises(ModelNotReadyError):
        infer(control, "r" + "1" * 32, "x")
    assert not control.is_model_ready("r" + "1" * 32)


def test_a_wrong_secret_loads_nothing(server, toy):
    with TritonControl(server.config.grpc_url, "wrong") as stranger:
        with pytest.raises(TritonUnavailableError, match="restricted"):
            stranger.list_models()
        with pytest.raises(TritonUnavailableError, match="restricted"):
            stranger.load(toy, timeout_s=5)
        with pytest.raises(TritonUnavailableError, match="restricted"):
            stranger.unload(toy, timeout_s=5)


def test_a_server_that_is_not_there_is_unavailable():
    with TritonControl("127.0.0.1:9", "x") as nobody:
        assert not nobody.is_server_ready()
        assert not nobody.is_model_ready("r" + "0" * 32)
        with pytest.raises(TritonUnavailableError):
            nobody.server_version()
        with pytest.raises(TritonUnavailableError):
            nobody.load("r" + "0" * 32, timeout_s=1)
        with pytest.raises(TritonUnavailableError):
            infer(nobody, "r" + "0" * 32, "x")


def test_a_loader_that_dies_ends_the_load(server, control, tmp_path):
    slow, begun = tmp_path / "model.py", tmp_path / "begun"
    slow.write_text(
        "import pathlib, time\nclass TritonPythonModel:\n"
        f"    def initialize(self, args):\n        pathlib.Path({str(begun)!r}).touch()\n"
        "        time.sleep(60)\n"
    )
    parameters = repository.Parameters(repository.replica_id_of("r" + "2" * 32), tmp_path / "s")
    name = repository.write_model(
        server.config.repository_dir, INTERFACE, parameters, model_source=slow
    )
    before = set(server.list_stubs())

    def kill_it():
        # Triton 2.51 does not notice that a process ended before they have spoken.
        while not begun.exists():
            time.sleep(0.05)
        for pid in set(server.list_stubs()) - before:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_it)
    killer.start()
    with pytest.raises(ModelLoadError, match="is not healthy"):
        control.load(name, timeout_s=30)
    killer.join()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("load failed for model 'r1': version 1 is at UNAVAILABLE state: Internal: no;\n", "no"),
        ("[request id: <id_unknown>] batch-size", "batch-size"),
        ("RuntimeError: x\n\nAt:\n  /srv/model.py(9): initialize\n", "RuntimeError: x"),
        ("a\nb", "a b"),
        ("x" * 1000, "x" * 500),
    ],
)
def test_reasons_are_freed_of_their_wrapping(text, reason):
    assert clean_reason(text) == reason
