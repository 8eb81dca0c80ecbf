from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.utils import timezone

from billing.errors import TransferConflictError
from billing.models import (
    Dispute,
    Hold,
    KeySpend,
    LedgerAccount,
    Topup,
    TopupRefund,
    Transfer,
    TransferEntry,
    UsageEvent,
)
from billing.models.adjustment import ALONE_NANOS_MAX
from billing.selectors.ledger import INVARIANTS, Finding, check_invariants
from billing.services import adjustment, ledger, reversal, topup, warm_hour
from billing.services.price import set_price
from billing.services.royalty import promise_royalty
from inference.models import Deployment
from marketplace.core.errors import InsufficientCreditError, NotFoundError
from marketplace.core.ids import new_id, to_public
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account, AIModel, APIKey, ModelVersion
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.cashier import WarmHour
from tests.billing.conftest import (
    PRICE_NANOS,
    Shop,
    asked,
    balances,
    give_back,
    hold,
    query,
    reserve,
    settle,
)
from tests.billing.payouts import pay_and_take_back
from tests.factories import APIKeyFactory, UserFactory

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]


def broken() -> set[str]:
    return {finding.invariant.name for finding in check_invariants_now() if finding.count}


def check_invariants_now():
    # Inside the test's transaction the isolation level is fixed already.
    findings = []
    with connection.cursor() as cursor:
        for invariant in INVARIANTS:
            cursor.execute(invariant.sql)
            rows = cursor.fetchall()
            findings.append(Finding(invariant, len(rows), []))
    return findings


def record_answer(shop: Shop, prediction_id) -> None:
    """The prediction row that the gateway writes in the statement that settles."""
    query(
        """INSERT INTO inference_prediction (id, account_id, version_id, state, source, protocol,
               rows, cost_nanos, error, predict_time_us, created_at)
           VALUES (%s, %s, %s, 'succeeded', 'api', 'native', 1, 0, '', 0, now()) RETURNING id""",
        prediction_id,
        shop.consumer.pk,
        shop.version.pk,
    )


def test_settle_books_event_and_transfer(shop: Shop, fund: Fund) -> None:
    fund(5_000)
    prediction_id = hold(shop)
    record_answer(shop, prediction_id)

    assert settle(shop.item(prediction_id)) == ["settled"]

    assert balances() == {
        "stripe_clearing": (-5_000, 0),
        "wallet": (3_999, 0),
        "creator_reserve": (800, 0),
        "platform_revenue": (201, 0),
    }
    event = UsageEvent.objects.get()
    assert (event.gross_nanos, event.creator_nanos, event.platform_nanos) == (1_001, 800, 201)
    transfer = Transfer.objects.get(kind=Transfer.Kind.USAGE)
    assert event.transfer == transfer
    entries = transfer.entries.values_list("ledger_account__kind", "amount_nanos")
    assert sorted(entries) == [
        ("creator_reserve", 800),
        ("platform_revenue", 201),
        ("wallet", -1_001),
    ]
    assert Hold.objects.get().state == Hold.State.POSTED
    assert broken() == set()


def test_settle_twice_books_once(shop: Shop, fund: Fund) -> None:
    fund(5_000)
    item = shop.item(hold(shop))
    settle(item)
    before = balances()

    assert settle(item) == ["repeated"]
    assert settle(item, item) == ["repeated", "repeated"]

    assert balances() == before
    assert UsageEvent.objects.count() == 1


READ = """SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
    FROM pg_stat_xact_user_tables WHERE relname LIKE 'billing_%%'"""
MANY = 300


def read_by_booking(shop: Shop, key: APIKey) -> dict[str, int]:
    """How many rows of each table one more booking reads, among very many."""
    for _ in range(2):  # The second one finds the accounts and plans of the first.
        item = shop.item(hold(shop), api_key_id=str(key.pk))
        before = dict(query(READ))
        assert settle(item) == ["settled"]
    return {name: count - before.get(name, 0) for name, count in query(READ)}


