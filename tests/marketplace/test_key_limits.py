"""Rates, budgets and lists of a key: what may be set, by whom, and where it is seen."""

from __future__ import annotations

import html
import re

import pytest
from django.utils import timezone

from marketplace.core import limits
from marketplace.core.errors import ConflictError, InvalidInputError
from marketplace.core.money import AMOUNT_NANOS_MAX, NANOS_PER_DOLLAR
from marketplace.models import APIKey, AuditEvent
from marketplace.models.limits import CONCURRENCY_MAX, PER_MINUTE_MAX
from marketplace.selectors.access import Actor
from marketplace.services.key import change_key, issue_key
from marketplace.services.limits import KEY_LIMIT_FIELDS
from tests.factories import APIKeyFactory
from tests.marketplace.conftest import bearer
from tests.marketplace.test_catalog import in_threads

ALL = {
    "requests_per_minute": 60,
    "units_per_minute": 600,
    "concurrency_max": 6,
    "budget_day_nanos": 1,
    "budget_month_nanos": 20 * NANOS_PER_DOLLAR,
    "budget_total_nanos": 300 * NANOS_PER_DOLLAR + 1,
    "allowed_models": ["acme/digits", "demo/echo.2"],
    "allowed_networks": ["203.0.113.0/24", "2001:db8::/32"],
}
NONE = {name: [] if name.startswith("allowed") else None for name in KEY_LIMIT_FIELDS}
AT_THE_LIMIT = {
    "requests_per_minute": PER_MINUTE_MAX,
    "units_per_minute": PER_MINUTE_MAX,
    "concurrency_max": CONCURRENCY_MAX,
    "budget_day_nanos": AMOUNT_NANOS_MAX,
    "budget_month_nanos": AMOUNT_NANOS_MAX,
    "budget_total_nanos": AMOUNT_NANOS_MAX,
}
MODELS = [f"acme/m{number}" for number in range(limits.ALLOWED_ENTRIES_MAX + 1)]
NETWORKS = [f"10.0.{number}.0/24" for number in range(limits.ALLOWED_ENTRIES_MAX + 1)]


@pytest.fixture
def actor(owner, account):
    return Actor(user=owner)


@pytest.fixture
def api_key(account):
    return APIKeyFactory(account=account, name="server")


def limits_of(api_key: APIKey) -> dict[str, object]:
    stored = APIKey.objects.get(pk=api_key.pk)
    return {name: getattr(stored, name) for name in KEY_LIMIT_FIELDS}


# --- what may be set ---


def test_a_key_is_made_with_limits(actor, account):
    api_key, _ = issue_key(actor=actor, account=account, name="x", mode="live", key_limits=ALL)

    assert limits_of(api_key) == ALL
    event = AuditEvent.objects.get()
    assert event.action == "key.issue"
    assert event.payload == {"name": "x", "hint": api_key.hint, "mode": "live", **ALL}


def test_a_key_is_limited_later_and_freed_again(actor, api_key):
    change_key(actor=actor, api_key=api_key, key_limits=ALL)
    assert limits_of(api_key) == ALL == {name: getattr(api_key, name) for name in ALL}
    change_key(actor=actor, api_key=api_key, key_limits={"concurrency_max": 7})
    assert limits_of(api_key) == ALL | {"concurrency_max": 7}
    change_key(actor=actor, api_key=api_key, key_limits=NONE)
    assert limits_of(api_key) == NONE

    first, second, last = AuditEvent.objects.order_by("seq")
    about = {"name": "server", "hint": api_key.hint, "mode": "live"}
    assert first.action == second.action == last.action == "key.change"
    assert first.payload == about | {
        name: {"from": NONE[name], "to": value} for name, value in ALL.items()
    }
    assert second.payload == about | {"concurrency_max": {"from": 6, "to": 7}}
    assert last.payload["allowed_models"] == {"from": ALL["allowed_models"], "to": []}


def test_the_same_again_is_no_event(actor, api_key):
    change_key(actor=actor, api_key=api_key, key_limits=ALL)
    change_key(actor=actor, api_key=api_key, key_limits=ALL)
    change_key(actor=actor, api_key=api_key, key_limits={})

    assert AuditEvent.objects.count() == 1


@pytest.mark.parametrize("_name", AT_THE_LIMIT)
def test_a_number_at_its_limit_and_beyond(actor, api_key, _name):
    for value in (1, AT_THE_LIMIT[_name]):
        change_key(actor=actor, api_key=api_key, key_limits={_name: value})
        assert limits_of(api_key)[_name] == value

    for value in (0, -1, AT_THE_LIMIT[_name] + 1, 1.5, True, "5"):
        with pytest.raises(InvalidInputError) as caught:
            change_key(actor=actor, api_key=api_key, key_limits={_name: value})
        assert [fault["pointer"] for fault in caught.value.errors] == [f"/{_name}"]
    assert limits_of(api_key)[_name] == AT_THE_LIMIT[_name]


