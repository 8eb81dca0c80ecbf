"""The checks themselves: each must fail on a gateway that is broken in its way."""

from __future__ import annotations

import time

import pytest

from tests.gateway import (
    test_allow_lists,
    test_breaker,
    test_cancel,
    test_crashes,
    test_idempotency,
    test_predict,
    test_refusals,
    test_retries,
    test_slices,
    test_stream,
)
from tests.gateway.conftest import check_nothing_booked, predict
from tests.gateway.test_breaker import frozen, pool  # noqa: F401 - fixtures
from tests.gateway.test_crashes import wire, wired  # noqa: F401 - fixtures

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broken(shop, start_gateway):
    """A client of a gateway with the named damage."""

    def start(damage: str):
        gateway = start_gateway(target=f"tests.gateway.broken:{damage}")
        return shop.client(url=gateway.url)

    return start


def test_answer_before_commit_is_noticed(shop, broken):
    client = broken("answers_before_commit")

    with pytest.raises(AssertionError):
        test_predict.test_prediction_is_answered_and_booked_once(shop, client)


def test_missing_hold_is_noticed(shop, broken):
    client = broken("skips_hold")

    with pytest.raises(AssertionError):
        test_predict.test_credit_for_k_of_n_serves_exactly_k(shop, client)


@pytest.mark.parametrize("damage", ["never_puts_back", "forgets_failures"])
def test_missing_end_of_a_failure_is_noticed(shop, broken, damage):
    client = broken(damage)

    with pytest.raises(AssertionError):
        test_refusals.test_failing_model_costs_nothing(shop, client, "fail", 500, "model_failed")


@pytest.mark.parametrize("damage", ["draws_uncounted", "draws_unreserved"])
def test_draw_without_money_is_noticed(shop, broken, damage):
    client = broken(damage)

    with pytest.raises(AssertionError):
        test_slices.check_all_served_from_slices(shop, client)


def test_slice_that_does_not_come_back_is_noticed(shop, start_gateway):
    def start():
        return start_gateway(target="tests.gateway.broken:keeps_slices")

    with pytest.raises(AssertionError):
        test_slices.check_slice_comes_back(shop, start_gateway(), start())


def test_idle_slice_that_is_kept_is_noticed(shop, broken):
    client = broken("keeps_slices")

    with pytest.raises(AssertionError):
        test_slices.test_many_predictions_draw_on_few_holds(shop, client)


def test_charged_failure_is_noticed(shop, broken):
    client = broken("books_failures")
    predict(client, mode="fail")
    time.sleep(0.5)

    with pytest.raises(AssertionError):
        check_nothing_booked(shop)


def test_forgotten_idempotency_key_is_noticed(shop, broken):
    client = broken("forgets_keys")

    with pytest.raises(AssertionError):
        test_idempotency.test_retry_is_answered_with_the_first_prediction(shop, client)


def test_booking_of_a_lost_claim_is_noticed(shop, broken):
    client = broken("ignores_claims")

    with pytest.raises(AssertionError):
        test_idempotency.test_run_whose_claim_was_taken_over_books_nothing(shop, client)


def test_stale_cache_is_noticed(shop, broken):
    client = broken("hears_nothing")

    with pytest.raises(AssertionError):
        test_refusals.test_revoked_key_is_refused_at_once(shop, client)


def test_unanswered_booking_is_noticed(shop, wire, wired):  # noqa: F811
    def start(**settings):
        return wired(target="tests.gateway.broken:gives_up_on_lost_answers", **settings)

    with pytest.raises(AssertionError):
        test_crashes.test_lost_acknowledgement_of_a_booking_is_found_out(shop, wire, start)


def test_believed_header_is_noticed(shop, broken):
    client = broken("believes_everybody")

    with pytest.raises(AssertionError):
        test_allow_lists.check_spoof_is_refused(shop, str(client.base_url))


def test_forgotten_list_of_models_is_noticed(shop, start_gateway):
    shop.url = start_gateway(target="tests.gateway.broken:runs_any_model").url

    with pytest.raises(AssertionError):
        test_allow_lists.test_key_runs_the_models_of_its_list_only(shop, *test_allow_lists.CALLS[0])


def test_client_that_goes_unnoticed_is_noticed(shop, broken, triton):
    client = broken("watches_nobody")
    shop.url = str(client.base_url).rstrip("/")

    with pytest.raises(AssertionError):
        test_cancel.test_clients_that_go_leave_the_line_and_their_holds(shop, triton)


def test_line_without_an_end_is_noticed(shop, broken, pool):  # noqa: F811
    client = broken("admits_everybody")
    shop.url = str(client.base_url).rstrip("/")

    with pytest.raises(AssertionError):
        test_breaker.test_who_cannot_be_answered_in_time_is_refused_at_once(shop, pool)


def test_frozen_server_that_is_not_given_up_is_noticed(shop, broken, frozen):  # noqa: F811
    client = broken("never_asks_whether_alive")
    client.headers["X-Request-Timeout-Ms"] = "10000"

    with pytest.raises(AssertionError):
        test_breaker.test_only_server_frozen_is_told_in_time_and_then_at_once(shop, client, frozen)


def test_retry_that_is_charged_again_is_noticed(shop, broken):
    client = broken("overlooks_retries")

    with pytest.raises(AssertionError):
        test_retries.test_counted_retry_gets_the_first_answer_and_pays_once(shop, client)


def test_stream_that_ends_before_its_booking_is_noticed(teller, broken):
    client = broken("answers_before_commit")

    with pytest.raises(AssertionError):
        test_stream.test_stream_is_chunks_in_openais_shape_and_booked_once(teller, client)


def test_charge_without_delivery_is_noticed(teller, broken):
    client = broken("charges_without_delivery")

    with pytest.raises(AssertionError):
        test_stream.test_failure_before_the_first_token_has_a_status_and_costs_nothing(
            teller, client
        )


def test_delivery_without_charge_is_noticed(teller, broken):
    client = broken("forgets_deliveries")

    with pytest.raises(AssertionError):
        test_stream.test_failure_after_a_token_is_an_event_and_the_delivered_is_charged(
            teller, client
        )


def test_model_that_runs_on_for_nobody_is_noticed(teller, broken, triton):
    client = broken("never_notices_who_left")

    with pytest.raises(AssertionError):
        test_stream.check_leaving(teller, client, triton, "unnoticed")


def test_end_without_a_booking_is_noticed(teller, wire, wired):  # noqa: F811
    def start(**settings):
        return wired(target="tests.gateway.broken:ends_in_spite_of_errors", **settings)

    with pytest.raises(AssertionError):
        test_stream.test_booking_that_fails_is_told_in_place_of_the_end(teller, wire, start)
