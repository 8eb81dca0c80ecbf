"""Money on the platform's overview: what waits, the last checks, what was booked."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from billing.models import ReconcileRun, ReviewCase, UsageEvent
from billing.selectors import overview
from billing.tasks.ledger import check_ledger
from marketplace.core.ids import lowest_id
from marketplace.models import Vital
from tests.factories import AccountFactory

pytestmark = pytest.mark.django_db
URL = "/platform/panels/money"


def test_it_is_for_admins_alone(admin_client, owner_client, client):
    assert admin_client.get(URL).status_code == 200
    assert owner_client.get(URL).status_code == 404
    assert client.get(URL).url.startswith("/login?next=")


def test_what_waits_is_counted(admin_client):
    assert [one.count for one in admin_client.get(URL).context["waiting"]] == [0, 0, 0]
    ReviewCase.objects.create(account=AccountFactory())

    waiting = admin_client.get(URL).context["waiting"]
    assert [one.count for one in waiting] == [1, 0, 0]
    assert waiting[0].oldest is not None
    assert waiting[0].url == "/review/cases"


@pytest.mark.parametrize(("state", "is_good"), [("clean", True), ("unexplained", False)])
def test_the_last_comparison_is_shown(admin_client, state, is_good):
    assert "never ran" in admin_client.get(URL).content.decode()
    now = timezone.now()
    ReconcileRun.objects.create(since=now - timedelta(days=1), until=now, state=state)

    assert admin_client.get(URL).context["is_run_good"] is is_good


@pytest.mark.django_db(transaction=True)
def test_the_ledgers_check_notes_its_result(admin_client):
    assert "was never checked" in admin_client.get(URL).content.decode()
    check_ledger()
    assert Vital.objects.get(pk="ledger").state == "good"
    assert "in order" in admin_client.get(URL).content.decode()
    Vital.objects.filter(pk="ledger").update(at=timezone.now() - timedelta(hours=4))
    assert "was not checked for long" in admin_client.get(URL).content.decode()


def test_usage_is_added_up_by_the_hour(monkeypatch):
    asked = []
    kept = UsageEvent.objects.filter
    monkeypatch.setattr(UsageEvent.objects, "filter", lambda **q: asked.append(q) or kept(**q))

    hours = overview.list_hours()

    assert len(hours) == overview.HOURS_SHOWN
    assert {hour.predictions for hour in hours} == {0}
    # By the key, which begins with the time: events of before are not read at all.
    begin = hours[-1].starts_at
    assert asked[0]["prediction_id__gte"] == lowest_id(begin - overview.PREDICTION_MAX)
