"""`inference.GRPCInferenceService`: calls of one message; streams are in test_grpc_stream."""

from __future__ import annotations

import base64
import concurrent.futures
import signal
import threading
import time
from collections import Counter

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2

from billing.models import LedgerAccount, UsageEvent
from inference.gateway.config import (
    GRPC_METADATA_BYTES_MAX,
    MESSAGE_FIELDS_MAX,
    GatewayConfig,
)
from inference.models import Prediction, Replica
from marketplace.core.ids import from_public
from tests.factories import AIModelFactory, APIKeyFactory
from tests.gateway.calls import (
    X,
    bearer,
    calling,
    make_request,
    raw,
    raw_texts,
    read,
    refusal,
    typed,
    wait,
)
from tests.gateway.conftest import (
    PRICE_NANOS,
    check_books,
    check_ledger,
    check_nothing_booked,
    check_untouched,
)
from tests.gateway.processes import GRPC_LISTEN, eventually, with_grpc
from tests.gateway.scrape import Scrape

pytestmark = pytest.mark.django_db(transaction=True)

KEYED = (("idempotency-key", "order-1"),)
Code = grpc.StatusCode
# A client that has left is noticed at once, on a machine that is not busy.
LEFT_WITHIN_S = 20


@pytest.fixture
def caller(shop):
    with calling(shop.grpc_address, shop.key.text) as made:
        yield made


@pytest.fixture
def elsewhere(shop, start_gateway):
    """A caller of another gateway, with other settings or another app."""
    opened = []

    def start(**settings):
        gateway = start_gateway(**with_grpc(), **settings)
        manager = calling(gateway.grpc_address, shop.key.text)
        caller = manager.__enter__()
        opened.append(manager)
        caller.gateway = gateway
        return caller

    yield start
    for manager in opened:
        manager.__exit__(None, None, None)


def refused(call, *arguments, **how):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **how)
    return refusal(caught.value)


# --- Predictions ---


def test_rows_are_charged_by_number(shop, caller):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)

    response, metadata = caller.infer(make_request(raw("x", rows), id="mine"))

    assert (response.model_name, response.model_version, response.id) == ("maker/echo", "1", "mine")
    assert read(response) == {
        "y": (rows * 2).tolist(),
        "scores": [[0.0, 0.75, 0.0]] * 3,
        "echo": ["", "", ""],
    }
    assert metadata["x-cost-nano-usd"] == str(3 * PRICE_NANOS)
    assert response.parameters["cost_nano_usd"].int64_param == 3 * PRICE_NANOS
    assert response.parameters["inference_id"].string_param == metadata["inference-id"]
    usage = UsageEvent.objects.get()
    assert (usage.units, usage.gross_nanos) == (3, 3 * PRICE_NANOS)
    row = Prediction.objects.get()
    assert (row.protocol, row.rows, row.cost_nanos) == ("grpc", 3, 3 * PRICE_NANOS)
    assert row.pk == usage.pk == from_public(metadata["inference-id"])
    assert LedgerAccount.objects.get(pk=shop.wallet_id).posted_nanos == 7 * PRICE_NANOS
    check_ledger()


def test_typed_contents_are_the_same_as_raw_ones(shop, caller):
    given = [
        typed("x", "FP32", [1, 4], fp32_contents=X[0].tolist()),
        typed("note", "BYTES", [1, 1], bytes_contents=["Grüße".encode()]),
        typed("wait_s", "FP32", [1, 1], fp32_contents=[0]),
    ]

    of_typed, first = caller.infer(make_request(*given))
    of_raw, second = caller.infer(make_request(raw("x", X), raw_texts("note", "Grüße"), wait(0)))

    assert read(of_typed) == read(of_raw)
    assert read(of_raw)["echo"] == ["Grüße"]
    check_books(shop, [first["inference-id"], second["inference-id"]])


def test_outputs_are_chosen(caller):
    response, _ = caller.infer(make_request(outputs=[{"name": "echo"}, {"name": "y"}]))

    assert list(read(response)) == ["echo", "y"]


