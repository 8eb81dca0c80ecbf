"""Set prices. A price row never changes: the present one ends, and another begins.

What could cost a consumer more begins only after a notice; what costs less begins at once. A
price that has not begun can be withdrawn, and a newer one takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from billing.errors import NoComingPriceError
from billing.models import CreatorTerms, Price, UsageEvent
from marketplace.core.errors import FieldError, InvalidInputError
from marketplace.core.money import NANOS_PER_DOLLAR
from marketplace.models import AIModel
from marketplace.selectors.access import Actor
from marketplace.services import audit
from strongroom.rating import BPS, KINDS, UNITS_MAX, Terms, is_dearer, scale

# A dearer prediction is more likely a slip of the decimal point than a price.
NANOS_PER_PREDICTION_MAX = 1_000 * NANOS_PER_DOLLAR
# For a million units: a dollar for each. The largest number that a receipt's JSON holds is more.
RATE_NANOS_MAX = 1_000_000 * NANOS_PER_DOLLAR
# More steps than this nobody reads; what is taken off a price may add one.
TIERS_MAX = 10
# These two are counted by the run alone: without a bound nobody knows what it can cost.
_BOUNDED = ("input_token",)


@dataclass(frozen=True, slots=True)
class PriceTerms:
    """What a price shall say; see `Price`."""

    nanos_per_prediction: int = 0
    rates: Mapping[str, int] = field(default_factory=dict)
    max_units: Mapping[str, int] = field(default_factory=dict)
    minimum_nanos: int = 0
    free_units: int = 0
    tiers: Sequence[Sequence[int]] = ()
    batch_percent: int = 100

    @property
    def terms(self) -> Terms:
        """The part that is rated."""
        return Terms(
            self.nanos_per_prediction, self.rates, self.minimum_nanos, self.free_units, self.tiers
        )

    @property
    def columns(self) -> dict[str, Any]:
        """As a row has them."""
        return {
            "nanos_per_prediction": self.nanos_per_prediction,
            "rates": dict(self.rates),
            "max_units": dict(self.max_units),
            "minimum_nanos": self.minimum_nanos,
            "free_units": self.free_units,
            "tiers": [list(one) for one in self.tiers],
            "batch_percent": self.batch_percent,
        }

    @classmethod
    def of(cls, price: Price) -> PriceTerms:
        """Those of a row."""
        return cls(
            price.nanos_per_prediction,
            price.rates,
            price.max_units,
            price.minimum_nanos,
            price.free_units,
            tuple(tuple(one) for one in price.tiers),
            price.batch_percent,
        )

    def take_off(self, off_bps: int) -> PriceTerms:
        """The same, cheaper by so many basis points; what a part comes to is rounded up."""
        tiers = [tuple(one) for one in self.tiers]
        # From the first row on that is not free there is a tier, so that each row is in one.
        if not tiers or tiers[0][0] > self.free_units:
            tiers.insert(0, (self.free_units, BPS))
        left_bps = BPS - off_bps
        return replace(
            self,
            tiers=tuple((start, -(-bps * left_bps // BPS)) for start, bps in tiers),
            minimum_nanos=-(-self.minimum_nanos * left_bps // BPS),
        )

    def is_rise_from(self, other: PriceTerms) -> bool:
        """Whether anything could cost more, or more could be charged for at the most."""
        batch_terms = scale(self.terms, self.batch_percent)
        if is_dearer(batch_terms, scale(other.terms, other.batch_percent)):
            return True
        return is_dearer(self.terms, other.terms) or any(
            kind not in self.max_units or self.max_units[kind] > most
            for kind, most in other.max_units.items()
            if kind in self.rates and kind in other.rates
        )


def set_price(actor: Actor, model: AIModel, **terms: Any) -> Price:
    """Make this the price of the model, now or after the notice that a rise needs.

    The present price again, or the announced one, changes nothing; another one takes the place
    of what was announced.

    Args:
        actor: Who sets it; may push the model.
        model: Whose.
        **terms: The members of `PriceTerms`.

    Raises:
        InvalidInputError: Naming what is out of its range.
    """
    wanted = check_terms(PriceTerms(**terms))
    share_bps = find_share_bps(model)
    with transaction.atomic():
        lock_prices(model)
        now = read_clock()
        for one in _list_open(model, now):
            if _is_same(one, wanted, share_bps):
                return one
        _take_back(model, now)
        current = next(iter(_list_open(model, now)), None)
        before = None if current is None else PriceTerms.of(current)
        is_rise = before is not None and wanted.is_rise_from(before) and has_consumers(model)
        begins = now + notice_period() if is_rise else now
        if current is not None:
            Price.objects.filter(pk=current.pk).update(valid_until=begins)
        price = Price.objects.create(
            model=model,
            **wanted.columns,
            creator_share_bps=share_bps,
            valid_from=begins,
            created_by=actor.user,
        )
        audit.record(
            actor.label,
            "price.set",
            price,
            account_id=model.account_id,
            payload={
                "model": str(model),
                **wanted.columns,
                "valid_from": begins.isoformat(),
                "before": current.nanos_per_prediction if current else None,
            },
        )
    return price


def withdraw_price(actor: Actor, model: AIModel) -> Price:
    """Take back the price that was announced and has not begun; the present one goes on.

    Raises:
        NoComingPriceError: There is none.
    """
    with transaction.atomic():
        lock_prices(model)
        price = _take_back(model, read_clock())
        if price is None:
            raise NoComingPriceError
        audit.record(
            actor.label,
            "price.withdraw",
            price,
            account_id=model.account_id,
            payload={"model": str(model), "valid_from": price.valid_from.isoformat()},
        )
    return price


def check_terms(wanted: PriceTerms) -> PriceTerms:
    """The same, if every number is in its range.

    Raises:
        InvalidInputError: Naming what is not.
    """
    faults: list[FieldError] = []

    def check(pointer: str, value: Any, most: int) -> None:
        if type(value) is not int or not 0 <= value <= most:
            faults.append({"pointer": pointer, "detail": f"A whole number from 0 to {most}."})

    check("/nanos_per_prediction", wanted.nanos_per_prediction, NANOS_PER_PREDICTION_MAX)
    check("/minimum_nanos", wanted.minimum_nanos, NANOS_PER_PREDICTION_MAX)
    check("/free_units", wanted.free_units, UNITS_MAX)
    for name, given, most in (
        ("rates", wanted.rates, RATE_NANOS_MAX),
        ("max_units", wanted.max_units, UNITS_MAX),
    ):
        for kind, value in given.items():
            if kind not in KINDS:
                detail = f"The kinds are {', '.join(KINDS)}."
                faults.append({"pointer": f"/{name}/{str(kind)[:32]}", "detail": detail})
            else:
                check(f"/{name}/{kind}", value, most)
    for kind in _BOUNDED:
        if kind in wanted.rates and kind not in wanted.max_units:
            detail = "Is required: the most that one row is charged for."
            faults.append({"pointer": f"/max_units/{kind}", "detail": detail})
    if type(wanted.batch_percent) is not int or not 1 <= wanted.batch_percent <= 100:
        faults.append({"pointer": "/batch_percent", "detail": "A whole number from 1 to 100."})
    faults += _check_tiers(wanted)
    if faults:
        raise InvalidInputError(f"{faults[0]['pointer']}: {faults[0]['detail']}", errors=faults)
    return wanted


def _check_tiers(wanted: PriceTerms) -> list[FieldError]:
    if len(wanted.tiers) > TIERS_MAX:
        return [{"pointer": "/tiers", "detail": f"At most {TIERS_MAX}."}]
    before = wanted.free_units - 1 if type(wanted.free_units) is int else 0
    for place, tier in enumerate(wanted.tiers):
        if (
            len(tier) != 2
            or any(type(one) is not int for one in tier)
            or not before < tier[0] <= UNITS_MAX
            or not 0 <= tier[1] <= BPS
        ):
            detail = (
                "A tier is [from which row of the month on, basis points of the price, 0 to"
                f" {BPS}]; each begins after the one before it, and after the free ones."
            )
            return [{"pointer": f"/tiers/{place}", "detail": detail}]
        before = tier[0]
    return []


def find_share_bps(model: AIModel) -> int:
    """The part that a creator gets of new prices: as was agreed with it, or as usual."""
    agreed = CreatorTerms.objects.filter(account_id=model.account_id).first()
    return agreed.creator_share_bps if agreed else int(settings.CREATOR_SHARE_BPS)


def notice_period() -> timedelta:
    """How long before it begins a rise is announced."""
    return timedelta(days=settings.PRICE_NOTICE_DAYS)


def has_consumers(model: AIModel) -> bool:
    """Whether anybody but its owner ever paid for it, and could be surprised by a rise."""
    return (
        UsageEvent.objects.filter(creator=model.account_id, version__model=model, mode="live")
        .exclude(account=model.account_id)
        .exists()
    )


def lock_prices(model: AIModel) -> None:
    """One change of a model's prices at a time; rows that refer to the model do not wait."""
    AIModel.objects.select_for_update(no_key=True).get(pk=model.pk)


def read_clock() -> datetime:
    """The database's clock, which says which price is valid."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def _take_back(model: AIModel, now: datetime) -> Price | None:
    """End the price that has not begun before it begins, and let the present one go on."""
    coming = Price.objects.filter(
        model=model, account=None, valid_from__gt=now, valid_until=None
    ).first()
    if coming is None:
        return None
    Price.objects.filter(pk=coming.pk).update(valid_until=coming.valid_from)
    Price.objects.filter(
        model=model, account=None, valid_until=coming.valid_from, valid_from__lte=now
    ).update(valid_until=None)
    return coming


def _list_open(model: AIModel, now: datetime) -> list[Price]:
    """The present price and the one that was announced, as far as there are such."""
    prices = Price.objects.filter(model=model, account=None).exclude(valid_until=F("valid_from"))
    return list(prices.exclude(valid_until__lte=now).order_by("valid_from"))


def _is_same(price: Price, wanted: PriceTerms, share_bps: int) -> bool:
    present = {name: getattr(price, name) for name in wanted.columns}
    return present == wanted.columns and price.creator_share_bps == share_bps
