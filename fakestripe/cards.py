"""Stripe's test cards, as far as the payment page takes them.

Source: docs.stripe.com, "Test card numbers".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A card, or why there is none: `code` is empty when the payment goes through."""

    number: str
    brand: str = "visa"
    code: str = ""
    decline_code: str = ""
    message: str = ""

    @property
    def last4(self) -> str:
        return self.number[-4:]


SUCCESS = "4242424242424242"
DECLINE = "4000000000000002"

_DECLINED = "Your card was declined."
_CARDS = (
    Card(SUCCESS),
    Card("5555555555554444", brand="mastercard"),
    Card(DECLINE, code="card_declined", decline_code="generic_decline", message=_DECLINED),
    Card(
        "4000000000009995",
        code="card_declined",
        decline_code="insufficient_funds",
        message="Your card has insufficient funds.",
    ),
    Card("4000000000000069", code="expired_card", message="Your card has expired."),
)
_KNOWN = {card.number: card for card in _CARDS}


def read(text: str) -> Card:
    """The card a person typed, with spaces or without."""
    number = "".join(text.split())
    if number in _KNOWN:
        return _KNOWN[number]
    if not (number.isascii() and number.isdecimal() and 12 <= len(number) <= 19 and _luhn(number)):
        return Card("0000", code="incorrect_number", message="Your card number is incorrect.")
    return Card(
        number,
        code="card_declined",
        decline_code="test_mode_live_card",
        message=f"{_DECLINED} Your request was in test mode, but used a non test card.",
    )


def _luhn(number: str) -> bool:
    digits = [int(letter) for letter in reversed(number)]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
