"""`ModelStreamInfer`: requests on one call, each answered by one message, in their order."""

from __future__ import annotations

import queue
import signal
import time

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from billing.models import UsageEvent
from inference.models import Prediction
from marketplace.core.errors import DeadlineError
from tests.factories import APIKeyFactory
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
    check_nothing_booked,
    check_untouched,
)
from tests.gateway.processes import eventually, with_grpc
from tests.gateway.scrape import Scrape
from tests.gateway.test_stream import stops

pytestmark = pytest.mark.django_db(transaction=True)

Code = grpc.StatusCode
EMPTY_FINAL = {"triton_enable_empty_final_response": {"bool_param": True}}


@pytest.fixture
def caller(shop):
    with calling(shop.grpc_address, shop.key.text) as made:
        yield made


@pytest.fixture
def narrow(shop, start_gateway):
    """A caller of a gateway with two streams at a time, which may be silent for half a second."""
    gateway = start_gateway(target="tests.gateway.broken:has_narrow_streams", **with_grpc())
    with calling(gateway.grpc_address, shop.key.text) as made:
        yield made


class Requests:
    """Requests that are sent when the test says so."""

    def __init__(self):
        self._queue = queue.Queue()

    def send(self, message):
        self._queue.put(message)

    def end(self):
        self._queue.put(None)

    def __iter__(self):
        return self

    def __next__(self):
        message = self._queue.get(timeout=60)
        if message is None:
            raise StopIteration
        return message


@pytest.fixture
def requests():
    made = Requests()
    yield made
    made.end()


def ended(responses):
    """How a stream ended that was not ended by its client."""
    with pytest.raises(grpc.RpcError) as caught:
        next(responses)
    return refusal(caught.value)


def test_requests_are_answered_in_order_and_charged_each(shop, caller):
    messages = [
        make_request(raw("x", X * factor), id=f"r{factor}", parameters=EMPTY_FINAL)
        for factor in range(1, 4)
    ]

    responses = list(caller.stream(*messages))

    assert [one.error_message for one in responses] == [""] * 3
    answers = [one.infer_response for one in responses]
    assert [one.id for one in answers] == ["r1", "r2", "r3"]
    assert [read(one)["y"] for one in answers] == [(X * 2 * n).tolist() for n in range(1, 4)]
    # Each is the last of its request, so that no empty one follows.
    assert all(one.parameters["triton_final_response"].bool_param for one in answers)
    assert {one.parameters["cost_nano_usd"].int64_param for one in answers} == {PRICE_NANOS}
    assert set(Prediction.objects.values_list("protocol", flat=True)) == {"grpc"}
    check_books(shop, [one.parameters["inference_id"].string_param for one in answers])


def test_error_is_a_message_and_the_stream_goes_on(shop, caller):
    poor = APIKeyFactory()
    bad = [
        (make_request(raw("x", X * 1000)), "validation", "at most 100"),
        (make_request(model="maker/other"), "not_found", ""),
        (make_request(raw("x", X), raw_texts("mode", "fail")), "model_failed", ""),
    ]

    responses = list(caller.stream(*(message for message, *_ in bad), make_request(id="last")))
    of_poor = list(caller.stream(make_request(), metadata=bearer(poor.text)))

    for response, (_, code, word) in zip(responses[:-1], bad, strict=True):
        assert response.infer_response.parameters["error_code"].string_param == code
        assert response.error_message
        assert word in response.error_message
    assert of_poor[0].infer_response.parameters["error_code"].string_param == "insufficient_credit"
    last = responses[-1].infer_response
    assert last.id == "last"
    check_books(shop, [last.parameters["inference_id"].string_param])


def test_message_that_is_none_is_an_error_in_the_stream(shop, caller):
    call = caller.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )

    (response,) = call(iter([b"\xff"]), metadata=caller.metadata, timeout=60)

    assert response.infer_response.parameters["error_code"].string_param == "bad_request"
    check_untouched(shop)


@pytest.mark.parametrize("_value", [{"string_param": "true"}, {"int64_param": 1}])
def test_wish_for_an_empty_response_is_true_or_false(shop, caller, _value):
    message = make_request(parameters={"triton_enable_empty_final_response": _value})

    (response,) = caller.stream(message)

    assert "triton_enable_empty_final_response" in response.error_message
    check_untouched(shop)