@pytest.mark.parametrize(
    ("_name", "_entries"), [("allowed_models", MODELS), ("allowed_networks", NETWORKS)]
)
def test_a_list_at_its_limit_and_one_past_it(actor, api_key, _name, _entries):
    change_key(actor=actor, api_key=api_key, key_limits={_name: _entries[:-1]})
    assert limits_of(api_key)[_name] == _entries[:-1]

    with pytest.raises(InvalidInputError) as caught:
        change_key(actor=actor, api_key=api_key, key_limits={_name: _entries})
    assert caught.value.errors == [{"pointer": f"/{_name}", "detail": "At most 100 entries."}]
    assert limits_of(api_key)[_name] == _entries[:-1]


def test_lists_are_tidied(actor, api_key):
    networks = ["10.1.2.3/8", "10.0.0.0/8", "203.0.113.9", "::ffff:203.0.113.9", "2001:DB8::/32"]
    models = [" acme/digits ", "acme/digits", "acme/echo"]
    change_key(
        actor=actor,
        api_key=api_key,
        key_limits={"allowed_networks": networks, "allowed_models": models},
    )

    assert api_key.allowed_networks == ["10.0.0.0/8", "203.0.113.9/32", "2001:db8::/32"]
    assert api_key.allowed_models == ["acme/digits", "acme/echo"]


@pytest.mark.parametrize(
    ("_name", "_entry"),
    [
        ("allowed_models", ""),
        ("allowed_models", "digits"),
        ("allowed_models", "acme/"),
        ("allowed_models", "/digits"),
        ("allowed_models", "acme/digits:1"),
        ("allowed_models", "acme/digits@prod"),
        ("allowed_models", "acme/digits/x"),
        ("allowed_models", "Acme/digits"),
        ("allowed_models", "acme/digits\0"),
        ("allowed_models", "a" * 40 + "/digits"),
        ("allowed_models", "acme/" + "m" * 64),
        ("allowed_models", "*"),
        ("allowed_networks", ""),
        ("allowed_networks", "localhost"),
        ("allowed_networks", "203.0.113.0/33"),
        ("allowed_networks", "203.0.113"),
        ("allowed_networks", "2001:db8::/129"),
        ("allowed_networks", "fe80::1%eth0"),
    ],
)
def test_an_entry_that_cannot_be_is_named(actor, api_key, _name, _entry):
    good = ALL[_name][0]
    with pytest.raises(InvalidInputError) as caught:
        change_key(actor=actor, api_key=api_key, key_limits={_name: [good, _entry]})

    assert [fault["pointer"] for fault in caught.value.errors] == [f"/{_name}/1"]
    assert (limits_of(api_key), AuditEvent.objects.count()) == (NONE, 0)


def test_the_longest_names_fit(actor, api_key):
    longest = {
        "allowed_models": ["a" * 39 + "/" + "m" * 63],
        "allowed_networks": ["2001:db8:1111:2222:3333:4444:5555:6666/128"],
    }
    change_key(actor=actor, api_key=api_key, key_limits=longest)

    assert limits_of(api_key) == NONE | longest


@pytest.mark.parametrize("_name", ALL)
def test_a_token_has_no_limits(actor, account, _name):
    with pytest.raises(InvalidInputError) as caught:
        issue_key(
            actor=actor, account=account, name="x", mode="token", key_limits={_name: ALL[_name]}
        )

    assert [fault["pointer"] for fault in caught.value.errors] == [f"/{_name}"]
    assert APIKey.objects.count() == 0
    issue_key(actor=actor, account=account, name="x", mode="token", key_limits=NONE)


def test_a_test_key_has_all_but_budgets(actor, account):
    others = {name: value for name, value in ALL.items() if not name.startswith("budget")}
    made, _ = issue_key(actor=actor, account=account, name="x", mode="test", key_limits=others)
    assert limits_of(made) == NONE | others

    with pytest.raises(InvalidInputError) as caught:
        change_key(actor=actor, api_key=made, key_limits=ALL)
    assert [fault["pointer"] for fault in caught.value.errors] == [
        "/budget_day_nanos",
        "/budget_month_nanos",
        "/budget_total_nanos",
    ]


def test_a_revoked_key_changes_no_more(actor, api_key):
    APIKey.objects.update(revoked_at=timezone.now())

    with pytest.raises(ConflictError):
        change_key(actor=actor, api_key=api_key, key_limits=ALL)
    assert (limits_of(api_key), AuditEvent.objects.count()) == (NONE, 0)


