"""Predictions at prices that meter and count, through the gateway and a real tritonserver."""

from __future__ import annotations

import concurrent.futures
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing.models import LedgerAccount, Price, Transfer, UsageCounter, UsageEvent
from billing.services import ledger
from inference.gateway import metering
from inference.models import Prediction
from marketplace.core.ids import new_id
from marketplace.models import AIModel, ModelVersion
from strongroom.rating import rate
from tests.gateway.conftest import (
    PRICE_NANOS,
    Shop,
    X,
    check_holds,
    check_ledger,
    check_nothing_booked,
    predict,
    predict_many,
    problem_of,
)
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)


def reprice(shop: Shop, name: str = "echo", **terms: Any) -> Price:
    """Another price of one of the shop's models from now on, for everybody or an account."""
    model = AIModel.objects.get(name=name)
    account = terms.pop("account", None)
    Price.objects.filter(model=model, account=account).update(valid_until=timezone.now())
    price = Price.objects.create(
        model=model,
        account=account,
        nanos_per_prediction=terms.pop("flat", 0),
        creator_share_bps=8_000,
        valid_from=timezone.now(),
        **terms,
    )
    # It is heard at once; this says that it was.
    client = shop.client()
    question = {"version": f"maker/{name}", "units": {}}

    def heard() -> None:
        answer = client.post("/v1/price", json=question).json()
        wanted = str(price.pk)
        assert answer.get("price_id") == wanted or answer.get("code") == "price_unbounded"

    if account is None or account == shop.consumer:
        eventually(heard)
    return price


def count_by_us(shop: Shop, name: str) -> None:
    """The model's version runs on our own runtime, whose counters are believed."""
    ModelVersion.objects.filter(model__name=name).update(runtime="transformers")


def complete(client, model: str, prompt: str, **more: Any):
    body = {"model": f"maker/{model}", "prompt": prompt, **more}
    return client.post("/openai/v1/completions", json=body)


def check_charge(nanos: int, **metered: int) -> UsageEvent:
    event = UsageEvent.objects.latest("pk")
    assert (event.gross_nanos, event.metered) == (nanos, metered or None)
    assert Prediction.objects.get(pk=event.pk).cost_nanos == nanos
    check_ledger()
    return event


def test_tokens_are_charged_as_our_runtime_counted_them(language: Shop) -> None:
    count_by_us(language, "writer")
    rates = {"input_token": 2_000_000, "output_token": 7_000_000}
    reprice(language, "writer", flat=3, rates=rates, max_units={"input_token": 50})
    language.fund(10_000)

    answer = complete(language.client(), "writer", "one two three", max_tokens=4)

    assert answer.status_code == 200, answer.text
    # Three words are read and four are written.
    assert answer.json()["usage"]["completion_tokens"] == 4
    assert answer.headers["x-cost-nano-usd"] == str(3 + 3 * 2 + 4 * 7)
    check_charge(37, input_token=3, output_token=4)
    eventually(lambda: check_holds(language))


def test_the_most_is_reserved_and_not_a_nano_more_is_needed(language: Shop) -> None:
    count_by_us(language, "writer")
    rates = {"input_token": 2_000_000, "output_token": 700_000_000}
    reprice(language, "writer", rates=rates, max_units={"input_token": 50, "output_token": 10})
    most = 50 * 2 + 10 * 700
    # Spend down to one nano-dollar less than it needs.
    wallet = LedgerAccount.objects.get(pk=language.wallet_id)
    clearing = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    rest = wallet.posted_nanos - (most - 1)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.REFUND,
        idempotency_key="test:down",
        amounts_nanos={clearing: rest, language.wallet_id: -rest},
    )
    client = language.client()

    refused = complete(client, "writer", "one", max_tokens=16)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_credit")
    # The caller's own limit lowers the most.
    assert complete(client, "writer", "one", max_tokens=1).status_code == 200


def test_counters_of_other_runtimes_are_not_believed(language: Shop) -> None:
    reprice(language, "writer", rates={"output_token": 1}, max_units={"output_token": 5})
    answer = language.client().post(
        "/v1/models/maker/writer/predictions", json={"input": {"prompt": "one"}}
    )
    assert problem_of(answer) == (422, "price_unbounded")
    check_nothing_booked(language)


