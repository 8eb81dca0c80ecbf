"""What is kept of an account's money, for the archive of its data."""

from __future__ import annotations

from collections.abc import Iterator

from billing.models import (
    CouponRedemption,
    Invoice,
    PayoutItem,
    PostpaidTerms,
    Price,
    Royalty,
    SavedCard,
    TaxDetails,
    Topup,
    TopupRefund,
    TransferEntry,
    UsageEvent,
    UsageReversal,
)
from billing.selectors.receipt import stream_receipts
from marketplace.core.ids import to_public
from marketplace.models import Account
from marketplace.services.exporter import Exporter, Row
from strongroom.receipts import hide_consumer

# Rows that are fetched at once: what of a large table lies in memory.
FETCH = 2_000


def read_usage(account: Account) -> Iterator[Row]:
    """What it used, oldest first."""
    columns = (
        *("prediction_id", "version__model__account__slug", "version__model__name"),
        *("version__number", "mode", "units", "metered", "gross_nanos", "price_id", "transfer_id"),
        *("api_key_id", "tag", "occurred_at"),
    )
    events = UsageEvent.objects.filter(account=account).order_by("prediction_id")
    for row in events.values_list(*columns).iterator(FETCH):
        yield (to_public(row[0]), f"{row[1]}/{row[2]}:{row[3]}", *row[4:])


def read_earned(account: Account) -> Iterator[Row]:
    """What others used of its models; who they are stays hidden, as in receipts."""
    columns = (
        *("prediction_id", "account_id", "version__model__name", "version__number", "mode"),
        *("units", "metered", "gross_nanos", "creator_nanos", "price_id", "occurred_at"),
    )
    events = UsageEvent.objects.filter(creator=account).order_by("prediction_id")
    for row in events.values_list(*columns).iterator(FETCH):
        public_id = to_public(row[0])
        consumer = hide_consumer(str(row[1]), public_id)
        yield (public_id, consumer, f"{row[2]}:{row[3]}", *row[4:])


def read_receipts(account: Account) -> Iterator[Row]:
    """The receipts of what it used."""
    events = UsageEvent.objects.filter(account=account).order_by("prediction_id")
    for receipt in stream_receipts(events.values_list("pk", flat=True).iterator(FETCH)):
        yield (receipt["charge"]["prediction"], receipt)


def read_earned_receipts(account: Account) -> Iterator[Row]:
    """The receipts of what others used of its models."""
    events = UsageEvent.objects.filter(creator=account).exclude(account=account)
    ids = events.order_by("prediction_id").values_list("pk", flat=True)
    for receipt in stream_receipts(ids.iterator(FETCH)):
        yield (receipt["charge"]["prediction"], receipt)


def read_reversals(account: Account) -> Iterator[Row]:
    """Predictions whose price came back."""
    columns = ("prediction_id", "gross_nanos", "reason", "is_by_platform", "created_at")
    rows = UsageReversal.objects.filter(account=account).order_by("created_at", "prediction_id")
    for row in rows.values_list(*columns).iterator(FETCH):
        yield (to_public(row[0]), *row[1:])


def read_statement(account: Account) -> Iterator[Row]:
    """Every entry of the ledger in an account that it holds."""
    columns = (
        *("id", "ledger_account__kind", "transfer_id", "transfer__kind", "transfer__reference"),
        *("transfer__reverses_id", "amount_nanos", "transfer__created_at"),
    )
    entries = TransferEntry.objects.filter(ledger_account__holder=account).order_by("id")
    yield from entries.values_list(*columns).iterator(FETCH)


def read_topups(account: Account) -> Iterator[Row]:
    """Credit that it bought."""
    columns = (
        *("id", "source", "state", "amount_cents", "tax_cents", "created_by__email"),
        *("created_at", "credited_at"),
    )
    topups = Topup.objects.filter(account=account).order_by("created_at", "id")
    yield from topups.values_list(*columns).iterator(FETCH)


def read_refunds(account: Account) -> Iterator[Row]:
    """Credit that was paid back."""
    columns = (
        *("id", "topup_id", "state", "net_cents", "tax_cents", "requested_by", "reason"),
        *("created_at", "settled_at"),
    )
    refunds = TopupRefund.objects.filter(account=account).order_by("created_at", "id")
    yield from refunds.values_list(*columns).iterator(FETCH)


def read_invoices(account: Account) -> Iterator[Row]:
    """Its invoices, line by line."""
    columns = (
        *("id", "number", "state", "currency", "lines", "subtotal_cents", "tax_cents"),
        *("total_cents", "paid_cents", "period_start", "period_end", "due_at", "paid_at"),
    )
    invoices = Invoice.objects.filter(account=account).order_by("period_start", "id")
    yield from invoices.values_list(*columns).iterator(FETCH)


def read_payouts(account: Account) -> Iterator[Row]:
    """What was paid out, and taken back of it."""
    items = PayoutItem.objects.filter(creator=account).order_by("created_at", "id")
    for item in items.prefetch_related("reversals").iterator(FETCH):
        reversals = [[str(one.pk), one.state, one.amount_cents] for one in item.reversals.all()]
        yield (item.pk, item.state, item.amount_cents, reversals, item.created_at, item.finished_at)


