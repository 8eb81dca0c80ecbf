"""`/mcp` as it is on the wire: what client libraries never send, and what they never show."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.models import LedgerAccount, UsageEvent
from inference.gateway import openapi
from inference.gateway.config import MESSAGE_ID_LENGTH_MAX
from inference.gateway.protocols import mcp_message as rpc
from inference.gateway.protocols.mcp_arguments import Arguments
from inference.gateway.protocols.mcp_content import split_media, to_dollars
from inference.gateway.protocols.mcp_message import Message, RPCError
from inference.gateway.protocols.mcp_remedies import REMEDIES
from inference.gateway.protocols.mcp_tools import TOOLS
from inference.models import DriftWatch, Prediction
from marketplace.core.errors import InvalidInputError
from tests.factories import APIKeyFactory
from tests.gateway.conftest import (
    PRICE_NANOS,
    X,
    check_books,
    check_nothing_booked,
    check_untouched,
    predict,
)
from tests.gateway.hostile import INTEGERS, JSON, TEXTS, Refused, fuzz, mostly, objects, try_out
from tests.gateway.processes import eventually
from tests.gateway.scrape import Scrape

pytestmark = pytest.mark.django_db(transaction=True)

ECHO = {"model": "maker/echo", "input": {"x": X}}
META = {rpc.VERSION_KEY: "2026-07-28", rpc.CAPABILITIES_KEY: {}}


class Headers(dict):
    """As granian's, of which a name may have several values."""

    def get_all(self, name: str) -> list[str]:
        value = self.get(name)
        return [] if value is None else value.split("|")


def message_of(method: str = "ping", **members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method} | members


def run_of(arguments: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    params = {"name": "run_model", "arguments": ECHO if arguments is None else arguments}
    return message_of("tools/call", params=params | ({"_meta": meta} if meta else {}))


def send(shop, document: Any, *, key: str | None = None, **headers: str):
    content = document if isinstance(document, bytes) else json.dumps(document)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return shop.client(key).post("/mcp", content=content, headers=named)


def send_modern(shop, document: dict[str, Any], **headers: str):
    params = document.get("params", {})
    meta = {"_meta": META | params.get("_meta", {})}
    told = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": document["method"]}
    if "name" in params:
        told["Mcp_Name"] = params["name"]
    return send(shop, document | {"params": {**params, **meta}}, **told | headers)


def error_of(response) -> tuple[int, int]:
    document = response.json()
    assert document["jsonrpc"] == "2.0"
    return response.status_code, document["error"]["code"]


# --- What is no message ---


@pytest.mark.parametrize(
    ("_body", "_code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff", -32700),
        (b'{"a": "\\ud800"}', -32700),
        (b"[" * 33 + b"]" * 33, -32700),
        ([], -32600),
        ([message_of()], -32600),
        ("ping", -32600),
        ({"id": 1, "method": "ping"}, -32600),
        (message_of() | {"jsonrpc": "1.0"}, -32600),
        (message_of(5), -32600),
        (message_of(""), -32600),
        (message_of("a" * 129), -32600),
        (message_of(id=None), -32600),
        (message_of(id=True), -32600),
        (message_of(id=1.5), -32600),
        (message_of(id=2**64), -32600),
        (message_of(id="a" * (MESSAGE_ID_LENGTH_MAX + 1)), -32600),
        (message_of(params=[]), -32600),
        (message_of(params=None), -32600),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, -32600),
    ],
)
def test_what_is_no_message_is_refused(shop, _body, _code):
    response = send(shop, _body)

    assert error_of(response) == (400, _code)
    assert response.json()["id"] is None
    check_untouched(shop)


@pytest.mark.parametrize("_id", [0, -1, 2**63 - 1, "", "a" * MESSAGE_ID_LENGTH_MAX, "ü"])
def test_id_comes_back_as_it_was_sent(shop, _id):
    response = send(shop, message_of(id=_id))

    assert (response.status_code, response.json()) == (
        200,
        {"jsonrpc": "2.0", "id": _id, "result": {}},
    )


