"""Whatever is asked below /openai/v1 becomes rows that the model takes, or is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, find, given
from hypothesis import strategies as st

from inference.gateway.catalog import Offer, Priced
from inference.gateway.config import EMBEDDING_TEXTS_MAX
from inference.gateway.protocols import openai, openai_embeddings, openai_parameters, openai_text
from inference.gateway.protocols.openai_parameters import Head
from inference.triton import tensors
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from strongroom.interface import Interface
from strongroom.rating import Terms
from tests.gateway.conftest import VECTORS, WRITER
from tests.gateway.hostile import (
    INTEGERS,
    JSON,
    NUMBERS,
    TEXTS,
    Refused,
    fuzz,
    mostly,
    objects,
    search,
    try_out,
)

HEAD = Head("a" * 26, 1, "maker/model")
ROLES = st.sampled_from(["system", "developer", "user", "user", "assistant", "tool"])
PARTS = objects({"type": mostly(st.just("text")), "text": mostly(TEXTS)})
MESSAGES = objects(
    {
        "role": mostly(ROLES),
        "content": mostly(st.one_of(TEXTS, TEXTS, st.lists(mostly(PARTS), max_size=3))),
    },
    {"name": mostly(st.none()), "tool_calls": mostly(st.none())},
)
SETTINGS = {
    "max_tokens": mostly(st.integers(1, 16), INTEGERS),
    "max_completion_tokens": mostly(st.integers(1, 16), INTEGERS),
    "temperature": mostly(st.floats(0, 2), NUMBERS),
    "top_p": mostly(st.sampled_from([1, 1.0]), NUMBERS),
    "seed": mostly(INTEGERS),
    "stop": mostly(st.one_of(st.none(), TEXTS, st.lists(TEXTS, max_size=3))),
    "n": mostly(st.just(1)),
    "stream": mostly(st.booleans()),
    "stream_options": mostly(st.one_of(st.none(), objects({"include_usage": st.booleans()}))),
    "logit_bias": mostly(st.just({})),
    "logprobs": mostly(st.just(False)),
    "response_format": mostly(st.just({"type": "text"})),
    "tools": mostly(st.just([])),
    "user": JSON,
}
USUAL = {"model": mostly(st.just("maker/writer"))}
CHATS = objects({**USUAL, "messages": mostly(st.lists(mostly(MESSAGES), max_size=3))}, SETTINGS)
COMPLETIONS = objects({**USUAL, "prompt": mostly(st.one_of(TEXTS, st.lists(TEXTS)))}, SETTINGS)
EMBEDDINGS = objects(
    {**USUAL, "input": mostly(st.one_of(TEXTS, st.lists(mostly(TEXTS), max_size=5)))},
    {
        "encoding_format": mostly(st.sampled_from(["float", "base64"])),
        "dimensions": mostly(st.just(3)),
        "user": JSON,
    },
)


def offer_of(described: dict[str, Any], task: str) -> Offer:
    """A version on sale."""
    return Offer(
        version_id=new_id(),
        number=1,
        manifest_sha256="",
        runtime="onnx",
        interface=Interface.parse(described),
        created_at=utc_now(),
        model_id=new_id(),
        owner="maker",
        owner_id=new_id(),
        name="model",
        task=task,
        is_private=False,
        price=Priced(new_id(), Terms(1)),
    )


WRITES = offer_of(WRITER, openai_text.TASK)
EMBEDS = offer_of(VECTORS, openai_embeddings.TASK)
STOPS = offer_of(
    {**WRITER, "inputs": [*WRITER["inputs"], {"name": "stop", "kind": "text", "default": ""}]},
    openai_text.TASK,
)


def check_plan(planner, document, offer) -> Any:
    """Refused in OpenAI's envelope, or rows that can be sent and answered."""
    plan = try_out(lambda: planner(document, offer), statuses=range(400, 401))
    if isinstance(plan, Refused):
        openai.OpenAIProtocol(None).render_error(None, plan.error)
        assert plan.error.params.keys() <= {"param"}
        return plan
    assert len(plan.rows) >= 1
    for row in plan.rows:
        sent = tensors.encode(offer.interface, [row])
        assert [one.name for one in sent] == [one.name for one in offer.interface.inputs]
        for one in sent:
            one.to_bytes()
    orjson.dumps(plan.render([answer_of(offer)] * len(plan.rows), HEAD))
    if plan.chunks is not None:
        orjson.dumps(plan.chunks.render_piece("said", HEAD))
        orjson.dumps(plan.chunks.render_end(answer_of(offer), HEAD, cost_nanos=1))
    return plan