@pytest.mark.django_db(transaction=True)
def test_changes_at_once_lose_nothing(owner, api_key):
    fields = ["requests_per_minute", "units_per_minute", "concurrency_max"] * 3

    def change() -> str:
        stale = APIKey.objects.get(pk=api_key.pk)
        change_key(actor=Actor(user=owner), api_key=stale, key_limits={fields.pop(): 9})
        return "done"

    assert in_threads(9, change) == ["done"] * 9
    rates = {name: value for name, value in limits_of(api_key).items() if value == 9}
    assert (len(rates), AuditEvent.objects.count()) == (3, 3)


# --- API ---


def test_limits_over_the_api(token_api, account):
    body = {"account": "acme", "name": "server", "mode": "live", **ALL}
    made = token_api.post("/api/keys", body, format="json").json()
    assert made | ALL == made
    url = f"/api/keys/{made['id']}"
    shown = token_api.get(url)
    assert (shown.status_code, shown.json() | ALL) == (200, shown.json())
    assert "key" not in shown.json()

    changed = token_api.patch(url, {"budget_day_nanos": None, "allowed_models": []}, format="json")
    assert changed.status_code == 200
    assert changed.json() == token_api.get(url).json()
    kept = ALL | {"budget_day_nanos": None, "allowed_models": []}
    assert changed.json() | kept == changed.json()
    assert token_api.get("/api/keys?account=acme").json()["results"][0] == changed.json()


@pytest.mark.parametrize(
    ("_pointer", "_body"),
    [
        ("/requests_per_minute", {"requests_per_minute": 0}),
        ("/requests_per_minute", {"requests_per_minute": PER_MINUTE_MAX + 1}),
        ("/concurrency_max", {"concurrency_max": CONCURRENCY_MAX + 1}),
        ("/budget_total_nanos", {"budget_total_nanos": AMOUNT_NANOS_MAX + 1}),
        ("/budget_total_nanos", {"budget_total_nanos": 0.5}),
        ("/allowed_models", {"allowed_models": MODELS}),
        ("/allowed_models", {"allowed_models": "acme/digits"}),
        ("/allowed_models", {"allowed_models": None}),
        ("/allowed_models/0", {"allowed_models": ["x"]}),
        ("/allowed_networks", {"allowed_networks": NETWORKS}),
        ("/allowed_networks/1", {"allowed_networks": ["10.0.0.0/8", "x"]}),
        ("/request_per_minute", {"request_per_minute": 5}),
        ("/scopes", {"scopes": ["read"], "concurrency_max": 5}),
    ],
)
def test_a_bad_change_over_the_api(token_api, api_key, _pointer, _body):
    response = token_api.patch(f"/api/keys/{api_key.pk}", _body, format="json")

    assert (response.status_code, response.json()["code"]) == (422, "validation")
    assert [fault["pointer"] for fault in response.json()["errors"]] == [_pointer]
    assert (limits_of(api_key), AuditEvent.objects.count()) == (NONE, 0)


def test_a_key_does_not_lift_its_own_limits(api, account, owner, api_key):
    url = f"/api/keys/{api_key.pk}"
    reader = APIKeyFactory(account=account, created_by=owner, mode="token", scopes=["read"])

    for caller in (api_key, reader):
        assert api.patch(url, {"concurrency_max": 5}, **bearer(caller)).status_code == 403
        assert api.get(url, **bearer(caller)).status_code == 403
    assert limits_of(api_key) == NONE


@pytest.mark.parametrize(
    ("_networks", "_forwarded", "_status"),
    [
        ([], "", 200),
        (["127.0.0.0/8"], "", 200),
        (["198.51.100.0/24"], "", 403),
        # Nobody's proxy stands in front: the header is the caller's own invention.
        (["198.51.100.0/24"], "198.51.100.1", 403),
    ],
)
def test_the_management_api_knows_the_networks(api, account, _networks, _forwarded, _status):
    key = APIKeyFactory(account=account, allowed_networks=_networks)
    response = api.get("/api/wallet?account=acme", HTTP_X_FORWARDED_FOR=_forwarded, **bearer(key))

    assert response.status_code == _status
    if _status == 403:
        assert response.json()["code"] == "network_not_allowed"


def test_the_management_api_looks_behind_the_proxies(api, account, settings):
    settings.TRUSTED_PROXY_COUNT = 1
    key = APIKeyFactory(account=account, allowed_networks=["2001:db8::7/128"])

    def ask(forwarded: str) -> int:
        headers = {"HTTP_X_FORWARDED_FOR": forwarded, **bearer(key)}
        return api.get("/api/wallet?account=acme", **headers).status_code

    # Of IPv6 the address itself, not its neighbourhood.
    assert ask("2001:db8::7") == 200
    assert ask("2001:db8::8") == 403
    assert ask("2001:db8::7, 2001:db8::8") == 403
    assert ask("unknown") == 403


# --- pages ---