def test_body_has_the_limit_of_every_other(shop, start_gateway):
    limit = 2_000
    gateway = start_gateway(STRONGROOM_GATEWAY_BODY_BYTES_MAX=str(limit))
    client = shop.client(url=gateway.url)
    frame = len(json.dumps(message_of(params={"a": ""})))

    fits = client.post("/mcp", content=json.dumps(message_of(params={"a": "a" * (limit - frame)})))
    more = client.post(
        "/mcp", content=json.dumps(message_of(params={"a": "a" * (limit - frame + 1)}))
    )

    assert fits.json()["result"] == {}
    assert error_of(more) == (413, rpc.REFUSED)
    assert more.json()["error"]["data"]["code"] == "payload_too_large"


def test_nesting_has_the_limit_of_every_other(shop):
    def nested(depth: int) -> bytes:
        inner = "[" * (depth - 2) + "]" * (depth - 2)
        return b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":%s}}' % inner.encode()

    assert send(shop, nested(32)).json()["result"] == {}
    assert error_of(send(shop, nested(33))) == (400, -32700)


# --- Who may ask ---


def test_page_of_another_origin_is_refused_before_its_key_is_read(shop):
    for origin in (
        "https://evil.example",
        "null",
        "http://gateway.example",
        "https://gateway.example:1",
    ):
        response = send(shop, run_of(), Origin=origin, key="")
        assert error_of(response) == (403, rpc.REFUSED)
        assert error_of(send(shop, run_of(), Origin=origin)) == (403, rpc.REFUSED)
    check_untouched(shop)
    for origin in ("https://gateway.example", "https://web.example"):
        assert send(shop, message_of(), Origin=origin).status_code == 200


def test_without_a_key_the_scheme_is_named(shop):
    response = send(shop, run_of(), key="")

    assert error_of(response) == (401, rpc.REFUSED)
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["data"]["remedy"] == REMEDIES["unauthenticated"]
    check_untouched(shop)


@pytest.mark.parametrize("_method", ["GET", "DELETE", "PUT", "PATCH", "OPTIONS"])
def test_no_stream_and_no_session_is_offered(shop, _method):
    response = shop.client().request(_method, "/mcp", headers={"Accept": "text/event-stream"})

    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "mcp-session-id" not in send(shop, message_of()).headers


def test_nothing_else_is_below_the_address(shop):
    assert shop.client().post("/mcp/tools", json=message_of()).status_code == 404
    assert shop.client().post("/mcp/", json=message_of()).status_code == 200


def test_frozen_and_late_accounts_run_nothing(shop):
    shop.consumer.frozen_at = "2026-01-01T00:00:00Z"
    shop.consumer.save()

    response = send(shop, run_of(), key=APIKeyFactory(account=shop.consumer).text)

    assert response.status_code == 403
    assert response.json()["error"]["data"]["code"] == "account_frozen"
    check_untouched(shop)


def test_limit_of_a_key_counts_calls_of_tools(shop):
    key = APIKeyFactory(account=shop.consumer, requests_per_minute=1).text

    answers = [send(shop, run_of(), key=key).json()["result"] for _ in range(12)]

    refused = [one["structuredContent"]["error"] for one in answers if one["isError"]]
    assert {one["code"] for one in refused} == {"rate_limited"}
    assert refused[0]["retry_after_s"] > 0
    check_books(
        shop,
        [one["structuredContent"]["prediction_id"] for one in answers if not one["isError"]],
    )


def test_budget_of_a_key_counts_calls_of_tools(shop):
    key = APIKeyFactory(account=shop.consumer, budget_total_nanos=PRICE_NANOS).text

    first, second = (send(shop, run_of(), key=key).json()["result"] for _ in range(2))

    assert not first["isError"]
    assert second["structuredContent"]["error"]["code"] == "budget_exceeded"
    check_books(shop, [first["structuredContent"]["prediction_id"]])


# --- Versions ---


@pytest.mark.parametrize(
    ("_wanted", "_got"),
    [
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2025-03-26", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1900-01-01", "2025-11-25"),
    ],
)
def test_handshake_agrees_on_a_version(shop, _wanted, _got):
    response = send(shop, message_of("initialize", params={"protocolVersion": _wanted}))

    result = response.json()["result"]
    assert result["protocolVersion"] == _got
    assert result["capabilities"] == {"tools": {"listChanged": False}}
    assert "resultType" not in result


