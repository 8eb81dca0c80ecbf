"""Credit that is bought by itself: when, how much, never twice, and what a decline does."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.core import mail
from django.db import IntegrityError, connections, transaction
from django.utils import timezone

from billing.errors import AutoTopupUntaxedError, NoSavedCardError
from billing.models import AutoTopup, BalanceAlert, PaymentDecline, PaymentMail, StripeCall, Topup
from billing.services import auto_topup
from billing.services.auto_topup import (
    DECLINES_IN_ROW_MAX,
    MONTHLY_LIMIT_CENTS_MAX,
    REPEAT_WITHIN,
    configure_auto_topup,
    mail_payments,
    run_auto_topups,
    set_balance_alert,
    stop_auto_topup,
)
from billing.services.topup import AMOUNT_CENTS_MAX, AMOUNT_CENTS_MIN, LOW_BALANCE_CENTS
from marketplace.core.errors import InvalidInputError
from marketplace.selectors.access import Actor
from tests.billing.prepaid.flows import (
    MUST_CONFIRM,
    REFUSED_LATER,
    Flows,
    cents_by_kind,
    receive,
)
from tests.billing.test_ledger import broken
from tests.inboxes import list_told

pytestmark = pytest.mark.django_db

State = Topup.State


def switch_on(flows: Flows, **changes: int) -> AutoTopup:
    fields = {"threshold_cents": 1_000, "amount_cents": 2_500, "monthly_limit_cents": 10_000}
    return configure_auto_topup(flows.actor, flows.account, **(fields | changes))


def automatic() -> list[Topup]:
    return list(Topup.objects.filter(source="auto").order_by("number"))


def payments(flows: Flows) -> list[dict]:
    return [one for one in flows.objects("payment_intent") if one["status"] == "succeeded"]


def test_a_low_wallet_is_filled_once(flows: Flows) -> None:
    flows.save_card()
    flows.buy(2_500)
    switch_on(flows)
    run_auto_topups()
    assert automatic() == []

    flows.spend(1_500)  # To the threshold, not below.
    run_auto_topups()
    assert automatic() == []
    flows.spend(1)
    for _ in range(3):
        run_auto_topups()

    (row,) = automatic()
    assert (row.state, row.amount_cents, row.number) == (State.CREDITED, 2_500, 1)
    assert flows.wallet_cents() == 999 + 2_500
    assert len(payments(flows)) == 2
    key = f"autotopup:{flows.account.pk}:1"
    assert StripeCall.objects.get(idempotency_key=key).state == "ok"
    assert row.fee_cents
    assert broken() == set()


def test_a_new_account_is_filled_from_nothing(flows: Flows) -> None:
    flows.save_card()
    switch_on(flows)

    run_auto_topups()

    assert flows.wallet_cents() == 2_500


def test_the_month_has_its_limit(flows: Flows) -> None:
    flows.save_card()
    switch_on(flows, monthly_limit_cents=5_000)

    for _ in range(4):
        run_auto_topups()
        if cents := flows.wallet_cents():
            flows.spend(cents)

    assert [row.state for row in automatic()] == [State.CREDITED] * 2
    # What another month paid does not count for this one.
    Topup.objects.update(created_at=timezone.now() - timedelta(days=40))
    run_auto_topups()
    assert len(automatic()) == 3


@pytest.mark.parametrize(
    ("changes", "is_valid"),
    [
        ({"amount_cents": AMOUNT_CENTS_MIN}, True),
        ({"amount_cents": AMOUNT_CENTS_MIN - 1}, False),
        ({"amount_cents": AMOUNT_CENTS_MAX, "monthly_limit_cents": AMOUNT_CENTS_MAX}, True),
        ({"amount_cents": AMOUNT_CENTS_MAX + 1, "monthly_limit_cents": 1_500_000}, False),
        ({"threshold_cents": AMOUNT_CENTS_MAX}, True),
        ({"threshold_cents": AMOUNT_CENTS_MAX + 1}, False),
        ({"monthly_limit_cents": 2_500}, True),
        ({"monthly_limit_cents": 2_499}, False),
        ({"monthly_limit_cents": MONTHLY_LIMIT_CENTS_MAX}, True),
        ({"monthly_limit_cents": MONTHLY_LIMIT_CENTS_MAX + 1}, False),
    ],
)
def test_amounts_at_their_bounds_and_past_them(flows: Flows, changes: dict, is_valid: bool) -> None:
    flows.save_card()
    if is_valid:
        assert switch_on(flows, **changes).is_enabled
        return

    with pytest.raises(InvalidInputError):
        switch_on(flows, **changes)
    assert not AutoTopup.objects.exists()


def test_it_needs_a_card(flows: Flows) -> None:
    with pytest.raises(NoSavedCardError):
        switch_on(flows)


def test_it_is_not_offered_where_tax_is_worked_out_on_the_page(flows: Flows, settings) -> None:
    flows.save_card()
    switch_on(flows)
    settings.STRIPE_TAX = True

    with pytest.raises(AutoTopupUntaxedError):
        switch_on(flows)
    run_auto_topups()

    assert automatic() == []
    assert AutoTopup.objects.get().off_reason == "untaxed"


def test_a_stopped_one_buys_nothing(flows: Flows) -> None:
    flows.save_card()
    switch_on(flows)
    stop_auto_topup(flows.actor, flows.account)

    run_auto_topups()

    assert automatic() == []


@pytest.mark.parametrize("state", ["frozen", "suspended", "declined"])
def test_an_account_that_may_not_buy_does_not_by_itself(flows: Flows, state: str) -> None:
    flows.save_card()
    switch_on(flows)
    now = timezone.now()
    if state == "declined":
        for number in range(5):
            PaymentDecline.objects.create(
                account=flows.account, charge_id=f"ch_{number}", created_at=now
            )
    else:
        setattr(flows.account, f"{state}_at", now)
        flows.account.save()

    run_auto_topups()

    assert automatic() == []


def test_the_database_refuses_two_at_once(flows: Flows) -> None:
    fields = {"account": flows.account, "source": "auto", "amount_cents": 500}
    Topup.objects.create(number=1, **fields)

    with pytest.raises(IntegrityError), transaction.atomic():
        Topup.objects.create(number=2, **fields)


@pytest.mark.parametrize("kind", ["drop_after_effect", "error_after_effect", "reset"])
@pytest.mark.parametrize("is_late", [False, True])
def test_an_answer_that_was_lost_does_not_pay_twice(
    flows: Flows, quick: None, kind: str, is_late: bool
) -> None:
    flows.save_card()
    switch_on(flows)
    flows.fake.order("faults", kind=kind, method="POST", path="/v1/payment_intents")
    run_auto_topups()
    (row,) = automatic()
    assert (row.state, row.payment_intent_id) == (State.OPEN, None)
    if is_late:
        # Stripe does not know the key any more: only the search can tell.
        flows.fake.order("clock", offset_s=2 * 86_400)
        Topup.objects.update(created_at=timezone.now() - timedelta(days=2))

    for _ in range(3):
        run_auto_topups()

    was_paid = kind != "reset"
    assert len(payments(flows)) == 1
    assert flows.wallet_cents() == 2_500
    states = [one.state for one in automatic()]
    # What never reached Stripe is given up after a day, and bought anew.
    calls = StripeCall.objects.filter(endpoint="payment_intents.create")
    assert calls.filter(state="ok").count() == 1
    assert states == ([State.CREDITED] if was_paid or not is_late else ["expired", "credited"])
    assert broken() == set()


def test_without_the_search_it_would_pay_twice(
    flows: Flows, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what the test above would see."""
    flows.save_card()
    switch_on(flows)
    flows.fake.order("faults", kind="drop_after_effect", method="POST", path="/v1/payment_intents")
    run_auto_topups()
    flows.fake.order("clock", offset_s=2 * 86_400)
    monkeypatch.setattr(auto_topup, "_find_lost", lambda topup: None)

    run_auto_topups()

    assert len(payments(flows)) == 2