def test_a_booking_reads_the_few_rows_that_it_is_about(shop: Shop, fund: Fund) -> None:
    key = APIKeyFactory(account=shop.consumer)
    for number in range(MANY):
        other = Account.objects.create(slug=f"other-{number}", name="Other")
        for kind in (LedgerAccount.Kind.WALLET, LedgerAccount.Kind.CREATOR_RESERVE):
            ledger.get_ledger_account_id(kind, holder_id=other.pk)
        KeySpend.objects.create(
            api_key_id=new_id(), period="day", starts_on="2026-11-21", spent_nanos=1, held_nanos=0
        )
    fund(9_000)
    with connection.cursor() as cursor:
        # As in a new database: else plans are made for what the tests before this left behind.
        cursor.execute(
            "SELECT pg_clear_relation_stats('public', relname) FROM pg_class"
            " WHERE relkind = 'r' AND relname LIKE 'billing_%'"
        )

    assert max(read_by_booking(shop, key).values()) < 40
    # The control: with plans that may read a table once and look through it again and again.
    with connection.cursor() as cursor:
        cursor.execute("ALTER FUNCTION billing_settle RESET enable_material")
    assert read_by_booking(shop, key)["billing_ledgeraccount"] > MANY


def test_one_batch_settles_what_it_can(shop: Shop, fund: Fund) -> None:
    fund(5_000)
    good, voided, free = hold(shop), hold(shop), new_id()
    give_back(voided)

    outcomes = settle(
        shop.item(good),
        shop.item(voided),
        shop.item(new_id()),
        shop.item(free, mode="test", gross_nanos=0),
    )

    assert outcomes == ["settled", "hold_missing", "hold_missing", "settled"]
    assert balances()["wallet"] == (3_999, 0)
    assert UsageEvent.objects.get(pk=free).transfer_id is None


def test_what_a_hold_reserved_beyond_the_price_waits_for_others(shop: Shop, fund: Fund) -> None:
    fund(5_000)
    slice_id = hold(shop, 4_000)

    assert settle(shop.item(slice_id)) == ["settled"]
    assert balances()["wallet"] == (3_999, 2_999)
    assert Hold.objects.get().state == Hold.State.PENDING

    assert give_back(slice_id) == 1
    assert balances()["wallet"] == (3_999, 0)
    # What was spent of it stays; a hold of which something was posted was not in vain.
    assert Hold.objects.get().state == Hold.State.POSTED


@pytest.mark.parametrize(
    ("_case", "changes"),
    [
        ("cheaper than the price", {"gross_nanos": PRICE_NANOS - 1}),
        ("dearer than the price", {"gross_nanos": PRICE_NANOS + 1}),
        ("negative", {"gross_nanos": -PRICE_NANOS, "units": -1}),
        ("no units", {"gross_nanos": 0, "units": 0}),
        ("a test event that costs", {"mode": "test"}),
        ("an unknown price", {"price_id": str(new_id())}),
        ("somebody else's earnings", {"creator_id": str(new_id())}),
        ("an unknown version", {"version_id": str(new_id())}),
    ],
)
def test_settle_refuses_amounts_that_do_not_fit(
    shop: Shop, fund: Fund, _case: str, changes: dict
) -> None:
    fund(5_000)
    prediction_id = hold(shop)
    before = balances()

    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        settle(shop.item(prediction_id, **changes))

    assert caught.value.__cause__.sqlstate == "SR422"
    assert balances() == before
    assert not UsageEvent.objects.exists()


def test_a_hold_cannot_pay_for_another_account(shop: Shop, fund: Fund) -> None:
    fund(5_000)
    prediction_id = hold(shop)

    outcome = settle(shop.item(prediction_id, account_id=str(shop.creator.pk)))

    assert outcome == ["hold_missing"]
    assert balances()["wallet"] == (5_000, PRICE_NANOS)


def test_hold_to_the_last_nano_and_one_past_it(shop: Shop, fund: Fund) -> None:
    fund(2 * PRICE_NANOS)
    hold(shop)
    hold(shop)

    ((_, nanos, outcome),) = reserve(asked(shop.consumer.pk, 1))

    assert (nanos, outcome) == (0, "insufficient_credit")
    assert balances()["wallet"] == (2 * PRICE_NANOS, 2 * PRICE_NANOS)
    assert Hold.objects.count() == 2


def test_what_is_given_back_is_released_once(shop: Shop, fund: Fund) -> None:
    fund(5_000)
    prediction_id = hold(shop)

    assert give_back(prediction_id, prediction_id) == 1
    assert give_back(prediction_id) == 0

    assert balances()["wallet"] == (5_000, 0)


def test_late_holds_expire_and_cannot_be_settled_any_more(shop: Shop, fund: Fund) -> None:
    fund(5_000)
    late, young = hold(shop), hold(shop)
    Hold.objects.filter(pk=late).update(expires_at="2020-01-01T00:00:00Z")

    assert ledger.expire_holds() == 1

    assert settle(shop.item(late), shop.item(young)) == ["hold_missing", "settled"]
    assert balances()["wallet"] == (3_999, 0)


