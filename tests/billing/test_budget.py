"""What keys have cost against their budgets: shown to people, and told by mail, once."""

from __future__ import annotations

import html
import re
from datetime import UTC, date, datetime, timedelta
from smtplib import SMTPException

import pytest
import time_machine
from django.core import mail
from django.test import Client
from django.utils import timezone

from billing.models import BudgetAlert, KeySpend
from billing.selectors import budget as selectors
from billing.selectors.budget import ALWAYS, list_budgets
from billing.services import budget as services
from billing.services.budget import LOOKBACK, MAIL_WITHIN, MAILS_PER_RUN_MAX, alert_budgets
from marketplace.core.money import NANOS_PER_DOLLAR
from marketplace.models import Account, APIKey, AuditEvent, User
from tests.factories import APIKeyFactory, MembershipFactory, UserFactory
from tests.inboxes import list_told
from tests.marketplace.conftest import bearer
from tests.marketplace.test_catalog import in_threads

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY, MONTH = date(2026, 11, 21), date(2026, 11, 1)
STARTS = {"day": TODAY, "month": MONTH, "total": ALWAYS}

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _noon():
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def api_key(account: Account) -> APIKey:
    return APIKeyFactory(account=account, name="server", budget_day_nanos=1_000)


def spend(api_key: APIKey, spent_nanos: int, period: str = "day", **fields: object) -> None:
    """What the SQL of billing has written by then."""
    fields = {"starts_on": STARTS[period], "period": period, "api_key_id": api_key.pk, **fields}
    KeySpend.objects.update_or_create(**fields, defaults={"spent_nanos": spent_nanos})


# --- selector ---


def test_budgets_are_those_of_the_periods_that_run(account: Account) -> None:
    key = APIKeyFactory(
        account=account, budget_day_nanos=10, budget_month_nanos=20, budget_total_nanos=30
    )
    other = APIKeyFactory(account=account, budget_day_nanos=10)
    for starts_on, nanos in ((TODAY, 1), (TODAY - timedelta(days=1), 100)):
        spend(key, nanos, "day", starts_on=starts_on)
    spend(key, 200, "month", starts_on=date(2026, 10, 1))
    spend(key, 30, "total")
    KeySpend.objects.filter(period="total").update(held_nanos=4)
    spend(other, 5)

    found = [
        (one.period, one.starts_on, one.budget_nanos, one.spent_nanos, one.held_nanos)
        for one in list_budgets(key, NOON)
    ]

    assert found == [
        ("day", TODAY, 10, 1, 0),
        ("month", MONTH, 20, 0, 0),
        ("total", ALWAYS, 30, 30, 4),
    ]
    assert [one.percent for one in list_budgets(key, NOON)] == [10, 0, 100]
    assert [one.left_nanos for one in list_budgets(key, NOON)] == [9, 20, 0]


@pytest.mark.parametrize(
    ("_moment", "_expected"),
    [
        ("2026-11-21T23:59:59.999999+00:00", (TODAY, MONTH)),
        ("2026-11-22T00:00:00+00:00", (date(2026, 11, 22), MONTH)),
        ("2026-11-30T23:30:00-01:00", (date(2026, 12, 1), date(2026, 12, 1))),
    ],
)
def test_days_and_months_are_those_of_utc(_moment: str, _expected: tuple[date, date]) -> None:
    starts = selectors.starts_at(datetime.fromisoformat(_moment))

    assert (starts["day"], starts["month"], starts["total"]) == (*_expected, date(1970, 1, 1))


def test_a_test_key_has_no_budget(account: Account) -> None:
    key = APIKeyFactory(account=account, mode="test", budget_day_nanos=1)
    spend(key, 1)

    assert list_budgets(key, NOON) == []
    assert alert_budgets() == 0
    assert BudgetAlert.objects.count() == 0


# --- pages and API ---


def panel(client: Client, api_key: APIKey) -> str:
    answer = client.get(f"/panels/keys/{api_key.pk}")
    assert answer.status_code == 200
    return html.unescape(" ".join(answer.content.decode().split()))


