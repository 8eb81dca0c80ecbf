"""Prices in words, for pages and mails."""

from __future__ import annotations

from django import template

from billing.models import Price
from billing.selectors.price import KindFloor
from marketplace.core.money import format_nanos
from strongroom.rating import BPS, MILLION

register = template.Library()

# By kind: how many units a price is said for, and what they are called.
SCALES: dict[str, tuple[int, str]] = {
    "input_token": (1_000, "1,000 input tokens"),
    "output_token": (1_000, "1,000 output tokens"),
    "compute_ms": (1_000, "second of compute"),
    "row": (1, "row"),
    "pixel": (MILLION, "megapixel"),
}
_UNITS = {
    "input_token": "input tokens",
    "output_token": "output tokens",
    "compute_ms": "milliseconds",
    "row": "rows",
    "pixel": "pixels",
}


@register.filter
def price_lines(price: Price) -> list[str]:
    """A price as sentences: what it is for, what is free, what gets cheaper."""
    lines = []
    if price.nanos_per_prediction or not price.rates:
        lines.append(f"{format_nanos(price.nanos_per_prediction)} per prediction")
    for kind, nanos in price.rates.items():
        lines.append(f"{tell_rate(kind, nanos)}{_tell_most(price, kind)}")
    if price.minimum_nanos:
        lines.append(f"at least {format_nanos(price.minimum_nanos)} for a prediction")
    if price.free_units:
        lines.append(f"the first {price.free_units:,} predictions of a month are free")
    for start, bps in price.tiers:
        lines.append(f"from prediction {start + 1:,} of a month on: {format_percent(bps)} of it")
    if price.batch_percent < 100:
        lines.append(f"lines of batches cost {price.batch_percent} % of it")
    return lines


def tell_rate(kind: str, nanos_per_million: int) -> str:
    """What the usual number of units costs, or a million where that is finer than a nano-dollar."""
    scale, name = SCALES[kind]
    whole, rest = divmod(nanos_per_million * scale, MILLION)
    if rest:
        return f"{format_nanos(nanos_per_million)} per million {_UNITS[kind]}"
    return f"{format_nanos(whole)} per {name}"


@register.filter
def rate_of(floor: KindFloor, which: str) -> str:
    """A metered kind in words: what it has to cost (`floor`), or costs (`rate`)."""
    return tell_rate(floor.kind, floor.floor_nanos if which == "floor" else floor.rate_nanos)


@register.filter("percent")
def format_percent(bps: int) -> str:
    """Basis points as percent, without digits that say nothing."""
    whole, rest = divmod(bps, BPS // 100)
    return f"{whole}.{rest:02d}".rstrip("0").rstrip(".") + " %"


def _tell_most(price: Price, kind: str) -> str:
    most = price.max_units.get(kind)
    return "" if most is None else f", at most {most:,} {_UNITS[kind]} each"
