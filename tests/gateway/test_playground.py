"""The site's try-it form: short-lived tokens that the web signs for an account."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time

import pytest

from billing.models import UsageEvent
from inference.models import Prediction
from marketplace.core.ids import new_id
from tests.gateway.conftest import check_books, check_nothing_booked, predict, problem_of
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)


def sign(claims, *, secret=None):
    text = json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()
    part = base64.urlsafe_b64encode(text).rstrip(b"=")
    key = (secret or os.environ["STRONGROOM_PLAYGROUND_SECRET"]).encode()
    mark = base64.urlsafe_b64encode(hmac.digest(key, part, hashlib.sha256)).rstrip(b"=")
    return f"sp_{part.decode()}.{mark.decode()}"


def token(shop, *, secret=None, **changes):
    claims = {"account": str(shop.consumer.pk), "user": str(new_id()), "exp": time.time() + 60}
    return sign(claims | changes, secret=secret)


def test_token_buys_for_its_account(shop):
    response = predict(shop.client(token(shop)))

    assert response.status_code == 201
    assert response.json()["source"] == "web"
    check_books(shop, [response.json()["id"]])
    assert UsageEvent.objects.get().api_key_id is None
    row = Prediction.objects.get()
    assert (row.source, row.api_key_id, row.account_id) == ("web", None, shop.consumer.pk)


@pytest.mark.parametrize(
    "_changes",
    [
        {"exp": 0},
        {"exp": time.time() - 1},
        {"exp": time.time() + 3600},
        {"exp": "soon"},
        {"exp": None},
        {"exp": float("nan")},
        {"account": "buyer"},
        {"account": None},
        {"account": str(new_id())},
        {"secret": "another secret"},
    ],
)
def test_token_that_is_not_valid_buys_nothing(shop, _changes):
    response = predict(shop.client(token(shop, **_changes)))

    assert problem_of(response) == (401, "unauthenticated")
    check_nothing_booked(shop)


def test_changed_token_buys_nothing(shop):
    text = token(shop)
    claims, mark = text.removeprefix("sp_").split(".")

    for changed in (f"sp_{claims[:-2]}AA.{mark}", f"sp_{claims}.{mark[:-3]}AAA", f"sp_{claims}"):
        assert problem_of(predict(shop.client(changed))) == (401, "unauthenticated")
    check_nothing_booked(shop)


def test_token_of_a_suspended_account_buys_nothing(shop):
    client = shop.client(token(shop))
    assert predict(client, x=[1]).status_code == 422
    shop.consumer.suspended_at = shop.consumer.created_at
    shop.consumer.save()

    def check_suspended():
        # Until the gateway has heard of it, this is refused for its input, and costs nothing.
        assert problem_of(predict(client, x=[1])) == (403, "account_suspended")

    eventually(check_suspended, timeout_s=1)
    assert problem_of(predict(client)) == (403, "account_suspended")
    check_nothing_booked(shop)


def test_token_ends_while_the_account_is_cached(shop):
    client = shop.client(token(shop, exp=time.time() + 0.5))
    assert predict(client).status_code == 201
    time.sleep(0.6)

    assert problem_of(predict(client)) == (401, "unauthenticated")