def test_bars_say_in_words_what_they_show(owner_client: Client, account: Account) -> None:
    key = APIKeyFactory(
        account=account,
        budget_day_nanos=NANOS_PER_DOLLAR,
        budget_month_nanos=2 * NANOS_PER_DOLLAR,
        budget_total_nanos=3 * NANOS_PER_DOLLAR,
    )
    spend(key, 790_000_000)
    spend(key, 1_600_000_000, "month")
    KeySpend.objects.filter(period="month").update(held_nanos=100_000_000)
    spend(key, 4_000_000_000, "total")

    page = panel(owner_client, key)

    assert "$0.79 of $1.00 spent (79 %)" in page
    assert "$1.60 of $2.00 spent (80 %)" in page
    assert "$0.10 reserved, $0.30 left" in page
    assert "$4.00 of $3.00 spent (133 %)" in page
    assert "$0.00 left" in page
    # Of 79, 80 and 133 percent: the second is nearly, the third is all used up.
    assert (page.count("Nearly used up"), page.count("Used up")) == (1, 1)
    meters = re.findall(r'<meter aria-labelledby="budget-(\w+)".*?value="(\d+)"', page)
    assert meters == [("day", "79"), ("month", "80"), ("total", "100")]
    for period, _ in meters:
        assert f'id="budget-{period}"' in page


def test_without_a_budget_the_panel_says_so(owner_client: Client, account: Account) -> None:
    assert "No budget" in panel(owner_client, APIKeyFactory(account=account))


def test_a_key_page_asks_for_its_budgets(owner_client: Client, api_key: APIKey) -> None:
    page = owner_client.get(f"/console/keys/{api_key.pk}").content.decode()

    assert f'hx-get="/panels/keys/{api_key.pk}"' in page


def test_spend_over_the_api(client: Client, account: Account, owner: User) -> None:
    key = APIKeyFactory(account=account, budget_total_nanos=30)
    token = APIKeyFactory(account=account, created_by=owner, mode="token")
    spend(key, 7, "total")

    answer = client.get(f"/api/keys/{key.pk}/spend", **bearer(token))

    assert answer.json() == {
        "results": [
            {
                "period": "total",
                "starts_on": "1970-01-01",
                "budget_nanos": 30,
                "spent_nanos": 7,
                "held_nanos": 0,
            }
        ]
    }
    assert client.get(f"/api/keys/{key.pk}/spend", **bearer(key)).status_code == 403


# --- alerts ---


def told() -> list[tuple[str, int, int]]:
    return list(BudgetAlert.objects.order_by("pk").values_list("period", "percent", "spent_nanos"))


@pytest.mark.parametrize(
    ("_spent_nanos", "_percents"),
    [(0, []), (799, []), (800, [80]), (999, [80]), (1_000, [80, 100]), (5_000, [80, 100])],
)
def test_a_budget_is_told_at_its_parts(api_key, _spent_nanos, _percents) -> None:
    spend(api_key, _spent_nanos)

    sent = alert_budgets()

    assert [percent for _, percent, _ in told()] == _percents
    assert sent == len(mail.outbox) == len(_percents)


def test_a_budget_of_one_nano_is_not_told_before_it_is_spent(account: Account) -> None:
    key = APIKeyFactory(account=account, budget_day_nanos=1)
    spend(key, 0)
    assert alert_budgets() == 0

    spend(key, 1)
    assert alert_budgets() == 2


def test_each_part_of_each_period_is_told_once(api_key: APIKey) -> None:
    APIKey.objects.update(budget_month_nanos=10_000)
    spend(api_key, 900)
    assert [alert_budgets(), alert_budgets()] == [1, 0]
    spend(api_key, 950)
    assert alert_budgets() == 0
    spend(api_key, 1_000)
    assert [alert_budgets(), alert_budgets()] == [1, 0]
    spend(api_key, 8_000, "month")
    assert [alert_budgets(), alert_budgets()] == [1, 0]

    assert told() == [("day", 80, 900), ("day", 100, 1_000), ("month", 80, 8_000)]
    with time_machine.travel(NOON + timedelta(days=1), tick=False):
        spend(api_key, 800, starts_on=TODAY + timedelta(days=1))
        assert [alert_budgets(), alert_budgets()] == [1, 0]


def test_what_was_spent_in_the_last_minute_is_told(api_key: APIKey) -> None:
    spend(api_key, 800)
    midnight = NOON + timedelta(hours=12)
    with time_machine.travel(midnight + LOOKBACK, tick=False):
        assert alert_budgets() == 0
    with time_machine.travel(midnight + LOOKBACK - timedelta(seconds=1), tick=False):
        assert alert_budgets() == 1


def test_owners_and_admins_get_one_mail(api_key: APIKey, account: Account) -> None:
    for role in ("admin", "developer", "billing", "viewer"):
        MembershipFactory(account=account, user=UserFactory(email=f"{role}@x.io"), role=role)
    gone = UserFactory(email="gone@x.io", is_active=False)
    MembershipFactory(account=account, user=gone, role="admin")
    APIKey.objects.update(name="a key\nBcc: everybody@x.io")
    spend(api_key, 800)

    alert_budgets()

    [message] = mail.outbox
    assert message.to == ["admin@x.io", "owner@example.com"]
    assert message.subject == "80 % of a budget of a key Bcc: everybody@x.io is spent"
    assert message.recipients() == message.to
    assert "$0.0000008" in message.body
    assert "$0.000001 for 21 November 2026" in message.body
    assert [address for address, _ in sorted(list_told("budget"))] == message.to
    assert list_told("budget")[0][1].startswith("a key Bcc: everybody@x.io has used 80 % of its ")
    assert f"/console/keys/{api_key.pk}" in message.body
    assert "&quot;" not in message.body