@pytest.mark.parametrize(
    ("_name", "_version"),
    [
        ("maker/echo", ""),
        ("maker/echo", "1"),
        ("maker/echo", ":1"),
        ("maker/echo", "@prod"),
        ("maker/echo", "ab" * 32),
        ("maker/echo:1", ""),
        ("maker/echo@prod", ""),
    ],
)
def test_every_name_leads_to_the_model(caller, _name, _version):
    caller.infer(make_request(model=_name, model_version=_version))


@pytest.mark.parametrize("_scheme", ["bearer", "Token", "Basic"])
def test_key_may_come_in_three_schemes(shop, caller, _scheme):
    key = shop.key.text
    text = base64.b64encode(f"x:{key}".encode()).decode() if _scheme == "Basic" else key

    caller.infer(metadata=(("authorization", f"{_scheme} {text}"),))


def test_calls_at_the_same_time_are_booked_once_each(shop, caller):
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: caller.infer(), range(8)))

    check_books(shop, [metadata["inference-id"] for _, metadata in answers])


# --- Bad input ---

_ONES = np.ones((1, 4), np.float32)
_BAD_REQUESTS = {
    "no inputs": ({"inputs": [], "raw_input_contents": []}, "'x'"),
    "unknown input": ([raw("z", X)], "'z'"),
    "twice": ([raw("x", X), raw("x", X)], "given twice"),
    "other datatype": ([raw("x", X.astype(np.float64), "FP64")], "FP32"),
    "half floats, raw": ([raw("x", X.astype(np.float16), "FP16")], "FP32"),
    "half floats, typed": ([typed("x", "FP16", [1, 4], fp32_contents=[1] * 4)], "raw contents"),
    "no batch": ([raw("x", X, shape=[4])], "[-1, 4]"),
    "too wide": ([raw("x", np.ones((1, 5), np.float32))], "[-1, 4]"),
    "too short": ([raw("x", X, shape=[2, 4])], "do not fill"),
    "negative": ([raw("x", X, shape=[-1, 4])], "[-1, 4]"),
    "no rows": ([raw("x", X[:0], shape=[0, 4])], "[-1, 4]"),
    "endless": ([raw("x", X, shape=[1 << 62, 4])], "1 to 4"),
    "too many rows": ([raw("x", np.ones((5, 4), np.float32))], "1 to 4"),
    "rows that differ": ([raw("x", X), raw_texts("note", "a", "b")], "not 1"),
    "above the maximum": ([raw("x", X * 1000)], "at most 100"),
    "typed above the maximum": ([typed("x", "FP32", [1, 4], fp32_contents=[101] * 4)], "100"),
    "NaN": ([raw("x", X * np.float32("nan"))], "finite"),
    "typed NaN": ([typed("x", "FP32", [1, 4], fp32_contents=[float("nan")] * 4)], "finite"),
    "wrong member": ([typed("x", "FP32", [1, 4], fp64_contents=[1] * 4)], "fp32_contents"),
    "two members": (
        [typed("x", "FP32", [1, 4], fp32_contents=[1] * 4, int_contents=[1])],
        "fp32_contents",
    ),
    "no contents": ([typed("x", "FP32", [1, 4])], "0 elements"),
    "mixed": ([raw("x", X), typed("note", "BYTES", [1, 1], bytes_contents=[b""])], "for 2 inputs"),
    "both": ([raw("x", X) | {"contents": {"fp32_contents": [1]}}], "beside raw"),
    "raw for nobody": ({"raw_input_contents": [b""] * 2}, "for 1 inputs"),
    "long text": ([raw("x", X), raw_texts("note", "n" * 21)], "20 are allowed"),
    "no UTF-8": (
        [
            typed("x", "FP32", [1, 4], fp32_contents=[1] * 4),
            typed("note", "BYTES", [1, 1], bytes_contents=[b"\xff"]),
        ],
        "UTF-8",
    ),
    "no choice": ([raw("x", X), raw_texts("mode", "other")], "mode"),
    "too many inputs": ([raw(f"x{number}", X) for number in range(33)], "32 tensors"),
    "shared memory": (
        [raw("x", X, parameters={"shared_memory_region": {"string_param": "r"}})],
        "shared_memory_region",
    ),
    "size of HTTP": (
        [raw("x", X, parameters={"binary_data_size": {"int64_param": 4}})],
        "binary_data_size",
    ),
    "form of HTTP": ({"parameters": {"binary_data_output": {"bool_param": False}}}, "HTTP"),
    "sequence": ({"parameters": {"sequence_id": {"int64_param": 1}}}, "sequence_id"),
    "reserved": ({"parameters": {"triton_x": {"bool_param": True}}}, "triton_x"),
    "stream's own": (
        {"parameters": {"triton_enable_empty_final_response": {"bool_param": True}}},
        "triton_enable_empty_final_response",
    ),
    "no value": ({"parameters": {"x": {}}}, "must be a text"),
    "long id": ({"id": "i" * 257}, "256"),
    "NUL in the id": ({"id": "\x00"}, "NUL"),
    "unknown output": ({"outputs": [{"name": "z"}]}, "'z'"),
    "hidden output": ({"outputs": [{"name": "secret"}]}, "'secret'"),
    "output twice": ({"outputs": [{"name": "y"}] * 2}, "twice"),
    "classes": (
        {"outputs": [{"name": "y", "parameters": {"classification": {"int64_param": 1}}}]},
        "classification",
    ),
}


