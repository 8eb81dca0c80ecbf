"""Credit at the gateway: predictions on it, and none for who does not pay, but no stream is cut."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from django.utils import timezone

from billing.models import Hold, LedgerAccount, PostpaidTerms, UsageEvent
from billing.services.postpaid import set_credit
from tests.gateway.conftest import PRICE_NANOS, predict, problem_of
from tests.gateway.processes import eventually
from tests.gateway.test_native_stream import stream

pytestmark = pytest.mark.django_db(transaction=True)


def pause(shop: Any, *, is_paused: bool = True) -> None:
    """As the reminders do."""
    PostpaidTerms.objects.update_or_create(
        account=shop.consumer,
        defaults={"state": "active", "paused_at": timezone.now() if is_paused else None},
    )


@pytest.fixture
def terms(shop: Any) -> None:
    pause(shop, is_paused=False)


def check_paused(client: httpx.Client) -> None:
    assert problem_of(predict(client)) == (402, "invoice_past_due")


def owed(shop: Any) -> int:
    return -LedgerAccount.objects.get(kind="receivable", holder=shop.consumer).posted_nanos


def test_an_account_with_credit_predicts_and_owes(shop, client):
    set_credit(shop.consumer.pk, 100 * PRICE_NANOS)

    assert predict(client).status_code in (200, 201)

    assert owed(shop) == PRICE_NANOS
    assert LedgerAccount.objects.get(pk=shop.wallet_id).posted_nanos == shop.funded_nanos


def test_who_has_used_its_limit_is_refused_like_an_empty_wallet(shop, client):
    set_credit(shop.consumer.pk, PRICE_NANOS)
    assert predict(client).status_code in (200, 201)

    assert problem_of(predict(client)) == (402, "insufficient_credit")
    assert owed(shop) == PRICE_NANOS


def test_paused_keys_are_refused_at_once_and_work_again_at_once(shop, client, terms):
    assert predict(client).status_code in (200, 201)
    pause(shop)
    eventually(lambda: check_paused(client), timeout_s=1)
    count = UsageEvent.objects.count()

    pause(shop, is_paused=False)

    def check_answered() -> None:
        assert predict(client).status_code in (200, 201)

    eventually(check_answered, timeout_s=1)
    assert UsageEvent.objects.count() == count + 1


def test_who_is_paused_can_still_read(shop, client, terms):
    made = predict(client).json()
    pause(shop)
    eventually(lambda: check_paused(client), timeout_s=1)

    assert client.get(f"/v1/predictions/{made['id']}").status_code == 200


def test_who_is_paused_gets_the_answer_to_a_repeated_request(shop, client, terms):
    headers = {"Idempotency-Key": "once"}
    first = predict(client, headers=headers)
    pause(shop)
    eventually(lambda: check_paused(client), timeout_s=1)

    again = predict(client, headers=headers)

    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/openai/v1/chat/completions", {"model": "maker/teller", "messages": []}),
        (
            "/v2/models/maker%2Fecho/infer",
            {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]},
        ),
    ],
)
def test_every_protocol_refuses_who_is_paused(teller, client, path, body):
    pause(teller)

    def check() -> None:
        answer = client.post(path, json=body)
        assert answer.status_code == 402, answer.text
        assert any(one in answer.text for one in ("invoice_past_due", "is past due"))

    eventually(check, timeout_s=2)


def test_a_running_stream_is_not_cut(teller, client, terms):
    told: list[Any] = []
    prompt = "pause=0.15 repeat=60 a b"
    thread = threading.Thread(target=lambda: told.append(stream(client, prompt)))
    thread.start()
    other = teller.client()
    eventually(check_running, timeout_s=10)
    pause(teller)
    eventually(lambda: check_paused(other), timeout_s=5)
    assert thread.is_alive(), "it ended before the keys were paused"

    thread.join(30)

    ((response, events),) = told
    assert response.status_code == 200
    assert events[-1][0] == "done"
    assert UsageEvent.objects.filter(gross_nanos=PRICE_NANOS).count() == 1


def check_running() -> None:
    assert Hold.objects.filter(state="pending").exists()
