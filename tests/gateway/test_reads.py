"""What can be asked for besides predictions, in the shapes that Replicate's clients read."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

import pytest
import replicate
from django.utils import timezone

from inference.models import Prediction
from marketplace.core.ids import new_id, to_public
from tests.factories import APIKeyFactory, ModelVersionFactory
from tests.gateway.conftest import INTERFACE, X, predict, problem_of

pytestmark = pytest.mark.django_db(transaction=True)


def make_predictions(shop, count, **fields):
    return [
        Prediction.objects.create(
            id=new_id(),
            account_id=shop.consumer.pk,
            version=shop.version,
            state="succeeded",
            created_at=timezone.now(),
            completed_at=timezone.now(),
            **fields,
        )
        for _ in range(count)
    ]


def test_list_is_paged_newest_first_and_back(shop, client):
    # Ids of one millisecond have no order among themselves but the one of the bits.
    made = sorted(make_predictions(shop, 250), key=lambda one: one.pk, reverse=True)

    first = client.get("/v1/predictions").json()
    second = client.get(_path(first["next"])).json()
    third = client.get(_path(second["next"])).json()
    back = client.get(_path(third["previous"])).json()

    pages = [[one["id"] for one in page["results"]] for page in (first, second, third)]
    assert [len(page) for page in pages] == [100, 100, 50]
    assert pages[0] + pages[1] + pages[2] == [to_public(one.pk) for one in made]
    assert (first["previous"], third["next"]) == (None, None)
    assert first["next"].startswith("https://gateway.example/v1/predictions?cursor=")
    assert back == second


def test_exactly_one_page_has_no_next(shop, client):
    make_predictions(shop, 100)

    page = client.get("/v1/predictions").json()

    assert (len(page["results"]), page["next"], page["previous"]) == (100, None, None)


def test_list_keeps_to_times(shop, client):
    (old,) = make_predictions(shop, 1)
    Prediction.objects.update(created_at=timezone.now() - timedelta(days=2))
    (new,) = make_predictions(shop, 1)
    day_ago = (timezone.now() - timedelta(days=1)).isoformat()

    after = client.get("/v1/predictions", params={"created_after": day_ago}).json()["results"]
    before = client.get("/v1/predictions", params={"created_before": day_ago}).json()["results"]

    assert [one["id"] for one in after] == [to_public(new.pk)]
    assert [one["id"] for one in before] == [to_public(old.pk)]


@pytest.mark.parametrize(
    "_query",
    [
        {"cursor": "x"},
        {"cursor": "n"},
        {"cursor": "n" + "9" * 26},
        {"created_after": "x"},
        {f"q{number}": "1" for number in range(33)},
    ],
)
def test_wrong_query_is_refused(shop, client, _query):
    assert problem_of(client.get("/v1/predictions", params=_query)) == (400, "bad_request")


def test_states_have_the_words_of_the_wire(shop, client):
    make_predictions(shop, 1)
    for state, status in [
        ("queued", "starting"),
        ("leased", "starting"),
        ("running", "processing"),
        ("failed", "failed"),
        ("canceled", "canceled"),
    ]:
        Prediction.objects.update(state=state)
        assert client.get("/v1/predictions").json()["results"][0]["status"] == status


def test_what_is_over_cannot_be_canceled(shop, client):
    public_id = predict(client).json()["id"]

    response = client.post(f"/v1/predictions/{public_id}/cancel")

    assert (response.status_code, response.json()["status"]) == (200, "succeeded")


def test_model_is_described(shop, client):
    predict(client)
    document = client.get("/v1/models/maker/echo").json()

    assert document["url"] == "https://web.example/maker/echo"
    assert (document["owner"], document["name"]) == ("maker", "echo")
    assert (document["visibility"], document["run_count"]) == ("public", 1)
    latest = document["latest_version"]
    assert latest["id"] == "ab" * 32
    schemas = latest["openapi_schema"]["components"]["schemas"]
    assert list(schemas["Input"]["properties"]) == ["x", "note", "mode", "wait_s"]
    assert schemas["Input"]["required"] == ["x"]
    assert schemas["Input"]["properties"]["x"] == {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
        "x-datatype": "FP32",
        "title": "x",
        "maximum": 100,
        "x-order": 0,
    }
    assert schemas["Input"]["properties"]["mode"]["enum"][0] == "ok"
    assert "secret" not in schemas["Output"]["properties"]


@pytest.mark.parametrize("_rest", ["", "/versions", "/versions/1"])
def test_slash_of_a_name_may_be_escaped(shop, client, _rest):
    raw = client.get(f"/v1/models/maker/echo{_rest}")

    assert raw.status_code == 200
    assert client.get(f"/v1/models/maker%2Fecho{_rest}").json() == raw.json()


def test_versions_are_listed_newest_first(shop, client):
    ModelVersionFactory(model=shop.model, number=2, interface=INTERFACE, manifest_sha256="cd" * 32)
    ModelVersionFactory(model=shop.model, number=3, state="in_review")

    # One that cannot be read is left out, and does not hide the others.
    ModelVersionFactory(model=shop.model, number=4, interface={}, manifest_sha256="ef" * 32)

    results = client.get("/v1/models/maker/echo/versions").json()["results"]

    assert [one["id"] for one in results] == ["cd" * 32, "ab" * 32]
    one = client.get(f"/v1/models/maker/echo/versions/{'cd' * 32}").json()
    assert one == results[0]
    assert client.get("/v1/models/maker/echo/versions/3").status_code == 404


def test_account_is_told_without_secrets(shop, client):
    assert client.get("/v1/account").json() == {
        "type": "user",
        "username": "buyer",
        "name": "Buyer",
        "github_url": None,
        "avatar_url": None,
    }


def test_reading_needs_a_scope(shop):
    client = shop.client(APIKeyFactory(account=shop.consumer, scopes=["billing"]).text)

    for path in ("/v1/account", "/v1/hardware", "/v1/predictions", "/v1/models/maker/echo"):
        assert problem_of(client.get(path)) == (403, "forbidden")


def test_clients_library_of_replicate_works(shop, gateway):
    client = replicate.Client(api_token=shop.key.text, base_url=gateway.url)

    output = client.run("maker/echo", input={"x": X, "note": "hi"})
    pinned = client.run("maker/echo:" + "ab" * 32, input={"x": X})
    prediction = client.predictions.create(version="ab" * 32, input={"x": X})

    assert output["echo"] == "hi"
    assert pinned["kind"] == {"label": "b", "score": 0.75}
    assert prediction.status == "succeeded"
    assert client.predictions.get(prediction.id).id == prediction.id
    # It is over already, so there is nothing left to cancel.
    assert client.predictions.cancel(prediction.id).status == "succeeded"
    assert [(one.name, one.sku) for one in client.hardware.list()] == [("CPU", "cpu")]
    assert client.models.get("maker/echo").latest_version.id == "ab" * 32
    assert len(client.predictions.list().results) == 3
    client._client.close()


def _path(url):
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"