@pytest.mark.parametrize("_case", _BAD_REQUESTS)
def test_bad_request_is_refused_and_costs_nothing(shop, caller, _case):
    given, word = _BAD_REQUESTS[_case]
    if isinstance(given, dict):
        message = make_request()
        for member in given:
            message.ClearField(member)
        message.MergeFrom(service_pb2.ModelInferRequest(**given))
    else:
        message = make_request(*given)

    with pytest.raises(grpc.RpcError) as caught:
        caller.infer(message)

    assert refusal(caught.value) == (Code.INVALID_ARGUMENT, "validation")
    assert word in caught.value.details()
    check_untouched(shop)


@pytest.mark.parametrize("_body", [b"\xff", b"\x0a\x05ab", b"\x0b", b"\x2a\x01\xff", b"\x80" * 11])
def test_message_that_is_none_is_refused(shop, caller, _body):
    call = caller.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    assert refused(call, _body, metadata=caller.metadata) == (Code.INVALID_ARGUMENT, "bad_request")
    check_untouched(shop)


def test_call_without_a_message_is_refused(shop, caller):
    call = caller.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")

    code = refused(call, iter(()), metadata=caller.metadata, timeout=60)

    assert code == (Code.INVALID_ARGUMENT, "bad_request")
    check_untouched(shop)


def test_fields_are_counted_before_they_are_read(shop, caller):
    parameters = {f"p{number}": {"bool_param": True} for number in range(MESSAGE_FIELDS_MAX - 3)}
    message = make_request(parameters=parameters)

    caller.infer(message)
    message.parameters["one-more"].bool_param = True

    assert refused(caller.infer, message) == (Code.INVALID_ARGUMENT, "bad_request")


# --- Who may ---


@pytest.mark.parametrize(
    "_metadata",
    [(), (("authorization", "Bearer sk_live_nope"),), (("authorization", "Other x"),)],
)
def test_call_needs_a_key(shop, caller, _metadata):
    for call, message in [
        (caller.stub.ModelInfer, make_request()),
        (caller.stub.ModelReady, service_pb2.ModelReadyRequest(name="maker/echo")),
        (caller.stub.ModelMetadata, service_pb2.ModelMetadataRequest(name="maker/echo")),
    ]:
        code = refused(call, message, metadata=_metadata, timeout=60)
        assert code == (Code.UNAUTHENTICATED, "unauthenticated")
    check_untouched(shop)


def test_message_of_a_stranger_is_not_read(caller):
    """A body that is refused for its key never came in: its sender is still holding it."""
    asked = threading.Event()

    def messages():
        asked.wait(60)
        yield make_request()

    call = caller.channel.stream_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
    )
    code = refused(call, messages(), metadata=bearer("sk_live_nope"), timeout=60)
    asked.set()

    assert code == (Code.UNAUTHENTICATED, "unauthenticated")