def test_a_payment_that_only_a_webhook_tells_of_is_credited(flows: Flows, quick: None) -> None:
    flows.save_card()
    switch_on(flows)
    flows.fake.order("faults", kind="drop_after_effect", method="POST", path="/v1/payment_intents")
    run_auto_topups()
    # Given up, and paid after all.
    Topup.objects.update(state=State.EXPIRED)

    receive(flows.events() * 2)

    assert [row.state for row in automatic()] == [State.CREDITED]
    assert flows.wallet_cents() == 2_500
    assert broken() == set()


def decline_again(flows: Flows) -> None:
    AutoTopup.objects.update(retry_at=None)
    run_auto_topups()


def test_a_declined_card_waits_and_ends_after_some_in_a_row(flows: Flows) -> None:
    flows.save_card(REFUSED_LATER)
    switch_on(flows)

    run_auto_topups()
    run_auto_topups()  # Not before its time.
    assert [row.state for row in automatic()] == [State.FAILED]
    assert PaymentDecline.objects.count() == 1
    for _ in range(DECLINES_IN_ROW_MAX - 2):
        decline_again(flows)
    assert AutoTopup.objects.get().is_enabled
    decline_again(flows)

    order = AutoTopup.objects.get()
    assert (order.is_enabled, order.off_reason) == (False, "declined")
    decline_again(flows)
    assert len(automatic()) == DECLINES_IN_ROW_MAX
    assert cents_by_kind() == {}
    mail_payments()
    mail_payments()
    (sent,) = mail.outbox
    assert "off" in sent.subject
    assert "console/cards" in sent.body
    assert sent.to == ["owner@example.com"]