def answer_of(offer: Offer) -> dict[str, Any]:
    """A row as a model would answer it."""
    values = {"text": "said", "integer": 3, "tensor": [0.1, 0.2, 0.3]}
    return {one.name: values[one.kind] for one in offer.interface.visible_outputs}


@fuzz
@given(CHATS, st.sampled_from([WRITES, STOPS, EMBEDS]))
@example({"messages": []}, WRITES)
@example({"messages": [{"role": "user", "content": []}]}, WRITES)
@example({"messages": [{"role": ["user"], "content": "x"}]}, WRITES)
@example({"messages": [{"role": "user", "content": "x"}], "n": 2}, WRITES)
@example({"messages": [{"role": "user", "content": "x"}], "n": True}, WRITES)
@example({"messages": [{"role": "user", "content": "x"}], "stop": [["x"]]}, STOPS)
@example({"messages": [{"role": "user", "content": "x"}], "temperature": 10**400}, WRITES)
@example({"messages": [{"role": "user", "content": "x"}], "seed": 2**63}, WRITES)
@example({"messages": [{"role": "user", "content": "x"}], "logit_bias": {"1": 1e999}}, WRITES)
@example({"messages": [{"role": "user", "content": [{"type": ["text"], "text": "x"}]}]}, WRITES)
def test_chat_is_a_row_or_refused(document, offer):
    check_plan(openai_text.plan_chat, document, offer)


@fuzz
@given(COMPLETIONS, st.sampled_from([WRITES, STOPS, EMBEDS]))
@example({"prompt": [["x"]]}, WRITES)
@example({"prompt": [1, 2]}, WRITES)
def test_completion_is_a_row_or_refused(document, offer):
    check_plan(openai_text.plan_completion, document, offer)


@fuzz
@given(EMBEDDINGS, st.sampled_from([EMBEDS, EMBEDS, WRITES]))
@example({"input": []}, EMBEDS)
@example({"input": "x", "encoding_format": ["float"]}, EMBEDS)
@example({"input": "x", "dimensions": True}, EMBEDS)
@example({"input": ["x"] * EMBEDDING_TEXTS_MAX}, EMBEDS)
@example({"input": ["x"] * (EMBEDDING_TEXTS_MAX + 1)}, EMBEDS)
def test_texts_to_embed_are_rows_or_refused(document, offer):
    plan = check_plan(openai_embeddings.plan, document, offer)

    if not isinstance(plan, Refused):
        assert len(plan.rows) <= EMBEDDING_TEXTS_MAX


@fuzz
@given(JSON, st.sampled_from([*openai._PLANNERS.values()]))
def test_anything_else_is_refused(document, planner):
    try_out(lambda: openai._read_model(document))
    assert isinstance(check_plan(planner, document, WRITES), Refused)


@fuzz
@given(st.sampled_from([*openai_parameters._NEUTRAL]), JSON)
@example("n", True)
@example("top_p", "1")
@example("stream", 0)
def test_only_what_asks_for_nothing_is_passed_over(name, value):
    found = try_out(lambda: openai_parameters.drop_idle({name: value}, ()))

    is_idle = value is None or openai_parameters.is_neutral(name, value)
    assert (found == {}) if is_idle else (found.code == "unsupported_parameter")


# --- The checks above notice ---


@pytest.mark.parametrize(
    ("_planner", "_documents", "_offer"),
    [
        (openai_text.plan_chat, CHATS, WRITES),
        (openai_text.plan_completion, COMPLETIONS, STOPS),
        (openai_embeddings.plan, EMBEDDINGS, EMBEDS),
    ],
)
def test_some_documents_are_taken(_planner, _documents, _offer):
    def is_taken(document):
        return not isinstance(check_plan(_planner, document, _offer), Refused)

    assert find(_documents, is_taken, settings=search)


def test_rows_that_were_not_checked_are_noticed(monkeypatch):
    """A seed beyond 64 bits cannot be sent."""
    document = {"messages": [{"role": "user", "content": "x"}], "seed": 2**63}
    check_plan(openai_text.plan_chat, document, WRITES)
    monkeypatch.setattr(
        openai_text,
        "check_row",
        lambda interface, values, params: {
            **{one.name: one.default for one in interface.inputs},
            **values,
        },
    )

    with pytest.raises(OverflowError):
        check_plan(openai_text.plan_chat, document, WRITES)


def test_answers_of_another_length_are_refused():
    offer = replace(EMBEDS)
    rows = {"embedding": np.zeros((3, 3), np.float32), "tokens_in": np.zeros((3, 1), np.int64)}

    found = try_out(
        lambda: openai._decode(offer.interface, [["a", "b"]], [rows]), statuses=range(500, 501)
    )

    assert found.code == "output_invalid"
