"""What a gateway knows of a caller, read from the migrated database as its own role."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace

import pytest

from inference.gateway.auth import Authenticator, Caller
from inference.gateway.database import Database
from marketplace.models import Account
from tests.factories import AccountFactory, APIKeyFactory
from tests.gateway.test_playground import token

pytestmark = pytest.mark.django_db(transaction=True)

RATES = {"requests_per_minute": 60, "units_per_minute": 600, "concurrency_max": 6}
ACCOUNT_RATES = {"requests_per_minute": 70, "units_per_minute": 700, "concurrency_max": 7}
NO_RATES = dict.fromkeys(RATES)


def find(database_urls, credential: str) -> Caller:
    async def run() -> Caller:
        database = Database(database_urls["gateway"])
        await database.open()
        try:
            secret = os.environ["STRONGROOM_PLAYGROUND_SECRET"]
            authenticator = Authenticator(database, playground_secret=secret)
            request = SimpleNamespace(headers={"authorization": f"Bearer {credential}"})
            return await authenticator.authenticate(request, allow_basic=False)
        finally:
            await database.close()

    return asyncio.run(run())


def rates_of(caller: Caller, prefix: str = "") -> dict[str, int | None]:
    return {name: getattr(caller, prefix + name) for name in RATES}


@pytest.mark.parametrize("_key_rates", [NO_RATES, RATES])
@pytest.mark.parametrize("_account_rates", [NO_RATES, ACCOUNT_RATES])
def test_caller_carries_the_rates_of_key_and_account(database_urls, _key_rates, _account_rates):
    key = APIKeyFactory(account=AccountFactory(**_account_rates), **_key_rates)

    caller = find(database_urls, key.text)

    assert rates_of(caller) == _key_rates
    assert rates_of(caller, "account_") == _account_rates


def test_caller_of_the_site_carries_the_rates_of_its_account(shop, database_urls):
    Account.objects.filter(pk=shop.consumer.pk).update(**ACCOUNT_RATES)

    caller = find(database_urls, token(shop))

    assert rates_of(caller) == NO_RATES
    assert rates_of(caller, "account_") == ACCOUNT_RATES
    assert not caller.has_budget


@pytest.mark.parametrize(
    ("_mode", "_budget", "_has_budget"),
    [
        ("live", {}, False),
        ("live", {"budget_day_nanos": 1}, True),
        ("live", {"budget_month_nanos": 1}, True),
        ("live", {"budget_total_nanos": 1}, True),
        # It never charges, so no budget concerns it.
        ("test", {"budget_total_nanos": 1}, False),
    ],
)
def test_caller_knows_whether_its_key_has_a_budget(database_urls, _mode, _budget, _has_budget):
    key = APIKeyFactory(mode=_mode, **_budget)

    assert find(database_urls, key.text).has_budget is _has_budget