def test_a_decline_that_a_webhook_told_of_first_counts_all_the_same(
    flows: Flows, quick: None
) -> None:
    flows.save_card(REFUSED_LATER)
    switch_on(flows)
    flows.fake.order("faults", kind="drop_after_effect", method="POST", path="/v1/payment_intents")
    run_auto_topups()
    receive(flows.events())

    for _ in range(2):
        run_auto_topups()

    assert [row.state for row in automatic()] == [State.FAILED]
    order = AutoTopup.objects.get()
    assert order.declines_in_row == 1
    assert order.retry_at is not None
    assert len(flows.objects("payment_intent")) == 1


@pytest.mark.django_db(transaction=True)
def test_many_workers_at_once_buy_once(fake, owner, account) -> None:
    flows = Flows(fake, Actor(user=owner), account)
    flows.save_card()
    switch_on(flows)
    gate = threading.Barrier(4)

    def go() -> None:
        try:
            gate.wait(10)
            run_auto_topups()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [row.state for row in automatic()] == [State.CREDITED]
    assert len(payments(flows)) == 1
    assert flows.wallet_cents() == 2_500
    assert broken() == set()


def test_a_payment_by_hand_makes_a_fresh_start(flows: Flows) -> None:
    flows.save_card(REFUSED_LATER)
    switch_on(flows)
    run_auto_topups()

    flows.buy(2_500)

    order = AutoTopup.objects.get()
    assert (order.declines_in_row, order.retry_at) == (0, None)


def test_a_bank_that_asks_for_the_person_is_told_by_mail(flows: Flows, client) -> None:
    flows.save_card(MUST_CONFIRM)
    switch_on(flows)

    run_auto_topups()
    mail_payments()

    assert PaymentMail.objects.get().kind == PaymentMail.Kind.CONFIRM
    (sent,) = mail.outbox
    assert list_told("payment") == [("owner@example.com", sent.subject)]
    (url,) = [line for line in sent.body.splitlines() if line.startswith("http")]
    client.force_login(flows.actor.user)
    page = client.get("/" + url.split("/", 3)[3])
    assert page.status_code == 200
    assert b'value="25.00"' in page.content


def test_low_credit_is_mailed_once_each_time(flows: Flows) -> None:
    flows.buy(2_500)
    assert BalanceAlert.objects.get().threshold_cents == LOW_BALANCE_CENTS
    mail_payments()
    assert mail.outbox == []

    flows.spend(2_000)  # To the threshold, not below.
    mail_payments()
    assert mail.outbox == []
    flows.spend(1)
    for _ in range(3):
        mail_payments()
    assert len(mail.outbox) == 1
    assert "runs low" in mail.outbox[0].subject
    assert list_told("low_balance") == [("owner@example.com", mail.outbox[0].subject)]

    flows.buy(2_500)
    mail_payments()
    flows.spend(2_900)
    mail_payments()
    assert len(mail.outbox) == 2


def test_an_alert_at_zero_is_never_mailed(flows: Flows) -> None:
    flows.buy(2_500)
    set_balance_alert(flows.actor, flows.account, threshold_cents=0)
    flows.spend(2_500)

    mail_payments()

    assert mail.outbox == []


@pytest.mark.parametrize("cents", [-1, AMOUNT_CENTS_MAX + 1])
def test_an_alert_out_of_bounds_is_refused(flows: Flows, cents: int) -> None:
    assert set_balance_alert(flows.actor, flows.account, threshold_cents=AMOUNT_CENTS_MAX)

    with pytest.raises(InvalidInputError):
        set_balance_alert(flows.actor, flows.account, threshold_cents=cents)


def test_a_row_is_repeated_for_less_than_stripe_remembers() -> None:
    assert timedelta(hours=24) > REPEAT_WITHIN