def test_handshake_without_a_version_is_refused(shop):
    assert error_of(send(shop, message_of("initialize")))[1] == -32602


def test_version_in_the_header_must_be_one_of_ours(shop):
    for version in ("2025-06-18", "2025-11-25"):
        assert send(shop, message_of(), MCP_Protocol_Version=version).status_code == 200
    response = send(shop, run_of(), MCP_Protocol_Version="2025-03-26")

    assert error_of(response) == (400, -32022)
    supported = ["2025-06-18", "2025-11-25", "2026-07-28"]
    data = {"supported": supported, "requested": "2025-03-26"}
    assert response.json()["error"]["data"] == data
    check_untouched(shop)


def test_newest_revision_needs_no_handshake(shop):
    listed = send_modern(shop, message_of("tools/list")).json()["result"]
    told = send_modern(shop, message_of("server/discover")).json()["result"]
    ran = send_modern(shop, run_of()).json()["result"]

    assert [one["resultType"] for one in (listed, told, ran)] == ["complete"] * 3
    assert (listed["cacheScope"], listed["ttlMs"]) == ("public", 300_000)
    assert "2026-07-28" in told["supportedVersions"]
    assert told["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "strongroom"
    check_books(shop, [ran["structuredContent"]["prediction_id"]])


@pytest.mark.parametrize(
    ("_headers", "_meta", "_code"),
    [
        ({"MCP_Protocol_Version": "2025-11-25"}, {}, -32020),
        ({"MCP_Protocol_Version": "2026-07-29"}, {}, -32020),
        ({"MCP_Protocol_Version": "2026-07-29"}, {rpc.VERSION_KEY: "2026-07-29"}, -32022),
        ({"MCP_Protocol_Version": "2025-11-25"}, {rpc.VERSION_KEY: "2025-11-25"}, -32022),
        ({}, {rpc.VERSION_KEY: 5}, -32020),
        ({"Mcp_Method": "tools/list"}, {}, -32020),
        ({"Mcp_Name": "get_model"}, {}, -32020),
        ({"Mcp_Name": "=?base64?!?="}, {}, -32020),
    ],
)
def test_headers_must_say_what_the_message_says(shop, _headers, _meta, _code):
    response = send_modern(shop, run_of(None, **_meta), **_headers)

    assert error_of(response) == (400, _code)
    assert response.json()["id"] == 1
    check_untouched(shop)


def test_name_may_come_as_base64_and_nothing_may_be_missing(shop):
    encoded = base64.b64encode(b"run_model").decode()
    assert send_modern(shop, run_of(), Mcp_Name=f"=?base64?{encoded}?=").json()["result"]
    bare = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "ping"}
    assert error_of(send(shop, message_of(), **bare)) == (400, -32602)
    half = message_of(params={"_meta": {rpc.VERSION_KEY: "2026-07-28"}})
    assert error_of(send(shop, half, **bare)) == (400, -32602)


def test_header_that_is_there_twice_is_refused():
    headers = Headers({"mcp-protocol-version": "2026-07-28|2026-07-28", "mcp-method": "ping"})
    message = Message("ping", {"_meta": META}, 1, False)

    with pytest.raises(RPCError) as caught:
        rpc.check_version(headers, message)

    assert caught.value.rpc_code == rpc.HEADER_MISMATCH


def test_methods_that_are_not_offered_are_errors_of_their_revision(shop):
    for method in ("resources/list", "prompts/list", "server/discover", "logging/setLevel"):
        assert error_of(send(shop, message_of(method))) == (200, -32601)
    for method in ("initialize", "ping", "resources/list", "subscriptions/listen"):
        assert error_of(send_modern(shop, message_of(method))) == (404, -32601)


# --- Tools ---


