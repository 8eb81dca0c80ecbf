"""The try-it form's other button: a prediction that runs in the background, with a page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inference.services import playground
from marketplace.models import AIModel, Membership
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory
from tests.inference.django import gateway as gateway_server
from tests.inference.django.gateway import PREDICTION_ID, Gateway

PATH = "/panels/try/acme/digits/later"
HTMX = {"HX-Request": "true"}
VALUES = {"input-0": "4"}
PAGE = f"/predictions/{PREDICTION_ID}"


@pytest.fixture
def gateway(settings) -> Iterator[Gateway]:
    with gateway_server.serve(settings.PLAYGROUND_SECRET) as gateway:
        settings.GATEWAY_URL = gateway.url
        gateway.status, gateway.document = 202, {"id": PREDICTION_ID, "status": "starting"}
        yield gateway
    playground._client().close()
    playground._client.cache_clear()


@pytest.fixture
def model(account) -> AIModel:
    model = AIModelFactory(account=account, name="digits")
    ChannelFactory(version=ModelVersionFactory(model=model))
    return model


def test_it_is_handed_in_and_its_page_is_next(model, owner_client, gateway, account):
    answer = owner_client.post(PATH, VALUES, headers=HTMX)
    assert answer.headers["HX-Redirect"] == PAGE

    # Without scripts the same.
    assert owner_client.post(PATH, VALUES).url == PAGE

    assert gateway.preferences == ["respond-async"] * 2
    path, claims, body = gateway.calls[0]
    assert (path, body) == ("/v1/models/acme/digits/predictions", {"input": {"x": 4}})
    assert claims["account"] == str(account.pk)


def test_the_form_offers_it(model, owner_client):
    text = owner_client.get("/panels/try/acme/digits", headers=HTMX).content.decode()

    assert "Run in the background" in text
    assert f'hx-post="{PATH}"' in text


def test_what_is_wrong_stands_in_the_form_and_nothing_is_asked(model, owner_client, gateway):
    answer = owner_client.post(PATH, {"input-0": "many"}, headers=HTMX)

    assert answer.status_code == 422
    assert gateway.calls == []


def test_a_refusal_is_told_with_what_helps(model, owner_client, gateway):
    gateway.status = 402
    gateway.document = {"code": "insufficient_credit", "detail": "There is too little credit."}

    text = owner_client.post(PATH, VALUES, headers=HTMX).content.decode()

    assert "There is too little credit." in text
    assert "Nothing was charged." in text
    assert "Buy credit" in text


@pytest.mark.parametrize("raw", [b"<html>", b"[]", b""])
def test_an_answer_that_says_nothing_may_have_been_accepted(model, owner_client, gateway, raw):
    gateway.raw = raw

    text = owner_client.post(PATH, VALUES, headers=HTMX).content.decode()

    assert "it may have been charged" in text
    assert "gateway_unavailable" in text


def test_it_needs_the_right_to_predict(
    model, teammate_client, teammate, account, gateway, outsider_client, client
):
    account.memberships.filter(user=teammate).update(role=Membership.Role.BILLING)
    AIModel.objects.update(visibility="private")

    assert teammate_client.post(PATH, VALUES).status_code == 200
    assert outsider_client.post(PATH, VALUES).status_code == 404
    assert client.post(PATH, VALUES).status_code in (302, 404)
    assert gateway.calls == []
    assert client.get(PATH).status_code == 405
