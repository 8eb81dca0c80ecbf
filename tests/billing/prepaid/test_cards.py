"""Cards that are kept: saved, copied, chosen, removed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from billing.models import AutoTopup, PaymentDecline, SavedCard, StripeCall
from billing.services import card
from billing.services.auto_topup import configure_auto_topup
from billing.services.card import CARDS_MAX, SETUPS_PER_HOUR_MAX
from marketplace.core.errors import AccountFrozenError, ConflictError, LimitExceededError
from tests.billing.prepaid.flows import GOOD, OTHER_GOOD, Flows, cents_by_kind, receive

pytestmark = pytest.mark.django_db


def test_a_card_is_saved_on_a_page_and_costs_nothing(flows: Flows) -> None:
    row = flows.save_card(GOOD)

    assert (row.brand, row.last4, row.is_default) == ("visa", "4242", True)
    assert row.fingerprint
    assert cents_by_kind() == {}


def test_a_card_is_saved_with_a_topup_if_asked_for(flows: Flows) -> None:
    flows.buy(2_500)
    assert not SavedCard.objects.exists()

    flows.buy(2_500, saves_card=True)

    assert SavedCard.objects.get().last4 == "4242"


def test_events_bring_cards_and_take_them_away_in_any_order(flows: Flows) -> None:
    first = flows.save_card(GOOD)
    second = flows.save_card(OTHER_GOOD)
    SavedCard.objects.all().delete()
    events = flows.events()

    receive([*reversed(events), *events])
    assert SavedCard.objects.filter(removed_at=None).count() == 2

    flows.fake.request("POST", f"/v1/payment_methods/{first.payment_method_id}/detach")
    receive(flows.events())

    kept = SavedCard.objects.get(removed_at=None)
    assert (kept.payment_method_id, kept.is_default) == (second.payment_method_id, True)


def test_a_chosen_card_is_the_only_default(flows: Flows) -> None:
    flows.save_card(GOOD)
    second = flows.save_card(OTHER_GOOD)
    assert not second.is_default

    card.choose_card(flows.actor, second)
    card.choose_card(flows.actor, second)

    assert SavedCard.objects.get(is_default=True) == second


def test_a_removed_card_is_gone_at_stripe_too(flows: Flows) -> None:
    row = flows.save_card()
    configure_auto_topup(
        flows.actor,
        flows.account,
        threshold_cents=1_000,
        amount_cents=2_500,
        monthly_limit_cents=5_000,
    )

    card.remove_card(flows.actor, row)
    card.remove_card(flows.actor, row)

    row.refresh_from_db()
    assert row.removed_at is not None
    assert flows.objects("payment_method")[0]["customer"] is None
    order = AutoTopup.objects.get()
    assert (order.is_enabled, order.off_reason) == (False, "no_card")


def test_a_removal_whose_answer_was_lost_can_be_repeated(flows: Flows, quick: None) -> None:
    row = flows.save_card()
    flows.fake.order("faults", kind="drop_after_effect", path="/v1/payment_methods/*/detach")
    with pytest.raises(Exception, match="payment service"):
        card.remove_card(flows.actor, row)
    row.refresh_from_db()
    assert row.removed_at is None

    card.remove_card(flows.actor, row)

    row.refresh_from_db()
    assert row.removed_at is not None


def test_as_many_cards_as_there_may_be_and_one_more(flows: Flows) -> None:
    for number in range(CARDS_MAX - 1):
        SavedCard.objects.create(
            account=flows.account,
            payment_method_id=f"pm_{number}",
            brand="visa",
            last4="0000",
            exp_month=1,
            exp_year=2034,
        )
    assert card.start_card_setup(flows.account)
    SavedCard.objects.create(
        account=flows.account,
        payment_method_id="pm_last",
        brand="visa",
        last4="0000",
        exp_month=1,
        exp_year=2034,
    )

    with pytest.raises(ConflictError):
        card.start_card_setup(flows.account)


def test_as_many_pages_an_hour_as_there_may_be_and_one_more(flows: Flows) -> None:
    for _ in range(SETUPS_PER_HOUR_MAX):
        card.start_card_setup(flows.account)

    with pytest.raises(LimitExceededError):
        card.start_card_setup(flows.account)

    StripeCall.objects.update(first_sent_at=timezone.now() - timedelta(hours=1, minutes=1))
    assert card.start_card_setup(flows.account)


def test_a_frozen_account_saves_no_card(flows: Flows) -> None:
    flows.account.frozen_at = timezone.now()
    flows.account.save()

    with pytest.raises(AccountFrozenError):
        card.start_card_setup(flows.account)


def test_who_was_declined_too_often_saves_no_card(flows: Flows) -> None:
    for number in range(5):
        PaymentDecline.objects.create(
            account=flows.account, charge_id=f"ch_{number}", created_at=timezone.now()
        )

    with pytest.raises(ConflictError):
        card.start_card_setup(flows.account)
