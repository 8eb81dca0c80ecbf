"""Read prices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from math import ceil
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from billing.models import Price
from marketplace.core.ids import lowest_id
from marketplace.core.money import split_share
from marketplace.models import AIModel, ModelVersion
from strongroom.rating import BPS, MILLION, Terms

# What a row of tokens or pixels is like, is averaged over so much, and no more predictions.
USE_WITHIN = timedelta(days=30)
USE_SAMPLE_MAX = 10_000
_SECONDS_PER_HOUR = 3_600


def find_price(model: AIModel) -> Price | None:
    """The price of a model that is valid now; None if it has none and cannot be sold."""
    # The database's clock, which set the times of the rows; that of this machine may differ.
    return (
        Price.objects.filter(model=model, account=None, valid_from__lte=Now())
        .filter(Q(valid_until=None) | Q(valid_until__gt=Now()))
        .first()
    )


def find_next_price(model: AIModel) -> Price | None:
    """The price that was announced and has not begun."""
    return Price.objects.filter(
        model=model, account=None, valid_from__gt=Now(), valid_until=None
    ).first()


def list_prices(model: AIModel) -> QuerySet[Price]:
    """All prices that a model ever had or is to have, newest first; not those taken back."""
    prices = Price.objects.filter(model=model, account=None)
    return prices.exclude(valid_until=F("valid_from")).order_by("-valid_from")


@dataclass(frozen=True, slots=True)
class KindFloor:
    """What a metered kind has to bring in where it alone pays for a row.

    `rate_nanos` and `floor_nanos` are for a million units, as a price has them; what the creator
    gets of the rate is compared, since the creator's share pays for nothing of the platform's.
    """

    kind: str
    rate_nanos: int
    floor_nanos: int


@dataclass(frozen=True, slots=True)
class Weight:
    """What a row earns its creator at a price, beside what it costs to compute.

    Attributes:
        own_nanos: The creator's part of a typical row; None where it is not known what one is.
        floor_nanos: What it costs to compute; None before a version was measured.
        kinds: Of each metered kind of which it is known how many units a row has.
        measured_rows: Over how many rows of the last month tokens and pixels were averaged.
    """

    own_nanos: int | None
    floor_nanos: int | None
    kinds: tuple[KindFloor, ...] = ()
    measured_rows: int = 0

    @property
    def margin_nanos(self) -> int | None:
        """What is left of a typical row; below zero where it costs more than it earns."""
        if self.own_nanos is None or self.floor_nanos is None:
            return None
        return self.own_nanos - self.floor_nanos


def weigh_price(model: AIModel, terms: Terms, share_bps: int) -> Weight:
    """Compare what a price brings in with what the certificate says that it costs.

    A row is one unit of rows, and as many milliseconds as it took at the measured throughput.
    How many tokens or pixels it has, no benchmark knows: the average of the last month says it,
    and where nothing was used the rates are not weighed.

    Args:
        model: Whose price.
        terms: Of the price, at its list price: before tiers and what is free.
        share_bps: The creator's.
    """
    cost = _find_row_cost(model)
    units, rows = _find_units_per_row(model, cost)
    gross = Fraction(terms.nanos_per_prediction)
    kinds, is_known = [], True
    for kind, rate_nanos in terms.rates.items():
        per_row = units.get(kind)
        if not per_row:
            is_known = False
            continue
        gross += Fraction(rate_nanos * per_row, MILLION)
        if cost is not None and share_bps:
            # So much that the creator's share of it pays for the row.
            floor_nanos = ceil(Fraction(cost * MILLION * BPS, per_row * share_bps))
            kinds.append(KindFloor(kind, rate_nanos, floor_nanos))
    own_nanos, _ = split_share(int(max(gross, Fraction(terms.minimum_nanos))), share_bps)
    return Weight(
        own_nanos=own_nanos if is_known else None,
        floor_nanos=None if cost is None else ceil(cost),
        kinds=tuple(kinds),
        measured_rows=rows,
    )


def find_floor_nanos(model: AIModel) -> int | None:
    """What a row costs to compute at the measured throughput; None before it was measured.

    Of the newest approved version's certificate, at the cost of a machine's hour that the
    platform has set.
    """
    cost = _find_row_cost(model)
    return None if cost is None else ceil(cost)


def _find_row_cost(model: AIModel) -> Fraction | None:
    version = (
        ModelVersion.objects.filter(model=model, state=ModelVersion.State.APPROVED)
        .order_by("-number")
        .first()
    )
    rates = _list_rates(version.certificate if version else None)
    if not rates:
        return None
    return Fraction(settings.MACHINE_HOUR_NANOS, _SECONDS_PER_HOUR) / max(rates)


def _find_units_per_row(model: AIModel, cost: Fraction | None) -> tuple[dict[str, Fraction], int]:
    """How many units of each kind a row has, and over how many rows of use that was averaged."""
    units = {"row": Fraction(1)}
    ms_nanos = Fraction(settings.MACHINE_HOUR_NANOS, _SECONDS_PER_HOUR * 1_000)
    if cost is not None and ms_nanos:
        units["compute_ms"] = Fraction(cost, ms_nanos)
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH used AS (
                   SELECT u.metered, u.units FROM billing_usageevent u
                   WHERE u.creator_id = %(creator)s AND u.metered IS NOT NULL
                       AND u.prediction_id >= %(since)s AND u.version_id IN (
                           SELECT id FROM marketplace_modelversion WHERE model_id = %(model)s)
                   ORDER BY u.prediction_id DESC LIMIT %(most)s
               )
               SELECT m.key, sum(m.value::bigint)::bigint, sum(used.units)::bigint
               FROM used, jsonb_each_text(used.metered) m
               WHERE m.key IN ('input_token', 'output_token', 'pixel') GROUP BY m.key""",
            {
                "creator": model.account_id,
                "model": model.pk,
                "since": lowest_id(timezone.now() - USE_WITHIN),
                "most": USE_SAMPLE_MAX,
            },
        )
        found = cursor.fetchall()
    units.update({kind: Fraction(count, rows) for kind, count, rows in found})
    return units, max((rows for _, _, rows in found), default=0)


def _list_rates(certificate: Any) -> list[Fraction]:
    """Rows a second at each batch size of a certificate; a broken one has none."""
    try:
        points = certificate["benchmark"]["points"]
        found = [Fraction(str(one["rows_per_s"])) for one in points]
    except (KeyError, TypeError, ValueError):
        return []
    return [one for one in found if one > 0]
