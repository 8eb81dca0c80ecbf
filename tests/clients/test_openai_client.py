"""OpenAI's own client library, with another address and another key."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
import threading

import openai
import pytest

from billing.models import UsageEvent
from tests.clients.conftest import open_client
from tests.factories import APIKeyFactory
from tests.gateway.conftest import (
    PRICE_NANOS,
    check_books,
    check_nothing_booked,
    check_untouched,
)
from tests.gateway.processes import eventually
from tests.gateway.test_stream import SLOW_S, stops

pytestmark = pytest.mark.django_db(transaction=True)

NEAR = 1e-6


class LossyProxy:
    """Passes requests on; the first answer that comes back is lost with its connection."""

    def __init__(self, port: int) -> None:
        self.target = ("127.0.0.1", port)
        self.lost = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            back = threading.Thread(target=self._bring_back, args=(client, server), daemon=True)
            back.start()
            _pass_on(client, server)
            back.join()

    def _bring_back(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if not self.lost:
                    # All of it has come: the gateway has booked before it answers.
                    self.lost += 1
                    break
                client.sendall(data)
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)


def embed(client, given="two words", **parameters):
    return client.embeddings.create(model="maker/vectors", input=given, **parameters)


def test_models_are_listed_and_found(openai_client):
    listed = openai_client.models.list()
    found = openai_client.models.retrieve("maker/vectors")

    assert [one.id for one in listed] == ["maker/echo", "maker/vectors", "maker/writer"]
    assert found == listed.data[1]
    assert (found.owned_by, found.object) == ("maker", "model")
    assert openai_client.models.retrieve("maker/vectors:1").id == "maker/vectors:1"


@pytest.mark.parametrize("_format", ["float", "base64", None])
def test_embeddings_of_every_format_are_the_same_and_booked_once(language, openai_client, _format):
    # Without a format the library asks for base64 and decodes it itself.
    chosen = {} if _format is None else {"encoding_format": _format}

    raw = openai_client.embeddings.with_raw_response.create(
        model="maker/vectors", input="two words", **chosen
    )

    answer = raw.parse()
    check_books(language, [raw.headers["inference-id"]])
    vector = answer.data[0].embedding
    if _format == "base64":
        # Who asks for it by name gets it as it is.
        vector = struct.unpack("<3f", base64.b64decode(vector))
    assert vector == pytest.approx([9.0, 0.1, 1.0], rel=NEAR)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (2, 2)


def test_every_text_of_a_list_is_charged(language, openai_client):
    answer = embed(openai_client, ["a", "b b", "c c c"])

    assert [one.embedding[0] for one in answer.data] == [1, 3, 5]
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert UsageEvent.objects.get().gross_nanos == 3 * PRICE_NANOS


def test_wrong_key_is_an_authentication_error(language):
    client = open_client(language, "sk_live_nope")

    with pytest.raises(openai.AuthenticationError) as caught:
        embed(client)

    assert caught.value.code == "unauthenticated"
    check_untouched(language)


def test_refusals_are_the_librarys_errors_and_cost_nothing(language, openai_client):
    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.embeddings.create(model="maker/none", input="a")
    with pytest.raises(openai.BadRequestError) as wrong:
        embed(openai_client, dimensions=2)
    with pytest.raises(openai.APIStatusError) as poor:
        embed(open_client(language, APIKeyFactory().text))

    assert (missing.value.code, missing.value.param) == ("not_found", "model")
    assert (wrong.value.code, wrong.value.param) == ("invalid_parameter", "dimensions")
    assert (poor.value.status_code, poor.value.code) == (402, "insufficient_credit")
    assert poor.value.type == "insufficient_quota"
    check_untouched(language)


def test_failure_of_the_model_is_a_server_error_and_not_repeated(language, openai_client):
    with pytest.raises(openai.InternalServerError) as caught:
        embed(openai_client, "fail")

    assert caught.value.code == "model_failed"
    check_nothing_booked(language)


def test_chat_is_answered_and_charged_once(language, openai_client):
    raw = openai_client.chat.completions.with_raw_response.create(
        model="maker/writer",
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "How are you?"},
        ],
        max_completion_tokens=5,
        temperature=0.5,
        seed=7,
    )

    check_books(language, [raw.headers["inference-id"]])
    answer = raw.parse()
    assert answer.choices[0].message.content == "Be kind. How are you?"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == 8
    assert answer.id == f"chatcmpl-{raw.headers['inference-id']}"


def test_completion_is_answered_and_charged_once(language, openai_client):
    raw = openai_client.completions.with_raw_response.create(
        model="maker/writer@prod", prompt="How are you?", max_tokens=3
    )

    check_books(language, [raw.headers["inference-id"]])
    answer = raw.parse()
    assert (answer.choices[0].text, answer.model) == ("How are you?", "maker/writer@prod")


def tell(client, prompt="one two three", **parameters):
    return client.chat.completions.create(
        model="maker/teller",
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        **parameters,
    )


@pytest.fixture
def telling_client(teller):
    with open_client(teller, teller.key.text) as client:
        yield client


def test_stream_is_read_and_charged_once(teller, telling_client):
    stream = tell(telling_client, stream_options={"include_usage": True})
    chunks = list(stream)

    check_books(teller, [stream.response.headers["inference-id"]])
    texts = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(texts) == "one two three"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 6
    assert chunks[-1].usage.cost_nano_usd == PRICE_NANOS
    assert {one.id for one in chunks} == {f"chatcmpl-{stream.response.headers['inference-id']}"}


def test_stream_of_a_completion_is_read(teller, telling_client):
    chunks = list(
        telling_client.completions.create(
            model="maker/teller", prompt="one two three", stream=True, max_tokens=2
        )
    )

    assert "".join(one.choices[0].text for one in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "length"


def test_asynchronous_client_reads_a_stream(teller):
    async def read():
        url = f"{teller.url}/openai/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=teller.key.text) as client:
            return [one async for one in await tell(client)]

    chunks = asyncio.run(read())

    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "one two three"


def test_loop_that_is_left_stops_the_model_and_is_charged_once(teller, telling_client, triton):
    stream = tell(telling_client, "a repeat=400 pause=0.02 name=broken_off", max_tokens=400)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()

    how, count = eventually(lambda: stops(triton, "broken_off"), timeout_s=SLOW_S)
    assert (how, count < 300) == ("stopped", True)
    public_id = stream.response.headers["inference-id"]
    eventually(lambda: check_books(teller, [public_id]), timeout_s=SLOW_S)


def test_stream_that_breaks_off_is_an_error_of_the_library(teller, telling_client):
    stream = tell(telling_client, "a b c fail=2")
    read = []

    with pytest.raises(openai.APIError, match="broke off") as caught:
        read.extend(one.choices[0].delta.content or "" for one in stream)

    assert caught.value.code == "stream_broken"
    check_books(teller, [stream.response.headers["inference-id"]])


def test_stream_is_refused_where_the_model_has_none(language, openai_client):
    for create, given in (
        (openai_client.chat.completions.create, {"messages": [{"role": "user", "content": "a"}]}),
        (openai_client.completions.create, {"prompt": "a"}),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            create(model="maker/writer", stream=True, **given)
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "stream")
    check_untouched(language)


def test_replay_of_a_key_is_charged_once(language, openai_client):
    ids = {
        openai_client.completions.create(
            model="maker/writer", prompt="a", extra_headers={"Idempotency-Key": "once"}
        ).id
        for _ in range(2)
    }

    check_books(language, [one.removeprefix("cmpl-") for one in ids])


def test_answer_that_was_lost_is_not_charged_again_by_the_retry(language):
    proxy = LossyProxy(int(language.url.rpartition(":")[2]))
    client = openai.OpenAI(
        base_url=f"{proxy.url}/openai/v1", api_key=language.key.text, max_retries=2
    )
    with client, contextlib.closing(proxy.listener):
        raw = client.embeddings.with_raw_response.create(model="maker/vectors", input="two words")
        again = embed(client, "two words")

    assert proxy.lost == 1
    assert raw.headers["idempotent-replayed"] == "true"
    assert raw.parse().data[0].embedding == again.data[0].embedding
    # The lost one, and the one that was meant.
    assert UsageEvent.objects.count() == 2
