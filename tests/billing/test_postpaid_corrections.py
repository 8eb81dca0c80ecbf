"""What was paid on credit and given back: not billed, never sent below nothing, never lost."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connection

from billing.models import (
    LedgerAccount,
    MeterReport,
    MeterSeal,
    PostpaidTerms,
    Transfer,
    UsageEvent,
    UsageReversal,
)
from billing.selectors import invoice as documents
from billing.selectors.meter import HOUR, find_carried_nanos, read_clock
from billing.selectors.postpaid import find_credit
from billing.services import invoice as invoices
from billing.services import meter
from billing.services import postpaid as service
from billing.services.meter import return_credit, seal_hours, send_reports
from billing.services.reconciliation.finding import Period
from billing.services.reconciliation.meters import compare_meters
from billing.services.reversal import reverse_usage
from billing.stripe.metering import MeterHour
from marketplace.core.ids import to_public
from marketplace.models import User
from marketplace.selectors.access import Actor
from strongroom.invoices import InvoiceVerifier
from strongroom.receipts import ReceiptError
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.billing.conftest import PRICE_NANOS, Shop, asked, balances, reserve, settle
from tests.billing.metered_stripe import MeteredStripe
from tests.billing.postpaid import (
    age,
    agree,
    begin_earlier,
    broken,
    buy,
    receivable,
    reopen_last_hour,
    this_hour,
)
from tests.billing.postpaid import stripe as stripe  # noqa: PLC0414 - a fixture
from tests.billing.sealing import seal_all
from tests.billing.test_meter import in_another_transaction

pytestmark = pytest.mark.django_db(transaction=True)
NOW = timedelta(0)
HALF_MILLION = 500_000
SQL = Path(meter.__file__).resolve().parent.parent / "sql"
KEY = signature.generate_signing_key()
PUBLIC_KEY = signature.derive_public_key(KEY)
Members = list[dict[str, Any]]


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@pytest.fixture
def terms(shop: Shop, stripe: MeteredStripe, platform_admin: User) -> PostpaidTerms:
    """The consumer has had credit for six hours."""
    found = agree(shop, platform_admin)
    begin_earlier(found, stripe, 6)
    return found


@pytest.fixture
def take_back(platform_admin: User) -> Callable[..., None]:
    def give(prediction_id: UUID, nanos: int | None = None) -> None:
        reverse_usage(
            Actor(user=platform_admin),
            to_public(prediction_id),
            reason="The answer was noise.",
            gross_nanos=nanos,
        )

    return give


def spoil(sql: str, *arguments: object) -> None:
    """Change rows behind the guards' back."""
    tables = re.findall(r"billing_[a-z]+", sql)
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute(sql, arguments)
        for table in tables:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


def use(shop: Shop, units: int = HALF_MILLION) -> UUID:
    nanos = units * PRICE_NANOS
    ((hold_id, _, outcome),) = reserve(asked(shop.consumer.pk, nanos))
    assert outcome == "held"
    assert settle(shop.item(hold_id, units=units, gross_nanos=nanos)) == ["settled"]
    return hold_id


def report() -> None:
    seal_hours(wait=NOW)
    send_reports()


def report_late() -> None:
    """What came after its hour was sealed."""
    age(1)
    reopen_last_hour()
    report()


def rows() -> list[tuple[int, int, int, int, int]]:
    fields = ("usage_nanos", "reversed_nanos", "total_nanos", "credit_nanos", "value_micro")
    return list(MeterReport.objects.order_by("number").values_list(*fields))


def counted(stripe: MeteredStripe) -> int:
    return sum(value for _, _, value in stripe.events.values())


def net_nanos() -> int:
    used = sum(UsageEvent.objects.values_list("gross_nanos", flat=True))
    return used - sum(UsageReversal.objects.values_list("gross_nanos", flat=True))


# --- Reports ---


def test_what_goes_back_within_the_hour_is_not_reported(shop, stripe, terms, take_back):
    first, *_ = buy(shop, 3)
    take_back(first)
    age(1)

    report()

    assert rows() == [(3_003, 1_001, 2_002, 0, 2)]
    assert counted(stripe) == 2
    assert broken() == set()


