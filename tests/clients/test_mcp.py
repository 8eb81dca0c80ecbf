"""The client of the `mcp` package, by the handshake of earlier revisions and without one."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jsonschema
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning

from billing.models import UsageEvent
from inference.models import Prediction
from marketplace.core.ids import from_public
from marketplace.models import AIModel
from tests.factories import AccountFactory, AIModelFactory, APIKeyFactory, ChannelFactory
from tests.gateway.conftest import (
    PRICE_NANOS,
    Shop,
    X,
    check_books,
    check_nothing_booked,
    check_untouched,
)
from tests.gateway.processes import eventually
from tests.gateway.test_stream import SLOW_S, stops

pytestmark = pytest.mark.django_db(transaction=True)

# How the client finds the version: by asking, by the handshake, or by being told.
MODES = ["auto", "legacy", "2026-07-28"]
GIF = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
ECHO = {"model": "maker/echo", "input": {"x": X}}


@asynccontextmanager
async def connecting(shop: Shop, key: str | None = None, *, mode: str = "auto", **headers: str):
    """As its readme says; the address and the header are all that is ours."""
    text = shop.key.text if key is None else key
    authorization = {"Authorization": f"Bearer {text}", **headers}
    async with httpx2.AsyncClient(headers=authorization, timeout=60) as http:
        transport = streamable_http_client(f"{shop.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


def call(shop: Shop, name: str, arguments: dict[str, Any], key: str | None = None, **how: Any):
    """The result of one tool, whose form was checked against what the tool promises."""

    async def run():
        async with connecting(shop, key, mode=how.pop("mode", "auto")) as client:
            tools = {one.name: one for one in (await client.list_tools()).tools}
            result = await client.call_tool(name, arguments, **how)
            jsonschema.validate(result.structured_content, tools[name].output_schema)
            assert json.loads(result.content[0].text) == result.structured_content
            return result

    return asyncio.run(run())


def refusal_of(shop: Shop, name: str, arguments: dict[str, Any], key: str | None = None):
    """What the tool says about its failure."""
    result = call(shop, name, arguments, key)
    assert result.is_error
    return result.structured_content["error"]


def innermost(error: BaseException) -> BaseException:
    """The package's own error: it comes within groups of those of its tasks."""
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return error


@pytest.mark.parametrize("_mode", MODES)
def test_tools_are_listed_and_one_is_run_and_booked_once(shop, _mode):
    async def run():
        async with connecting(shop, mode=_mode) as client:
            tools = (await client.list_tools()).tools
            return tools, await client.call_tool("run_model", ECHO)

    tools, result = asyncio.run(run())

    told = result.structured_content
    check_books(shop, [told["prediction_id"]])
    assert [one.name for one in tools] == [
        *("search_models", "get_model", "estimate_price", "run_model", "get_prediction"),
    ]
    assert told["output"]["y"] == [2, 5, 6, 8]
    assert (told["cost_nano_usd"], told["cost_usd"]) == (PRICE_NANOS, "0.000001001")
    assert (told["model"], told["version"]) == ("maker/echo", "ab" * 32)
    assert not result.is_error
    row = Prediction.objects.get()
    assert (row.protocol, row.cost_nanos) == ("mcp", PRICE_NANOS)


def test_client_learns_what_the_server_is_either_way(shop):
    async def learn(mode):
        async with connecting(shop, mode=mode) as client:
            if mode == "legacy":
                with pytest.warns(MCPDeprecationWarning):
                    await client.send_ping()
            return client.protocol_version, client.server_info.name, client.instructions

    modern, legacy = asyncio.run(learn("auto")), asyncio.run(learn("legacy"))

    assert modern[0] == "2026-07-28"
    assert legacy[0] == "2025-11-25"
    assert modern[1:] == legacy[1:]
    assert modern[1] == "strongroom"
    assert "idempotency_key" in modern[2]


def test_tools_are_described_honestly(shop):
    async def read():
        async with connecting(shop) as client:
            return (await client.list_tools()).tools

    tools = asyncio.run(read())

    for one in tools:
        for schema in (one.input_schema, one.output_schema):
            jsonschema.Draft202012Validator.check_schema(schema)
        hints = one.annotations
        costs = one.name == "run_model"
        assert hints.read_only_hint is not costs
        assert hints.idempotent_hint is not costs
        assert hints.open_world_hint is costs
        assert hints.destructive_hint is False
    assert "pay" in next(one for one in tools if one.name == "run_model").description


