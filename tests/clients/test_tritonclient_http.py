"""`tritonclient.http` as anybody uses it: another address, and one header more."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from billing.models import LedgerAccount, UsageEvent
from inference.models import Prediction
from marketplace.core.ids import to_public
from tests.factories import APIKeyFactory
from tests.gateway.conftest import PRICE_NANOS, check_books, check_untouched

pytestmark = pytest.mark.django_db(transaction=True)

VALUES = {
    "wave": ("FP32", np.array([[-0.0, 0.1, 1e-45], [-1000, 1000, 2.5]], np.float32)),
    "exact": ("FP64", np.array([[0.1, 1e-320], [-1.5, 1.7e308]])),
    "flags": ("BOOL", np.array([[True, False, True], [False, False, True]])),
    "pixels": ("UINT8", np.arange(252, 260).astype(np.uint8).reshape(2, 2, 2)),
    "offsets": ("INT16", np.array([[-(2**15), 2**15 - 1], [0, -1]], np.int16)),
    "large": ("UINT64", np.array([[2**64 - 1], [2**53 + 1]], np.uint64)),
    "count": ("INT64", np.array([[-(2**63)], [2**63 - 1]], np.int64)),
    "loud": ("BOOL", np.array([[True], [False]])),
    "text": ("BYTES", np.array([["Grüße 😀".encode()], [b""]], object)),
}


def make_input(name, array, datatype="FP32", *, is_binary=True):
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=is_binary)
    return made


def all_inputs(binary_names=tuple(VALUES)):
    return [
        make_input(name, array, datatype, is_binary=name in binary_names)
        for name, (datatype, array) in VALUES.items()
    ]


def check_all(answer):
    for name, (datatype, array) in VALUES.items():
        got = answer.as_numpy(f"same_{name}")
        assert got.shape == array.shape
        if datatype == "BYTES":
            assert [_to_bytes(one) for one in got.ravel()] == array.ravel().tolist()
        else:
            assert (got.dtype, got.tobytes()) == (array.dtype, array.tobytes())


def _to_bytes(text):
    return text.encode() if isinstance(text, str) else text


def check_charged(shop, *rows):
    """Each call is booked once, at its price, and nothing else is."""
    booked = sorted(UsageEvent.objects.values_list("units", "gross_nanos"))
    assert booked == sorted((one, one * PRICE_NANOS) for one in rows)
    assert Prediction.objects.filter(state="succeeded").count() == len(rows)
    wallet = LedgerAccount.objects.get(pk=shop.wallet_id)
    assert wallet.posted_nanos == shop.funded_nanos - sum(rows) * PRICE_NANOS


WAVE = np.array([[1, 2, 3]], np.float32)


def test_binary_is_the_clients_default_and_is_charged_once(shop, mirror, triton_client, bearer):
    answer = triton_client.infer(mirror, all_inputs(), request_id="mine", headers=bearer)

    check_all(answer)
    document = answer.get_response()
    assert (document["id"], document["model_name"]) == ("mine", mirror)
    assert all("binary_data_size" in one["parameters"] for one in document["outputs"])
    check_charged(shop, 2)


@pytest.mark.parametrize("_binary_inputs", [(), ("wave", "text"), tuple(VALUES)])
@pytest.mark.parametrize("_binary_outputs", [(), ("exact", "loud"), tuple(VALUES)])
def test_json_and_binary_mix_both_ways(
    shop, mirror, triton_client, bearer, _binary_inputs, _binary_outputs
):
    wanted = [
        InferRequestedOutput(f"same_{name}", binary_data=name in _binary_outputs)
        for name in reversed(VALUES)
    ]

    answer = triton_client.infer(
        mirror, all_inputs(_binary_inputs), outputs=wanted, headers=bearer, model_version="1"
    )

    check_all(answer)
    shown = answer.get_response()["outputs"]
    assert [one["name"] for one in shown] == [one.name() for one in wanted]
    assert {one["name"][5:] for one in shown if "data" not in one} == set(_binary_outputs)
    check_charged(shop, 2)


@pytest.mark.parametrize("_algorithm", ["gzip", "deflate"])
def test_compression_is_understood_and_not_answered_with(
    shop, mirror, triton_client, bearer, _algorithm
):
    answer = triton_client.infer(
        mirror,
        all_inputs(),
        headers=bearer,
        request_compression_algorithm=_algorithm,
        response_compression_algorithm=_algorithm,
    )

    check_all(answer)
    check_charged(shop, 2)


def test_large_tensor_comes_back_to_the_bit(shop, mirror, triton_client, bearer):
    wave = np.random.default_rng(1).uniform(-1000, 1000, (4, 262_144)).astype(np.float32)

    answer = triton_client.infer(mirror, [make_input("wave", wave)], headers=bearer)

    assert answer.as_numpy("same_wave").tobytes() == wave.tobytes()
    check_charged(shop, 4)


def test_calls_at_the_same_time_are_booked_once_each(shop, mirror, triton_client, bearer):
    waves = [np.full((1, 5), number, np.float32) for number in range(8)]

    running = [
        triton_client.async_infer(mirror, [make_input("wave", wave)], headers=dict(bearer))
        for wave in waves
    ]

    for wave, one in zip(waves, running, strict=True):
        assert (one.get_result().as_numpy("same_wave") == wave).all()
    check_charged(shop, *[1] * 8)


def test_keyed_retry_gets_the_same_answer_and_pays_once(shop, mirror, triton_client, bearer):
    headers = bearer | {"Idempotency-Key": "once"}

    for _ in range(2):
        check_all(triton_client.infer(mirror, all_inputs(), headers=dict(headers)))

    check_charged(shop, 2)


def test_books_agree_with_the_ledger(shop, triton_client, bearer):
    given = make_input("x", np.ones((1, 4), np.float32))

    answer = triton_client.infer("maker/echo", [given], headers=bearer)

    assert answer.as_numpy("y").tolist() == [[2, 2, 2, 2]]
    assert answer.as_numpy("secret") is None
    [usage] = UsageEvent.objects.all()
    check_books(shop, [to_public(usage.pk)])


def _with_shared_memory(given):
    given.set_shared_memory("region", 12)
    return given


def _with_parameters(given, **parameters):
    given._parameters.update(parameters)
    return given


@pytest.mark.parametrize(
    ("_make", "_word"),
    [
        (lambda: make_input("wave", WAVE * 1000), "at most 1000"),
        (lambda: make_input("wave", WAVE * np.float32("nan")), "finite"),
        (lambda: make_input("wave", np.ones((5, 3), np.float32)), "1 to 4"),
        (lambda: make_input("wave", np.ones((1, 3)), "FP64"), "FP32"),
        (lambda: make_input("exact", np.ones((1, 3)), "FP64"), "[-1, 2]"),
        (lambda: make_input("text", np.array([["n" * 21]], object), "BYTES"), "20 are allowed"),
        (lambda: make_input("text", np.array([[b"\xff"]], object), "BYTES"), "UTF-8"),
        (lambda: make_input("other", WAVE), "'other'"),
        (lambda: _with_shared_memory(make_input("wave", WAVE)), "shared_memory_region"),
        (lambda: _with_parameters(make_input("wave", WAVE), binary_data_size=13), "beyond"),
        (lambda: _with_parameters(make_input("wave", WAVE), binary_data_size=8), "2 elements"),
    ],
)
def test_refusal_is_the_clients_own_error_and_holds_nothing(
    shop, mirror, triton_client, bearer, _make, _word
):
    with pytest.raises(InferenceServerException) as caught:
        triton_client.infer(mirror, [_make()], headers=bearer)

    assert caught.value.status() == "422"
    assert _word in caught.value.message()
    check_untouched(shop)


def test_output_in_shared_memory_or_by_class_is_refused(shop, mirror, triton_client, bearer):
    shared = InferRequestedOutput("same_wave")
    shared.set_shared_memory("region", 12)

    for wanted in (shared, InferRequestedOutput("same_wave", class_count=2)):
        with pytest.raises(InferenceServerException, match="not offered"):
            triton_client.infer(
                mirror, [make_input("wave", WAVE)], outputs=[wanted], headers=dict(bearer)
            )
    check_untouched(shop)


@pytest.mark.parametrize("_status", ["401", "402"])
def test_caller_who_may_not_is_told_so(shop, mirror, triton_client, _status):
    key = "sk_live_nope" if _status == "401" else APIKeyFactory().text

    with pytest.raises(InferenceServerException) as caught:
        triton_client.infer(
            mirror, [make_input("wave", WAVE)], headers={"Authorization": f"Bearer {key}"}
        )

    assert caught.value.status() == _status
    check_untouched(shop)


def test_server_and_model_describe_themselves(mirror, triton_client, bearer):
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert "binary_tensor_data" in triton_client.get_server_metadata()["extensions"]
    assert triton_client.is_model_ready(mirror, headers=bearer)
    described = triton_client.get_model_metadata(mirror, "1", headers=bearer)
    assert {one["name"]: one["datatype"] for one in described["inputs"]} == {
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
        lambda client, headers: client.get_inference_statistics("maker/mirror", headers=headers),
        lambda client, headers: client.get_trace_settings(headers=headers),
        lambda client, headers: client.get_trace_settings("maker/mirror", headers=headers),
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
def test_control_of_the_server_does_not_exist(mirror, triton_client, bearer, _call):
    with pytest.raises(InferenceServerException) as caught:
        _call(triton_client, bearer)

    assert caught.value.status() == "404"