def test_notifications_are_taken_and_not_answered(shop):
    for method in ("notifications/initialized", "notifications/cancelled", "anything"):
        document = {"jsonrpc": "2.0", "method": method, "params": {"requestId": 1}}
        response = send(shop, document)
        assert (response.status_code, response.content) == (202, b"")
    unknown = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert error_of(send(shop, unknown, MCP_Protocol_Version="1900-01-01")) == (400, -32022)
    # A call without an id is a notification: nothing runs that nobody could be told of.
    document = run_of()
    del document["id"]
    assert send(shop, document).status_code == 202
    check_untouched(shop)


def test_cursor_of_the_tools_is_none_of_ours(shop):
    assert len(send(shop, message_of("tools/list")).json()["result"]["tools"]) == len(TOOLS)
    listed = send(shop, message_of("tools/list", params={"cursor": "a"}))
    assert error_of(listed) == (200, -32602)


@pytest.mark.parametrize(
    "_params", [{}, {"name": 5}, {"name": "none"}, {"name": "run_model", "arguments": []}]
)
def test_call_of_no_tool_is_an_error_of_the_protocol(shop, _params):
    response = send(shop, message_of("tools/call", params=_params))

    assert error_of(response) == (200, -32602)
    check_untouched(shop)


def test_answer_of_a_run_says_its_cost_in_the_headers_too(shop):
    response = send(shop, run_of())

    told = response.json()["result"]["structuredContent"]
    assert response.headers["x-cost-nano-usd"] == str(told["cost_nano_usd"]) == str(PRICE_NANOS)
    assert response.headers["inference-id"] == told["prediction_id"]
    assert response.headers["cache-control"] == "private, no-store"
    assert "ratelimit" in response.headers
    check_books(shop, [told["prediction_id"]])


def test_what_is_kept_of_inputs_is_said_of_each_model(shop):
    asked = message_of(
        "tools/call", params={"name": "get_model", "arguments": {"model": str(shop.model)}}
    )

    def kept() -> str:
        return send(shop, asked).json()["result"]["structuredContent"]["data_statement"]["kept"]

    assert kept().startswith("Nothing of inputs and outputs.")
    assert "coarse classes" not in kept()
    DriftWatch.objects.create(model=shop.model)

    def is_told() -> None:
        assert "coarse classes" in kept()

    eventually(is_told)


def test_failure_is_counted_as_one_though_it_comes_with_200(shop, gateway):
    def count(outcome: str) -> float:
        seen = Scrape(gateway.url)
        return seen.sum("requests_total", protocol="mcp", outcome=outcome)

    before = count("server_error"), count("ok")

    response = send(shop, run_of(ECHO | {"input": {"x": X, "mode": "fail"}}))

    assert response.status_code == 200
    assert response.json()["result"]["isError"] is True
    assert response.headers["x-should-retry"] == "false"
    assert (count("server_error"), count("ok")) == (before[0] + 1, before[1])
    check_nothing_booked(shop)


def test_key_of_one_protocol_is_not_that_of_another(shop, client):
    assert predict(client, headers={"Idempotency-Key": "a"}).status_code == 201

    result = send(shop, run_of(ECHO | {"idempotency_key": "a"})).json()["result"]

    assert result["structuredContent"]["error"]["code"] == "idempotency_mismatch"
    assert UsageEvent.objects.count() == 1


def test_idempotency_key_of_the_header_is_overlooked_since_clients_send_it_with_everything(shop):
    for _ in range(2):
        assert not send(shop, run_of(), Idempotency_Key="a").json()["result"]["isError"]

    assert UsageEvent.objects.count() == 2


def test_progress_needs_a_client_that_reads_events_and_a_token(teller):
    asked = {"model": "maker/teller", "input": {"prompt": "one two"}}

    for document, accept in (
        (run_of(asked, progressToken="t"), "application/json"),
        (run_of(asked), "application/json, text/event-stream"),
    ):
        response = send(teller, document, Accept=accept)
        assert response.headers["content-type"] == "application/json"
        assert response.json()["result"]["isError"] is False
    response = send(
        teller, run_of(asked, progressToken="t"), Accept="application/json, text/event-stream"
    )
    lines = [one for one in response.text.split("\n\n") if one.startswith("data: ")]
    events = [json.loads(one.removeprefix("data: ")) for one in lines]
    assert response.headers["content-type"] == "text/event-stream"
    assert [one["params"]["progressToken"] for one in events[:-1]] == ["t"] * (len(events) - 1)
    assert events[-1]["id"] == 1
    assert events[-1]["result"]["structuredContent"]["output"]["text"] == "one two"