def test_what_goes_back_later_is_taken_off_the_next_usage(shop, stripe, terms, take_back):
    first, second, _ = buy(shop, 3)
    age(3)
    take_back(first)
    take_back(second)
    age(2, only=[])
    with_reversals_aged(2)
    buy(shop, 5)
    age(1)

    report()

    assert rows() == [
        (3_003, 0, 3_003, 0, 3),
        (0, 2_002, 3_003, 2_002, 0),
        (5_005, 0, 6_006, 0, 3),
    ]
    assert list(MeterReport.objects.order_by("number").values_list("state", flat=True)) == [
        "ok",
        "nothing",
        "ok",
    ]
    assert stripe.calls["send_meter_event"] == 2
    assert counted(stripe) == net_nanos() // 1_000
    assert broken() == set()


def with_reversals_aged(hours: float) -> None:
    spoil(
        "UPDATE billing_transfer SET created_at = created_at - %s WHERE kind = 'usage_reversal'",
        timedelta(hours=hours),
    )


def test_any_mix_of_usage_and_what_goes_back_adds_up(shop, stripe, terms, take_back):
    rand = random.Random(11)
    bought: list[UUID] = []
    most_nanos = 0
    MeterSeal.objects.all().delete()
    for _ in range(12):
        bought += buy(shop, rand.randint(1, 4)) if rand.random() < 0.6 else []
        for _ in range(rand.randint(0, min(3, len(bought)))):
            one = bought.pop(rand.randrange(len(bought)))
            take_back(one, rand.choice([None, 1, 999, 1_000]))
        report_late()
        most_nanos = max(most_nanos, net_nanos())

        assert counted(stripe) == most_nanos // 1_000
        assert find_carried_nanos(shop.consumer.pk) == most_nanos - net_nanos()
        assert receivable(shop).owed_nanos == net_nanos()
        assert broken() == set()

    assert any(row[3] for row in rows())
    assert all(value > 0 for _, _, value in stripe.events.values())


def test_reports_that_ignore_what_went_back_are_caught(shop, stripe, terms, take_back, monkeypatch):
    """The control: usage alone is read."""
    find = meter.list_unreported
    monkeypatch.setattr(
        meter, "list_unreported", lambda window: [one for one in find(window) if one.nanos]
    )
    first, *_ = buy(shop, 3)
    take_back(first)
    age(1)

    report()

    assert counted(stripe) == 3
    assert broken() == {"reports-equal-usage"}


def test_sums_that_ignore_what_went_back_are_caught(shop, stripe, terms, take_back, monkeypatch):
    """The control: it is in a report, and nothing is taken off for it."""
    find = meter.list_unreported
    monkeypatch.setattr(
        meter,
        "list_unreported",
        lambda window: [replace(one, reversed_nanos=0) for one in find(window)],
    )
    first, *_ = buy(shop, 3)
    take_back(first)
    age(1)

    report()

    assert counted(stripe) == 3
    assert broken() == {"reports-equal-usage"}


@pytest.mark.parametrize(
    "change",
    [
        "reversed_nanos = 0, usage_nanos = 1, predictions = 1",
        "credit_nanos = credit_nanos - 1",
        "total_nanos = total_nanos + 1000, credit_nanos = credit_nanos + 1000",
        "number = 7",
        "returned_nanos = 1",
    ],
)
def test_a_report_that_does_not_go_on_is_caught(shop, stripe, terms, take_back, change):
    first, second, _ = buy(shop, 3)
    age(2)
    report()
    take_back(first)
    take_back(second)
    report_late()
    assert broken() == set()

    spoil(f"UPDATE billing_meterreport SET {change} WHERE credit_nanos > 0")

    assert broken() == {"reports-equal-usage"}


def test_less_than_nothing_is_never_sent(shop, stripe, terms, take_back, monkeypatch):
    """The control: a total that falls would send a negative value; the database refuses it."""
    first, *_ = buy(shop, 3)
    age(2)
    report()
    take_back(first)
    age(1)
    reopen_last_hour()
    monkeypatch.setattr(meter, "max", lambda _before, net: net, raising=False)

    with pytest.raises(IntegrityError):
        seal_hours(wait=NOW)

    assert send_reports() == 0
    assert counted(stripe) == 3


@pytest.mark.parametrize("looks", [True, False])
def test_what_goes_back_and_is_committed_late_is_found(
    shop, stripe, terms, take_back, monkeypatch, looks
):
    first, *_ = buy(shop, 3)
    age(2)
    with monkeypatch.context() as patch, in_another_transaction() as begin:
        if not looks:
            # The control: the clock alone seals hours, and the next one reads from there.
            patch.setattr(meter, "read_oldest_transaction", lambda: 2**62)
        begin(lambda: take_back(first))
        seal_hours(wait=NOW)
        sealed = MeterSeal.objects.filter(sealed_at__isnull=False)
        assert sealed.exists() != looks
    report_late()

    assert [row[1] for row in rows()] == ([0, PRICE_NANOS] if looks else [0])
    assert broken() == (set() if looks else {"reports-equal-usage"})