def test_one_sweep_releases_all_late_holds(shop: Shop, fund: Fund) -> None:
    count = 2 * ledger.EXPIRE_BATCH_SIZE + 1
    fund(count)
    reserve(*(asked(shop.consumer.pk, 1) for _ in range(count)))
    Hold.objects.update(expires_at="2020-01-01T00:00:00Z")
    assert balances()["wallet"] == (count, count)

    assert ledger.expire_holds() == count

    assert balances()["wallet"] == (count, 0)


def test_transfer_is_posted_once_per_key(shop: Shop) -> None:
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    arguments = {
        "kind": Transfer.Kind.TOP_UP,
        "idempotency_key": "topup:1",
        "amounts_nanos": {clearing_id: -10, shop.wallet_id: 10},
    }

    assert ledger.post_transfer(transfer_id=new_id(), **arguments) is True
    assert ledger.post_transfer(transfer_id=new_id(), **arguments) is False
    arguments["amounts_nanos"] = {clearing_id: -11, shop.wallet_id: 11}
    with pytest.raises(TransferConflictError), transaction.atomic():
        ledger.post_transfer(transfer_id=new_id(), **arguments)

    assert Transfer.objects.count() == 1
    assert balances()["wallet"] == (10, 0)


def test_transfer_refuses_an_overdraft_and_an_unknown_account(shop: Shop) -> None:
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)

    for amounts, error in (
        ({shop.wallet_id: -1, clearing_id: 1}, InsufficientCreditError),
        ({new_id(): -1, clearing_id: 1}, NotFoundError),
    ):
        with pytest.raises(error), transaction.atomic():
            ledger.post_transfer(
                transfer_id=new_id(),
                kind=Transfer.Kind.REVERSAL,
                idempotency_key=f"test:{new_id()}",
                amounts_nanos=amounts,
            )

    assert not Transfer.objects.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_transferentry SET amount_nanos = amount_nanos + 1",
        "DELETE FROM billing_transferentry",
        "UPDATE billing_transfer SET kind = 'reversal'",
        "DELETE FROM billing_transfer",
        "UPDATE billing_usageevent SET gross_nanos = 0",
        "DELETE FROM billing_usageevent",
        "UPDATE billing_usageevent SET creator_nanos = 0",
        "DELETE FROM billing_price",
        "UPDATE billing_price SET nanos_per_prediction = 1",
        "UPDATE billing_price SET valid_until = NULL",
    ],
)
def test_rows_are_append_only_even_for_the_owner(shop: Shop, fund: Fund, statement: str) -> None:
    fund(5_000)
    settle(shop.item(hold(shop)))

    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        query(f"{statement} RETURNING 1")

    assert caught.value.__cause__.sqlstate == "SR423"


def test_the_database_refuses_an_unbalanced_transfer(shop: Shop, fund: Fund) -> None:
    fund(5_000)
    transfer = Transfer.objects.get()

    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        TransferEntry.objects.create(
            transfer=transfer, ledger_account_id=shop.wallet_id, amount_nanos=1
        )

    assert caught.value.__cause__.sqlstate == "SR422"


def test_the_database_refuses_a_wallet_below_zero(shop: Shop) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        LedgerAccount.objects.filter(pk=shop.wallet_id).update(posted_nanos=-1)
    with pytest.raises(IntegrityError), transaction.atomic():
        LedgerAccount.objects.filter(pk=shop.wallet_id).update(held_nanos=1)