@pytest.mark.parametrize(
    ("_metadata", "_outcome"),
    [
        ((), (Code.UNAUTHENTICATED, "unauthenticated")),
        ((("authorization", "Bearer sk_live_x"),), (Code.UNAUTHENTICATED, "unauthenticated")),
        ("keyed", (Code.INVALID_ARGUMENT, "stream_with_key")),
    ],
)
def test_stream_that_may_not_be_is_refused_before_it_is_read(
    shop, caller, requests, _metadata, _outcome
):
    keyed = (*caller.metadata, ("idempotency-key", "one"))

    responses = caller.stub.ModelStreamInfer(
        requests, metadata=keyed if _metadata == "keyed" else _metadata, timeout=60
    )

    assert ended(responses) == _outcome
    check_untouched(shop)


def test_revoked_key_ends_the_stream(shop, caller, requests):
    responses = caller.stub.ModelStreamInfer(requests, metadata=caller.metadata, timeout=60)
    requests.send(make_request())
    first = next(responses).infer_response

    shop.key.revoked_at = shop.key.created_at
    shop.key.save()
    with calling(shop.grpc_address, shop.key.text) as other:

        def check_revoked():
            asked = other.stub.ModelReady.future(
                service_pb2.ModelReadyRequest(name="maker/echo"), metadata=other.metadata
            )
            assert asked.code() is Code.UNAUTHENTICATED

        eventually(check_revoked)
    requests.send(make_request())

    assert ended(responses) == (Code.UNAUTHENTICATED, "unauthenticated")
    check_books(shop, [first.parameters["inference_id"].string_param])


def test_cancelled_stream_charges_what_was_answered(shop, caller, requests):
    responses = caller.stub.ModelStreamInfer(requests, metadata=caller.metadata, timeout=60)
    requests.send(make_request())
    first = next(responses).infer_response
    requests.send(make_request(raw("x", X), wait(1.5)))
    time.sleep(0.7)

    responses.cancel()

    def check_given_up():
        rows = Prediction.objects.exclude(state="succeeded").values_list("error", flat=True)
        assert list(rows) == ["client_gone"]

    eventually(check_given_up, timeout_s=20)
    check_books(shop, [first.parameters["inference_id"].string_param])


def test_deadline_of_a_stream_is_that_of_its_predictions(shop, caller):
    started_s = time.monotonic()
    end = read_end(caller.stream(make_request(raw("x", X), wait(3)), timeout=0.7))

    # The gateway may look at its clock a moment before the client does.
    assert end in (Code.DEADLINE_EXCEEDED, DeadlineError.title)
    assert time.monotonic() - started_s < 3
    check_nothing_booked(shop)


def read_end(responses):
    """The error of a stream's only response, or the code with which the call ended."""
    try:
        [response] = responses
    except grpc.RpcError as error:
        return error.code()
    return response.error_message


def test_streams_have_a_limit(shop, narrow):
    made = [Requests() for _ in range(2)]
    try:
        streams = []
        for one in made:
            streams.append(narrow.stub.ModelStreamInfer(one, metadata=narrow.metadata, timeout=60))
            one.send(make_request())
            next(streams[-1])
        # Calls of one message are no streams.
        narrow.infer()
        responses = narrow.stream(make_request())
        with pytest.raises(grpc.RpcError) as caught:
            next(responses)
        assert refusal(caught.value) == (Code.UNAVAILABLE, "capacity")
        assert dict(caught.value.trailing_metadata())["retry-after"] == "1"
    finally:
        for one in made:
            one.end()

    def check_free():
        try:
            return list(narrow.stream(make_request()))
        except grpc.RpcError as error:
            raise AssertionError(error) from None

    eventually(check_free)


def test_connection_has_so_many_calls_at_a_time(shop, start_gateway):
    gateway = start_gateway(target="tests.gateway.broken:has_narrow_connections", **with_grpc())
    made = [Requests() for _ in range(2)]
    with calling(gateway.grpc_address, shop.key.text) as caller:
        # A stream that nobody holds is cancelled.
        streams = [
            caller.stub.ModelStreamInfer(one, metadata=caller.metadata, timeout=60) for one in made
        ]
        for one, responses in zip(made, streams, strict=True):
            one.send(make_request())
            assert not next(responses).error_message

        with pytest.raises(grpc.RpcError) as caught:
            caller.infer(timeout=1)
        # It has not even left the client.
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        made[0].end()
        caller.infer()
        made[1].end()
    assert UsageEvent.objects.count() == 3


