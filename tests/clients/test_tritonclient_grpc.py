"""`tritonclient.grpc` as anybody uses it: another address, and one header more."""

from __future__ import annotations

import asyncio
import queue
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from billing.models import UsageEvent
from marketplace.core.ids import to_public
from tests.clients.test_tritonclient_http import VALUES, WAVE, check_all, check_charged
from tests.factories import APIKeyFactory
from tests.gateway.conftest import check_books, check_nothing_booked, check_untouched
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def client(shop):
    with triton_grpc.InferenceServerClient(shop.grpc_address) as made:
        yield made


@pytest.fixture
def key(shop):
    """The one header that a client has to add; gRPC wants it in lower case."""
    return {"authorization": f"Bearer {shop.key.text}"}


def make_input(name, array, datatype="FP32"):
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def all_inputs():
    return [make_input(name, array, datatype) for name, (datatype, array) in VALUES.items()]


def wave_inputs(rows=1):
    return [make_input("wave", np.repeat(WAVE, rows, axis=0))]


def test_tensors_and_texts_come_back_to_the_bit(shop, mirror, client, key):
    answer = client.infer(mirror, all_inputs(), request_id="mine", headers=key)

    check_all(answer)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", mirror, "1")
    check_charged(shop, 2)


def test_outputs_version_and_parameters_are_as_asked(shop, mirror, client, key):
    wanted = [InferRequestedOutput("same_text"), InferRequestedOutput("same_wave")]

    answer = client.infer(
        mirror,
        all_inputs(),
        model_version="1",
        outputs=wanted,
        priority=1,
        timeout=30_000_000,
        parameters={"note": "x", "count": 1, "share": 0.5, "flag": True},
        headers=key,
    )

    assert [one.name for one in answer.get_response().outputs] == ["same_text", "same_wave"]
    check_charged(shop, 2)


@pytest.mark.parametrize("_algorithm", ["gzip", "deflate"])
def test_compression_is_understood(shop, mirror, client, key, _algorithm):
    answer = client.infer(mirror, all_inputs(), headers=key, compression_algorithm=_algorithm)

    check_all(answer)
    check_charged(shop, 2)


def test_large_tensor_comes_back_to_the_bit(shop, mirror, client, key):
    wave = np.random.default_rng(1).uniform(-1000, 1000, (4, 262_144)).astype(np.float32)

    answer = client.infer(mirror, [make_input("wave", wave)], headers=key)

    assert answer.as_numpy("same_wave").tobytes() == wave.tobytes()
    check_charged(shop, 4)


def test_books_agree_with_the_ledger(shop, client, key):
    given = make_input("x", np.ones((1, 4), np.float32))

    answer = client.infer("maker/echo", [given], headers=key)

    assert answer.as_numpy("y").tolist() == [[2, 2, 2, 2]]
    assert answer.as_numpy("secret") is None
    [usage] = UsageEvent.objects.all()
    check_books(shop, [to_public(usage.pk)])


def test_keyed_retry_gets_the_same_answer_and_pays_once(shop, mirror, client, key):
    headers = key | {"idempotency-key": "once"}

    for _ in range(2):
        check_all(client.infer(mirror, all_inputs(), headers=headers))

    check_charged(shop, 2)


def test_key_may_be_the_password_of_its_own_plugin(shop, mirror, client):
    client.register_plugin(BasicAuth("anybody", shop.key.text))

    client.infer(mirror, wave_inputs())

    check_charged(shop, 1)


def test_calls_at_the_same_time_are_booked_once_each(shop, mirror, client, key):
    answers = queue.Queue()
    for _ in range(8):
        client.async_infer(
            mirror, wave_inputs(), lambda result, error: answers.put((result, error)), headers=key
        )

    for _ in range(8):
        result, error = answers.get(timeout=60)
        assert error is None
        assert (result.as_numpy("same_wave") == WAVE).all()
    check_charged(shop, *[1] * 8)


def test_cancelled_call_is_not_charged(shop, client, key):
    answers = queue.Queue()
    given = [
        make_input("x", np.ones((1, 4), np.float32)),
        make_input("wait_s", np.array([[1.5]], np.float32)),
    ]
    call = client.async_infer(
        "maker/echo", given, lambda result, error: answers.put(error), headers=key
    )
    time.sleep(0.7)

    call.cancel()

    assert answers.get(timeout=60).status() == "StatusCode.CANCELLED"
    eventually(lambda: check_nothing_booked(shop))
    time.sleep(1.2)  # Until the model would have ended.
    check_nothing_booked(shop)


def test_stream_answers_in_order_and_tells_of_errors(shop, mirror, client, key):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers=key)
    client.async_stream_infer(mirror, wave_inputs(), request_id="one")
    client.async_stream_infer(mirror, [make_input("wave", WAVE * 1000)])
    client.async_stream_infer(
        mirror, wave_inputs(2), request_id="three", enable_empty_final_response=True
    )
    client.stop_stream()

    (one, _), (_, error), (three, _) = (answers.get(timeout=60) for _ in range(3))
    assert one.get_response().id == "one"
    assert (one.as_numpy("same_wave") == WAVE).all()
    assert "at most 1000" in error.message()
    assert three.get_response().id == "three"
    assert three.get_response().parameters["triton_final_response"].bool_param
    assert answers.empty()
    check_charged(shop, 1, 2)


