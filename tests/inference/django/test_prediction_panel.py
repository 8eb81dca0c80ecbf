"""The list of predictions, and one of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.test import Client

from inference.models import Prediction
from inference.services.prediction import forget_predictions
from marketplace.core import ids
from tests.factories import APIKeyFactory, ModelVersionFactory

HTMX = {"HX-Request": "true"}
PATH = "/panels/predictions?account=acme"


@pytest.fixture
def version(db):
    return ModelVersionFactory()


def make(account, version, **fields) -> Prediction:
    now = datetime.now(UTC)
    defaults = {
        "id": ids.new_id(),
        "account_id": account.pk,
        "version": version,
        "state": "succeeded",
        "cost_nanos": 250_000,
        "predict_time_us": 1_500,
        "created_at": now,
        "completed_at": now,
    }
    return Prediction.objects.create(**(defaults | fields))


def shown(text: str) -> list[str]:
    return re.findall(r"<code>([a-z2-7]{26})</code>", text)


def test_predictions_are_listed_newest_first(account, version, owner_client):
    rows = sorted((make(account, version) for _ in range(3)), key=lambda row: row.pk)

    text = owner_client.get(PATH, headers=HTMX).content.decode()

    assert shown(text) == [ids.to_public(row.pk) for row in reversed(rows)]
    assert "$0.00025" in text
    assert "1.5 ms" in text
    assert f"{version.model}:1" in text


def test_pages_follow_each_other_without_a_gap(account, version, owner_client):
    rows = sorted((make(account, version) for _ in range(101)), key=lambda row: row.pk)
    expected = [ids.to_public(row.pk) for row in reversed(rows)]
    path, found = PATH, []

    for _ in range(3):
        text = owner_client.get(path, headers=HTMX).content.decode()
        found.append(shown(text))
        following = re.search(r'rel="next" href="([^"]+)"', text)
        path = following[1].replace("&amp;", "&") if following else ""

    assert [len(page) for page in found] == [50, 50, 1]
    assert [one for page in found for one in page] == expected
    assert path == ""


def test_the_list_costs_the_same_for_many(
    account, version, owner_client, django_assert_num_queries
):
    for _ in range(10):
        make(account, ModelVersionFactory())

    # Session, person, account, right, predictions with their models.
    with django_assert_num_queries(6):
        owner_client.get(PATH, headers=HTMX)


def test_an_account_sees_its_own(account, version, owner_client, outsider, outsider_client):
    mine = make(account, version)
    theirs = make(outsider.accounts.get(), version)

    text = owner_client.get(PATH, headers=HTMX).content.decode()

    assert shown(text) == [ids.to_public(mine.pk)]
    assert ids.to_public(theirs.pk) not in text
    assert outsider_client.get(PATH, headers=HTMX).status_code == 404
    assert Client().get(PATH).status_code == 302


@pytest.mark.parametrize("before", ["x", "a" * 25, "A" * 26, "z" * 27])
def test_a_page_that_is_none_is_refused(account, owner_client, before):
    answer = owner_client.get(f"{PATH}&before={before}", headers=HTMX)

    assert answer.status_code == 422


def test_one_prediction_has_a_page(account, version, owner_client, teammate_client):
    row = make(account, version, output={"y": "<b>1</b>"}, source="web")
    path = f"/predictions/{ids.to_public(row.pk)}"

    text = owner_client.get(path).content.decode()

    assert "&lt;b&gt;1&lt;/b&gt;" in text
    assert "$0.00025" in text
    assert teammate_client.get(path).status_code == 200


def test_an_output_that_is_not_kept_is_said_so(account, version, owner_client):
    row = make(account, version)

    text = owner_client.get(f"/predictions/{ids.to_public(row.pk)}").content.decode()

    assert "The output is not kept." in text


def test_anothers_prediction_is_not_there(account, version, outsider_client, admin_client):
    path = f"/predictions/{ids.to_public(make(account, version).pk)}"

    assert outsider_client.get(path).status_code == 404
    # Nor is it the platform's business.
    assert admin_client.get(path).status_code == 404
    assert Client().get(path).status_code == 302


@pytest.mark.parametrize("public_id", ["x", "a" * 26, "A" * 26])
def test_an_id_that_is_none_is_not_there(account, owner_client, public_id):
    assert owner_client.get(f"/predictions/{public_id}").status_code == 404


# --- the log ---

LOG = "/console/predictions?account=acme"


def at(days_ago: float) -> dict[str, object]:
    moment = datetime.now(UTC) - timedelta(days=days_ago)
    lowest = ids.lowest_id(moment)
    return {
        "id": UUID(int=lowest.int | ids.new_id().int & (1 << 62) - 1),
        "created_at": moment,
        "completed_at": moment + timedelta(milliseconds=20),
    }


def test_the_log_is_chosen_by_each_of_its_fields(account, owner, owner_client):
    key = APIKeyFactory(account=account, created_by=owner)
    version = ModelVersionFactory(model__name="digits", model__account__slug="seller")
    mine = make(account, version, api_key_id=key.pk, state="failed", cost_nanos=1_000_000, **at(3))
    make(account, ModelVersionFactory(), cost_nanos=999_999, **at(1))
    day = mine.created_at.date().isoformat()

    for query in (
        f"since={day}&until={day}",
        "model=seller/digits",
        f"key={key.pk}",
        "state=failed",
        "cost=0.001",
    ):
        text = owner_client.get(f"{LOG}&{query}").content.decode()
        assert shown(text) == [ids.to_public(mine.pk)], query
    assert len(shown(owner_client.get(LOG).content.decode())) == 2
    # All of them at once, and one that does not fit.
    together = f"{LOG}&since={day}&until={day}&model=seller/digits&key={key.pk}&cost=0.001"
    assert shown(owner_client.get(f"{together}&state=failed").content.decode())
    assert "Nothing fits" in owner_client.get(f"{together}&state=queued").content.decode()


def test_what_is_rare_is_looked_for_in_a_month(account, version, owner_client):
    old = make(account, version, state="failed", **at(32))

    text = owner_client.get(f"{LOG}&state=failed").content.decode()
    assert shown(text) == []
    assert "Of the last 30 days" in text
    day = old.created_at.date().isoformat()
    text = owner_client.get(f"{LOG}&state=failed&since={day}").content.decode()
    assert shown(text) == [ids.to_public(old.pk)]
    # Without such a choice all are there.
    assert shown(owner_client.get(LOG).content.decode()) == [ids.to_public(old.pk)]


def test_the_pages_of_a_choice_follow_each_other(account, version, owner_client):
    rows = [make(account, version, state="failed") for _ in range(51)]
    make(account, version)
    expected = [ids.to_public(row.pk) for row in sorted(rows, key=lambda row: row.pk)][::-1]

    first = owner_client.get(f"{LOG}&state=failed").content.decode()
    following = re.search(r'rel="next" href="([^"]+)"', first)[1].replace("&amp;", "&")
    second = owner_client.get(following).content.decode()

    assert shown(first) + shown(second) == expected


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "since=2026-02-02&until=2026-02-01",
        "model=digits",
        "model=/digits",
        "key=x",
        "state=gone",
        "cost=much",
        "cost=-1",
        "cost=0.0000000001",
        "cost=1000001",
        "before=x",
    ],
)
def test_what_cannot_be_chosen_is_refused(account, version, owner_client, query):
    make(account, version)

    assert owner_client.get(f"{LOG}&{query}").status_code == 422


def test_anothers_key_is_none_to_choose(account, owner_client, outsider):
    theirs = APIKeyFactory(account=outsider.accounts.get())

    assert owner_client.get(f"{LOG}&key={theirs.pk}").status_code == 422


def test_the_log_costs_the_same_for_many(
    account, version, owner_client, django_assert_num_queries, django_assert_max_num_queries
):
    make(account, version)
    owner_client.get(LOG)
    with django_assert_max_num_queries(10) as asked:
        owner_client.get(f"{LOG}&state=succeeded")
    for _ in range(10):
        make(account, ModelVersionFactory())

    with django_assert_num_queries(len(asked.captured_queries)):
        owner_client.get(f"{LOG}&state=succeeded")


def test_a_page_says_how_long_content_is_kept(account, version, owner, owner_client):
    key = APIKeyFactory(account=account, created_by=owner, name="robot")
    row = make(account, version, output={"y": 1}, input={"x": 2}, api_key_id=key.pk, **at(0.5))

    text = owner_client.get(f"/predictions/{ids.to_public(row.pk)}").content.decode()

    until = row.created_at + timedelta(hours=24)
    assert f"until {until:%-d %B %Y, %H:%M} UTC" in text
    assert ("&quot;x&quot;: 2" in text, "&quot;y&quot;: 1" in text) == (True, True)
    assert "robot" in text
    assert "20.0 ms" in text
    # The control: as soon as it is forgotten, the page has nothing of it.
    forget_predictions()
    assert (
        "&quot;y&quot;: 1"
        in owner_client.get(f"/predictions/{ids.to_public(row.pk)}").content.decode()
    )
    Prediction.objects.update(created_at=row.created_at - timedelta(days=1))
    forget_predictions()
    text = owner_client.get(f"/predictions/{ids.to_public(row.pk)}").content.decode()
    assert "The output is not kept." in text
    assert "&quot;y&quot;: 1" not in text
