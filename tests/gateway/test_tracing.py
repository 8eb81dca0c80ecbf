"""Traces reach a collector, say where time went, and cost nobody a prediction."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from uuid import uuid4

import grpc
import httpx
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2

from inference.gateway.config import SPANS_PER_REQUEST_MAX, SPANS_WAITING_MAX, GatewayConfig
from inference.gateway.tracing import Trace, Tracer, make_tracer, read_traceparent
from inference.gateway.triton_pool import _render_head
from inference.gateway.triton_stream import TritonStreams
from marketplace.core.env import SettingError
from marketplace.core.ids import from_public
from tests.gateway.collector import Collector, read_attributes
from tests.gateway.conftest import PRICE_NANOS, check_books, predict
from tests.gateway.processes import ROOT, eventually
from tests.gateway.scrape import Scrape

pytestmark = pytest.mark.django_db(transaction=True)

PARENT_TRACE, PARENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{PARENT_TRACE}-{PARENT_SPAN}-01"
ERROR = 2  # Of opentelemetry.proto.trace.v1.Status.


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def traced(start_gateway, collector):
    return start_gateway(STRONGROOM_OTLP_ENDPOINT=collector.url, STRONGROOM_OTLP_RATIO="1")


def wait_for_trace(collector: Collector, request_id: str) -> dict:
    """The spans of a request, once its root is here; the trace's id is the request's."""
    trace_id = from_public(request_id).hex

    def find():
        found = collector.trace(trace_id)
        assert any(not one.parent_span_id for many in found.values() for one in many)
        return found

    return eventually(find, timeout_s=30)


def test_a_prediction_is_one_trace(shop, traced, collector):
    answer = predict(shop.client(url=traced.url))
    assert answer.status_code == 201
    spans = wait_for_trace(collector, answer.headers["x-request-id"])

    name = "POST /v1/models/*/*/predictions"
    assert set(spans) == {name, "hold", "queue", "triton", "settle"}
    assert [len(many) for many in spans.values()] == [1] * 5
    [root] = spans[name]
    for part in ("hold", "queue", "triton", "settle"):
        [span] = spans[part]
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
    order = [spans[part][0].start_time_unix_nano for part in ("hold", "queue", "triton", "settle")]
    assert order == sorted(order)
    assert read_attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/models/*/*/predictions",
        "http.response.status_code": 201,
        "strongroom.request_id": answer.headers["x-request-id"],
        "strongroom.code": "ok",
        "strongroom.account_id": str(shop.consumer.pk),
        "strongroom.key_id": str(shop.key.pk),
        "strongroom.model_id": str(shop.model.pk),
        "strongroom.version_id": str(shop.version.pk),
    }
    replica = {"strongroom.replica_id": str(shop.replica.pk)}
    assert read_attributes(spans["triton"][0]) == replica
    assert read_attributes(spans["settle"][0]) == {}
    check_books(shop, [answer.json()["id"]])


def test_the_clients_context_is_a_link_and_no_more(shop, traced, collector):
    answer = predict(shop.client(url=traced.url), headers={"traceparent": TRACEPARENT})
    spans = wait_for_trace(collector, answer.headers["x-request-id"])

    [root] = spans["POST /v1/models/*/*/predictions"]
    assert not root.parent_span_id
    [link] = root.links
    assert (link.trace_id.hex(), link.span_id.hex()) == (PARENT_TRACE, PARENT_SPAN)
    assert collector.trace(PARENT_TRACE) == {}
    assert "traceparent" not in answer.headers


def test_a_client_cannot_make_us_trace(shop, start_gateway, collector):
    gateway = start_gateway(STRONGROOM_OTLP_ENDPOINT=collector.url, STRONGROOM_OTLP_RATIO="0")
    assert predict(shop.client(url=gateway.url), headers={"traceparent": TRACEPARENT}).is_success
    gateway.stop()

    assert collector.spans == []


def test_failures_are_marked(shop, traced, collector):
    client = shop.client(url=traced.url)
    failed = predict(client, mode="fail")
    spans = wait_for_trace(collector, failed.headers["x-request-id"])

    [root] = spans["POST /v1/models/*/*/predictions"]
    assert root.status.code == ERROR
    assert read_attributes(root)["strongroom.code"] == "model_failed"
    assert spans["triton"][0].status.code == ERROR
    assert read_attributes(spans["triton"][0])["error.type"] == "ModelExecutionError(model_failed)"
    assert "settle" not in spans

    for _ in range(10):
        predict(client)
    refused = predict(client)
    assert refused.status_code == 402
    spans = wait_for_trace(collector, refused.headers["x-request-id"])
    [hold] = spans["hold"]
    assert read_attributes(hold)["error.type"] == "InsufficientCreditError(insufficient_credit)"
    # A refusal is the caller's matter: the request itself did not fail.
    assert spans["POST /v1/models/*/*/predictions"][0].status.code != ERROR


def test_standard_settings_are_understood(shop, start_gateway, collector):
    gateway = start_gateway(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_HEADERS="x-tenant=seven",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        STRONGROOM_OTLP_RATIO="1",
    )
    answer = predict(shop.client(url=gateway.url))
    wait_for_trace(collector, answer.headers["x-request-id"])

    assert collector.headers[0]["x-tenant"] == "seven"
    assert collector.headers[0]["content-encoding"] == "gzip"


def test_spans_leave_when_the_gateway_ends(shop, traced, collector):
    answer = predict(shop.client(url=traced.url))
    traced.stop()

    assert "settle" in collector.trace(from_public(answer.headers["x-request-id"]).hex)


def test_without_a_collector_predictions_go_on(shop, start_gateway):
    """The port is closed: nothing is delivered, what waits is bounded, nothing is slower."""
    gateway = start_gateway(
        STRONGROOM_OTLP_ENDPOINT="http://127.0.0.1:9", STRONGROOM_OTLP_RATIO="1"
    )
    shop.fund(100 * PRICE_NANOS)
    client = shop.client(url=gateway.url)
    answered = [predict(client).json()["id"] for _ in range(60)]

    check_books(shop, answered)
    assert Scrape(gateway.url).sum("requests_total", code="ok") == 60
    gateway.stop()
    assert gateway.process.returncode == 0


def test_what_waits_for_a_collector_is_bounded():
    tracer = Tracer("http://127.0.0.1:9", 1)
    try:
        for _ in range(SPANS_WAITING_MAX + 10):
            trace = tracer.begin(uuid4())
            trace.add("hold", 0, 1)
            tracer.end(make_request(trace), 201)
        [processor] = tracer._exporter._provider._active_span_processor._span_processors
        assert len(processor._batch_processor._queue) <= SPANS_WAITING_MAX
    finally:
        tracer.stop()


def make_request(trace: Trace) -> SimpleNamespace:
    from datetime import UTC, datetime
    from uuid import uuid4

    return SimpleNamespace(
        id=uuid4(),
        request_id="x" * 26,
        created_at=datetime.now(UTC),
        started_s=0.0,
        ended_s=2.0,
        method="GET",
        segments=["v1"],
        code="ok",
        headers={},
        caller=None,
        offer=None,
        trace=trace,
    )


def test_the_parts_of_one_request_are_bounded():
    trace = Trace()
    for _ in range(SPANS_PER_REQUEST_MAX + 1):
        trace.add("triton", 0, 1)

    assert len(trace.stages) == SPANS_PER_REQUEST_MAX


@pytest.mark.parametrize(("ratio", "count"), [(0, 0), (1, 100)])
def test_the_ratio_decides(ratio, count):
    tracer = Tracer("http://127.0.0.1:9", ratio)
    try:
        assert sum(tracer.begin(uuid4()) is not None for _ in range(100)) == count
    finally:
        tracer.stop()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TRACEPARENT, (int(PARENT_TRACE, 16), int(PARENT_SPAN, 16))),
        (None, None),
        ("", None),
        (TRACEPARENT.upper(), None),
        (f"{TRACEPARENT}-more", None),
        (f"{TRACEPARENT}\n", None),
        (f"01{TRACEPARENT[2:]}", None),
        (f"00-{'0' * 32}-{PARENT_SPAN}-01", None),
        (f"00-{PARENT_TRACE}-{'0' * 16}-01", None),
        ("sk_live_secret", None),
    ],
)
def test_only_an_exact_traceparent_is_read(text, expected):
    assert read_traceparent(text) == expected


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", "postgresql:///x")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STRONGROOM_OTLP_ENDPOINT", "collector:4318"),
        ("STRONGROOM_OTLP_RATIO", "1.01"),
        ("STRONGROOM_OTLP_RATIO", "-0.1"),
        ("STRONGROOM_OTLP_RATIO", "nan"),
        ("STRONGROOM_OTLP_RATIO", "all"),
    ],
)
def test_wrong_settings_are_refused(settings, name, value):
    settings.setenv(name, value)
    with pytest.raises(SettingError, match=name):
        GatewayConfig.from_env()


def test_nothing_is_traced_unless_a_collector_is_named(settings):
    assert make_tracer(GatewayConfig.from_env()) is None

    settings.setenv("STRONGROOM_OTLP_RATIO", "1")
    assert make_tracer(GatewayConfig.from_env()) is None


def test_without_a_collector_nothing_of_it_is_imported():
    code = (
        "import sys, inference.gateway.app\n"
        # The client of Redis imports what it finds of the metrics; traces are ours alone.
        "ours = ('opentelemetry.sdk.trace', 'opentelemetry.exporter')\n"
        "assert not [one for one in sys.modules if one.startswith(ours)]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, check=True)


def test_triton_is_told_which_span_its_call_is():
    trace = Trace(0xABC)
    parent = trace.name_call()
    trace.add("queue", 0.0, 1.0)
    trace.add("triton", 1.0, 2.0)
    # A second batch, whose call another request has led.
    trace.add("triton", 2.0, 3.0)

    trace_id, span_id = read_traceparent(parent)
    assert trace_id == 0xABC
    assert [one.span_id for one in trace.stages] == [0, span_id, 0]


def test_the_span_of_a_call_is_the_one_that_triton_was_told(collector):
    tracer = Tracer(collector.url, 1)
    request = make_request(tracer.begin(uuid4()))
    parent = request.trace.name_call()
    for name in ("hold", "triton", "triton"):
        request.trace.add(name, 0.0, 1.0)
    tracer.end(request, 201)
    tracer.stop()

    spans = collector.trace(request.id.hex)
    ids = [one.span_id for one in spans["triton"]]
    assert ids[0].hex() == parent.split("-")[2]
    assert len({*ids, spans["hold"][0].span_id}) == 3


def test_the_head_of_a_traced_call_names_its_span_and_others_have_none():
    traced = _render_head("http://t:1", "m", b"{}", [], TRACEPARENT)

    assert f"\r\ntraceparent: {TRACEPARENT}\r\n".encode() in traced
    assert traced.endswith(b"\r\n\r\n")
    assert b"traceparent" not in _render_head("http://t:1", "m", b"{}", [])


class Listener(grpc.GenericRpcHandler):
    """A server that answers each stream with one text, and remembers who called."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def service(self, handler_call_details):
        self.seen.append(dict(handler_call_details.invocation_metadata).get("traceparent"))
        return grpc.stream_stream_rpc_method_handler(
            self.answer,
            request_deserializer=service_pb2.ModelInferRequest.FromString,
            response_serializer=service_pb2.ModelStreamInferResponse.SerializeToString,
        )

    async def answer(self, requests, context):
        async for _ in requests:
            found = service_pb2.ModelInferResponse(raw_output_contents=[b"\x01\0\0\0a"])
            found.outputs.add(name="text", datatype="BYTES", shape=[1])
            yield service_pb2.ModelStreamInferResponse(infer_response=found)