def test_process_has_so_many_connections(shop, start_gateway):
    gateway = start_gateway(target="tests.gateway.broken:has_narrow_connections", **with_grpc())

    def infer_anew():
        with calling(gateway.grpc_address, shop.key.text) as caller:
            caller.infer()

    def check_free():
        try:
            infer_anew()
        except grpc.RpcError as error:
            raise AssertionError(error) from None

    with calling(gateway.grpc_address, shop.key.text) as first:
        with calling(gateway.grpc_address, shop.key.text) as second:
            first.infer()
            second.infer()
            with pytest.raises(grpc.RpcError) as caught:
                infer_anew()
            assert caught.value.code() is Code.UNAVAILABLE
            first.infer()
        eventually(check_free)


def test_silent_stream_is_ended(shop, narrow, requests):
    responses = narrow.stub.ModelStreamInfer(requests, metadata=narrow.metadata, timeout=60)
    requests.send(make_request(raw("x", X), wait(1)))
    # A stream is not silent while it works.
    assert not next(responses).error_message

    assert ended(responses) == (Code.DEADLINE_EXCEEDED, "request_timeout")
    assert UsageEvent.objects.count() == 1


def test_stream_that_nobody_reads_is_ended(shop, start_gateway):
    """Its answers fill what gRPC keeps on the way, and then there is no room for the next."""
    gateway = start_gateway(target="tests.gateway.broken:has_narrow_streams", **with_grpc())
    # Refused at once, with a long word to it.
    bad = make_request(typed("😀" * 64, "😀" * 64, [1], int_contents=[1]))
    with calling(gateway.grpc_address, shop.key.text) as caller:
        responses = caller.stream(*[bad] * 30_000, timeout=240)

        def check_ended():
            found = Scrape(gateway.url).sum("requests_total", code="request_timeout")
            assert found == 1

        eventually(check_ended, timeout_s=120)
        with pytest.raises(grpc.RpcError) as caught:
            list(responses)
    assert refusal(caught.value) == (Code.DEADLINE_EXCEEDED, "request_timeout")
    check_untouched(shop)


def test_gateway_that_stops_ends_silent_streams(shop, start_gateway, requests):
    gateway = start_gateway(**with_grpc())
    with calling(gateway.grpc_address, shop.key.text) as caller:
        responses = caller.stub.ModelStreamInfer(requests, metadata=caller.metadata, timeout=60)
        requests.send(make_request())
        assert not next(responses).error_message

        gateway.process.send_signal(signal.SIGTERM)

        assert ended(responses) == (Code.UNAVAILABLE, "capacity")
    assert gateway.process.wait(30) == 0


def test_each_request_of_a_stream_is_counted(shop, caller):
    def count(**labels):
        return Scrape(shop.url).sum("requests_total", protocol="grpc", **labels)

    before = count(outcome="ok"), count(code="validation"), count(code="unauthenticated")
    list(caller.stream(make_request(), make_request(raw("x", X * 1000)), make_request()))
    ended(caller.stream(make_request(), metadata=()))

    after = count(outcome="ok"), count(code="validation"), count(code="unauthenticated")
    assert np.subtract(after, before).tolist() == [2, 1, 1]


# --- Models that stream ---


def ask(prompt="one two three", **members):
    return make_request(raw_texts("prompt", prompt), model="maker/teller", **members)


def texts_of(responses):
    return [read(one.infer_response)["text"][0] for one in responses]


def id_of(response):
    return response.infer_response.parameters["inference_id"].string_param


def is_last(response):
    return response.infer_response.parameters["triton_final_response"].bool_param