def read_prices(account: Account) -> Iterator[Row]:
    """Prices of its models, and those that were made for one account."""
    columns = (
        *("id", "model__name", "nanos_per_prediction", "rates", "minimum_nanos", "free_units"),
        *("tiers", "creator_share_bps", "valid_from", "valid_until"),
    )
    prices = Price.objects.filter(model__account=account).order_by("valid_from", "id")
    yield from prices.values_list(*columns).iterator(FETCH)


def read_royalties(account: Account) -> Iterator[Row]:
    """Shares of others' models that it gets."""
    columns = ("id", "version_id", "parent_id", "bps", "created_at", "ended_at")
    royalties = Royalty.objects.filter(beneficiary=account).order_by("created_at", "id")
    yield from royalties.values_list(*columns).iterator(FETCH)


def read_coupons(account: Account) -> Iterator[Row]:
    """Coupons that it used."""
    columns = ("coupon__code", "redeemed_by", "redeemed_at")
    rows = CouponRedemption.objects.filter(account=account).order_by("redeemed_at", "id")
    yield from rows.values_list(*columns).iterator(FETCH)


def read_payment_details(account: Account) -> Iterator[Row]:
    """Cards, as far as they are known here, and the address on invoices."""
    cards = SavedCard.objects.filter(account=account).order_by("created_at", "id")
    for card in cards.iterator(FETCH):
        facts = {"brand": card.brand, "last4": card.last4, "created_at": card.created_at}
        facts |= {"expires": f"{card.exp_year}-{card.exp_month:02}", "removed_at": card.removed_at}
        yield ("card", {name: _text(value) for name, value in facts.items()})
    names = ("name", "line1", "line2", "city", "postal_code", "state", "country", "tax_id")
    for details in TaxDetails.objects.filter(account=account):
        yield ("tax_details", {name: getattr(details, name) for name in names})
    for terms in PostpaidTerms.objects.filter(account=account):
        facts = {"state": terms.state, "credit_limit_nanos": terms.credit_limit_nanos}
        yield ("postpaid_terms", facts | {"due_days": terms.due_days, "note": terms.note})


def _text(value: object) -> str:
    return "" if value is None else str(value)


EXPORTERS = (
    Exporter(
        "usage-events",
        "Each prediction you were charged for.",
        (
            *("prediction", "version", "mode", "units", "metered", "gross_nanos", "price"),
            *("transfer", "api_key", "tag", "occurred_at"),
        ),
        read_usage,
    ),
    Exporter(
        "earned-events",
        "Each prediction of your models, and your share; consumers are pseudonyms.",
        (
            *("prediction", "consumer", "version", "mode", "units", "metered", "gross_nanos"),
            *("creator_nanos", "price", "occurred_at"),
        ),
        read_earned,
    ),
    Exporter(
        "receipts",
        "Signed receipts of what you were charged; `strongroom verify-receipt` checks each.",
        ("prediction", "receipt"),
        read_receipts,
        is_json=True,
    ),
    Exporter(
        "earned-receipts",
        "Signed receipts of predictions of your models.",
        ("prediction", "receipt"),
        read_earned_receipts,
        is_json=True,
    ),
    Exporter(
        "reversals",
        "Predictions whose price came back.",
        ("prediction", "gross_nanos", "reason", "is_by_platform", "at"),
        read_reversals,
    ),
    Exporter(
        "statement",
        "Every entry of the ledger that concerns you, with its transfer.",
        (
            *("entry", "ledger_account", "transfer", "kind", "reference", "reverses"),
            *("amount_nanos", "at"),
        ),
        read_statement,
    ),
    Exporter(
        "topups",
        "Credit you bought.",
        (
            *("id", "source", "state", "amount_cents", "tax_cents", "made_by", "created_at"),
            "credited_at",
        ),
        read_topups,
    ),
    Exporter(
        "refunds",
        "Credit that was paid back.",
        (
            *("id", "topup", "state", "net_cents", "tax_cents", "requested_by", "reason"),
            *("created_at", "settled_at"),
        ),
        read_refunds,
    ),
    Exporter(
        "invoices",
        "Invoices, line by line.",
        (
            *("id", "number", "state", "currency", "lines", "subtotal_cents", "tax_cents"),
            *("total_cents", "paid_cents", "period_start", "period_end", "due_at", "paid_at"),
        ),
        read_invoices,
        is_json=True,
    ),
    Exporter(
        "payouts",
        "What was paid out to you, and taken back of it.",
        ("id", "state", "amount_cents", "taken_back", "created_at", "finished_at"),
        read_payouts,
    ),
    Exporter(
        "prices",
        "Prices of your models.",
        (
            *("id", "model", "nanos_per_prediction", "rates", "minimum_nanos", "free_units"),
            *("tiers", "creator_share_bps", "valid_from", "valid_until"),
        ),
        read_prices,
        is_json=True,
    ),
    Exporter(
        "royalties",
        "Shares that you get of others' models.",
        ("id", "version", "parent", "bps", "created_at", "ended_at"),
        read_royalties,
    ),
    Exporter("coupons", "Coupons you used.", ("code", "by", "at"), read_coupons),
    Exporter(
        "payment-details",
        "Cards as far as they are known here, the address on invoices, postpaid terms.",
        ("what", "facts"),
        read_payment_details,
        is_json=True,
    ),
)
