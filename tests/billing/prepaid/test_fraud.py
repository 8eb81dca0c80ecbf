"""Signals of fraud, what they hold, and the queue that decides."""

from __future__ import annotations

from datetime import timedelta

import pytest
import requests
from django.utils import timezone

from billing.errors import CaseDecidedError, TooManyDeclinesError
from billing.models import (
    PaymentDecline,
    PayoutHold,
    Price,
    ReviewCase,
    ReviewSignal,
    SavedCard,
    Topup,
    TopupRefund,
)
from billing.selectors import fraud as selectors
from billing.selectors.fraud import (
    ACCOUNTS_PER_CARD_MAX,
    DECLINES_PER_HOUR_MAX,
    SELF_DEALING_NANOS_MIN,
    find_pause_end,
    list_related,
)
from billing.selectors.payout_hold import has_payout_hold
from billing.services.fraud import decide_case, raise_signal, scan_for_fraud
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, AuditEvent, Membership, ModelVersion
from marketplace.selectors.access import Actor
from tests.billing.conftest import asked, reserve, settle
from tests.billing.prepaid.flows import DECLINED, GOOD, Flows, age, receive
from tests.billing.test_ledger import broken
from tests.factories import AccountFactory, AIModelFactory, MembershipFactory, ModelVersionFactory

pytestmark = pytest.mark.django_db

Kind = ReviewSignal.Kind


@pytest.fixture
def creator() -> Account:
    return AccountFactory(slug="creator")


def give_card(account: Account, fingerprint: str) -> None:
    SavedCard.objects.create(
        account=account,
        payment_method_id=f"pm_{new_id()}",
        brand="visa",
        last4="4242",
        exp_month=1,
        exp_year=2034,
        fingerprint=fingerprint,
    )


def run(consumer: Account, creator: Account, gross_nanos: int) -> None:
    """One prediction of the creator's model, booked."""
    model = AIModel.objects.filter(account=creator).first() or AIModelFactory(account=creator)
    version = ModelVersion.objects.filter(model=model).first() or ModelVersionFactory(model=model)
    Price.objects.filter(model=model, valid_until=None).update(valid_until=timezone.now())
    price = Price.objects.create(
        model=model,
        nanos_per_prediction=gross_nanos,
        creator_share_bps=8_000,
        valid_from=timezone.now(),
    )
    ((hold_id, _, outcome),) = reserve(asked(consumer.pk, gross_nanos))
    assert outcome == "held"
    item = {
        "prediction_id": str(hold_id),
        "hold_id": str(hold_id),
        "account_id": str(consumer.pk),
        "api_key_id": None,
        "version_id": str(version.pk),
        "creator_id": str(creator.pk),
        "price_id": str(price.pk),
        "mode": "live",
        "units": 1,
        "gross_nanos": gross_nanos,
        "occurred_at": timezone.now().isoformat(),
    }
    assert settle(item) == ["settled"]


# --- Declined payments ---


def try_card(flows: Flows, row: Topup) -> None:
    """A declined card on the page; the stand-in answers it with a refusal."""
    requests.post(
        f"{row.checkout_url}/pay",
        data={"card_number": DECLINED},
        allow_redirects=False,
        timeout=10,
    )
    receive(one for one in flows.events() if one["type"] == "charge.failed")


def test_many_declines_in_an_hour_pause_and_close_the_pages(flows: Flows) -> None:
    row, other = flows.start(), flows.start()
    for _ in range(DECLINES_PER_HOUR_MAX - 1):
        try_card(flows, row)
    assert find_pause_end(flows.account.pk) is None
    assert flows.start().checkout_url
    try_card(flows, row)

    with pytest.raises(TooManyDeclinesError) as caught:
        flows.start()

    assert 3_500 < caught.value.retry_after_s <= 3_600
    assert PaymentDecline.objects.count() == DECLINES_PER_HOUR_MAX
    pages = {one["status"] for one in flows.objects("checkout.session")}
    assert pages == {"expired"}
    other.refresh_from_db()
    assert other.state == Topup.State.EXPIRED
    signal = ReviewSignal.objects.get()
    assert (signal.kind, signal.evidence["declines"]) == (Kind.CARD_TESTING, 5)
    assert has_payout_hold(flows.account)
    # An hour later it may buy again.
    age(PaymentDecline.objects, hours=1, minutes=1)
    assert flows.start().checkout_url


def test_declines_far_apart_pause_nothing(flows: Flows) -> None:
    for number in range(DECLINES_PER_HOUR_MAX):
        PaymentDecline.objects.create(
            account=flows.account,
            charge_id=f"ch_{number}",
            created_at=timezone.now() - timedelta(minutes=16 * number),
        )

    assert find_pause_end(flows.account.pk) is None


