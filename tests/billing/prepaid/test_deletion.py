"""The credit of an account that is deleted: back to the cards that paid, or given up."""

from __future__ import annotations

import pytest
from django.utils import timezone

from billing.errors import StripeUnavailableError
from billing.models import TopupRefund
from billing.services import closing
from billing.services.closing import find_obstacles, remove_payment_details, settle_credit
from marketplace.models import Account, AccountDeletion
from marketplace.services.closing import NotYet
from tests.billing.prepaid.flows import (
    REFUND_FAILS,
    REFUND_SLOW,
    Flows,
    cents_by_kind,
    receive,
)

pytestmark = pytest.mark.django_db


def begin(account: Account, credit: str = "refund") -> AccountDeletion:
    return AccountDeletion.objects.create(
        account=account, credit=credit, state="running", execute_at=timezone.now()
    )


def test_what_was_bought_goes_back_and_what_was_given_is_given_up(flows: Flows) -> None:
    flows.buy(2_500)
    flows.spend(1_000)
    flows.give(300)
    deletion = begin(flows.account)

    told = settle_credit(deletion)

    assert [row.net_cents for row in TopupRefund.objects.all()] == [1_500]
    assert told == "$15.00 paid back, $3.00 given up."
    assert "wallet" not in cents_by_kind()
    # Again changes nothing, and says the same.
    assert settle_credit(deletion) == told
    assert [one["amount"] for one in flows.objects("refund")] == [1_500]


def test_credit_can_be_given_up(flows: Flows) -> None:
    flows.buy(2_500)

    assert settle_credit(begin(flows.account, "forfeit")) == "$0.00 paid back, $25.00 given up."
    assert cents_by_kind()["platform_revenue"] == 2_500
    assert not TopupRefund.objects.exists()


def test_a_slow_refund_is_waited_for(flows: Flows) -> None:
    flows.buy(2_500, REFUND_SLOW)
    deletion = begin(flows.account)

    with pytest.raises(NotYet, match="on its way"):
        settle_credit(deletion)
    assert [one.code for one in find_obstacles(flows.account)] == ["refund_open"]


def test_what_a_bank_does_not_take_comes_back_and_stays_owed(flows: Flows) -> None:
    flows.buy(2_500, REFUND_FAILS)
    deletion = begin(flows.account)
    settle_credit(deletion)
    flows.fake.order("clock", advance_s=7_200)

    receive(flows.events() * 2)

    assert TopupRefund.objects.get().state == "failed"
    assert flows.wallet_cents() == 2_500
    # The step once more, after a kill, does not take it for given up.
    assert settle_credit(deletion) == "$0.00 paid back, $0.00 given up."
    assert flows.wallet_cents() == 2_500


def test_stripe_away_moves_nothing_and_is_tried_again(flows: Flows, monkeypatch) -> None:
    flows.buy(2_500)
    deletion = begin(flows.account)

    def refuse(*args, **more):
        raise StripeUnavailableError

    with monkeypatch.context() as patch:
        patch.setattr(closing, "refund_unspent", refuse)
        with pytest.raises(StripeUnavailableError):
            settle_credit(deletion)
    assert cents_by_kind()["wallet"] == 2_500
    settle_credit(deletion)
    assert "wallet" not in cents_by_kind()


def test_cards_go_at_stripe_too(flows: Flows) -> None:
    card = flows.save_card()
    assert card.last4 == "4242"

    assert remove_payment_details(begin(flows.account)) == "1 card removed."

    card.refresh_from_db()
    assert (card.removed_at is not None, card.last4, card.brand) == (True, "", "")
    assert [one["customer"] for one in flows.objects("payment_method")] == [None]