def test_the_log_of_the_account_tells_it(
    api_key: APIKey, account: Account, owner_client: Client
) -> None:
    spend(api_key, 1_000)
    alert_budgets()
    alert_budgets()

    events = AuditEvent.objects.filter(account_id=account.pk).order_by("seq")
    assert [(one.actor, one.action, one.payload["percent"]) for one in events] == [
        ("system:budget", "key.budget", 80),
        ("system:budget", "key.budget", 100),
    ]
    assert events[0].payload == {
        "name": "server",
        "hint": api_key.hint,
        "period": "day",
        "percent": 80,
        "budget_nanos": 1_000,
        "spent_nanos": 1_000,
    }
    assert "$0.000001" in owner_client.get("/accounts/acme/activity").content.decode()


@pytest.mark.parametrize("_error", [SMTPException("busy"), TimeoutError()])
def test_a_mail_that_fails_is_sent_by_the_next_run(api_key, monkeypatch, _error) -> None:
    spend(api_key, 800)

    def fail(*_: object) -> None:
        raise _error

    with monkeypatch.context() as broken:
        broken.setattr(services, "send_mail", fail)
        assert alert_budgets() == 0
    assert BudgetAlert.objects.get().mailed_at is None
    assert AuditEvent.objects.count() == 1

    assert [alert_budgets(), alert_budgets()] == [1, 0]
    assert (len(mail.outbox), AuditEvent.objects.count()) == (1, 1)


@pytest.mark.parametrize(("_age", "_sent"), [(timedelta(seconds=-1), 1), (timedelta(), 0)])
def test_old_news_is_not_mailed(api_key, _age, _sent) -> None:
    BudgetAlert.objects.create(
        api_key=api_key, period="day", starts_on=TODAY, percent=80, budget_nanos=1, spent_nanos=1
    )

    with time_machine.travel(NOON + MAIL_WITHIN + _age, tick=False):
        assert alert_budgets() == _sent


def test_an_account_without_people_gets_no_mail_and_no_second_try(api_key: APIKey) -> None:
    User.objects.update(is_active=False)
    spend(api_key, 800)

    assert alert_budgets() == 0
    assert BudgetAlert.objects.get().mailed_at == NOON
    assert mail.outbox == []


@pytest.mark.parametrize("_more", [0, 1])
def test_mails_of_one_run_are_limited(account: Account, _more: int) -> None:
    for _ in range(MAILS_PER_RUN_MAX + _more):
        spend(APIKeyFactory(account=account, budget_day_nanos=10), 9)

    assert [alert_budgets(), alert_budgets()] == [MAILS_PER_RUN_MAX, _more]


@pytest.mark.django_db(transaction=True)
def test_runs_at_once_send_one_mail(api_key: APIKey) -> None:
    spend(api_key, 1_000)

    results = in_threads(6, alert_budgets)

    assert all(isinstance(one, int) for one in results), results
    assert sum(results) == len(mail.outbox) == BudgetAlert.objects.count() == 2
    assert AuditEvent.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_without_the_lock_two_runs_would_mail_twice(api_key: APIKey, monkeypatch) -> None:
    """The control: the test above sees mails that are sent twice."""
    spend(api_key, 800)
    alert_budgets()
    send = services._send

    def send_beside_another(*given: object) -> None:
        monkeypatch.setattr(services, "_send", send)
        assert in_threads(1, alert_budgets) == [_during]
        send(*given)

    for _during, change in ((0, lambda: None), (1, lambda: forget_lock(monkeypatch))):
        BudgetAlert.objects.update(mailed_at=None)
        mail.outbox.clear()
        change()
        monkeypatch.setattr(services, "_send", send_beside_another)
        alert_budgets()
        assert len(mail.outbox) == 1 + _during


def forget_lock(monkeypatch) -> None:
    manager = BudgetAlert.objects
    monkeypatch.setattr(manager, "select_for_update", lambda **_: manager.all(), raising=False)


def test_the_task_does_it(api_key: APIKey) -> None:
    from marketplace.celery import app

    spend(api_key, 800)

    app.tasks["billing.alert_budgets"].apply().get()

    assert len(mail.outbox) == 1
    assert app.conf.beat_schedule["alert-budgets"]["task"] == "billing.alert_budgets"
    assert timezone.now() == NOON
