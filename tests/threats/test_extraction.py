"""A consumer asks a model again and again, to train a copy of it on the answers.

Each answer tells something; what can be done is to let it tell less, and to have it cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from inference.core.copying import assess
from inference.core.query_embedding import read_embeddings
from inference.services.abuse import ALERT_SCORE
from inference.triton.control import TritonControl
from inference.triton.repository import model_name
from inference.triton.tensors import Tensor
from marketplace.models import AIModel
from strongroom.sealing.policy import OutputRule, Policy
from tests.gateway.conftest import (  # noqa: F401 - the fixtures
    PRICE_NANOS,
    REPLICA_IDS,
    Shop,
    X,
    client,
    gateway,
    interface,
    predict,
    problem_of,
    shop,
    triton,
)
from tests.gateway.processes import ToyTriton, eventually
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE, WEIGHTS, linear
from tests.inference.core import traffic
from tests.inference.serving.sealed import seal
from tests.inference.serving.triton import Triton

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_output_that_the_creator_hides_never_leaves(
    client: httpx.Client,  # noqa: F811
    triton: ToyTriton,  # noqa: F811
) -> None:
    answer = predict(client)
    assert answer.status_code == 201
    assert "secret" not in answer.text
    tensor = {"name": "x", "shape": [1, len(X)], "datatype": "FP32", "data": X}
    body = {"inputs": [tensor], "outputs": [{"name": "secret"}]}
    refused = client.post("/v2/models/maker/echo/infer", json=body)
    assert refused.status_code == 422, refused.text
    assert "no output" in refused.text
    # The control: the model gives it to whoever asks the inference server itself.
    assert ask_triton(triton, "secret").size == 1


def ask_triton(triton: ToyTriton, output: str) -> Any:  # noqa: F811
    inputs = [
        Tensor("x", "FP32", (1, len(X)), np.array([X], np.float32)),
        Tensor("note", "BYTES", (1, 1), np.array([[b""]], object)),
        Tensor("mode", "BYTES", (1, 1), np.array([[b"ok"]], object)),
        Tensor("wait_s", "FP32", (1, 1), np.zeros((1, 1), np.float32)),
    ]
    with TritonControl(triton.config.grpc_url, triton.config.secret) as control:
        name = model_name(REPLICA_IDS[0])
        return control.infer(name, inputs, [output], timeout_s=10)[output]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Triton]:
    """A server for sealed models, which are loaded as on a node."""
    server = Triton(tmp_path / "serving")
    yield server
    server.stop()


def serve(serving: Triton, folder: Path, rule: OutputRule | None) -> str:
    sealed = seal(
        folder, {"model.onnx": ("onnx", linear())}, runtime="onnx", interface=LINEAR_INTERFACE
    )
    rules = {} if rule is None else {"y": rule}
    name, peer = serving.prepare(sealed.with_manifest(policy=Policy(output=rules)))
    with peer:
        serving.load(name)
    assert peer.error is None
    return name


def steal_weights(serving: Triton, name: str) -> np.ndarray:
    """Ask for each input by itself: the answers of a linear model are its weights."""
    questions = np.eye(len(WEIGHTS), dtype=np.float32)
    # So many at once as the model takes.
    size = LINEAR_INTERFACE["batch"]["max_size"]
    batches = [questions[begin : begin + size] for begin in range(0, len(questions), size)]
    return np.concatenate([serving.infer(name, x=one)["y"] for one in batches])


def test_what_the_creator_lets_out_does_not_give_the_weights(
    serving: Triton, tmp_path: Path
) -> None:
    limited = serve(serving, tmp_path, OutputRule("probabilities", top_k=1, decimals=2))
    # The control: all that the model computes, which is all that there is.
    open_name = serve(serving, tmp_path, None)

    assert np.allclose(steal_weights(serving, open_name), WEIGHTS, atol=1e-6)
    stolen = steal_weights(serving, limited)
    assert not np.allclose(stolen, WEIGHTS, atol=0.1)
    # One number of two digits for each question.
    assert ((stolen != 0).sum(axis=1) == 1).all()
    assert np.allclose(stolen * 100, np.round(stolen * 100), atol=1e-4)


def test_different_inputs_are_counted_and_have_an_end(
    shop: Shop,  # noqa: F811
    client: httpx.Client,  # noqa: F811
) -> None:
    def probe(value: int) -> httpx.Response:
        return predict(client, x=[value, 0, 0, 0])

    AIModel.objects.filter(pk=shop.model.pk).update(queries_per_day_max=3)
    answers = [probe(value) for value in range(4)]

    assert [one.status_code for one in answers[:2]] == [201, 201]
    assert problem_of(answers[3]) == (429, "query_budget_exceeded")
    # The control: without the budget, the same input is answered.
    AIModel.objects.filter(pk=shop.model.pk).update(queries_per_day_max=None)
    eventually(lambda: check_is_answered(probe(3)))


def check_is_answered(answer: httpx.Response) -> None:
    assert answer.status_code == 201


def test_who_asks_by_chance_stands_out_and_who_has_data_does_not() -> None:
    chance = np.random.default_rng(7)
    others = read_embeddings(traffic.real(chance, 100))

    def score(asked: list[bytes]) -> int:
        return assess(read_embeddings(asked), others, rows=2_000, distinct=2_000).score

    assert score(traffic.uniform(chance, 60)) >= ALERT_SCORE
    # The control: as many inputs, none of them twice, of somebody who uses the model.
    assert score(traffic.real(chance, 60)) < ALERT_SCORE / 2


def test_each_answer_has_its_price(shop: Shop, client: httpx.Client) -> None:  # noqa: F811
    """Ten are paid for, so ten are given: whoever needs a million must be known to pay them."""
    answers = [predict(client) for _ in range(11)]

    assert [one.status_code for one in answers[:10]] == [201] * 10
    assert problem_of(answers[10]) == (402, "insufficient_credit")
    # The control: with money for one more, there is one more.
    shop.fund(PRICE_NANOS)
    assert predict(client).status_code == 201