def test_models_are_found_by_words_and_facets_and_page_by_page(language):
    AIModel.objects.filter(name="vectors").update(
        summary="Turns sentences into numbers", licence="Apache-2.0", industry="finance"
    )

    def names(**wanted):
        found = call(language, "search_models", wanted).structured_content
        return [one["model"] for one in found["models"]], found["next_cursor"]

    everything = ["maker/echo", "maker/vectors", "maker/writer"]
    assert names() == (everything, None)
    assert names(query="sentence") == (["maker/vectors"], None)
    # A letter is missing.
    assert names(query="vecors") == (["maker/vectors"], None)
    assert names(query="nothing of the kind") == ([], None)
    assert names(query="!!") == ([], None)
    assert names(task="text-generation") == (["maker/writer"], None)
    assert names(industry="finance", licence="apache-2.0") == (["maker/vectors"], None)
    assert names(industry="telecom") == ([], None)
    first, cursor = names(limit=2)
    assert first == everything[:2]
    assert names(limit=2, cursor=cursor) == (everything[2:], None)


def test_pages_of_a_search_have_a_limit(shop):
    for wanted, pointer in (
        ({"limit": 51}, "/limit"),
        ({"limit": 0}, "/limit"),
        ({"limit": True}, "/limit"),
        ({"query": "a" * 201}, "/query"),
        ({"task": "a" * 65}, "/task"),
        ({"task": "a\0"}, "/task"),
        ({"cursor": "o1001"}, "/cursor"),
        ({"cursor": "x"}, "/cursor"),
        ({"more": 1}, "/more"),
    ):
        error = refusal_of(shop, "search_models", wanted)
        assert (error["code"], error["errors"][0]["pointer"]) == ("validation", pointer)
    for wanted in ({"limit": 50}, {"query": "a" * 200}, {"task": "a" * 64}, {"cursor": "o1000"}):
        assert not call(shop, "search_models", wanted).is_error


def test_model_is_told_whole(shop):
    shop.model.card = "# Echo\n" + "a" * 20_000
    shop.model.licence = "MIT"
    shop.model.save()
    shop.version.certificate = {"p50_ms": 1.5}
    shop.version.save()

    told = call(shop, "get_model", {"model": "maker/echo"}).structured_content

    assert told["input_schema"]["properties"]["note"]["maxLength"] == 20
    assert told["input_schema"]["required"] == ["x"]
    assert "secret" not in told["output_schema"]["properties"]
    assert told["price"]["nanos_per_prediction"] == PRICE_NANOS
    assert (told["licence"], told["certificate"]) == ("MIT", {"p50_ms": 1.5})
    assert (len(told["card"]), told["is_card_cut"]) == (16_384, True)
    assert "Nothing of inputs and outputs" in told["data_statement"]["kept"]
    assert told["url"] == "https://web.example/maker/echo"
    check_untouched(shop)


def test_watched_model_says_so_and_a_short_card_is_whole(shop):
    AIModel.objects.update(samples_queries=True, card="a" * 16_384)

    told = call(shop, "get_model", {"model": "maker/echo@prod"}).structured_content

    assert "embeddings" in told["data_statement"]["kept"]
    assert (len(told["card"]), told["is_card_cut"]) == (16_384, False)


def test_private_model_is_hidden_from_all_but_its_owner(shop):
    AIModel.objects.filter(name="echo").update(visibility="private")
    own = APIKeyFactory(account=shop.creator)

    found = call(shop, "search_models", {}).structured_content["models"]
    codes = [
        refusal_of(shop, name, arguments)["code"]
        for name, arguments in (
            ("get_model", {"model": "maker/echo"}),
            ("estimate_price", ECHO),
            ("run_model", ECHO),
        )
    ]
    seen = call(shop, "search_models", {}, own.text).structured_content["models"]

    assert (found, codes) == ([], ["not_found"] * 3)
    # The control: it is there.
    assert [(one["model"], one["visibility"]) for one in seen] == [("maker/echo", "private")]
    assert not call(shop, "get_model", {"model": "maker/echo"}, own.text).is_error
    check_untouched(shop)