# Each harm is done behind the guards' back; the check of the same name must find it.
HARMS = {
    "transfers-sum-to-zero": "DELETE FROM billing_transferentry WHERE amount_nanos < 0",
    "accounts-sum-to-zero": "UPDATE billing_ledgeraccount SET posted_nanos = posted_nanos + 7"
    " WHERE kind = 'platform_revenue'",
    "posted-equals-entries": "UPDATE billing_ledgeraccount SET posted_nanos = posted_nanos + 7"
    " WHERE kind = 'platform_revenue'",
    "held-equals-holds": "UPDATE billing_ledgeraccount SET held_nanos = 5 WHERE kind = 'wallet'",
    "floors-hold": "UPDATE billing_ledgeraccount SET min_available_nanos = posted_nanos + 1"
    " WHERE kind = 'wallet'",
    # An event that is booked with another amount, with another part, without its transfer, or
    # with one out of somebody else's wallet or into somebody else's earnings.
    "usage-equals-transfers": "UPDATE billing_usageevent SET gross_nanos = gross_nanos + 1",
    "usage-equals-transfers (part)": "UPDATE billing_usageevent SET creator_nanos = 1",
    "usage-equals-transfers (none)": "UPDATE billing_usageevent SET gross_nanos = 0,"
    " creator_nanos = 0, transfer_id = NULL",
    "usage-equals-transfers (consumer)": "UPDATE billing_usageevent SET account_id = creator_id",
    "creators-get-their-parts": "UPDATE billing_usageevent SET creator_id = account_id",
    "creators-get-their-parts (royalty)": "UPDATE billing_royaltyshare"
    " SET amount_nanos = amount_nanos + 1",
    "creators-get-their-parts (beneficiary)": "UPDATE billing_royalty"
    " SET beneficiary_id = (SELECT id FROM marketplace_account WHERE slug = 'consumer')",
    "royalties-equal-terms": "UPDATE billing_royalty SET bps = bps + 100",
    "royalties-equal-terms (none)": "WITH s AS (DELETE FROM billing_royaltyshare)"
    " UPDATE billing_royalty SET created_at = '2026-01-01'",
    "royalties-equal-terms (of nothing)": "UPDATE billing_royaltyshare"
    " SET prediction_id = uuidv7()",
    "usage-equals-transfers (no events)": "DELETE FROM billing_usageevent",
    "usage-equals-price": "UPDATE billing_usageevent SET units = 2",
    "usage-equals-price (metered)": "UPDATE billing_usageevent SET position = 0",
    "positions-follow": "INSERT INTO billing_usagecounter (account_id, model_id, starts_on, units)"
    " SELECT u.account_id, p.model_id, '2026-01-01', 1"
    " FROM billing_usageevent u JOIN billing_price p ON p.id = u.price_id",
    "creator-parts-equal-price": "UPDATE billing_usageevent SET creator_nanos = creator_nanos + 1",
    "spend-equals-usage": "UPDATE billing_keyspend SET spent_nanos = spent_nanos + 1"
    " WHERE period = 'total'",
    "spend-equals-usage (day)": "DELETE FROM billing_keyspend WHERE period = 'day'",
    "spend-equals-usage (month)": "DELETE FROM billing_keyspend WHERE period = 'month'",
    "spend-equals-usage (none)": "DELETE FROM billing_keyspend",
    "key-holds-equal-holds": "UPDATE billing_keyspend SET held_nanos = held_nanos + 1"
    " WHERE period = 'total'",
    "key-holds-equal-holds (day)": "DELETE FROM billing_keyspend WHERE period = 'day'",
    "key-holds-equal-holds (month)": "DELETE FROM billing_keyspend WHERE period = 'month'",
    "key-holds-equal-holds (none)": "DELETE FROM billing_keyspend",
    "usage-equals-answers": "DELETE FROM inference_prediction",
    "holds-are-young": "UPDATE billing_hold SET state = 'pending', expires_at = '2020-01-01'",
    "charges-are-sealed": "UPDATE billing_usageevent SET occurred_at = '2026-01-01'",
    "batches-chain": "WITH k AS (INSERT INTO billing_receiptkey VALUES ('k', 'p', '', now()))"
    " INSERT INTO billing_receiptbatch (seq, size, root, previous, hash, sealed_at, key_id,"
    " signature, mark_transaction, mark_id)"
    " VALUES (2, 1, '', 'nothing', 'h', now(), 'k', '', 1, uuidv7())",
    # Not booked, or booked with another amount.
    "topups-are-booked": "UPDATE billing_transfer SET idempotency_key = 'x'"
    " WHERE idempotency_key = 'topup:pi_test'",
    "topups-are-booked (amount)": "UPDATE billing_topup SET amount_cents = amount_cents + 1",
    # Moved by one person alone, without a proposal, or otherwise than proposed.
    # An hour that was not over, that names nobody's version, or that somebody else paid.
    "warm-hours-fit": "UPDATE billing_transfer SET idempotency_key = idempotency_key || '0'"
    " WHERE kind = 'warm_hour'",
    "warm-hours-fit (early)": "UPDATE billing_transfer SET created_at = '2026-01-02 03:59:59Z'"
    " WHERE kind = 'warm_hour'",
    "warm-hours-fit (version)": "UPDATE billing_transfer SET reference = uuidv7()::text"
    " WHERE kind = 'warm_hour'",
    "warm-hours-fit (owner)": "UPDATE marketplace_aimodel SET account_id = (SELECT id FROM"
    " marketplace_account WHERE slug = 'creator') WHERE name = 'kept-warm'",
    "warm-hours-fit (none)": "DELETE FROM inference_deployment",
    "credits-are-approved": "UPDATE billing_adjustment SET state = 'pending', transfer_id = NULL,"
    " decided_by_id = NULL",
    "credits-are-approved (alone)": "UPDATE billing_adjustment SET decided_by_id = created_by_id",
    "credits-are-approved (none)": "DELETE FROM billing_adjustment",
    "credits-are-approved (amount)": "UPDATE billing_adjustment SET amount_nanos = 1",
    "credits-are-approved (account)": "UPDATE billing_adjustment SET source_id = (SELECT id FROM"
    " billing_ledgeraccount WHERE kind = 'platform_revenue')",
    "credits-are-approved (forgiven)": "UPDATE billing_transfer SET idempotency_key ="
    " 'postpaid-closed:x', kind = 'adjustment' WHERE kind = 'credit'",
    "credits-are-approved (returned)": "UPDATE billing_transfer SET idempotency_key ="
    " 'postpaid-returned:x', kind = 'adjustment' WHERE kind = 'credit'",
    "credits-are-approved (transfer)": "UPDATE billing_transfer SET kind = 'promo'"
    " WHERE kind = 'credit'",
    # Taken for a deletion that nobody asked for.
    "given-up-credit-was-deleted": "UPDATE billing_transfer SET idempotency_key ="
    " 'deletion:' || id WHERE idempotency_key = 'topup:pi_test'",
    # More than it cost, not recorded, recorded as something else, or not moved.
    "reversals-fit": "UPDATE billing_usagereversal SET gross_nanos = gross_nanos + 1",
    "reversals-fit (cost)": "UPDATE billing_usageevent SET gross_nanos = 5, creator_nanos = 4",
    "reversals-fit (part)": "UPDATE billing_usagereversal SET creator_nanos = creator_nanos - 1",
    "reversals-fit (none)": "DELETE FROM billing_usagereversal",
    "reversals-fit (account)": "UPDATE billing_usagereversal SET account_id = creator_id",
    "reversals-fit (transfer)": "UPDATE billing_transfer SET kind = 'promo'"
    " WHERE kind = 'usage_reversal'",
    "releases-equal-days": "UPDATE billing_release SET amount_nanos = amount_nanos + 1",
    "releases-equal-days (entries)": "UPDATE billing_release SET entries = entries + 1",
    "releases-equal-days (no row)": "DELETE FROM billing_release",
    "releases-equal-days (another day)": "UPDATE billing_release SET day = day - 1",
    "releases-equal-days (left behind)": "UPDATE billing_transfer SET"
    " created_at = created_at - interval '200 days' WHERE kind = 'usage'",
    "payouts-are-booked": "UPDATE billing_payoutitem SET state = 'waiting',"
    " connect_transfer_id = NULL",
    "payouts-are-booked (refused)": "UPDATE billing_payoutitem SET state = 'refused',"
    " connect_transfer_id = NULL",
    "payouts-are-booked (amount)": "UPDATE billing_payoutitem SET amount_cents = amount_cents + 1",
    "payouts-are-booked (no transfer)": "UPDATE billing_transfer SET idempotency_key = 'x'"
    " WHERE kind = 'payout_sent'",
    "payouts-are-booked (no reversal)": "DELETE FROM billing_payoutreversal",
    "payouts-are-booked (forfeit)": "UPDATE billing_payoutreversal SET is_forfeited = false",
    "payouts-are-booked (in flight)": "UPDATE billing_ledgeraccount SET"
    " posted_nanos = posted_nanos + 1 WHERE kind = 'payout_in_flight'",
    "earnings-add-up": "UPDATE billing_payoutitem SET amount_cents = amount_cents - 1",
    "earnings-add-up (taken back)": "UPDATE billing_payoutreversal SET amount_cents = 8",
    "earnings-add-up (prediction)": "DELETE FROM billing_usageevent",
    "earnings-add-up (balance)": "UPDATE billing_ledgeraccount SET"
    " posted_nanos = posted_nanos - 1 WHERE kind = 'creator_payable'",
    # More of these in test_invoice.py, with what they are about.
    "reports-equal-usage": "INSERT INTO billing_meterreport (id, account_id, hour, seq, number,"
    " counted_at, usage_nanos, reversed_nanos, returned_nanos, total_nanos, credit_nanos,"
    " value_micro, residual_nanos, predictions, identifier, state, created_at) SELECT uuidv7(),"
    " account_id, now(), 1, 1, now(), 1, 0, 0, 1, 0, 0, 1, 1, 'x', 'nothing', now()"
    " FROM billing_topup",
    "receivable-equals-usage-less-payments": "INSERT INTO billing_ledgeraccount (id, kind,"
    " holder_id, posted_nanos, held_nanos, created_at) SELECT uuidv7(), 'receivable', account_id,"
    " -1, 0, now() FROM billing_topup",
    "invoices-are-booked": "INSERT INTO billing_invoice (id, account_id, stripe_id,"
    " subscription_id, number, state, currency, lines, subtotal_cents, tax_cents, total_cents,"
    " due_cents, paid_cents, period_start, period_end, created_at, hosted_url, pdf_url,"
    " reported_micro, written_off_nanos,"
    " check_state, note, booked_at) SELECT uuidv7(), account_id, 'in_1', 'sub_1', '', 'paid',"
    " 'usd', '[]', 1, 0, 1, 1, 1, now(), now(), now(), '', '', 10000, 0, 'agrees', '', now()"
    " FROM billing_topup",
    "write-offs-match-invoices": "INSERT INTO billing_invoice (id, account_id, stripe_id,"
    " subscription_id, number, state, currency, lines, subtotal_cents, tax_cents, total_cents,"
    " due_cents, paid_cents, period_start, period_end, created_at, hosted_url, pdf_url,"
    " reported_micro, written_off_nanos, check_state, note) SELECT uuidv7(), account_id, 'in_1',"
    " 'sub_1', '', 'uncollectible', 'usd', '[]', 1, 0, 1, 1, 0, now(), now(), now(), '', '',"
    " 10000, 1, 'agrees', '' FROM billing_topup",
    "topups-are-booked (tax)": "UPDATE billing_topup SET tax_cents = tax_cents + 1",
    # A refund that took another amount, that is nowhere, twice out of a payment, or undone
    # without its transfer.
    "refunds-are-booked": "UPDATE billing_topuprefund SET net_cents = net_cents + 1",
    "refunds-are-booked (tax)": "UPDATE billing_topuprefund SET tax_cents = tax_cents + 1",
    "refunds-are-booked (none)": "UPDATE billing_transfer SET idempotency_key = id::text"
    " WHERE kind = 'refund'",
    "refunds-are-booked (sent)": "UPDATE billing_topuprefund SET state = 'succeeded'",
    "refunds-are-booked (failed)": "UPDATE billing_topuprefund SET state = 'failed'",
    "refunds-are-booked (rest)": "UPDATE billing_topup SET amount_cents = 1",
    "refunds-are-booked (lost)": "DELETE FROM billing_topuprefund",
    "dispute-holds-match": "UPDATE billing_dispute SET taken_nanos = taken_nanos - 1",
    "dispute-holds-match (withdrawn)": "UPDATE billing_dispute SET withdrawn_cents = 5",
    "dispute-holds-match (fee)": "UPDATE billing_dispute SET fee_cents = fee_cents + 1",
    "dispute-holds-match (twice)": "UPDATE billing_dispute SET transfers = transfers + 1",
    "dispute-holds-match (lost)": "DELETE FROM billing_dispute",
    "tax-is-booked": "UPDATE billing_topup SET tax_cents = 0",
    "tax-is-booked (returned)": "UPDATE billing_topuprefund SET tax_cents = 0",
    "stripe-objects-take-effect-once": "UPDATE billing_topup SET fee_cents = fee_cents + 1",
    "stripe-objects-take-effect-once (fee)": "DELETE FROM billing_transferentry WHERE transfer_id"
    " IN (SELECT id FROM billing_transfer WHERE idempotency_key = 'fee:ch_test')",
    "stripe-objects-take-effect-once (payment)": "UPDATE billing_transfer SET idempotency_key ="
    " 'topup:pi_other' WHERE kind = 'top_up' AND reference <> ''",
    "stripe-objects-take-effect-once (twice)": "UPDATE billing_transfer SET kind = 'refund'"
    " WHERE kind = 'refund_sent'",
}


