"""The limit of requests a second: off, on, refused as Stripe does, and waited for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import stripe

from billing.errors import StripeUnavailableError
from billing.stripe import patience
from billing.stripe.client import StripeConfig, StripeGateway
from fakestripe.config import Config, ConfigError
from fakestripe.rate import NS_PER_S, PER_S_MAX, Limiter
from tests.fakestripe.process import SECRET_KEY, WEBHOOK_SECRET

ACCOUNT_ID = "01930000-0000-7000-8000-00000000000a"


def ask(fake, path: str = "/v1/balance") -> requests.Response:
    return fake.request("GET", path)


def test_it_is_off_until_it_is_switched_on(fake):
    assert {ask(fake).status_code for _ in range(60)} == {200}


def storm(fake, count: int = 24) -> list[requests.Response]:
    """Many requests at once, each with a key of its own: more than a second's worth of one."""
    with ThreadPoolExecutor(count) as pool:
        return list(
            pool.map(
                lambda number: fake.request(
                    "POST", "/v1/customers", {"name": "a"}, Idempotency_Key=f"k{number}"
                ),
                range(count),
            )
        )


def test_past_the_limit_requests_are_refused_as_stripe_does(fake):
    fake.order("rate", per_s=1)

    answers = storm(fake)

    assert {one.status_code for one in answers} == {200, 429}
    refused = next(one for one in answers if one.status_code == 429)
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "rate_limit")
    assert refused.headers["Stripe-Rate-Limited-Reason"] == "global-rate"


def test_a_refused_request_had_no_effect_and_its_key_is_free(fake):
    fake.order("rate", per_s=1)
    answers = storm(fake)
    done = [one for one in answers if one.status_code == 200]
    assert fake.count("customer") == len(done) < len(answers)
    fake.order("rate", per_s=0)

    again = storm(fake)

    assert {one.status_code for one in again} == {200}
    replayed = [one for one in again if "Idempotent-Replayed" in one.headers]
    assert len(replayed) == len(done)
    assert fake.count("customer") == len(answers)


def test_it_can_be_switched_off_and_ends_with_the_state(fake):
    for end in (lambda: fake.order("rate", per_s=0), fake.reset):
        fake.order("rate", per_s=1)
        assert 429 in {one.status_code for one in storm(fake)}
        end()
        assert {one.status_code for one in storm(fake)} == {200}


@pytest.mark.parametrize("per_s", [-1, PER_S_MAX + 1, "5", 1.5, None])
def test_a_rate_that_is_none_is_refused(fake, per_s):
    answer = requests.post(f"{fake.url}/_test/rate", json={"per_s": per_s}, timeout=10)

    assert answer.status_code == 400
    assert {ask(fake).status_code for _ in range(9)} == {200}


def test_a_wrong_key_is_told_so_and_uses_nothing_up(fake):
    fake.order("rate", per_s=2)
    wrong = {"Authorization": "Bearer sk_test_wrong"}
    for _ in range(9):
        answer = requests.get(f"{fake.url}/v1/balance", headers=wrong, timeout=10)
        assert answer.status_code == 401

    assert ask(fake).status_code == 200


def test_meter_events_are_counted_apart():
    limiter = Limiter(1)

    assert all(limiter.allows("key", "/v1/billing/meter_events", 0) for _ in range(9))
    assert limiter.allows("key", "/v1/balance", 0)
    assert not limiter.allows("key", "/v1/balance", 0)


def test_each_key_has_its_own_and_it_fills_with_time():
    limiter = Limiter(4)
    assert [limiter.allows("a", "/", 0) for _ in range(5)] == [True] * 4 + [False]
    assert limiter.allows("b", "/", 0)

    quarter = NS_PER_S // 4
    assert not limiter.allows("a", "/", quarter - 1)
    assert limiter.allows("a", "/", quarter)
    assert not limiter.allows("a", "/", quarter)
    # A long rest gives no more than a second's worth.
    assert [limiter.allows("a", "/", 90 * NS_PER_S) for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("text", ["-1", "x", "1.5", str(PER_S_MAX + 1)])
def test_a_rate_in_the_environment_is_checked(tmp_path, text):
    with pytest.raises(ConfigError, match="FAKESTRIPE_RATE_PER_S"):
        Config.from_env({"FAKESTRIPE_RATE_PER_S": text}, port=1_234, state=tmp_path / "state")


# --- Our client ---


@pytest.fixture
def gateway(fake) -> StripeGateway:
    return StripeGateway(StripeConfig(SECRET_KEY, WEBHOOK_SECRET, fake.url))


def test_our_client_waits_and_asks_again(fake, gateway):
    fake.order("rate", per_s=8)
    made: list[str] = []

    def create(number: int) -> None:
        keys = [f"k{number}:{part}" for part in range(4)]
        made.extend(
            gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key=key)
            for key in keys
        )

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 16
    assert fake.count("customer") == 16


def test_a_lock_is_waited_for_too(fake, gateway):
    fake.order("faults", kind="lock_timeout", times=len(patience.WAITS_MS))

    assert gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1")
    assert fake.count("customer") == 1


def test_one_past_its_patience_it_gives_up_for_now(fake, gateway, monkeypatch):
    monkeypatch.setattr(patience, "WAITS_MS", (1, 2, 3))
    fake.order("faults", kind="rate_limit", times=4)

    with pytest.raises(StripeUnavailableError) as caught:
        gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1")

    assert caught.value.retry_after_s == 5
    assert fake.state()["faults"] == []
    assert fake.count("customer") == 0


def test_a_refusal_for_another_reason_is_not_repeated(fake, gateway, monkeypatch):
    slept: list[object] = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    with pytest.raises(Exception, match="refused"):
        gateway.retrieve_refund("re_nobody")

    assert slept == []


def test_control_the_sdk_alone_gives_up_at_once(fake):
    fake.order("faults", kind="rate_limit")
    config = StripeConfig(SECRET_KEY, WEBHOOK_SECRET, fake.url)
    plain = StripeGateway(config, http_client=stripe.RequestsClient(timeout=10))

    with pytest.raises(StripeUnavailableError):
        plain.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1")