def test_streamed_text_comes_in_pieces(teller, client, key):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers=key)
    prompt = make_input("prompt", np.array([[b"one two three"]], object), "BYTES")
    client.async_stream_infer("maker/teller", [prompt], enable_empty_final_response=True)

    pieces, is_last = [], False
    while not is_last:
        result, error = answers.get(timeout=60)
        assert error is None
        pieces.append(result.as_numpy("text")[0, 0])
        is_last = result.get_response().parameters["triton_final_response"].bool_param
    client.stop_stream()

    assert pieces == [b"one", b" two", b" three", b""]
    assert result.as_numpy("tokens_out").tolist() == [[3]]
    assert answers.empty()
    check_charged(teller, 1)


@pytest.mark.parametrize(
    ("_make", "_word"),
    [
        (lambda: make_input("wave", WAVE * 1000), "at most 1000"),
        (lambda: make_input("wave", WAVE * np.float32("nan")), "finite"),
        (lambda: make_input("wave", np.ones((5, 3), np.float32)), "1 to 4"),
        (lambda: make_input("wave", np.ones((1, 3)), "FP64"), "FP32"),
        (lambda: make_input("text", np.array([["n" * 21]], object), "BYTES"), "20 are allowed"),
        (lambda: make_input("text", np.array([[b"\xff"]], object), "BYTES"), "UTF-8"),
        (lambda: make_input("other", WAVE), "'other'"),
        (lambda: _with_shared_memory(make_input("wave", WAVE)), "shared_memory"),
    ],
)
def test_refusal_is_the_clients_own_error_and_holds_nothing(
    shop, mirror, client, key, _make, _word
):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(mirror, [_make()], headers=key)

    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert _word in caught.value.message()
    check_untouched(shop)


def _with_shared_memory(given):
    given.set_shared_memory("region", 12)
    return given


def test_caller_who_may_not_is_told_so(shop, mirror, client):
    for text, status in [
        ("sk_live_nope", grpc.StatusCode.UNAUTHENTICATED),
        (APIKeyFactory().text, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ]:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(mirror, wave_inputs(), headers={"authorization": f"Bearer {text}"})
        assert caught.value.status() == str(status)
    check_untouched(shop)


def test_server_and_model_describe_themselves(mirror, client, key):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "strongroom"
    assert client.is_model_ready(mirror, headers=key)
    described = client.get_model_metadata(mirror, "1", headers=key)
    assert {one.name: one.datatype for one in described.inputs} == {
        name: datatype for name, (datatype, _) in VALUES.items()
    }


@pytest.mark.parametrize(
    "_call",
    [
        lambda client, headers: client.get_model_repository_index(headers=headers),
        lambda client, headers: client.load_model("maker/mirror", headers=headers),
        lambda client, headers: client.unload_model("maker/mirror", headers=headers),
        lambda client, headers: client.get_model_config("maker/mirror", headers=headers),
        lambda client, headers: client.get_inference_statistics(headers=headers),
        lambda client, headers: client.get_trace_settings(headers=headers),
        lambda client, headers: client.update_trace_settings(
            settings={"trace_level": ["TIMESTAMPS"]}, headers=headers
        ),
        lambda client, headers: client.get_log_settings(headers=headers),
        lambda client, headers: client.update_log_settings({"log_info": True}, headers=headers),
        lambda client, headers: client.get_system_shared_memory_status(headers=headers),
        lambda client, headers: client.register_system_shared_memory(
            "region", "/key", 16, headers=headers
        ),
        lambda client, headers: client.get_cuda_shared_memory_status(headers=headers),
        lambda client, headers: client.unregister_cuda_shared_memory(headers=headers),
    ],
)
def test_control_of_the_server_does_not_exist(mirror, client, key, _call):
    with pytest.raises(InferenceServerException) as caught:
        _call(client, key)

    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert client.is_model_ready(mirror, headers=key)


def test_its_asynchronous_form_does_the_same(shop, mirror, key):
    async def send():
        for rows in (1, 2):
            yield {"model_name": mirror, "inputs": wave_inputs(rows), "request_id": str(rows)}

    async def use():
        async with triton_aio.InferenceServerClient(shop.grpc_address) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready(mirror, headers=key)
            check_all(await client.infer(mirror, all_inputs(), headers=key))
            streamed = await _list(client.stream_infer(send(), headers=key))
            with pytest.raises(InferenceServerException, match="key"):
                await client.infer(mirror, wave_inputs())
        return streamed

    streamed = asyncio.run(use())

    assert [error for _, error in streamed] == [None, None]
    assert [answer.get_response().id for answer, _ in streamed] == ["1", "2"]
    check_charged(shop, 2, 1, 2)


async def _list(responses):
    return [one async for one in responses]