def test_a_told_decline_counts_once(flows: Flows) -> None:
    row = flows.start()
    try_card(flows, row)

    receive(flows.events() * 3)

    assert PaymentDecline.objects.count() == 1


# --- Patterns ---


def test_buying_from_a_creator_with_the_same_card_is_seen(flows: Flows, creator: Account) -> None:
    flows.buy(10_000, GOOD)
    fingerprint = Topup.objects.get().card_fingerprint
    give_card(creator, fingerprint)
    run(flows.account, creator, SELF_DEALING_NANOS_MIN - 1)
    assert scan_for_fraud() == 0
    run(flows.account, creator, 1)

    assert scan_for_fraud() == 1
    assert scan_for_fraud() == 0

    signal = ReviewSignal.objects.get()
    assert signal.kind == Kind.SELF_DEALING
    assert signal.evidence == {
        "creator": "creator",
        "shared": "card",
        "gross_nanos": SELF_DEALING_NANOS_MIN,
    }
    assert signal.case.account == flows.account
    assert has_payout_hold(creator)


def test_an_account_that_buys_its_own_model_is_seen(flows: Flows) -> None:
    flows.buy(10_000)
    run(flows.account, flows.account, SELF_DEALING_NANOS_MIN)

    assert scan_for_fraud() == 1

    assert has_payout_hold(flows.account)


def test_other_cards_are_no_signal(flows: Flows, creator: Account) -> None:
    flows.buy(10_000)
    give_card(creator, "another")
    run(flows.account, creator, SELF_DEALING_NANOS_MIN)

    assert scan_for_fraud() == 0
    assert not has_payout_hold(creator)


def test_one_card_on_many_accounts_is_seen(flows: Flows) -> None:
    accounts = [AccountFactory() for _ in range(ACCOUNTS_PER_CARD_MAX)]
    for account in accounts:
        give_card(account, "shared")
    assert scan_for_fraud() == 0
    give_card(flows.account, "shared")

    assert scan_for_fraud() == ACCOUNTS_PER_CARD_MAX + 1

    assert {signal.kind for signal in ReviewSignal.objects.all()} == {Kind.SHARED_CARD}
    assert all(has_payout_hold(account) for account in [*accounts, flows.account])


@pytest.mark.parametrize(
    ("link", "elsewhere", "is_seen"),
    [
        ("member", 0, True),
        ("card", 0, True),
        ("none", 0, False),
        # Four fifths are mainly; a little less is not.
        ("member", 25, True),
        ("member", 26, False),
    ],
)
def test_promotional_credit_to_a_related_creator_is_seen(
    flows: Flows, creator: Account, link: str, elsewhere: int, is_seen: bool
) -> None:
    flows.give(1_000)
    if link == "member":
        MembershipFactory(account=creator, user=flows.actor.user, role=Membership.Role.VIEWER)
    if link == "card":
        give_card(flows.account, "shared")
        give_card(creator, "shared")
    run(flows.account, creator, 100)
    if elsewhere:
        run(flows.account, AccountFactory(), elsewhere)

    scan_for_fraud()

    assert ReviewSignal.objects.filter(kind=Kind.PROMO_CASHING).exists() == is_seen
    assert has_payout_hold(creator) == is_seen


def test_bought_credit_to_a_related_creator_is_no_promo_cashing(
    flows: Flows, creator: Account
) -> None:
    flows.buy(2_500)
    MembershipFactory(account=creator, user=flows.actor.user)
    run(flows.account, creator, 100)

    assert scan_for_fraud() == 0


def test_a_dispute_holds_payouts_to_who_shares_a_card_or_a_member(
    flows: Flows, creator: Account
) -> None:
    row = flows.buy(2_500)
    stranger = AccountFactory()
    partner = AccountFactory(owner=flows.actor.user)
    give_card(creator, row.card_fingerprint)
    flows.dispute(row)

    receive(flows.events())

    assert list_related(flows.account.pk) == {flows.account.pk, creator.pk, partner.pk}
    held = [flows.account, creator, partner]
    assert all(has_payout_hold(account) for account in held)
    assert not has_payout_hold(stranger)


