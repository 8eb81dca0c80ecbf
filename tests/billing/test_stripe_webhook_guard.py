"""Which webhooks are believed."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
import stripe

from billing.errors import WebhookRefusedError
from billing.stripe.events import StripeEvent, read_event, verify_webhook

SECRET = "whsec_current"
OTHER_SECRET = "whsec_other"
NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
T = int(NOW.timestamp())
BODY = {
    "id": "evt_1",
    "object": "event",
    "type": "checkout.session.completed",
    "created": T - 1,
    "data": {"object": {"id": "cs_test_1", "object": "checkout.session", "note": "é"}},
}
PAYLOAD = json.dumps(BODY, ensure_ascii=False).encode()


def sign(payload: bytes = PAYLOAD, secret: str = SECRET, t: int | str = T) -> str:
    return hmac.new(secret.encode(), f"{t}.".encode() + payload, hashlib.sha256).hexdigest()


def header(secret: str = SECRET, t: int = T) -> str:
    return f"t={t},v1={sign(secret=secret, t=t)}"


ZEROS = "0" * 64


@pytest.mark.parametrize(
    ("_case", "signature"),
    [
        ("now", header()),
        ("300 s old", header(t=T - 300)),
        ("300 s ahead", header(t=T + 300)),
        ("two secrets, the new one first", f"t={T},v1={sign()},v1={sign(secret=OTHER_SECRET)}"),
        ("two secrets, the new one last", f"t={T},v1={sign(secret=OTHER_SECRET)},v1={sign()}"),
        ("with the scheme of test mode", f"t={T},v1={sign()},v0={ZEROS}"),
        ("with spaces", f"t={T}, v1={sign()}"),
        (
            "by the SDK",
            stripe.WebhookSignature.generate_signature_header(PAYLOAD.decode(), SECRET, T),
        ),
    ],
)
def test_what_stripe_signed_now_is_believed(_case, signature):
    assert verify_webhook(PAYLOAD, signature, SECRET, NOW) == StripeEvent(
        id="evt_1",
        type="checkout.session.completed",
        created=T - 1,
        object_id="cs_test_1",
        payload=BODY,
    )


@pytest.mark.parametrize(
    ("_case", "signature", "reason"),
    [
        ("none", "", "signature_missing"),
        ("forged", f"t={T},v1={ZEROS}", "signature_invalid"),
        ("wrong secret", header(OTHER_SECRET), "signature_invalid"),
        ("two wrong secrets", f"{header(OTHER_SECRET)},v1={ZEROS}", "signature_invalid"),
        ("cut short", f"t={T},v1={sign()[:-1]}", "signature_invalid"),
        ("prefix only", f"t={T},v1={sign()[:8]}", "signature_invalid"),
        ("in capitals", f"t={T},v1={sign().upper()}", "signature_invalid"),
        ("not ascii", f"t={T},v1=é{sign()[1:]}", "signature_invalid"),
        ("no text at all", f"t={T},v1=\udcff", "signature_invalid"),
        ("right under another scheme", f"t={T},v0={sign()}", "signature_malformed"),
        ("signed for another time", f"t={T + 1},v1={sign()}", "signature_invalid"),
        ("301 s old", header(t=T - 301), "timestamp_too_old"),
        ("replayed after a day", header(t=T - 86_400), "timestamp_too_old"),
        ("replayed after a year", header(t=T - 31_536_000), "timestamp_too_old"),
        ("of the beginning of time", header(t=0), "timestamp_too_old"),
        ("301 s ahead", header(t=T + 301), "timestamp_in_future"),
        ("one day ahead", header(t=T + 86_400), "timestamp_in_future"),
        ("no time", f"v1={sign()}", "signature_malformed"),
        ("two times", f"t={T},t={T - 86_400},v1={sign()}", "signature_malformed"),
        ("time in words", f"t=now,v1={sign(t='now')}", "signature_malformed"),
        ("negative time", f"t=-{T},v1={sign(t=-T)}", "signature_malformed"),
        (
            "time with an underscore",
            f"t={str(T)[:4]}_{str(T)[4:]},v1={sign()}",
            "signature_malformed",
        ),
        ("time in other digits", f"t=\uff11,v1={sign(t=1)}", "signature_malformed"),
        ("endless time", f"t={'9' * 13},v1={sign(t=int('9' * 13))}", "signature_malformed"),
        ("no signature", f"t={T}", "signature_malformed"),
        ("empty signature", f"t={T},v1=", "signature_malformed"),
        ("nine signatures", f"t={T}" + f",v1={sign()}" * 9, "signature_malformed"),
        ("too long", f"t={T},v1={sign()},x={'y' * 1_024}", "signature_malformed"),
        ("rubbish", "=,=,==,,", "signature_malformed"),
    ],
)
def test_everything_else_is_refused(_case, signature, reason):
    with pytest.raises(WebhookRefusedError) as caught:
        verify_webhook(PAYLOAD, signature, SECRET, NOW)

    assert caught.value.params == {"reason": reason}
    assert (caught.value.code, caught.value.http_status) == ("webhook_refused", 400)


def test_one_changed_byte_is_refused():
    for index in range(len(PAYLOAD)):
        changed = bytearray(PAYLOAD)
        changed[index] ^= 1
        with pytest.raises(WebhookRefusedError) as caught:
            verify_webhook(bytes(changed), header(), SECRET, NOW)
        assert caught.value.params["reason"] == "signature_invalid"


@pytest.mark.parametrize(
    ("_case", "payload"),
    [
        ("no json", b"{"),
        ("no utf-8", b"\xff"),
        ("no object", b"[]"),
        ("nothing", b""),
        ("deep", b"[" * 100_000),
        ("thin event", json.dumps(BODY | {"object": "v2.core.event"}).encode()),
        ("no id", json.dumps(BODY | {"id": ""}).encode()),
        ("id of another type", json.dumps(BODY | {"id": 1}).encode()),
        ("no type", json.dumps(BODY | {"type": None}).encode()),
        ("time as text", json.dumps(BODY | {"created": "1"}).encode()),
        ("no data", json.dumps(BODY | {"data": {}}).encode()),
        ("data of another type", json.dumps(BODY | {"data": {"object": "cs_1"}}).encode()),
    ],
)
def test_signed_but_no_event_is_refused(_case, payload):
    with pytest.raises(WebhookRefusedError) as caught:
        verify_webhook(payload, f"t={T},v1={sign(payload)}", SECRET, NOW)

    assert caught.value.params == {"reason": "payload_malformed"}


@pytest.mark.parametrize("secret", ["", " ", "\n\t"])
def test_without_a_secret_nothing_is_believed(secret):
    with pytest.raises(ValueError, match="not set"):
        verify_webhook(PAYLOAD, header(secret), secret, NOW)


def test_objects_without_an_id_have_none():
    event = read_event(BODY | {"data": {"object": {"object": "balance"}}})

    assert event.object_id == ""


def test_the_sdk_alone_would_believe_the_future(monkeypatch):
    # Why there is a guard of our own.
    future = datetime.now(UTC) + timedelta(days=1)
    signature = stripe.WebhookSignature.generate_signature_header(
        PAYLOAD.decode(), SECRET, int(future.timestamp())
    )
    assert stripe.WebhookSignature.verify_header(PAYLOAD, signature, SECRET, 300)

    with pytest.raises(WebhookRefusedError) as caught:
        verify_webhook(PAYLOAD, signature, SECRET, datetime.now(UTC))
    assert caught.value.params == {"reason": "timestamp_in_future"}


def test_without_the_clock_a_replay_would_be_believed(monkeypatch):
    replay = header(t=T - 86_400)
    with pytest.raises(WebhookRefusedError):
        verify_webhook(PAYLOAD, replay, SECRET, NOW)

    monkeypatch.setattr("billing.stripe.events.TOLERANCE_S", 10**9)

    assert verify_webhook(PAYLOAD, replay, SECRET, NOW).id == "evt_1"


THIN = {
    "id": "evt_2",
    "object": "v2.core.event",
    "type": "v2.core.account[requirements].updated",
    "created": "2026-11-21T03:59:58.000Z",
    "livemode": False,
    "related_object": {
        "id": "acct_1",
        "type": "v2.core.account",
        "url": "/v2/core/accounts/acct_1",
    },
}


def test_a_thin_event_names_its_object():
    payload = json.dumps(THIN).encode()
    event = verify_webhook(payload, f"t={T},v1={sign(payload)}", SECRET, NOW)

    assert event == StripeEvent(
        id="evt_2",
        type="v2.core.account[requirements].updated",
        created=T - 2,
        object_id="acct_1",
        payload=THIN,
    )


def test_a_thin_event_may_be_about_no_object():
    without = {name: value for name, value in THIN.items() if name != "related_object"}

    assert read_event(without).object_id == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"created": "yesterday"},
        {"created": "2026-11-21T03:59:58"},
        {"created": T},
        {"id": ""},
        {"type": None},
        {"object": "v2.core.account"},
    ],
)
def test_what_is_no_thin_event_is_refused(changes):
    with pytest.raises(WebhookRefusedError) as caught:
        read_event(THIN | changes)

    assert caught.value.params["reason"] == "payload_malformed"


def test_each_of_several_secrets_is_believed_and_no_other():
    both = f"{SECRET}, {OTHER_SECRET}"
    for secret in (SECRET, OTHER_SECRET):
        assert verify_webhook(PAYLOAD, header(secret=secret), both, NOW).id == "evt_1"
    with pytest.raises(WebhookRefusedError):
        verify_webhook(PAYLOAD, header(secret="whsec_third"), both, NOW)
    with pytest.raises(WebhookRefusedError):
        verify_webhook(PAYLOAD, header(secret=both), both, NOW)
    with pytest.raises(ValueError, match="not set"):
        verify_webhook(PAYLOAD, header(secret=""), " , ", NOW)
