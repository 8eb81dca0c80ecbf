"""What the gateway writes down: one line for one event, and nothing of what passes through."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
from types import SimpleNamespace

import pytest

from inference.gateway.access_log import AccessLog
from inference.gateway.config import ACCESS_LINES_MAX
from inference.gateway.http import Request
from inference.gateway.route_name import UNKNOWN, name_method, name_route
from inference.gateway.triton_pool import _make_error
from marketplace.core.ids import from_public
from tests.gateway.collector import Collector
from tests.gateway.conftest import PRICE_NANOS, X, predict
from tests.gateway.processes import GatewayProcess, eventually
from tests.gateway.scrape import Scrape
from tests.gateway.test_stream import body_of

pytestmark = pytest.mark.django_db(transaction=True)

CANARY = "canary7f3a9c"
FORGED = '2026-11-21T00:00:00.000000Z ERROR root forged {"level": "ERROR"}'
ON = {"STRONGROOM_GATEWAY_ACCESS_LOG": "true", "STRONGROOM_LOG_LEVEL": "DEBUG"}


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


def send_raw(gateway: GatewayProcess, method: str, path: str, body: bytes = b"", **headers: str):
    """A request as no client library would send it."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection._validate_path = lambda _: None
    connection.request(
        method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    status = connection.getresponse().status
    connection.close()
    return status


def read_lines(gateway: GatewayProcess, count: int, route: str = "") -> list[dict]:
    """The lines of the access log; every line of the whole log must be an object."""

    def read():
        whole = gateway.log().rpartition("\n")[0]
        documents = [json.loads(line) for line in whole.splitlines()]
        found = [one for one in documents if one["logger"] == "strongroom.access"]
        found = [one for one in found if route in ("", one["route"])]
        assert len(found) == count
        return found

    return eventually(read, timeout_s=20)


# --- the access log ---


def test_a_prediction_is_one_line(shop, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_ACCESS_LOG="true")
    answer = predict(shop.client(url=gateway.url))
    [line] = read_lines(gateway, 1)

    assert line.pop("time").endswith("Z")
    assert 0 < line.pop("duration_ms") < 60_000
    assert line == {
        "level": "INFO",
        "logger": "strongroom.access",
        "message": "request",
        "request_id": answer.headers["x-request-id"],
        "trace_id": None,
        "method": "POST",
        "route": "/v1/models/*/*/predictions",
        "status": 201,
        "code": "ok",
        "protocol": "native",
        "model": "maker/echo",
        "version": 1,
        "prediction_id": answer.json()["id"],
        "account_id": str(shop.consumer.pk),
        "key_id": str(shop.key.pk),
        "cost_nanos": PRICE_NANOS,
    }


def test_a_refusal_is_one_line(shop, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_ACCESS_LOG="true")
    shop.client("sk_live_wrong", url=gateway.url).get("/v1/account")
    [line] = read_lines(gateway, 1)

    assert (line["status"], line["code"]) == (401, "unauthenticated")
    assert (line["account_id"], line["model"], line["prediction_id"]) == (None, None, None)
    assert (line["route"], line["cost_nanos"]) == ("/v1/account", 0)


def test_a_stream_that_breaks_off_shows_what_it_cost(teller, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_ACCESS_LOG="true")
    body = body_of("a b c fail=2")
    answer = teller.client(url=gateway.url).post("/openai/v1/chat/completions", json=body)
    [line] = read_lines(gateway, 1)

    # Its client has seen a 200, and then an event that told of the error.
    assert answer.status_code == 200
    assert (line["status"], line["code"]) == (500, "stream_broken")
    assert line["cost_nanos"] == PRICE_NANOS


def test_a_traced_request_names_its_trace(shop, start_gateway, collector):
    gateway = start_gateway(
        STRONGROOM_GATEWAY_ACCESS_LOG="true",
        STRONGROOM_OTLP_ENDPOINT=collector.url,
        STRONGROOM_OTLP_RATIO="1",
    )
    answer = predict(shop.client(url=gateway.url))
    [line] = read_lines(gateway, 1)

    assert line["trace_id"] == from_public(answer.headers["x-request-id"]).hex


def test_text_is_for_people(shop, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_ACCESS_LOG="true", STRONGROOM_LOG_FORMAT="text")
    answer = predict(shop.client(url=gateway.url))

    def read():
        # Not the words of those who come and go beside it.
        lines = [one for one in gateway.log().splitlines() if "strongroom.access" in one]
        assert len(lines) == 1
        return lines[0]

    line = eventually(read, timeout_s=20)
    assert " INFO strongroom.access request " in line
    assert f"prediction_id={answer.json()['id']} " in line
    assert "status=201 code=ok" in line


def test_it_is_off_unless_it_is_switched_on(shop, start_gateway):
    gateway = start_gateway()
    assert predict(shop.client(url=gateway.url)).is_success
    gateway.stop()

    assert "strongroom.access" not in gateway.log()


def test_the_last_lines_are_written_at_the_end(shop, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_ACCESS_LOG="true")
    for _ in range(5):
        predict(shop.client(url=gateway.url))
    gateway.stop()

    assert gateway.log().count("strongroom.access") == 5


@pytest.mark.parametrize("count", [ACCESS_LINES_MAX - 1, ACCESS_LINES_MAX])
def test_lines_are_written_together(count):
    sink = io.BytesIO()

    async def note() -> None:
        log = AccessLog(is_json=True, sink=sink)
        for _ in range(count):
            log.note(make_request(), status=200, cost_nanos=0)
        # The loop has not turned: only the limit can have written.
        written = sink.getvalue().count(b"\n")
        assert written == (count if count == ACCESS_LINES_MAX else 0)
        log.flush()
        assert sink.getvalue().count(b"\n") == count
        log.flush()

    asyncio.run(note())
    assert sink.getvalue().count(b"\n") == count


def make_request() -> Request:
    scope = SimpleNamespace(headers={}, protocol=None)
    return Request(
        method="GET",
        path="/v1",
        segments=["v1"],
        query_string="",
        headers=scope.headers,
        protocol=scope.protocol,
        scope=scope,
        body_bytes_max=1,
        deadline_s=1,
    )


# --- nothing of what passes through ---


def call_with_canaries(shop, gateway: GatewayProcess) -> None:
    """Plant a word in every place where a caller can write, well formed and not."""
    key = shop.key.text
    shop.fund(100 * PRICE_NANOS)
    client = shop.client(url=gateway.url)
    assert predict(client, note=CANARY).json()["output"]["echo"] == CANARY
    headers = {
        "Idempotency-Key": CANARY,
        "traceparent": f"00-{CANARY}",
        "tracestate": f"a={CANARY}",
        "User-Agent": CANARY,
        "X-Request-Id": CANARY,
        "Baggage": CANARY,
    }
    for _ in range(2):
        assert predict(client, note=CANARY, headers=headers).is_success
    assert predict(client, note=CANARY, mode="fail").status_code == 500
    assert predict(client, note=CANARY, mode="nan").status_code >= 400
    assert predict(client, note=CANARY * 20).status_code == 422
    assert predict(client, **{CANARY: 1}).status_code == 422
    assert predict(client, note=f"{CANARY}\x00").status_code < 600
    assert predict(client, note=f"{CANARY}\x00", headers={"Idempotency-Key": "nul"}).is_error
    for body in (f'{{"input": "{CANARY}', CANARY, f'["{CANARY}"]', f'{{"{CANARY}": 1}}'):
        for path in ("/v1/predictions", "/openai/v1/embeddings", "/v2/models/maker/echo/infer"):
            assert client.post(path, content=body).is_error
    document = {"model": "maker/echo", "input": CANARY, CANARY: CANARY}
    assert client.post("/openai/v1/embeddings", json=document).is_error
    assert client.post("/v1/predictions", json={"version": f"{CANARY}/{CANARY}"}).is_error
    tensor = {"name": CANARY, "datatype": CANARY, "shape": [1, 4], "data": [CANARY]}
    assert client.post("/v2/models/maker/echo/infer", json={"inputs": [tensor]}).is_error
    for path in (
        f"/{CANARY}",
        f"/v1/{CANARY}?{CANARY}={CANARY}",
        f"/v1/models/{CANARY}/{CANARY}",
        f"/v1/predictions/{CANARY}",
        f"/v1/predictions?cursor={CANARY}",
        f"/v1/{key}",
        f"/health?{key}",
        f"/metrics/{key}",
        f"/openai/v1/models/{key}",
    ):
        client.get(path)
    for authorization in (
        f"Bearer sk_live_{CANARY}",
        f"Bearer sp_{CANARY}.{CANARY}",
        f"Basic {base64.b64encode(f'u:{CANARY}'.encode()).decode()}",
        f"{CANARY} {key}",
    ):
        assert send_raw(gateway, "GET", "/v1/account", Authorization=authorization) == 401
    assert send_raw(gateway, CANARY.upper(), "/v1/account") >= 400


def check_no_canary(shop, *texts: str) -> None:
    """None of the places shows what was planted; the negative control breaks it."""
    for text in texts:
        assert CANARY not in text.lower()
        assert shop.key.text not in text
        assert shop.key.text.removeprefix("sk_live_")[:20] not in text


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_line_metric_or_span_shows_what_passes(shop, start_gateway, collector, form):
    gateway = start_gateway(
        **ON,
        STRONGROOM_LOG_FORMAT=form,
        STRONGROOM_OTLP_ENDPOINT=collector.url,
        STRONGROOM_OTLP_RATIO="1",
    )
    call_with_canaries(shop, gateway)
    metrics = Scrape(gateway.url).text
    gateway.stop()

    assert gateway.log().count("strongroom.access") > 30
    assert "DEBUG" in gateway.log()
    assert len(collector.spans) > 30
    octets = b"".join(collector.octets).decode("latin-1")
    check_no_canary(shop, gateway.log(), metrics, octets)


@pytest.mark.parametrize("target", ["logs_paths", "logs_bodies", "logs_keys"])
def test_a_gateway_that_shows_it_is_noticed(shop, start_gateway, target):
    gateway = start_gateway(**ON, target=f"tests.gateway.broken:{target}")
    call_with_canaries(shop, gateway)
    gateway.stop()

    with pytest.raises(AssertionError):
        check_no_canary(shop, gateway.log())


def test_what_a_model_says_stays_out_of_the_log(caplog):
    caplog.set_level("DEBUG")
    body = {"error": f"Failed to process the request(s) for model 'r', message: {CANARY}"}
    _make_error("r", 500, json.dumps(body).encode())

    assert CANARY not in caplog.text
    assert "Failed to process the request(s) for model 'r'" in caplog.text


# --- no forged lines ---


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_path_or_a_header_forges_no_line(shop, start_gateway, form):
    gateway = start_gateway(**ON, STRONGROOM_LOG_FORMAT=form)
    for path in (
        f"/v1/%0a{FORGED.replace(' ', '%20')}%0a",
        f"/%0d%0a{FORGED.replace(' ', '%20')}",
        "/v1/models/a%0ab/c%1b[2J/predictions",
        "/v1/models/a%C2%85b/%E2%80%A8/predictions",
    ):
        send_raw(gateway, "GET", path, Authorization=f"Bearer {shop.key.text}")
    body = json.dumps({"input": {"x": X, "note": f"\n{FORGED}\n"}}).encode()
    send_raw(
        gateway,
        "POST",
        "/v1/models/maker/echo/predictions",
        body,
        Authorization=f"Bearer {shop.key.text}",
        User_Agent="a\tb",
    )
    gateway.stop()

    lines = gateway.log().splitlines()
    assert sum("strongroom.access" in line for line in lines) == 5
    assert not any("forged" in line for line in lines)
    if form == "json":
        assert all(json.loads(line)["logger"] != "root" for line in lines)


# --- names of addresses ---


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("v1/predictions", "/v1/predictions"),
        ("v1/predictions/abc", "/v1/predictions/*"),
        ("v1/v1/predictions/abc/cancel", "/v1/predictions/*/cancel"),
        ("v1/models/a/b/predictions", "/v1/models/*/*/predictions"),
        ("v1/models/a/b/versions/3", "/v1/models/*/*/versions/*"),
        ("v2/models/a/b/versions/3/infer", "/v2/models/*/*/versions/*/infer"),
        ("v2/models/a/b/infer", "/v2/models/*/*/infer"),
        ("openai/v1/chat/completions", "/openai/v1/chat/completions"),
        ("openai/v1/models/a/b", "/openai/v1/models/*/*"),
        ("health/live", "/health/live"),
        ("", UNKNOWN),
        ("v1", UNKNOWN),
        ("v1/secret", UNKNOWN),
        ("v1/models/a/b/c/d/e/f", UNKNOWN),
    ],
)
def test_an_address_has_a_name(path, name):
    assert name_route(path.split("/")) == name


def test_a_method_has_a_name():
    assert name_method("POST") == "POST"
    assert name_method("SECRET") == UNKNOWN