# Whose triggers would refuse.
TABLES = (
    *("transfer", "transferentry", "usageevent"),
    *("release", "payoutitem", "payoutreversal"),
)


def test_each_check_has_a_harm() -> None:
    assert {check_of(harm) for harm in HARMS} == {one.name for one in INVARIANTS}


def check_of(harm: str) -> str:
    return harm.partition(" ")[0]


def buy_credit(shop: Shop) -> Topup:
    """A top-up as it stands once Stripe's payment, its tax and its fee are booked."""
    row = Topup.objects.create(
        account=shop.consumer,
        amount_cents=2_500,
        tax_cents=100,
        is_taxed=True,
        fee_cents=50,
        charge_id="ch_test",
        state=Topup.State.CREDITED,
        payment_intent_id="pi_test",
    )
    cents = {"wallet": 2_500, "tax_payable": 100, "stripe_clearing": -2_600}
    move(shop, "top_up", "topup:pi_test", cents, str(row.pk))
    move(shop, "fee", "fee:ch_test", {"stripe_fee": -50, "stripe_clearing": 50}, str(row.pk))
    return row


def give_back_and_dispute(shop: Shop, row: Topup) -> None:
    """A refund on its way, one that is done, and a dispute, each of a part of a payment."""
    for state in ("in_flight", "succeeded"):
        back = TopupRefund.objects.create(
            account=shop.consumer,
            topup=row,
            request_key=state,
            net_cents=500,
            tax_cents=20,
            state=state,
        )
        cents = {"wallet": -500, "tax_payable": -20, "refund_in_flight": 520}
        move(shop, "refund", f"refund:{back.pk}", cents, str(back.pk))
    cents = {"refund_in_flight": -520, "stripe_clearing": 520}
    move(shop, "refund_sent", f"refund_sent:{back.pk}", cents, str(back.pk))
    Dispute.objects.create(
        account=shop.consumer,
        topup=row,
        dispute_id="du_test",
        amount_cents=300,
        taken_nanos=300 * NANOS_PER_CENT,
        fee_cents=15,
        transfers=2,
        created_at=timezone.now(),
    )
    move(shop, "dispute", "dispute:du_test:1", {"wallet": -300, "dispute_hold": 300}, "du_test")
    cents = {"stripe_fee": -15, "stripe_clearing": 15}
    move(shop, "fee", "dispute_fee:du_test:2", cents, "du_test")