def test_what_went_back_of_the_wallet_is_no_matter_of_the_meter(
    shop, fund, stripe, terms, take_back
):
    fund(5 * PRICE_NANOS)
    service.set_credit(shop.consumer.pk, None)
    (paid,) = buy(shop)
    take_back(paid)
    age(1)

    report()

    assert rows() == []
    assert broken() == set()


def test_after_a_restore_what_went_back_is_found_once(shop, stripe, terms, take_back):
    first, second, _ = buy(shop, 3)
    take_back(first)
    age(2)
    report()
    MeterSeal.objects.update(mark_transaction=2**40, barrier_transaction=2**40)
    take_back(second)

    report_late()

    assert [row[1] for row in rows()] == [1_001, 1_001]
    assert broken() == set()


def test_what_went_back_before_it_was_taken_off_is_taken_off_now(
    shop, stripe, terms, take_back, monkeypatch
):
    """As the migration finds it: in hours that were sealed without it."""
    find = meter.list_unreported
    first, *_ = buy(shop, 3)
    take_back(first)
    age(2)
    with monkeypatch.context() as patch:
        patch.setattr(
            meter, "list_unreported", lambda window: [one for one in find(window) if one.nanos]
        )
        report()
    assert broken() == {"reports-equal-usage"}
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_usagereversal DROP COLUMN xid")
        cursor.execute((SQL / "postpaid_corrections.sql").read_text())
    buy(shop, 1)

    report_late()

    assert counted(stripe) == net_nanos() // 1_000 == 3
    assert broken() == set()


def test_what_goes_back_can_be_used_again_at_once(shop, stripe, terms, take_back):
    first, *_ = buy(shop, 3)
    before = find_credit(shop.consumer)
    spoil("UPDATE billing_ledgeraccount SET posted_nanos = 0 WHERE kind = 'receivable'")
    take_back(first)

    credit = find_credit(shop.consumer)

    assert (credit.owed_nanos, credit.given_back_nanos) == (0, PRICE_NANOS)
    assert credit.left_nanos == receivable(shop).available_nanos
    assert credit.left_nanos == before.left_nanos + 4 * PRICE_NANOS


def test_reconciliation_agrees_with_reports_that_are_net(
    shop, stripe, terms, take_back, monkeypatch
):
    first, second, _ = buy(shop, 3)
    age(2)
    report()
    take_back(first)
    take_back(second)
    report_late()
    buy(shop, 4)
    report_late()
    since, until = this_hour() - 6 * HOUR, this_hour() + HOUR
    monkeypatch.setattr(stripe, "summarize_meter", lambda **asked: list_hours(stripe, **asked))
    period = Period(since=since, until=until, now=until)

    assert compare_meters(period, None).findings == []
    assert meter.find_miscounted() == []
    # The control: what Stripe would have, had nothing been taken off.
    name, (customer, moment, value) = next(reversed(stripe.events.items()))
    stripe.events[name] = customer, moment, value + 2
    assert len(compare_meters(period, None).findings) == 1


def list_hours(
    stripe: MeteredStripe, *, customer_id: str, start: Any, end: Any, **_: Any
) -> list[MeterHour]:
    hours = []
    while start < end:
        hours.append(MeterHour(start, start + HOUR, stripe.count(customer_id, start, start + HOUR)))
        start += HOUR
    return [one for one in hours if one.value]


# --- The end ---


def close(shop: Shop, stripe: MeteredStripe, terms: PostpaidTerms, admin: User) -> None:
    """All that was used is on a last invoice, which is paid."""
    service.close_terms(Actor(user=admin), terms)
    age(2)
    report()
    stripe.now = read_clock()
    service.advance_postpaid()
    (draft,) = [one for one in stripe.invoices.values() if one.status == "draft"]
    stripe.finalize(draft.id, read_clock())
    invoices.mirror_invoice(draft.id)
    if stripe.invoices[draft.id].status == "open":
        stripe.pay(draft.id, read_clock())
        invoices.mirror_invoice(draft.id)