FORM = {
    "requests_per_minute": "60",
    "units_per_minute": "600",
    "concurrency_max": "6",
    "budget_day_nanos": "0.000000001",
    "budget_month_nanos": "$20",
    "budget_total_nanos": "300.000000001",
    "allowed_models": "acme/digits\r\ndemo/echo.2",
    "allowed_networks": "203.0.113.7/24, 2001:db8::/32",
}


def text_of(response) -> str:
    return html.unescape(response.content.decode())


def test_a_key_is_made_with_limits_on_the_page(owner_client, account):
    form = {"name": "server", "mode": "live"}

    assert owner_client.post("/console/keys/new", form | FORM).status_code == 201

    assert limits_of(APIKey.objects.get()) == ALL


def test_limits_are_seen_and_changed_on_the_page(owner_client, api_key):
    url = f"/console/keys/{api_key.pk}"
    assert "No limits of its own" in text_of(owner_client.get(url))
    assert url in text_of(owner_client.get("/console/keys"))

    assert owner_client.post(f"{url}/edit", FORM).url == url
    assert limits_of(api_key) == ALL

    page = text_of(owner_client.get(url))
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert facts["Requests per minute"] == "60"
    assert facts["At the same time"] == "6"
    assert facts["Models"].count("<code>") == facts["Networks"].count("<code>") == 2
    # What stands in the form is what there is: sent back as it is, nothing changes.
    edit = owner_client.get(f"{url}/edit")
    shown = {name: edit.context["form"][name].value() for name in FORM}
    assert 'value="20.00"' in text_of(edit)
    assert 'value="0.000000001"' in text_of(edit)
    assert "203.0.113.0/24\n2001:db8::/32" in text_of(edit)
    events = AuditEvent.objects.count()
    owner_client.post(f"{url}/edit", shown)
    assert AuditEvent.objects.count() == events

    owner_client.post(f"{url}/edit", {})
    assert limits_of(api_key) == NONE


@pytest.mark.parametrize(
    ("_name", "_value", "_told"),
    [
        ("requests_per_minute", "0", "greater than or equal to 1"),
        ("requests_per_minute", str(PER_MINUTE_MAX + 1), "less than or equal to"),
        ("concurrency_max", "x", "whole number"),
        ("budget_day_nanos", "0", "More than $0"),
        ("budget_day_nanos", "-1", "zero or more"),
        ("budget_day_nanos", "0.0000000001", "finer than a billionth"),
        ("budget_day_nanos", "1000001", "too large"),
        ("budget_day_nanos", "NaN", "zero or more"),
        ("allowed_models", "acme", "'acme' is no model"),
        ("allowed_models", "\n".join(MODELS), "At most 100 entries"),
        ("allowed_networks", "10.0.0.0/8\nhome", "'home' is no network"),
    ],
)
def test_a_fault_is_told_at_its_field(owner_client, api_key, _name, _value, _told):
    page = owner_client.post(f"/console/keys/{api_key.pk}/edit", FORM | {_name: _value})
    made = owner_client.post(
        "/console/keys/new", {"name": "x", "mode": "live", **FORM, _name: _value}
    )

    for answer in (page, made):
        assert answer.status_code == 422
        assert list(answer.context["form"].errors) == [_name]
        assert _told in text_of(answer)
    assert '<details class="more" open>' in text_of(made)
    assert (limits_of(api_key), APIKey.objects.count()) == (NONE, 1)


def test_a_token_has_no_page_for_limits(owner_client, account):
    token = APIKeyFactory(account=account, mode="token")

    assert owner_client.get(f"/console/keys/{token.pk}/edit").status_code == 404
    assert owner_client.post(f"/console/keys/{token.pk}/edit", FORM).status_code == 404
    assert "Change limits" not in text_of(owner_client.get(f"/console/keys/{token.pk}"))
    assert limits_of(token) == NONE


def test_a_test_key_is_asked_for_no_budget(owner_client, account):
    key = APIKeyFactory(account=account, mode="test")
    url = f"/console/keys/{key.pk}"

    page = text_of(owner_client.get(f"{url}/edit"))

    assert ("Requests per minute" in page, "Budget per day" in page) == (True, False)
    assert "/panels/keys/" not in text_of(owner_client.get(url))
    assert owner_client.post(f"{url}/edit", {"concurrency_max": "2"}).status_code == 302


def test_the_log_of_the_account_tells_the_change(owner_client, api_key):
    owner_client.post(f"/console/keys/{api_key.pk}/edit", FORM)
    owner_client.post(f"/console/keys/{api_key.pk}/edit", FORM | {"budget_month_nanos": ""})

    page = text_of(owner_client.get("/accounts/acme/activity"))

    assert "none → $20.00" in page
    assert "$20.00 → none" in page
    assert "none → acme/digits, demo/echo.2" in page