def test_pieces_come_before_the_rest_and_are_charged_once(teller, caller):
    responses = list(caller.stream(ask(id="mine", parameters=EMPTY_FINAL)))

    check_books(teller, [id_of(responses[0])])
    assert texts_of(responses) == ["one", " two", " three", ""]
    assert [is_last(one) for one in responses] == [False] * 3 + [True]
    assert {one.infer_response.id for one in responses} == {"mine"}
    assert len({id_of(one) for one in responses}) == 1
    for one in responses[:-1]:
        assert [output.name for output in one.infer_response.outputs] == ["text"]
    last = responses[-1].infer_response
    assert [one.name for one in last.outputs] == ["text", "tokens_in", "tokens_out"]
    assert read(last) == {"text": [""], "tokens_in": [[3]], "tokens_out": [[3]]}
    assert last.parameters["cost_nano_usd"].int64_param == PRICE_NANOS
    row = Prediction.objects.get()
    assert (row.protocol, row.rows, row.cost_nanos) == ("grpc", 1, PRICE_NANOS)


def test_model_that_streams_answers_a_call_at_once(teller, caller):
    response, metadata = caller.infer(ask())

    assert response.raw_output_contents[0][4:] == b"one two three"
    check_books(teller, [metadata["inference-id"]])


def test_stream_without_its_text_is_one_response(teller, caller):
    (response,) = caller.stream(ask(outputs=[{"name": "tokens_out"}]))

    assert [one.name for one in response.infer_response.outputs] == ["tokens_out"]
    check_books(teller, [id_of(response)])


def test_streamed_answers_take_turns_with_others(teller, caller):
    responses = list(caller.stream(ask("a b"), make_request(id="between"), ask("c")))

    assert texts_of(responses[:3]) == ["a", " b", ""]
    assert responses[3].infer_response.id == "between"
    assert texts_of(responses[4:]) == ["c", ""]
    check_books(teller, [id_of(responses[at]) for at in (0, 3, 4)])


def test_stream_that_breaks_is_charged_if_it_had_begun(teller, caller):
    responses = list(caller.stream(ask("a b c fail=2")))

    assert texts_of(responses[:2]) == ["a", " b"]
    broken = responses[2].infer_response
    assert broken.parameters["error_code"].string_param == "stream_broken"
    assert len(responses) == 3
    check_books(teller, [id_of(responses[0])])


def test_stream_that_breaks_before_it_begins_costs_nothing(teller, caller):
    (response,) = caller.stream(ask("a b c fail=0"))

    assert response.infer_response.parameters["error_code"].string_param == "model_failed"
    assert "/secret/path" not in response.error_message
    check_nothing_booked(teller)


def test_cancelled_stream_stops_the_model_and_charges_what_was_delivered(teller, caller, triton):
    responses = caller.stream(ask("a name=grpc-left pause=0.1 repeat=90"))
    first = next(responses)
    next(responses)

    responses.cancel()

    how, count = eventually(lambda: stops_of(triton, "grpc-left"), timeout_s=20)
    assert how == "stopped"
    assert count < 80

    def check_charged():
        check_books(teller, [id_of(first)])

    eventually(check_charged, timeout_s=20)


def test_stream_cancelled_before_its_first_piece_costs_nothing(teller, caller, triton):
    responses = caller.stream(ask("a name=grpc-early lead=1 pause=0.1 repeat=90"))
    time.sleep(0.4)

    responses.cancel()

    how, _ = eventually(lambda: stops_of(triton, "grpc-early"), timeout_s=20)
    assert how == "stopped"
    check_nothing_booked(teller)


def test_deadline_ends_a_stream_and_charges_what_was_delivered(teller, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_DEADLINE_S="1", **with_grpc())

    with calling(gateway.grpc_address, teller.key.text) as caller:
        responses = list(caller.stream(ask("a pause=0.1 repeat=90")))

    assert responses[-1].infer_response.parameters["error_code"].string_param == "stream_broken"
    assert len(responses) > 1
    check_books(teller, [id_of(responses[0])])


@pytest.mark.parametrize("_damage", ["charges_without_delivery", "forgets_deliveries"])
def test_wrong_charge_for_a_stream_is_noticed(teller, start_gateway, _damage):
    gateway = start_gateway(target=f"tests.gateway.broken:{_damage}", **with_grpc())
    check = {
        "charges_without_delivery": test_stream_that_breaks_before_it_begins_costs_nothing,
        "forgets_deliveries": test_stream_that_breaks_is_charged_if_it_had_begun,
    }[_damage]

    with calling(gateway.grpc_address, teller.key.text) as caller, pytest.raises(AssertionError):
        check(teller, caller)


def stops_of(triton, name):
    found = stops(triton, name)
    assert found
    return found