def test_what_has_no_maximum_is_refused(language: Shop) -> None:
    count_by_us(language, "writer")
    reprice(language, "writer", rates={"input_token": 1})
    body = {"input": {"prompt": "one"}}
    answer = language.client().post("/v1/models/maker/writer/predictions", json=body)
    assert problem_of(answer) == (422, "price_unbounded")
    check_nothing_booked(language)


@pytest.mark.parametrize("wait_s", [0, 0.2])
def test_time_is_charged_as_we_measured_it(shop: Shop, wait_s: float) -> None:
    reprice(shop, rates={"compute_ms": 1_000_000}, max_units={"compute_ms": 5_000})
    answer = predict(shop.client(), wait_s=wait_s)

    nanos = int(answer.headers["x-cost-nano-usd"])
    metrics = answer.json()["metrics"]
    assert metrics["cost_nano_usd"] == nanos
    assert nanos - 1 <= metrics["predict_time"] * 1_000 <= nanos
    assert wait_s * 1_000 <= nanos < 5_000
    check_charge(nanos, compute_ms=nanos)


def test_time_is_charged_up_to_its_maximum(shop: Shop) -> None:
    reprice(shop, rates={"compute_ms": 1_000_000}, max_units={"compute_ms": 30})
    predict(shop.client(), wait_s=0.2)
    check_charge(30, compute_ms=30)


