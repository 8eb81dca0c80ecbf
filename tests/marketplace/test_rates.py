"""Rates of accounts, which admins set, and of models, which their owners set."""

from __future__ import annotations

import pytest

from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.models import AuditEvent
from marketplace.models.limits import CONCURRENCY_MAX, PER_MINUTE_MAX
from marketplace.selectors.access import Actor
from marketplace.services.account import set_account_rates
from tests.factories import AIModelFactory
from tests.marketplace.test_admin import ACCOUNTS, act
from tests.marketplace.test_model_api import LISTING

RATES = {"requests_per_minute": 60, "units_per_minute": 600, "concurrency_max": 6}
NONE = dict.fromkeys(RATES)
AT_THE_LIMIT = {
    "requests_per_minute": PER_MINUTE_MAX,
    "units_per_minute": PER_MINUTE_MAX,
    "concurrency_max": CONCURRENCY_MAX,
}


def rates_of(row) -> dict[str, int | None]:
    row.refresh_from_db()
    return {name: getattr(row, name) for name in RATES}


# --- accounts ---


def test_an_admin_limits_an_account_with_a_reason(admin_client, owner_client, account):
    question = act(admin_client, ACCOUNTS, "limit", [account])
    assert "All keys of the account together" in question.content.decode()
    nameless = act(admin_client, ACCOUNTS, "limit", [account], confirmed="yes", **RATES)
    assert nameless.status_code == 422
    assert rates_of(account) == NONE

    act(admin_client, ACCOUNTS, "limit", [account], confirmed="yes", reason="Abuse.", **RATES)

    assert rates_of(account) == RATES
    event = AuditEvent.objects.get()
    assert (event.actor, event.action) == ("user:admin@example.com", "account.limit")
    assert event.payload == {
        "reason": "Abuse.",
        **{name: {"from": None, "to": value} for name, value in RATES.items()},
    }
    # The next form begins with what there is, and the account sees limit and reason, not who.
    again = act(admin_client, ACCOUNTS, "limit", [account]).content.decode()
    assert 'value="600"' in again
    page = owner_client.get("/accounts/acme/settings").content.decode()
    assert "<dt>Units per minute</dt><dd>600</dd>" in page
    log = owner_client.get("/accounts/acme/activity").content.decode()
    assert "Abuse." in log
    assert "admin@example.com" not in log

    act(admin_client, ACCOUNTS, "limit", [account], confirmed="yes", reason="Cleared.")
    assert rates_of(account) == NONE


def test_only_admins_limit_accounts(owner, account):
    with pytest.raises(ForbiddenError):
        set_account_rates(actor=Actor(user=owner), account=account, rates=RATES, reason="x")

    assert (rates_of(account), AuditEvent.objects.count()) == (NONE, 0)


@pytest.mark.parametrize("_name", AT_THE_LIMIT)
def test_a_rate_of_an_account_at_its_limit_and_beyond(platform_admin, account, _name):
    actor = Actor(user=platform_admin)

    def change(value: int) -> None:
        set_account_rates(actor=actor, account=account, rates={_name: value}, reason="x")

    change(AT_THE_LIMIT[_name])
    change(AT_THE_LIMIT[_name])
    assert rates_of(account) == NONE | {_name: AT_THE_LIMIT[_name]}
    assert AuditEvent.objects.count() == 1
    for value in (0, AT_THE_LIMIT[_name] + 1):
        with pytest.raises(InvalidInputError) as caught:
            change(value)
        assert [fault["pointer"] for fault in caught.value.errors] == [f"/{_name}"]
    assert rates_of(account) == NONE | {_name: AT_THE_LIMIT[_name]}


# --- models ---


def test_rates_of_a_model_over_the_api(token_api, account):
    url = "/api/models/acme/digits"
    made = token_api.put(url, LISTING | RATES, format="json").json()
    assert made | RATES == made

    # A push that says nothing of them leaves them as they are.
    kept = token_api.put(url, LISTING, format="json").json()
    assert kept | RATES == kept
    fewer = token_api.put(url, LISTING | {"units_per_minute": None}, format="json").json()
    assert fewer | RATES | {"units_per_minute": None} == fewer
    event = AuditEvent.objects.order_by("seq").last()
    assert (event.action, event.payload["changed"]) == ("model.update", ["units_per_minute"])


@pytest.mark.parametrize("_name", AT_THE_LIMIT)
def test_a_rate_of_a_model_at_its_limit_and_beyond(token_api, account, _name):
    url = "/api/models/acme/digits"
    at_the_limit = LISTING | {_name: AT_THE_LIMIT[_name]}
    assert token_api.put(url, at_the_limit, format="json").status_code == 201

    for value in (0, -1, AT_THE_LIMIT[_name] + 1, "many"):
        refused = token_api.put(url, LISTING | {_name: value}, format="json")
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == f"/{_name}"
    assert token_api.get(url).json()[_name] == AT_THE_LIMIT[_name]


def test_rates_of_a_model_on_its_page(owner_client, account):
    model = AIModelFactory(account=account, name="digits")
    url = "/dashboard/models/acme/digits/edit"
    form = {"title": "Digits", "visibility": "public"}

    assert owner_client.post(url, form | RATES).status_code == 302
    assert rates_of(model) == RATES
    assert 'value="600"' in owner_client.get(url).content.decode()
    refused = owner_client.post(url, form | {"concurrency_max": CONCURRENCY_MAX + 1})
    assert (refused.status_code, list(refused.context["form"].errors)) == (422, ["concurrency_max"])
    assert rates_of(model) == RATES
    owner_client.post(url, form)
    assert rates_of(model) == NONE