def test_what_goes_back_before_the_end_reaches_the_wallet(
    shop, stripe, terms, take_back, platform_admin
):
    first, _ = use(shop), use(shop)
    close(shop, stripe, terms, platform_admin)
    take_back(first)

    # Not before it is in a report.
    assert service.advance_postpaid() == 0
    assert balances()["receivable"][0] == HALF_MILLION * PRICE_NANOS
    report_late()
    assert service.advance_postpaid() == 1

    terms.refresh_from_db()
    assert terms.state == "closed"
    assert balances()["wallet"] == (HALF_MILLION * PRICE_NANOS, 0)
    assert balances()["receivable"] == (0, 0)
    assert find_carried_nanos(shop.consumer.pk) == 0
    assert broken() == set()


def test_what_goes_back_after_the_end_reaches_the_wallet_once(
    shop, stripe, terms, take_back, platform_admin
):
    first, second = use(shop), use(shop)
    close(shop, stripe, terms, platform_admin)
    assert service.advance_postpaid() == 1
    take_back(first)
    report_late()

    assert [service.advance_postpaid() for _ in range(3)] == [1, 0, 0]
    assert return_credit(shop.consumer.pk) == 0
    take_back(second, 7)
    report_late()
    assert [service.advance_postpaid() for _ in range(2)] == [1, 0]

    assert balances()["wallet"] == (HALF_MILLION * PRICE_NANOS + 7, 0)
    assert balances()["receivable"] == (0, 0)
    keys = Transfer.objects.filter(idempotency_key__startswith="postpaid-returned:")
    assert keys.count() == 2
    assert broken() == set()


def test_credit_that_is_not_returned_stays_behind(
    shop, stripe, terms, take_back, platform_admin, monkeypatch
):
    """The control of the test above."""
    monkeypatch.setattr(service, "return_credit", lambda _account_id: 0)
    first, _ = use(shop), use(shop)
    close(shop, stripe, terms, platform_admin)
    take_back(first)
    report_late()

    service.advance_postpaid()

    assert balances()["receivable"] == (HALF_MILLION * PRICE_NANOS, 0)
    assert "wallet" not in balances() or balances()["wallet"] == (0, 0)