@pytest.mark.parametrize("_token", [1.5, True, [], "a" * (MESSAGE_ID_LENGTH_MAX + 1)])
def test_token_that_is_none_is_refused(teller, _token):
    asked = {"model": "maker/teller", "input": {"prompt": "one"}}

    response = send(teller, run_of(asked, progressToken=_token))

    assert error_of(response)[1] == -32602
    check_untouched(teller)


def test_header_that_cannot_be_kept_is_refused(shop):
    for headers, code in (
        ({"Strongroom_Tag": "a b"}, "invalid_tag"),
        ({"X_Request_Timeout_Ms": "x"}, "invalid_deadline"),
    ):
        response = send(shop, run_of(), **headers)
        assert error_of(response) == (400, rpc.REFUSED)
        assert response.json()["error"]["data"]["code"] == code
    check_untouched(shop)


# --- Parts ---


def test_every_refusal_has_a_remedy():
    assert set(REMEDIES) == {one.code for one in openapi.ERRORS}


def test_only_images_and_sounds_that_are_some_leave_the_output():
    octets = base64.b64encode(b"octets").decode()
    output = {
        "png": f"data:image/png;base64,{octets}",
        "wav": f"data:audio/wav;base64,{octets}",
        "svg": f"data:image/svg+xml;base64,{octets}",
        "broken": "data:image/png;base64,AAAAA",
        "long": f"See data:image/png;base64,{octets}",
        "number": 5,
    }

    kept, media = split_media(output)

    assert [(one["type"], one["mimeType"]) for one in media] == [
        ("image", "image/png"),
        ("audio", "audio/wav"),
    ]
    assert {one["data"] for one in media} == {octets}
    assert kept["png"] == {"content": "image", "mime_type": "image/png", "size_bytes": 6}
    assert {name: kept[name] for name in ("svg", "broken", "long", "number")} == {
        name: output[name] for name in ("svg", "broken", "long", "number")
    }


@pytest.mark.parametrize(
    ("_nanos", "_text"), [(0, "0.00"), (1, "0.000000001"), (1_234_567_000_000_000, "1234567.00")]
)
def test_dollars_are_a_number_for_every_program(_nanos, _text):
    assert to_dollars(_nanos) == _text
    assert Arguments("run_model", {**ECHO, "max_cost_usd": "1"}).dollars("max_cost_usd") == 10**9


def test_unknown_arguments_are_named_and_few():
    given = {**ECHO, **{f"more{n}": 1 for n in range(40)}, "a" * 500: 1}

    with pytest.raises(InvalidInputError) as caught:
        Arguments("run_model", given)

    assert len(caught.value.errors) == 16
    assert all(len(one["pointer"]) <= 65 for one in caught.value.errors)


def test_schemas_and_arguments_name_the_same_limits():
    """What a schema promises is what is checked: at the limit, and one past it."""
    properties = TOOLS["search_models"]["inputSchema"]["properties"]
    for name in ("query", "task", "industry", "licence", "cursor"):
        most = properties[name]["maxLength"]
        assert Arguments("search_models", {name: "a" * most}).text(name)
        with pytest.raises(InvalidInputError):
            Arguments("search_models", {name: "a" * (most + 1)}).text(name)
    most = properties["limit"]["maximum"]
    assert Arguments("search_models", {"limit": most}).count("limit") == most
    with pytest.raises(InvalidInputError):
        Arguments("search_models", {"limit": most + 1}).count("limit")