@pytest.mark.parametrize("_model", ["maker/other", "maker/echo:9", "maker/hidden", "no name", ""])
def test_model_that_one_cannot_see_is_not_found(shop, caller, _model):
    AIModelFactory(account=shop.creator, name="hidden", visibility="private")
    metadata = {"metadata": caller.metadata, "timeout": 60}

    assert refused(caller.infer, make_request(model=_model)) == (Code.NOT_FOUND, "not_found")
    for call, kind in [
        (caller.stub.ModelReady, service_pb2.ModelReadyRequest),
        (caller.stub.ModelMetadata, service_pb2.ModelMetadataRequest),
    ]:
        assert refused(call, kind(name=_model), **metadata) == (Code.NOT_FOUND, "not_found")
    check_untouched(shop)


def test_key_without_the_scope_is_refused(shop, caller):
    key = APIKeyFactory(account=shop.consumer, scopes=["read"])

    code = refused(caller.infer, metadata=bearer(key.text))

    assert code == (Code.PERMISSION_DENIED, "forbidden")
    check_untouched(shop)


def test_key_for_other_models_or_networks_is_refused(shop, caller):
    for lists, code in [
        ({"allowed_models": ["maker/other"]}, "model_not_allowed"),
        ({"allowed_networks": ["198.51.100.0/24"]}, "network_not_allowed"),
    ]:
        key = APIKeyFactory(account=shop.consumer, **lists)
        assert refused(caller.infer, metadata=bearer(key.text)) == (Code.PERMISSION_DENIED, code)
    check_untouched(shop)
    key = APIKeyFactory(
        account=shop.consumer, allowed_models=["maker/echo"], allowed_networks=["127.0.0.0/8"]
    )
    caller.infer(metadata=bearer(key.text))


def test_proxy_says_where_a_call_comes_from(shop, elsewhere):
    caller = elsewhere(STRONGROOM_GATEWAY_TRUSTED_PROXIES="127.0.0.0/8")
    key = APIKeyFactory(account=shop.consumer, allowed_networks=["198.51.100.0/24"])
    metadata = bearer(key.text)

    caller.infer(metadata=(*metadata, ("x-forwarded-for", "198.51.100.7")))
    for others in [
        (),
        (("x-forwarded-for", "203.0.113.1"),),
        (("x-forwarded-for", "198.51.100.7"), ("x-forwarded-for", "203.0.113.1")),
    ]:
        assert refused(caller.infer, metadata=(*metadata, *others)) == (
            Code.PERMISSION_DENIED,
            "network_not_allowed",
        )


def test_without_credit_nothing_runs(shop, caller, triton):
    poor = APIKeyFactory()
    calls = triton.count_calls(shop.replica.pk)

    with pytest.raises(grpc.RpcError) as caught:
        caller.infer(metadata=bearer(poor.text))

    assert refusal(caught.value) == (Code.RESOURCE_EXHAUSTED, "insufficient_credit")
    assert dict(caught.value.trailing_metadata())["x-should-retry"] == "false"
    assert triton.count_calls(shop.replica.pk) == calls
    check_untouched(shop)


def test_rate_of_a_key_holds_here_too(shop, caller):
    key = APIKeyFactory(account=shop.consumer, requests_per_minute=1)
    metadata = bearer(key.text)
    _, first = caller.infer(metadata=metadata)

    with pytest.raises(grpc.RpcError) as caught:
        caller.infer(metadata=metadata)

    assert refusal(caught.value) == (Code.RESOURCE_EXHAUSTED, "rate_limited")
    told = dict(caught.value.trailing_metadata())
    assert 1 <= int(told["retry-after"]) <= 60
    assert "q=1;w=60" in told["ratelimit-policy"]
    check_books(shop, [first["inference-id"]])


@pytest.mark.parametrize(
    ("_mode", "_code"), [("fail", "model_failed"), ("nan", "output_invalid"), ("short", None)]
)
def test_failing_model_costs_nothing(shop, caller, _mode, _code):
    message = make_request(raw("x", X), raw_texts("mode", _mode))

    with pytest.raises(grpc.RpcError) as caught:
        caller.infer(message)

    status, code = refusal(caught.value)
    assert status == Code.INTERNAL
    assert code == (_code or code)
    assert "/secret/path" not in caught.value.details()
    check_nothing_booked(shop)


