"""The last credit, fought for by 64 clients at once at two gateways: exactly what it pays for.

Each client keeps a connection of its own; all send in the same moment.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

import pytest
from django.db import connection

from billing.models import LedgerAccount, UsageEvent
from billing.services.postpaid import set_credit
from tests import tables
from tests.chaos import wrong_money
from tests.gateway.conftest import PRICE_NANOS, Shop, X, check_holds, check_ledger
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)

CLIENTS = 64
# What the fixture has put into the wallet pays for so many.
GIVEN = 10


def fight(shop: Shop, urls: Sequence[str]) -> list[tuple[int, str]]:
    """What each of the clients is answered: the status, and the code of a refusal."""
    gate = threading.Barrier(CLIENTS)
    found: list[tuple[int, str]] = []
    body = json.dumps({"input": {"x": X}})
    headers = {"Authorization": f"Bearer {shop.key.text}", "Content-Type": "application/json"}

    def buy(number: int) -> None:
        address = urlsplit(urls[number % len(urls)])
        client = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        client.connect()
        gate.wait(30)
        client.request("POST", "/v1/models/maker/echo/predictions", body, headers)
        answer = client.getresponse()
        found.append((answer.status, json.loads(answer.read()).get("code", "")))
        client.close()

    threads = [threading.Thread(target=buy, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(found) == CLIENTS
    return sorted(found)


def sold(affordable: int) -> list[tuple[int, str]]:
    return [(201, "")] * affordable + [(402, "insufficient_credit")] * (CLIENTS - affordable)


def check_spent(shop: Shop, kind: str, affordable: int, left_nanos: int) -> None:
    eventually(lambda: check_holds(shop))
    row = LedgerAccount.objects.get(holder=shop.consumer, kind=kind)
    assert (row.posted_nanos, row.held_nanos) == (left_nanos, 0)
    assert UsageEvent.objects.count() == affordable
    check_ledger()


@pytest.mark.parametrize("affordable", [1, 13, 63])
def test_a_wallet_is_spent_to_the_last_prediction(shop, start_gateway, affordable):
    rest_nanos = PRICE_NANOS - 1
    shop.fund((affordable - GIVEN) * PRICE_NANOS + rest_nanos)

    found = fight(shop, [shop.url, start_gateway().url])

    assert found == sold(affordable)
    check_spent(shop, "wallet", affordable, rest_nanos)


def test_a_credit_limit_is_used_to_the_last_prediction(shop, start_gateway):
    affordable, rest_nanos = 13, PRICE_NANOS - 1
    set_credit(shop.consumer.pk, affordable * PRICE_NANOS + rest_nanos)

    found = fight(shop, [shop.url, start_gateway().url])

    assert found == sold(affordable)
    check_spent(shop, "receivable", affordable, -affordable * PRICE_NANOS)
    # The wallet was not touched.
    check_spent(shop, "wallet", affordable, GIVEN * PRICE_NANOS)


def test_holds_that_check_and_then_deduct_are_found(shop, start_gateway, database_urls):
    """The control: without the lock and the floor more is sold than is paid for."""
    affordable = 3
    shop.fund((affordable - GIVEN) * PRICE_NANOS)

    with wrong_money.check_then_deduct(database_urls["owner"]):
        found = fight(shop, [shop.url, start_gateway().url])
        wallet = LedgerAccount.objects.get(pk=shop.wallet_id)
        # The floor comes back to tables that keep it.
        tables.empty()
    validate_floor()

    assert found.count((201, "")) > affordable
    assert wallet.posted_nanos < 0


def validate_floor() -> None:
    """Make the constraint what it was."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT conname FROM pg_constraint WHERE NOT convalidated"
            " AND conrelid = 'billing_ledgeraccount'::regclass"
        )
        for (name,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE billing_ledgeraccount VALIDATE CONSTRAINT {name}")