def test_without_the_fingerprints_nothing_would_be_seen(
    flows: Flows, creator: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the patterns come from the cards alone."""
    flows.buy(10_000)
    give_card(creator, Topup.objects.get().card_fingerprint)
    run(flows.account, creator, SELF_DEALING_NANOS_MIN)
    monkeypatch.setattr(selectors, "_CARDS", "SELECT NULL::uuid AS account_id, '' AS fingerprint")

    assert scan_for_fraud() == 0


# --- Cases ---


@pytest.fixture
def case(flows: Flows, creator: Account) -> ReviewCase:
    flows.buy(2_500)
    raise_signal(
        flows.account.pk,
        Kind.FRAUD_WARNING,
        "fraud_warning:test",
        {"type": "stolen"},
        freezes=True,
        holds=[creator.pk],
    )
    return ReviewCase.objects.get()


@pytest.fixture
def admin(platform_admin) -> Actor:
    return Actor(user=platform_admin)


def test_signals_add_to_the_open_case_and_are_noted_once(flows: Flows, case: ReviewCase) -> None:
    again = raise_signal(flows.account.pk, Kind.FRAUD_WARNING, "fraud_warning:test", {})
    other = raise_signal(flows.account.pk, Kind.DISPUTE, "dispute:test", {})

    assert (again, other) == (False, True)
    assert ReviewCase.objects.count() == 1
    assert case.signals.count() == 2


def test_a_cleared_case_frees_the_account_and_the_payouts(
    flows: Flows, case: ReviewCase, creator: Account, admin: Actor
) -> None:
    assert flows.frozen()
    assert has_payout_hold(creator)
    assert has_payout_hold(creator.pk)

    decide_case(admin, case, decision="clear", reason="They called.")

    assert not flows.frozen()
    assert not has_payout_hold(creator)
    assert not has_payout_hold(creator.pk)
    assert (case.state, case.decided_by) == ("cleared", "user:admin@example.com")
    event = AuditEvent.objects.get(action="case.decide")
    assert event.payload == {"decision": "cleared", "reason": "They called."}
    with pytest.raises(CaseDecidedError):
        decide_case(admin, case, decision="keep", reason="After all.")
    # The next signal is another case.
    raise_signal(flows.account.pk, Kind.DISPUTE, "dispute:test", {})
    assert ReviewCase.objects.filter(state="open").count() == 1


def test_a_case_can_be_kept_frozen_and_cleared_later(
    flows: Flows, case: ReviewCase, creator: Account, admin: Actor
) -> None:
    decide_case(admin, case, decision="keep", reason="Looks bad.")
    assert flows.frozen()
    assert has_payout_hold(creator)

    decide_case(admin, case, decision="clear", reason="It was not.")

    assert not flows.frozen()
    assert not has_payout_hold(creator)


def test_a_case_can_end_with_a_refund(flows: Flows, case: ReviewCase, admin: Actor) -> None:
    decide_case(admin, case, decision="refund", reason="Stolen.")

    row = TopupRefund.objects.get()
    assert (row.net_cents, row.state, row.requested_by) == (2_500, "succeeded", admin.label)
    assert flows.frozen()
    assert case.state == "refunded"
    assert broken() == set()


def test_a_refund_of_nothing_decides_the_case_all_the_same(
    flows: Flows, case: ReviewCase, admin: Actor
) -> None:
    flows.spend(2_500)

    decide_case(admin, case, decision="refund", reason="Stolen.")

    case.refresh_from_db()
    assert case.state == "refunded"


def test_an_account_is_frozen_while_one_reason_is_left(
    flows: Flows, case: ReviewCase, admin: Actor
) -> None:
    decide_case(admin, case, decision="keep", reason="Looks bad.")
    raise_signal(flows.account.pk, Kind.DISPUTE, "dispute:test", {}, freezes=True)
    second = ReviewCase.objects.get(state="open")

    decide_case(admin, case, decision="clear", reason="Fine.")
    assert flows.frozen()
    decide_case(admin, second, decision="clear", reason="Fine, too.")
    assert not flows.frozen()


@pytest.mark.parametrize(
    ("decision", "reason"), [("clear", ""), ("clear", "x" * 2_001), ("burn", "Because.")]
)
def test_a_decision_needs_a_reason_and_a_name(
    case: ReviewCase, admin: Actor, decision: str, reason: str
) -> None:
    with pytest.raises(InvalidInputError):
        decide_case(admin, case, decision=decision, reason=reason)

    case.refresh_from_db()
    assert case.state == "open"


def test_only_admins_decide(flows: Flows, case: ReviewCase) -> None:
    with pytest.raises(ForbiddenError):
        decide_case(flows.actor, case, decision="clear", reason="It is me.")


def test_a_hold_is_one_per_case(flows: Flows, case: ReviewCase, creator: Account) -> None:
    raise_signal(flows.account.pk, Kind.DISPUTE, "dispute:test", {}, holds=[creator.pk])

    assert PayoutHold.objects.filter(account=creator).count() == 1


def test_a_frozen_account_is_told_so_when_it_buys(flows: Flows, case: ReviewCase, client) -> None:
    client.force_login(flows.actor.user)

    page = client.get("/console/wallet?account=acme")

    assert b"This account is frozen" in page.content