def test_full_gateway_says_when_to_come_back(shop, elsewhere):
    caller = elsewhere(target="tests.gateway.broken:is_full")

    with pytest.raises(grpc.RpcError) as caught:
        caller.infer()

    assert refusal(caught.value) == (Code.UNAVAILABLE, "capacity")
    assert dict(caught.value.trailing_metadata())["retry-after"] == "1"


# --- Limits of size ---


def test_message_may_be_as_large_as_a_body(shop, elsewhere):
    limit_bytes = 4000
    caller = elsewhere(STRONGROOM_GATEWAY_BODY_BYTES_MAX=str(limit_bytes))
    message = make_request(parameters={"padding": {"string_param": ""}})
    message.parameters["padding"].string_param = "p" * 3000
    rest = limit_bytes - message.ByteSize()
    message.parameters["padding"].string_param = "p" * (3000 + rest)
    assert message.ByteSize() == limit_bytes

    _, metadata = caller.infer(message)
    message.parameters["padding"].string_param += "p"
    with pytest.raises(grpc.RpcError) as caught:
        caller.infer(message)
    with pytest.raises(grpc.RpcError) as inflated:
        caller.infer(message, compression=grpc.Compression.Gzip)

    assert caught.value.code() == inflated.value.code() == Code.RESOURCE_EXHAUSTED
    check_books(shop, [metadata["inference-id"]])


def test_compressed_message_is_taken(shop, caller):
    message = make_request(parameters={"padding": {"string_param": "p" * 10_000}})

    _, metadata = caller.infer(message, compression=grpc.Compression.Gzip)

    check_books(shop, [metadata["inference-id"]])


def test_metadata_has_a_limit(shop, caller):
    # As HTTP/2 counts: name, value and 32 bytes of each; what gRPC itself adds is not much.
    room = GRPC_METADATA_BYTES_MAX - 1024
    caller.infer(metadata=(*caller.metadata, ("padding", "p" * room)))

    with pytest.raises(grpc.RpcError) as caught:
        caller.infer(metadata=(*caller.metadata, ("padding", "p" * GRPC_METADATA_BYTES_MAX)))

    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    assert UsageEvent.objects.count() == 1


# --- What is not offered ---

_CONTROL = [
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "ModelConfig",
    "ModelStatistics",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
]


@pytest.mark.parametrize("_method", _CONTROL)
def test_control_of_a_server_is_not_offered(shop, caller, _method):
    """Not with a key either, nor for the name that the replica has at Triton."""
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    kind = getattr(service_pb2, service.methods_by_name[_method].input_type.name)
    message = kind()
    for field in ("model_name", "name"):
        if field in kind.DESCRIPTOR.fields_by_name:
            setattr(message, field, f"r{shop.replica.pk.hex}")

    code = refused(getattr(caller.stub, _method), message, metadata=caller.metadata, timeout=60)

    assert code == (Code.UNIMPLEMENTED, "not_offered")
    # The replica is where it was.
    caller.infer()


def test_every_call_of_the_service_is_answered_on_purpose():
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    offered = {"ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata"}
    offered |= {"ModelInfer", "ModelStreamInfer"}

    assert {one.name for one in service.methods} == offered | set(_CONTROL)


@pytest.mark.parametrize(
    "_path",
    [
        "/inference.GRPCInferenceService/Other",
        "/inference.GRPCInferenceService/unknown",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/other",
    ],
)
def test_unknown_call_is_not_offered(shop, caller, _path):
    code = refused(caller.channel.unary_unary(_path), b"", metadata=caller.metadata, timeout=60)

    assert code == (Code.UNIMPLEMENTED, "not_offered")


def test_calls_do_not_exist_over_http(shop, client):
    response = client.post(
        "/inference.GRPCInferenceService/ModelInfer", content=make_request().SerializeToString()
    )

    assert response.status_code == 404
    check_untouched(shop)


# --- Server and model ---


def test_server_tells_of_itself_without_a_key(shop, caller):
    stub = caller.stub

    assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=60).live
    assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=60).ready
    described = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=60)
    assert (described.name, described.version) == ("strongroom", "1")


