"""The list of predictions, and one of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from django.test import Client

from inference.models import Prediction
from marketplace.core import ids
from tests.factories import ModelVersionFactory

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