def test_rows_are_charged(shop: Shop) -> None:
    reprice(shop, rates={"row": 2_500_000})
    inputs = [{"name": "x", "datatype": "FP32", "shape": [3, 4], "data": X * 3}]
    answer = shop.client().post("/v2/models/maker/echo/infer", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    check_charge(8, row=3)


def test_a_stream_is_charged_for_what_was_delivered(teller: Shop) -> None:
    count_by_us(teller, "teller")
    teller.fund(10**6)
    reprice(
        teller,
        "teller",
        rates={"output_token": 1_000_000},
        max_units={"output_token": 1_000},
    )
    client = teller.client()
    body = {"model": "maker/teller", "prompt": "a b c", "stream": True}
    whole = client.post("/openai/v1/completions", json=body)
    assert '"cost_nano_usd":3' in whole.text
    check_charge(3, output_token=3)

    body["prompt"] = "word repeat=40 pause=0.05"
    with client.stream("POST", "/openai/v1/completions", json=body) as answer:
        lines = (one for one in answer.iter_lines() if one.startswith("data: {"))
        for _ in range(4):
            next(lines)
    eventually(check_two_booked)
    event = UsageEvent.objects.latest("pk")
    assert 3 <= event.gross_nanos == event.metered["output_token"] < 40
    eventually(lambda: check_holds(teller))
    check_ledger()


def check_two_booked() -> None:
    assert UsageEvent.objects.count() == 2


def test_free_ones_need_no_credit_and_are_not_exceeded(shop: Shop, start_gateway) -> None:
    reprice(shop, flat=PRICE_NANOS * 100, free_units=3)

    found = [predict(shop.client()) for _ in range(4)]

    assert [one.status_code for one in found] == [201, 201, 201, 402]
    assert [one.headers["x-cost-nano-usd"] for one in found] == ["0"] * 4
    assert UsageCounter.objects.get().units == 3
    check_ledger()


def test_free_ones_at_once_are_never_too_many(shop: Shop) -> None:
    reprice(shop, flat=PRICE_NANOS, free_units=5)
    shop.fund(2 * PRICE_NANOS)

    found = predict_many(shop.client(), 24)

    charged = sum(int(one.headers["x-cost-nano-usd"]) for one in found)
    answered = [one for one in found if one.status_code == 201]
    assert UsageCounter.objects.get().units == len(answered)
    assert charged == PRICE_NANOS * max(0, len(answered) - 5)
    assert charged <= shop.funded_nanos
    eventually(lambda: check_holds(shop))
    check_ledger()


def test_an_account_pays_its_own_price(shop: Shop) -> None:
    offer = reprice(shop, flat=7, account=shop.consumer)
    assert predict(shop.client()).headers["x-cost-nano-usd"] == "7"
    assert UsageEvent.objects.get().price_id == offer.pk
    # Until everybody's is nowhere dearer.
    reprice_all = Price.objects.filter(model=shop.model, account=None)
    reprice_all.update(valid_until=timezone.now())
    Price.objects.create(
        model=shop.model, nanos_per_prediction=6, creator_share_bps=0, valid_from=timezone.now()
    )
    eventually(lambda: _costs(shop, "6"))


def _costs(shop: Shop, nanos: str) -> None:
    assert predict(shop.client()).headers["x-cost-nano-usd"] == nanos


def test_a_running_prediction_keeps_the_price_that_it_met(shop: Shop) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        client = shop.client()
        running = pool.submit(predict, client, wait_s=1.5)
        eventually(lambda: _check_reserved(shop))
        Price.objects.filter(pk=shop.price.pk).update(valid_until=timezone.now())
        Price.objects.create(
            model=shop.model,
            nanos_per_prediction=5,
            rates={"row": 10**6},
            creator_share_bps=0,
            valid_from=timezone.now(),
        )
        eventually(lambda: _check_told(shop, 6))
        assert not running.done()
        assert running.result().headers["x-cost-nano-usd"] == str(PRICE_NANOS)
    check_ledger()


def _check_told(shop: Shop, nanos: int) -> None:
    assert ask(shop, units={}).json()["maximum_nano_usd"] == nanos


def _check_reserved(shop: Shop) -> None:
    assert LedgerAccount.objects.get(pk=shop.wallet_id).held_nanos


# --- What it would cost ---


def ask(shop: Shop, **question: Any):
    return shop.client().post("/v1/price", json={"version": "maker/echo", **question})


def test_the_price_is_told_before(shop: Shop) -> None:
    price = reprice(
        shop,
        flat=100,
        rates={"compute_ms": 2_000_000},
        max_units={"compute_ms": 1_000},
        free_units=2,
        tiers=[[5, 5_000]],
        minimum_nanos=20,
    )
    later = timezone.now() + timedelta(days=3)
    Price.objects.filter(pk=price.pk).update(valid_until=later)
    coming = Price.objects.create(
        model=shop.model, nanos_per_prediction=9_000, creator_share_bps=0, valid_from=later
    )

    told = ask(shop, input={"x": X}).json()

    assert (told["price_id"], told["maximum_nano_usd"]) == (str(price.pk), 2_100)
    assert told["month"] == {"rows": 0, "free_left": 2, "bps": 0}
    assert told["estimate_nano_usd"] == 0
    assert told["next_price"]["price_id"] == str(coming.pk)
    assert [one["kind"] for one in told["lines"]] == ["prediction", "compute_ms"]
    charged = [int(predict(shop.client()).headers["x-cost-nano-usd"]) for _ in range(3)]
    assert charged[:2] == [0, 0]
    assert 20 <= charged[2] <= told["maximum_nano_usd"]
    exact = ask(shop, units={"rows": 2, "compute_ms": 10}).json()
    assert exact["maximum_nano_usd"] == rate(price.terms, 2, {"compute_ms": 10}) == 220
    assert exact["month"]["rows"] == 3
    assert UsageEvent.objects.count() == 3


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"input": {"x": X}, "units": {}},
        {"units": []},
        {"units": {"rows": 0}},
        {"units": {"rows": -1}},
        {"units": {"rows": 1_025}},
        {"units": {"rows": 1.5}},
        {"units": {"rows": True}},
        {"units": {"pixel": 10**12 + 1}},
        {"units": {"penny": 1}},
        {"input": {"x": [1]}},
        {"unknown": 1},
    ],
)
def test_a_question_that_is_none_is_refused(shop: Shop, question: dict[str, Any]) -> None:
    assert problem_of(ask(shop, **question)) == (422, "validation")


def test_the_largest_question_is_answered(shop: Shop) -> None:
    told = ask(shop, units={"rows": 1_024, "pixel": 10**12}).json()
    assert told["maximum_nano_usd"] == 1_024 * PRICE_NANOS


@pytest.mark.parametrize(
    ("shape", "pixels"),
    [
        ((2, 3, 5, 7), 70),
        ((1, 480, 640, 3), 480 * 640),
        ((1, 1, 28, 28), 784),
        ((1, 2, 28, 28), 0),
        ((1, 28, 28), 0),
        ((1, 4), 0),
    ],
)
def test_pixels_are_those_of_images(shape: tuple[int, ...], pixels: int) -> None:
    assert metering._count_pixels(shape) == pixels