def test_model_tells_what_it_takes_and_gives(shop, caller):
    described = caller.stub.ModelMetadata(
        service_pb2.ModelMetadataRequest(name="maker/echo", version="1"), metadata=caller.metadata
    )

    assert (described.name, list(described.versions)) == ("maker/echo", ["1"])
    assert [(one.name, one.datatype, list(one.shape)) for one in described.inputs] == [
        ("x", "FP32", [-1, 4]),
        ("note", "BYTES", [-1, 1]),
        ("mode", "BYTES", [-1, 1]),
        ("wait_s", "FP32", [-1, 1]),
    ]
    assert [one.name for one in described.outputs] == ["y", "scores", "echo"]


def test_model_is_ready_while_a_replica_is(shop, caller):
    def ask():
        asked = service_pb2.ModelReadyRequest(name="maker/echo")
        return caller.stub.ModelReady(asked, metadata=caller.metadata, timeout=60).ready

    assert ask()
    Replica.objects.update(state=Replica.State.LOST)

    def check_not_ready():
        assert not ask()

    eventually(check_not_ready)
    assert refused(caller.infer) == (Code.UNAVAILABLE, "model_not_ready")
    check_untouched(shop)


# --- Clients that leave ---


def cancel_in_the_middle(call):
    """Once the model has begun, and before it ends."""
    assert not call.done()
    time.sleep(0.7)
    call.cancel()


def check_recorded(count, code):
    rows = Prediction.objects.exclude(state="succeeded").values_list("error", flat=True)
    assert Counter(rows) == Counter({code: count})


def test_cancelled_call_is_not_charged(shop, caller):
    message = make_request(raw("x", X), wait(1.5))

    call = caller.stub.ModelInfer.future(message, metadata=caller.metadata, timeout=60)
    cancel_in_the_middle(call)

    eventually(lambda: check_recorded(1, "client_gone"), timeout_s=LEFT_WITHIN_S)
    check_nothing_booked(shop)


def test_charge_for_a_cancelled_call_is_noticed(shop, elsewhere, monkeypatch):
    caller = elsewhere(target="tests.gateway.broken:ignores_leaving")
    monkeypatch.setattr(f"{__name__}.LEFT_WITHIN_S", 5)

    with pytest.raises(AssertionError):
        test_cancelled_call_is_not_charged(shop, caller)
    assert UsageEvent.objects.count() == 1


def test_keyed_call_goes_on_without_its_client_and_is_charged_once(shop, caller):
    message = make_request(raw("x", X), wait(1.5))
    metadata = (*caller.metadata, *KEYED)

    call = caller.stub.ModelInfer.future(message, metadata=metadata, timeout=60)
    cancel_in_the_middle(call)

    def repeat():
        try:
            return caller.infer(message, metadata=metadata)
        except grpc.RpcError as error:
            raise AssertionError(error) from None

    response, told = eventually(repeat, timeout_s=20)
    assert told["idempotent-replayed"] == "true"
    assert read(response)["y"] == (X * 2).tolist()
    check_books(shop, [told["inference-id"]])


def test_deadline_of_the_client_is_that_of_the_prediction(shop, caller):
    message = make_request(raw("x", X), wait(3))

    with pytest.raises(grpc.RpcError) as caught:
        caller.infer(message, timeout=0.7)

    assert caught.value.code() == Code.DEADLINE_EXCEEDED
    # The gateway gave it up as well, before the model had ended.
    eventually(lambda: check_recorded(1, "deadline"), timeout_s=2)
    check_nothing_booked(shop)


def test_deadline_of_the_gateway_ends_a_call(shop, elsewhere):
    caller = elsewhere(STRONGROOM_GATEWAY_DEADLINE_S="1")

    code = refused(caller.infer, make_request(raw("x", X), wait(3)))

    assert code == (Code.DEADLINE_EXCEEDED, "deadline")
    check_nothing_booked(shop)


# --- Idempotency keys ---