def keep_warm(shop: Shop) -> None:
    """An hour through which the consumer had a version of its own kept loaded."""
    model = AIModel.objects.create(account=shop.consumer, name="kept-warm", title="Kept warm")
    version = ModelVersion.objects.create(model=model, number=1)
    deployment = Deployment.objects.create(version=version)
    starts_at = datetime(2026, 1, 2, 3, tzinfo=UTC)
    hour = WarmHour(shop.consumer, deployment.pk, version.pk, starts_at, 1_000)
    assert warm_hour.charge(hour)
    assert not warm_hour.charge(hour)


def move(shop: Shop, kind: str, key: str, cents: dict[str, int], reference: str) -> None:
    own = {"wallet", "dispute_hold"}
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind(kind),
        idempotency_key=key,
        amounts_nanos={
            ledger.get_ledger_account_id(
                LedgerAccount.Kind(name), holder_id=shop.consumer.pk if name in own else None
            ): amount * NANOS_PER_CENT
            for name, amount in cents.items()
        },
        reference=reference,
    )


def move_by_hand(shop: Shop, prediction_id: UUID) -> None:
    """A credit by two people, and a part of a prediction's price that goes back."""
    one, other = (
        Actor(user=UserFactory(email=f"{name}@example.com", is_staff=True))
        for name in ("one", "other")
    )
    credit = adjustment.propose_credit(
        one, shop.consumer, amount_nanos=ALONE_NANOS_MAX, reason="For the trouble."
    )
    adjustment.approve(other, credit.pk)
    reversal.reverse_usage(one, to_public(prediction_id), reason="Noise.", gross_nanos=10)