def test_key_with_a_list_sees_only_what_it_names(language):
    key = APIKeyFactory(account=language.consumer, allowed_models=["maker/writer"])

    found = call(language, "search_models", {}, key.text).structured_content["models"]

    assert [one["model"] for one in found] == ["maker/writer"]
    assert refusal_of(language, "run_model", ECHO, key.text)["code"] == "model_not_allowed"
    assert refusal_of(language, "get_model", {"model": "maker/echo"}, key.text)["code"] == (
        "model_not_allowed"
    )


def test_suspended_model_and_one_that_is_not_on_sale_are_not_found(shop):
    other = AIModelFactory(account=shop.creator, name="later")
    assert other.visibility == "public"

    found = call(shop, "search_models", {}).structured_content["models"]
    AIModel.objects.filter(name="echo").update(suspended_at="2026-01-01T00:00:00Z")

    assert [one["model"] for one in found] == ["maker/echo"]
    assert call(shop, "search_models", {}).structured_content["models"] == []


def test_price_is_estimated_and_nothing_is_charged(shop):
    told = call(shop, "estimate_price", ECHO).structured_content
    counted = call(
        shop, "estimate_price", {"model": "maker/echo", "units": {"rows": 3}}
    ).structured_content

    assert (told["maximum_nano_usd"], told["maximum_usd"]) == (PRICE_NANOS, "0.000001001")
    assert counted["estimate_nano_usd"] == 3 * PRICE_NANOS
    assert refusal_of(shop, "estimate_price", {"model": "maker/echo"})["code"] == "validation"
    check_untouched(shop)


def test_retry_with_the_same_key_is_charged_once_and_the_other_way_round(shop):
    asked = ECHO | {"idempotency_key": "once"}

    first = call(shop, "run_model", asked).structured_content
    # Another session, other ids of messages, another revision: the same call.
    again = call(shop, "run_model", asked, mode="legacy").structured_content

    assert (first["is_replay"], again["is_replay"]) == (False, True)
    assert {**again, "is_replay": False, "predict_time_s": 0} == {**first, "predict_time_s": 0}
    check_books(shop, [first["prediction_id"]])
    other = refusal_of(shop, "run_model", asked | {"input": {"x": [0, 0, 0, 0]}})
    assert other["code"] == "idempotency_mismatch"
    # The control: without the key, each is a prediction of its own.
    call(shop, "run_model", ECHO)
    call(shop, "run_model", ECHO)
    assert UsageEvent.objects.count() == 3


def test_idempotency_key_has_a_limit(shop):
    assert not call(shop, "run_model", ECHO | {"idempotency_key": "k" * 255}).is_error
    for key in ("k" * 256, "", "ü"):
        asked = ECHO | {"idempotency_key": key}
        assert refusal_of(shop, "run_model", asked)["code"] in ("bad_request", "validation")
    assert UsageEvent.objects.count() == 1


def test_prediction_is_found_again_by_its_account_alone(shop):
    made = call(shop, "run_model", ECHO | {"idempotency_key": "a"}).structured_content
    asked = {"prediction_id": made["prediction_id"]}

    found = call(shop, "get_prediction", asked).structured_content
    stranger = refusal_of(shop, "get_prediction", asked, APIKeyFactory().text)
    unknown = refusal_of(shop, "get_prediction", {"prediction_id": "no"})

    assert (found["output"], found["status"]) == (made["output"], "succeeded")
    assert (found["cost_nano_usd"], found["is_data_removed"]) == (PRICE_NANOS, False)
    assert (stranger["code"], unknown["code"]) == ("not_found", "not_found")
    kept = call(shop, "run_model", ECHO).structured_content["prediction_id"]
    found = call(shop, "get_prediction", {"prediction_id": kept}).structured_content
    assert (found["output"], found["is_data_removed"]) == (None, True)


def test_without_credit_the_tool_says_so_and_nothing_runs(shop):
    error = refusal_of(shop, "run_model", ECHO, APIKeyFactory().text)

    assert (error["code"], error["status"], error["is_retryable"]) == (
        *("insufficient_credit", 402),
        False,
    )
    assert "buy credit" in error["remedy"]
    assert (error["cost_nano_usd"], error["cost_usd"]) == (0, "0.00")
    check_untouched(shop)