def test_keyed_retry_gets_the_first_answer_and_pays_once(shop, caller):
    metadata = (*caller.metadata, *KEYED)
    parameters = {name: {"string_param": name} for name in "abcdefgh"}

    first, one = caller.infer(make_request(id="mine", parameters=parameters), metadata=metadata)
    # The same request, put together in another order.
    backwards = dict(reversed(parameters.items()))
    again, two = caller.infer(make_request(id="mine", parameters=backwards), metadata=metadata)

    assert again == first
    assert again.id == "mine"
    assert two["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in one
    assert one["inference-id"] == two["inference-id"] != two["x-request-id"]
    assert two["x-cost-nano-usd"] == str(PRICE_NANOS)
    check_books(shop, [one["inference-id"]])


def test_other_request_with_the_same_key_is_a_mismatch(shop, caller, client):
    metadata = (*caller.metadata, *KEYED)
    _, first = caller.infer(metadata=metadata)

    code = refused(caller.infer, make_request(raw("x", X * 2)), metadata=metadata)
    by_http = client.post("/v2/models/maker/echo/infer", json={}, headers=dict(KEYED))

    assert code == (Code.INVALID_ARGUMENT, "idempotency_mismatch")
    assert by_http.status_code == 422
    check_books(shop, [first["inference-id"]])


def test_forgotten_keys_are_noticed(shop, elsewhere):
    caller = elsewhere(target="tests.gateway.broken:forgets_keys")

    with pytest.raises(AssertionError):
        test_keyed_retry_gets_the_first_answer_and_pays_once(shop, caller)


def test_answer_before_commit_is_noticed(shop, elsewhere):
    caller = elsewhere(target="tests.gateway.broken:answers_before_commit")
    _, metadata = caller.infer()

    with pytest.raises(AssertionError):
        check_books(shop, [metadata["inference-id"]])


# --- The server ---


def test_calls_are_counted_as_grpc(shop, caller):
    before = Scrape(shop.url)
    caller.infer()
    refused(caller.infer, metadata=())
    refused(caller.infer, make_request(model="maker/other"))
    after = Scrape(shop.url)

    def count(**labels):
        return after.sum("requests_total", protocol="grpc", **labels) - before.sum(
            "requests_total", protocol="grpc", **labels
        )

    # A gateway that has met many versions counts the later ones as others.
    assert count(outcome="ok") == 1
    assert count(code="unauthenticated") == 1
    assert count(code="not_found") == 1


def test_lost_count_is_noticed(shop, elsewhere):
    caller = elsewhere(target="tests.gateway.broken:loses_count")
    shop.url = caller.gateway.url

    with pytest.raises(AssertionError):
        test_calls_are_counted_as_grpc(shop, caller)


def test_gateway_that_stops_answers_what_it_has(shop, elsewhere):
    caller = elsewhere()
    call = caller.stub.ModelInfer.future(
        make_request(raw("x", X), wait(2)), metadata=caller.metadata, timeout=60
    )
    time.sleep(0.7)
    caller.gateway.process.send_signal(signal.SIGTERM)

    assert read(call.result())["y"] == (X * 2).tolist()
    assert caller.gateway.process.wait(30) == 0
    check_books(shop, [dict(call.trailing_metadata())["inference-id"]])


def test_port_of_another_is_not_shared(shop, gateway, start_gateway):
    with pytest.raises(ChildProcessError, match="Failed to bind"):
        start_gateway(**{GRPC_LISTEN: gateway.grpc_address})


def test_it_listens_where_it_is_told_and_nowhere_else(shop, gateway, start_gateway):
    plain = start_gateway()

    assert list_addresses(plain) == {f"127.0.0.1:{plain.port}"}
    assert list_addresses(gateway) == {f"127.0.0.1:{gateway.port}", gateway.grpc_address}


def list_addresses(gateway):
    parent = psutil.Process(gateway.process.pid)
    return {
        f"{one.laddr.ip.removeprefix('::ffff:')}:{one.laddr.port}"
        for process in (parent, *parent.children(recursive=True))
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }


@pytest.mark.parametrize("_text", ["127.0.0.1:8002", "0.0.0.0:1", "[::1]:65535", "gateway:8002"])
def test_address_is_host_and_port(monkeypatch, _text):
    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", "postgresql://x")
    monkeypatch.setenv(GRPC_LISTEN, _text)

    assert GatewayConfig.from_env().grpc_listen == _text
