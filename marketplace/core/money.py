"""Money: integers of a billionth of a dollar, never floats.

One token can cost less than a millionth of a dollar, so cents are too coarse inside. Cents
appear only where money enters or leaves through Stripe.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

NANOS_PER_DOLLAR = 1_000_000_000
NANOS_PER_CENT = 10_000_000
BPS = 10_000  # Shares are counted in basis points: 10,000 are the whole.

# Far above any sum that one wallet should hold, far below what 64 bits carry.
AMOUNT_NANOS_MAX = 1_000_000 * NANOS_PER_DOLLAR


def format_nanos(amount_nanos: int) -> str:
    """An amount for people: at least two decimals, no more than it needs.

    >>> format_nanos(1_500_000_000), format_nanos(250_000), format_nanos(-10_000_000)
    ('$1.50', '$0.00025', '-$0.01')
    """
    sign = "-" if amount_nanos < 0 else ""
    dollars, rest = divmod(abs(amount_nanos), NANOS_PER_DOLLAR)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}${dollars:,}.{decimals}"


def format_cents(amount_cents: int) -> str:
    """Cents as dollars with two decimals, without the sign of the currency: 1,234.50."""
    sign = "-" if amount_cents < 0 else ""
    whole, rest = divmod(abs(amount_cents), 100)
    return f"{sign}{whole:,}.{rest:02d}"


def parse_dollars(text: str) -> int:
    """Nano-dollars of a decimal text such as "0.0005" or "$12".

    Raises:
        ValueError: No amount, below zero, finer than a nano-dollar, or absurdly large.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$").replace(",", ""))
    except InvalidOperation:
        raise ValueError("not an amount in dollars") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError("an amount is zero or more")
    # First, since a product of huge numbers would overflow.
    if amount > AMOUNT_NANOS_MAX // NANOS_PER_DOLLAR:
        raise ValueError("too large")
    nanos = amount * NANOS_PER_DOLLAR
    if nanos != nanos.to_integral_value():
        raise ValueError("finer than a billionth of a dollar")
    return int(nanos)


def split_share(gross_nanos: int, share_bps: int) -> tuple[int, int]:
    """Divide an amount: the share, rounded down, and the rest. They always add up."""
    assert 0 <= share_bps <= BPS
    assert gross_nanos >= 0
    share_nanos = gross_nanos * share_bps // BPS
    return share_nanos, gross_nanos - share_nanos