def promise_some(shop: Shop) -> None:
    """A royalty of the version, to somebody else."""
    ancestor = Account.objects.create(slug="ancestor", name="Ancestor")
    base = AIModel.objects.create(account=ancestor, name="base", title="Base")
    parent = ModelVersion.objects.create(model=base, number=1)
    promise_royalty(Actor(), shop.version, parent=parent, bps=1_000)


@pytest.mark.parametrize("harm", HARMS)
def test_each_check_finds_its_harm(shop: Shop, fund: Fund, harm: str) -> None:
    pay_and_take_back(shop)
    fund(5_000)
    give_back_and_dispute(shop, buy_credit(shop))
    promise_some(shop)
    key_id = new_id()
    # A slice with a budget: one prediction is paid from it, and room for another is left.
    ((slice_id, _, _),) = reserve(asked(shop.consumer.pk, 2 * PRICE_NANOS, api_key_id=key_id))
    record_answer(shop, slice_id)
    settle(shop.item(slice_id, api_key_id=str(key_id)))
    move_by_hand(shop, slice_id)
    keep_warm(shop)
    assert broken() == set()

    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(
            "ALTER TABLE billing_ledgeraccount DROP CONSTRAINT IF EXISTS billing_account_floor"
        )
        for check in ("two_people", "decided", "transfer"):
            cursor.execute(
                f"ALTER TABLE billing_adjustment DROP CONSTRAINT billing_adjustment_{check}"
            )
        for table in (*TABLES, "adjustment", "usagereversal", "royalty", "royaltyshare"):
            cursor.execute(f"ALTER TABLE billing_{table} DISABLE TRIGGER USER")
        cursor.execute(HARMS[harm])

    assert check_of(harm) in broken()