def test_failures_of_the_model_are_the_tools_and_are_not_charged(shop):
    failed = refusal_of(shop, "run_model", ECHO | {"input": {"x": X, "mode": "fail"}})
    wrong = refusal_of(shop, "run_model", ECHO | {"input": {"x": [1], "note": 5}})
    shape = refusal_of(shop, "run_model", ECHO | {"input": [1]})
    missing = refusal_of(shop, "run_model", {"model": "maker/echo"})
    unknown = refusal_of(shop, "run_model", ECHO | {"model": "maker/none"})

    assert (failed["code"], failed["status"]) == ("model_failed", 500)
    assert "/secret/path" not in json.dumps(failed)
    assert {one["pointer"] for one in wrong["errors"]} == {"/input/x", "/input/note"}
    assert shape["code"] == "validation"
    assert missing["errors"] == [{"pointer": "/input", "detail": "Is required."}]
    assert unknown["code"] == "not_found"
    check_nothing_booked(shop)


def test_maximum_cost_is_kept_to_the_nano_dollar(shop):
    error = refusal_of(shop, "run_model", ECHO | {"max_cost_usd": 0.000001})
    check_untouched(shop)
    for wrong in (-1, "a", True, 1e-10, 1e999, "1" * 33):
        asked = ECHO | {"max_cost_usd": wrong}
        assert refusal_of(shop, "run_model", asked)["code"] == "validation"
    check_untouched(shop)

    told = call(shop, "run_model", ECHO | {"max_cost_usd": 0.000001001}).structured_content
    same = call(shop, "run_model", ECHO | {"max_cost_usd": "$0.000001001"}).structured_content

    assert (error["code"], error["status"]) == ("maximum_cost", 422)
    assert "$0.000001001" in error["detail"]
    check_books(shop, [told["prediction_id"], same["prediction_id"]])


def test_time_limit_of_a_call_ends_it_uncharged(shop):
    slow = ECHO | {"input": {"x": X, "wait_s": 2}}

    assert refusal_of(shop, "run_model", slow | {"timeout_s": 0.3})["code"] == "deadline"
    for wrong in (0, -1, "a", True):
        assert refusal_of(shop, "run_model", slow | {"timeout_s": wrong})["code"] == "validation"
    check_nothing_booked(shop)


def test_image_is_content_of_its_own(language):
    asked = {"model": "maker/writer", "input": {"prompt": GIF, "max_new_tokens": 1}}

    result = call(language, "run_model", asked)

    text, image = result.content
    assert (image.type, image.mime_type) == ("image", "image/gif")
    assert image.data == GIF.partition(",")[2]
    shown = {"content": "image", "mime_type": "image/gif", "size_bytes": 23}
    assert result.structured_content["output"]["text"] == shown
    assert image.data not in text.text


def test_wrong_and_revoked_keys_are_refused_before_anything(shop):
    revoked = APIKeyFactory(account=shop.consumer)
    assert not call(shop, "search_models", {}, revoked.text).is_error
    revoked.revoked_at = "2026-01-01T00:00:00Z"
    revoked.save()

    def refused(key):
        try:
            call(shop, "search_models", {}, key)
        except BaseExceptionGroup as group:
            return innermost(group).error
        raise AssertionError("the key was taken")

    errors = [refused("sk_live_nope"), eventually(lambda: refused(revoked.text)), refused("-")]

    assert {one.data["code"] for one in errors} == {"unauthenticated"}
    check_untouched(shop)


def test_key_that_may_only_read_runs_nothing(shop):
    key = APIKeyFactory(account=shop.consumer, scopes=["read"])

    assert not call(shop, "get_model", {"model": "maker/echo"}, key.text).is_error
    assert refusal_of(shop, "run_model", ECHO, key.text)["code"] == "forbidden"
    check_untouched(shop)


def test_unknown_tools_and_methods_are_errors_of_the_protocol(shop):
    async def ask(mode):
        codes = []
        async with connecting(shop, mode=mode) as client:
            for asked in (client.call_tool("no_such_tool", {}), client.list_prompts()):
                with pytest.raises(MCPError) as caught:
                    await asked
                codes.append(caught.value.error.code)
        return codes

    assert [asyncio.run(ask(mode)) for mode in ("auto", "legacy")] == [[-32602, -32601]] * 2


