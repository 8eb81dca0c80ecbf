"""OpenAI's client library on the running product: real models, real prices."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from embedded.demo import sentence_embeddings, smollm2
from tests.e2e.terminal import predict
from tests.stack import Stack

WRITER, EMBEDDER = "demo/smollm2", "demo/sentence-embeddings"


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    url, key = stack.demo["gateway_url"], stack.demo["consumer"]["api_key"]
    with openai.OpenAI(base_url=f"{url}/openai/v1", api_key=key) as opened:
        yield opened


def list_costs(stack: Stack) -> dict[str, int]:
    """What the consumer's latest predictions cost, by id."""
    key = stack.demo["consumer"]["api_key"]
    answer = httpx.get(
        f"{stack.demo['gateway_url']}/v1/predictions", headers={"Authorization": f"Bearer {key}"}
    )
    results = answer.json()["results"]
    return {one["id"]: one["metrics"]["cost_nano_usd"] for one in results}


def similarity(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_openai_client_talks_embeds_and_pays_the_price(stack, client) -> None:
    before = list_costs(stack)
    asked = {"role": "user", "content": smollm2.QUESTION}

    assert {WRITER, EMBEDDER} <= {one.id for one in client.models.list()}
    chat = client.chat.completions.create(
        model=WRITER, messages=[asked], max_tokens=smollm2.NEW_TOKENS
    )
    text = client.completions.create(
        model=WRITER, prompt=smollm2.QUESTION, max_tokens=smollm2.NEW_TOKENS
    )
    vectors = client.embeddings.create(model=EMBEDDER, input=list(sentence_embeddings.SENTENCES))

    assert "Paris" in chat.choices[0].message.content
    # The model applies its chat template to every prompt, so both are one question.
    assert text.choices[0].text == chat.choices[0].message.content
    assert chat.usage.completion_tokens <= smollm2.NEW_TOKENS
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    alike, other, unlike = (one.embedding for one in vectors.data)
    assert len(alike) == 384
    assert similarity(alike, other) > similarity(alike, unlike) + 0.3
    after = list_costs(stack)
    costs = sorted(cost for name, cost in after.items() if name not in before)
    embedded = len(sentence_embeddings.SENTENCES) * sentence_embeddings.PRICE_NANOS
    assert costs == [embedded, smollm2.PRICE_NANOS, smollm2.PRICE_NANOS]


def test_openai_client_reads_along_and_pays_once(stack, client) -> None:
    before = list_costs(stack)
    asked = [{"role": "user", "content": smollm2.QUESTION}]

    chunks = list(
        client.chat.completions.create(
            model=WRITER,
            messages=asked,
            max_tokens=smollm2.NEW_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    *told, last = chunks
    pieces = [one.choices[0].delta.content for one in told if one.choices[0].delta.content]
    assert "Paris" in "".join(pieces)
    assert len(pieces) > 1
    assert told[-1].choices[0].finish_reason in ("stop", "length")
    assert 1 < last.usage.completion_tokens <= smollm2.NEW_TOKENS
    after = list_costs(stack)
    assert [cost for name, cost in after.items() if name not in before] == [smollm2.PRICE_NANOS]


def test_openai_client_gets_what_the_native_protocol_answers(stack, client) -> None:
    (text, *_) = sentence_embeddings.SENTENCES
    key = stack.demo["consumer"]["api_key"]

    native = predict(stack, EMBEDDER, key, {"text": text}).json()["output"]["embedding"]
    embedded = client.embeddings.create(model=EMBEDDER, input=text).data[0].embedding

    assert embedded == pytest.approx(native, abs=1e-6)


def test_openai_client_is_refused_what_is_not_offered_and_pays_nothing(stack, client) -> None:
    before = list_costs(stack)
    asked = [{"role": "user", "content": "Hi"}]

    with pytest.raises(openai.BadRequestError) as stopped:
        client.chat.completions.create(model=WRITER, messages=asked, stop="!")

    assert stopped.value.param == "stop"
    assert list_costs(stack) == before