@pytest.mark.django_db(transaction=True)
def test_ledger_check_command_prints_each_and_fails_on_harm(
    shop: Shop, fund: Fund, capsys: pytest.CaptureFixture[str]
) -> None:
    fund(5_000)

    call_command("ledger_check")
    assert "ok     accounts-sum-to-zero" in capsys.readouterr().out
    assert all(finding.count == 0 for finding in run_check())

    LedgerAccount.objects.filter(pk=shop.wallet_id).update(held_nanos=3)
    with pytest.raises(SystemExit) as caught:
        call_command("ledger_check")

    assert caught.value.code == 1
    assert "BROKEN held-equals-holds: 1" in capsys.readouterr().out


def run_check():
    with transaction.atomic(durable=True):
        return check_invariants()


@pytest.mark.django_db(transaction=True)
def test_the_last_credit_goes_to_exactly_as_many_as_it_pays_for(shop: Shop, fund: Fund) -> None:
    affordable = 7
    fund(affordable * PRICE_NANOS + PRICE_NANOS - 1)
    outcomes: list[str] = []
    gate = threading.Barrier(64)

    def buy() -> None:
        try:
            connection.ensure_connection()
            gate.wait(30)
            ((hold_id, _, outcome),) = reserve(asked(shop.consumer.pk, PRICE_NANOS))
            outcomes.extend(settle(shop.item(hold_id)) if outcome == "held" else [outcome])
        finally:
            connections.close_all()

    threads = [threading.Thread(target=buy) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (
        sorted(outcomes) == ["insufficient_credit"] * (64 - affordable) + ["settled"] * affordable
    )
    assert balances()["wallet"] == (PRICE_NANOS - 1, 0)
    assert UsageEvent.objects.count() == affordable


@pytest.mark.django_db(transaction=True)
def test_check_then_act_would_overdraw_and_the_constraint_stops_it(shop: Shop, fund: Fund) -> None:
    """The negative control of the test above: a naive reservation, caught by the floor."""
    fund(PRICE_NANOS)
    barrier = threading.Barrier(2)
    refused: list[str] = []

    def reserve_naively() -> None:
        try:
            wallet = LedgerAccount.objects.get(pk=shop.wallet_id)
            barrier.wait()
            if wallet.available_nanos >= PRICE_NANOS:
                query(
                    "UPDATE billing_ledgeraccount SET held_nanos = held_nanos + %s"
                    " WHERE id = %s RETURNING 1",
                    PRICE_NANOS,
                    shop.wallet_id,
                )
        except IntegrityError:
            refused.append("floor")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=reserve_naively) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert refused == ["floor"]


@pytest.mark.django_db(transaction=True)
def test_a_topup_and_a_price_that_begin_do_not_stop_bookings(
    shop: Shop, fund: Fund, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both lock a row that bookings refer to; the gateway's connection must not wait for it."""
    fund(5 * PRICE_NANOS)
    outcomes: list[str] = []

    def book() -> None:
        try:
            query("SELECT set_config('lock_timeout', '2s', false)")
            outcomes.extend(settle(shop.item(hold(shop))))
            # As a new version, an upload or a grant of the model does.
            query("SELECT 1 FROM marketplace_aimodel WHERE id = %s FOR KEY SHARE", shop.model.pk)
        except DatabaseError as error:
            outcomes.append(str(error))
        finally:
            connections.close_all()

    def book_elsewhere(*_args: object, **_kwargs: object) -> None:
        assert connection.in_atomic_block
        thread = threading.Thread(target=book)
        thread.start()
        thread.join()

    monkeypatch.setattr(audit, "record", book_elsewhere)
    # Stops after the row that starts it: Stripe is not asked.
    monkeypatch.setattr(topup, "ensure_customer", lambda _account: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        topup.start_topup(Actor(), shop.consumer, amount_cents=2_500)
    set_price(Actor(), shop.model, nanos_per_prediction=7)

    assert outcomes == ["settled", "settled"]