@pytest.mark.parametrize("_mode", MODES)
def test_pieces_of_a_stream_come_as_progress_and_are_charged_once(teller, _mode):
    pieces = []

    async def note(progress, total, message):
        pieces.append((progress, message))

    asked = {"model": "maker/teller", "input": {"prompt": "one two three"}}
    result = call(teller, "run_model", asked, mode=_mode, progress_callback=note)

    told = result.structured_content
    check_books(teller, [told["prediction_id"]])
    assert told["output"]["text"] == "one two three"
    assert "".join(message for _, message in sorted(pieces)) == "one two three"
    assert [one for one, _ in sorted(pieces)] == list(range(1, len(pieces) + 1))
    assert len(pieces) > 1


def test_stream_without_progress_and_one_with_a_key_come_whole(teller):
    async def never(*_):
        pytest.fail("a keyed answer has no pieces")

    asked = {"model": "maker/teller", "input": {"prompt": "one two"}}
    whole = call(teller, "run_model", asked).structured_content
    keyed = call(
        teller, "run_model", asked | {"idempotency_key": "a"}, progress_callback=never
    ).structured_content

    assert whole["output"]["text"] == keyed["output"]["text"] == "one two"
    check_books(teller, [whole["prediction_id"], keyed["prediction_id"]])


def test_stream_that_breaks_off_is_the_tools_failure_and_says_what_it_cost(teller):
    async def note(*_):
        pass

    asked = {"model": "maker/teller", "input": {"prompt": "a b c fail=2"}}
    result = call(teller, "run_model", asked, progress_callback=note)

    error = result.structured_content["error"]
    assert result.is_error
    assert (error["code"], error["cost_nano_usd"]) == ("stream_broken", PRICE_NANOS)
    check_books(teller, [error["request_id"]])


def test_call_that_is_given_up_stops_the_model(teller, triton):
    """The newest revision closes the connection of a request that is cancelled."""
    began = asyncio.Event()

    async def note(*_):
        began.set()

    async def run():
        prompt = "a repeat=400 pause=0.02 name=given_up"
        asked = {"model": "maker/teller", "input": {"prompt": prompt, "max_new_tokens": 400}}
        async with connecting(teller) as client:
            task = asyncio.create_task(client.call_tool("run_model", asked, progress_callback=note))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())

    how, count = eventually(lambda: stops(triton, "given_up"), timeout_s=SLOW_S)
    assert (how, count < 300) == ("stopped", True)

    def check_charged_once():
        assert [one.gross_nanos for one in UsageEvent.objects.all()] == [PRICE_NANOS]

    # For what it had delivered, as on every other protocol.
    eventually(check_charged_once, timeout_s=SLOW_S)


def test_usage_bears_the_tag_of_the_clients_headers(shop):
    async def run():
        async with connecting(shop, **{"Strongroom-Tag": "agent"}) as client:
            return (await client.call_tool("run_model", ECHO)).structured_content

    told = asyncio.run(run())

    assert UsageEvent.objects.get(pk=from_public(told["prediction_id"])).tag == "agent"


def test_check_of_the_books_notices_a_run_that_nobody_holds_money_for(shop):
    """The control of all of the above: what is booked without its answer is found."""
    told = call(shop, "run_model", ECHO).structured_content
    check_books(shop, [told["prediction_id"]])

    with pytest.raises(AssertionError):
        check_books(shop, [])
    with pytest.raises(AssertionError):
        check_untouched(shop)


def test_private_model_is_found_by_the_key_of_its_owner_alone(shop):
    stranger = AccountFactory(slug="stranger")
    model = AIModelFactory(account=stranger, name="own", visibility="private")
    ChannelFactory(version__model=model, version__state="approved")
    key = APIKeyFactory(account=stranger)

    theirs = call(shop, "search_models", {"query": "own"}, key.text).structured_content
    ours = call(shop, "search_models", {"query": "own"}).structured_content

    assert [one["model"] for one in theirs["models"]] == ["stranger/own"]
    assert ours["models"] == []
