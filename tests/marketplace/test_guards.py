"""What a model's owner sets against copying: limits of the numbers, who may, and where it shows."""

from __future__ import annotations

import pytest

from marketplace.core.errors import InvalidInputError
from marketplace.models import AuditEvent
from marketplace.models.limits import QUERIES_MAX
from marketplace.services.limits import check_rates
from tests.factories import AIModelFactory
from tests.marketplace.test_model_api import LISTING

GUARDS = {"queries_per_day_max": 1_000, "queries_total_max": 50_000, "samples_queries": True}
PATH = "/api/models/acme/digits"


def put(client, **fields):
    return client.put(PATH, LISTING | fields, content_type="application/json")


def test_guards_are_set_read_and_taken_away(owner_client, account):
    assert put(owner_client).json()["queries_per_day_max"] is None
    assert put(owner_client, **GUARDS).status_code == 200

    found = owner_client.get(PATH).json()
    assert {name: found[name] for name in GUARDS} == GUARDS
    event = AuditEvent.objects.order_by("-seq").first()
    assert (event.action, event.payload["changed"]) == ("model.update", sorted(GUARDS))
    # What is left out stays, null takes away.
    assert put(owner_client).json()["queries_total_max"] == 50_000
    left = put(owner_client, queries_total_max=None, samples_queries=False).json()
    assert (left["queries_total_max"], left["samples_queries"]) == (None, False)


@pytest.mark.parametrize("name", ["queries_per_day_max", "queries_total_max"])
def test_a_budget_is_a_number_within_its_limits(owner_client, account, name):
    for good in (1, QUERIES_MAX, None):
        assert put(owner_client, **{name: good}).status_code in (200, 201)
        check_rates({name: good})
    for bad in (0, -1, QUERIES_MAX + 1, "many", 1.5):
        assert put(owner_client, **{name: bad}).status_code == 422
    for bad in (0, QUERIES_MAX + 1, True):
        with pytest.raises(InvalidInputError):
            check_rates({name: bad})


def test_others_do_not_set_guards(outsider_client, owner_client, account):
    put(owner_client)
    assert put(outsider_client, **GUARDS).status_code == 404
    assert owner_client.get(PATH).json()["queries_per_day_max"] is None


def test_the_models_page_says_what_is_counted_and_kept(client, account):
    model = AIModelFactory(account=account, name="digits")
    text = client.get("/acme/digits").content.decode()
    assert "Different inputs" not in text
    assert "Watched" not in text

    for name, value in GUARDS.items():
        setattr(model, name, value)
    model.save()
    text = client.get("/acme/digits").content.decode()
    assert "<dd>1000 a day, 50000 in all for each account</dd>" in text
    assert "<dt>Watched</dt><dd>A few inputs are kept for 30 days as embeddings" in text