@fuzz
@given(
    document=objects(
        {
            "jsonrpc": mostly(st.just("2.0")),
            "id": mostly(INTEGERS),
            "method": mostly(st.sampled_from(["ping", "initialize", "tools/list", "tools/call"])),
        },
        {"params": mostly(st.dictionaries(TEXTS, JSON, max_size=3))},
    ),
    version=mostly(st.sampled_from(rpc.VERSIONS), st.one_of(st.none(), TEXTS)),
)
def test_hostile_messages_are_read_or_refused(document, version):
    headers = Headers({} if version is None else {"mcp-protocol-version": version})

    def read() -> Message:
        message = rpc.read_message(json.dumps(document).encode())
        rpc.check_version(headers, message)
        return message

    found = try_out(read)

    if not isinstance(found, Refused):
        assert found.is_notification == ("id" not in document)
        assert found.version in rpc.VERSIONS


@fuzz
@given(
    name=st.sampled_from(sorted(TOOLS)),
    given_=st.dictionaries(
        st.one_of(
            st.sampled_from(
                [one for tool in TOOLS.values() for one in tool["inputSchema"]["properties"]]
            ),
            TEXTS,
        ),
        JSON,
        max_size=6,
    ),
)
def test_hostile_arguments_are_read_or_refused(name, given_):
    def read() -> list[Any]:
        arguments, properties = Arguments(name, given_), TOOLS[name]["inputSchema"]["properties"]
        readers = {
            "limit": arguments.count,
            "cursor": arguments.offset,
            "timeout_s": arguments.seconds,
            "max_cost_usd": arguments.dollars,
        }
        return [
            readers.get(one, arguments.text)(one)
            for one in properties
            if one not in ("input", "units")
        ]

    try_out(read)


def test_client_that_goes_is_not_charged(shop):
    body = json.dumps(run_of(ECHO | {"input": {"x": X, "wait_s": 2}})).encode()
    head = (
        "POST /mcp HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {shop.key.text}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(shop.url.rpartition(":")[2]))) as wire:
        wire.sendall(head.encode() + body)
        eventually(lambda: check_held(shop))

    def check_recorded():
        found = Prediction.objects.values_list("state", "error", "protocol")
        assert list(found) == [("canceled", "client_gone", "mcp")]

    eventually(check_recorded)
    check_nothing_booked(shop)


def check_held(shop) -> None:
    """Its money is reserved: it runs."""
    assert LedgerAccount.objects.get(pk=shop.wallet_id).held_nanos > 0


def test_gateway_reads_of_the_catalogue_what_it_searches_by_and_no_more(shop, database_urls):
    with psycopg.connect(database_urls["gateway"], autocommit=True) as connection:
        connection.execute("SELECT words, label FROM marketplace_catalogueentry")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT embedding FROM marketplace_catalogueentry")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE marketplace_catalogueentry SET predictions_30d = 1")


def test_check_of_refused_messages_notices_one_that_runs(shop):
    """The control of all that must leave no trace."""
    send(shop, run_of())

    with pytest.raises(AssertionError):
        check_untouched(shop)


def check_money(shop, client, what: str) -> None:
    """Money is held, failures are free, and keys are kept, here as on every other protocol."""

    def run(**more: Any) -> dict[str, Any]:
        given = {"x": X} | more.pop("given", {})
        document = run_of(ECHO | {"input": given} | more)
        return client.post("/mcp", json=document).json()["result"]["structuredContent"]

    match what:
        case "holds":
            codes = [run().get("error", {}).get("code") for _ in range(12)]
            assert codes == [None] * 10 + ["insufficient_credit"] * 2
        case "failures":
            run(given={"mode": "fail"})
            check_nothing_booked(shop)
        case "keys":
            first, second = (run(idempotency_key="a") for _ in range(2))
            check_books(shop, [first["prediction_id"]])
            assert second["is_replay"]


@pytest.mark.parametrize("_what", ["holds", "failures", "keys"])
def test_money_is_kept_here_as_elsewhere(shop, client, _what):
    check_money(shop, client, _what)


@pytest.mark.parametrize(
    ("_what", "_damage"),
    [("holds", "skips_hold"), ("failures", "books_failures"), ("keys", "forgets_keys")],
)
def test_gateway_that_keeps_money_badly_is_noticed(shop, start_gateway, _what, _damage):
    """The controls of the same checks."""
    gateway = start_gateway(target=f"tests.gateway.broken:{_damage}")

    with pytest.raises(AssertionError):
        check_money(shop, shop.client(url=gateway.url), _what)