async def call_streams(traceparents: list[str]) -> list[str | None]:
    listener, server, streams = Listener(), aio.server(), TritonStreams()
    server.add_generic_rpc_handlers([listener])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        for one in traceparents:
            deadline_s = time.monotonic() + 60
            given = {"deadline_s": deadline_s, "traceparent": one}
            await streams.infer(address, "m", [], ["text"], **given)
            parts = [part async for part in streams.stream(address, "m", [], ["text"], **given)]
            assert len(parts) == 1
    finally:
        await streams.close()
        await server.stop(None)
    return listener.seen


def test_a_traced_stream_names_its_span_and_others_have_none():
    assert asyncio.run(call_streams([TRACEPARENT, ""])) == [TRACEPARENT] * 2 + [None] * 2


def test_a_stream_of_a_real_server_is_a_span_of_its_request(teller, traced, collector):
    teller.fund(10 * PRICE_NANOS)
    messages = [{"role": "user", "content": "a b"}]
    answer = httpx.post(
        f"{traced.url}/openai/v1/chat/completions",
        headers={"Authorization": f"Bearer {teller.key.text}"},
        json={"model": "maker/teller", "messages": messages, "stream": True},
        timeout=60,
    )

    assert "[DONE]" in answer.text
    [span] = wait_for_trace(collector, answer.headers["x-request-id"])["triton"]
    assert span.status.code != ERROR