RETURNED = "(SELECT id FROM billing_transfer WHERE idempotency_key LIKE 'postpaid-returned:%%')"
HARMS = {
    "no report": f"DELETE FROM billing_meteredtransfer WHERE transfer_id IN {RETURNED}",
    "less": "UPDATE billing_meterreport SET returned_nanos = returned_nanos - 1"
    " WHERE returned_nanos > 0",
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_return_without_its_report_is_caught(
    shop, stripe, terms, take_back, platform_admin, harm
):
    first, _ = use(shop), use(shop)
    close(shop, stripe, terms, platform_admin)
    take_back(first)
    report_late()
    service.advance_postpaid()
    assert broken() == set()

    spoil(HARMS[harm])

    assert broken() == {"reports-equal-usage"}


def test_a_return_to_another_wallet_is_caught(shop, stripe, terms, take_back, platform_admin):
    first, _ = use(shop), use(shop)
    close(shop, stripe, terms, platform_admin)
    take_back(first)
    report_late()
    service.advance_postpaid()

    spoil(
        "UPDATE billing_ledgeraccount SET holder_id = (SELECT id FROM marketplace_account"
        " WHERE slug = 'creator') WHERE kind = 'wallet'"
    )

    assert "credits-are-approved" in broken()


def test_a_wallet_gets_no_more_than_is_not_owed_otherwise(
    shop, stripe, terms, take_back, platform_admin
):
    """20 cents that were too little to charge: what goes back is set off against them."""
    first = use(shop, 200_000)
    close(shop, stripe, terms, platform_admin)
    service.advance_postpaid()
    assert receivable(shop).owed_nanos == 200_000_000
    take_back(first)
    report_late()

    service.advance_postpaid()

    # 200,200,000 went back, of which 200,000,000 were never paid.
    assert balances()["wallet"] == (200_000, 0)
    assert receivable(shop).posted_nanos == 0
    assert find_carried_nanos(shop.consumer.pk) == 200_000_000
    assert broken() == set()


def test_a_next_round_bills_all_that_is_used_then(shop, stripe, terms, take_back, platform_admin):
    first, _ = use(shop), use(shop)
    close(shop, stripe, terms, platform_admin)
    take_back(first)
    report_late()
    service.advance_postpaid()
    sent = counted(stripe)

    agree(shop, platform_admin)
    use(shop)
    report_late()

    assert counted(stripe) - sent == HALF_MILLION * PRICE_NANOS // 1_000
    assert broken() == set()


# --- The document ---


@pytest.fixture
def two_invoices(shop, stripe, terms, take_back, settings) -> tuple[Members, Members]:
    """Three predictions; then one, after two of the first were given back, one of them in part."""
    settings.RECEIPT_KEY = encode_base64(KEY)
    bought = buy(shop, 3)
    age(4)
    report()
    seal_all()
    issued = [stripe.end_period("sub_1", this_hour() - 2 * HOUR)]
    take_back(bought[0])
    take_back(bought[1], 500)
    buy(shop, 1)
    report_late()
    seal_all()
    issued.append(stripe.end_period("sub_1", this_hour()))
    found = []
    for invoice_id in issued:
        stripe.finalize(invoice_id, read_clock())
        row = invoices.mirror_invoice(invoice_id)
        assert row is not None
        assert row.check_state == "agrees"
        found.append(json.loads(json.dumps(list(documents.stream_document(row)))))
    return found[0], found[1]


def verify(*files: Members) -> list[Any]:
    verifier = InvoiceVerifier([PUBLIC_KEY])
    return [verifier.verify(one) for one in files]


def refusal(*files: Members) -> str:
    with pytest.raises(ReceiptError) as caught:
        verify(*files)
    return caught.value.code


def pick(members: Members, kind: str) -> dict[str, Any]:
    return [one for one in members if one["type"] == kind][-1]


def test_the_document_names_what_went_back(two_invoices):
    first, second = verify(*two_invoices)

    assert (first.usage_nanos, first.reversed_nanos, first.billed_micro) == (3_003, 0, 3)
    assert (second.usage_nanos, second.reversed_nanos) == (1_001, 1_501)
    assert (second.credit_nanos, second.billed_micro) == (500, 0)
    corrections = [one for one in two_invoices[1] if one["type"] == "correction"]
    assert sorted(one["amount_nanos"] for one in corrections) == [500, 1_001]
    # In any order, and each by itself.
    verify(*reversed(two_invoices))
    verify(two_invoices[1])


def drop_correction(_first: Members, second: Members) -> None:
    second.remove(pick(second, "correction"))


def double_correction(_first: Members, second: Members) -> None:
    second.append(pick(second, "correction"))


def lessen_correction(_first: Members, second: Members) -> None:
    pick(second, "correction")["amount_nanos"] -= 1


def correct_more_than_it_cost(_first: Members, second: Members) -> None:
    pick(second, "correction")["amount_nanos"] = PRICE_NANOS + 1


def bill_what_went_back(_first: Members, second: Members) -> None:
    """The corrections are named, and not taken off."""
    pick(second, "report").update(total_nanos=4_004, credit_nanos=0, value_micro=1)


def begin_with_more(_first: Members, second: Members) -> None:
    """As if what was reported before had come to less, so that more is billed."""
    pick(second, "report").update(total_nanos=2_002, credit_nanos=0, value_micro=0)


def hide_credit(first: Members, _second: Members) -> None:
    """The first ends with credit that the next does not begin with."""
    row = pick(first, "report")
    row.update(credit_before_nanos=row["credit_before_nanos"] + 9)


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (drop_correction, "report_differs"),
        (double_correction, "correction_doubled"),
        (lessen_correction, "report_differs"),
        (correct_more_than_it_cost, "correction_too_large"),
        (bill_what_went_back, "report_missing"),
        (begin_with_more, "report_missing"),
        (hide_credit, "report_missing"),
    ],
)
def test_each_harm_has_its_code(two_invoices, harm, code):
    first, second = two_invoices

    harm(first, second)

    assert refusal(first, second) == code


def test_sums_that_do_not_take_off_are_refused_without_the_earlier_invoice(two_invoices):
    _, second = two_invoices
    row = pick(second, "report")
    row.update(total_nanos=row["total_nanos"] + 1_000, credit_nanos=row["credit_nanos"] + 1_000)

    assert refusal(second) in {"report_differs", "value_differs"}


def test_the_receivable_is_usage_less_what_went_back(shop, stripe, terms, take_back):
    first, *_ = buy(shop, 3)
    take_back(first)
    assert broken() == set()

    spoil("UPDATE billing_usagereversal SET gross_nanos = gross_nanos - 1")

    assert broken() == {"receivable-equals-usage-less-payments", "reversals-fit"}
    assert LedgerAccount.objects.get(kind="receivable").owed_nanos == 2_002
