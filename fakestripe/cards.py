"""Stripe's test cards: what each does on a page, when charged later, and afterwards.

Source: docs.stripe.com, "Test card numbers".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A card, or why there is none: `code` is empty when the payment goes through.

    Attributes:
        number: Digits only.
        brand: As Stripe names it.
        code: Why the bank refuses it.
        decline_code: The bank's own reason, if it gave one.
        message: What the person who pays is told.
        funding: credit, debit or prepaid.
        risk_level: What Stripe's fraud check thinks of it.
        authentication: "once": a person must confirm the first use; "always": every use, so
            that it cannot be charged while nobody is there.
        is_refused_later: Can be saved, but no later charge goes through.
        dispute_reason: A charge is disputed at once for this reason.
        has_fraud_warning: A charge is reported as fraud at once.
        refund: How a refund goes: at once, "slow" (pending first), or "fails" (afterwards).
        is_available_at_once: The money need not be waited for.
    """

    number: str
    brand: str = "visa"
    code: str = ""
    decline_code: str = ""
    message: str = ""
    funding: str = "credit"
    risk_level: str = "normal"
    authentication: str = ""
    is_refused_later: bool = False
    dispute_reason: str = ""
    has_fraud_warning: bool = False
    refund: str = ""
    is_available_at_once: bool = False

    @property
    def last4(self) -> str:
        return self.number[-4:]


SUCCESS = "4242424242424242"
DECLINE = "4000000000000002"
AUTHENTICATE_ONCE = "4000002500003155"
AUTHENTICATE_ALWAYS = "4000002760003184"
REFUSED_LATER = "4000000000000341"
DISPUTED = "4000000000000259"
FRAUD_WARNING = "4000000000005423"
REFUND_SLOW = "4000000000007726"
REFUND_FAILS = "4000000000005126"
AVAILABLE_AT_ONCE = "4000000000000077"

_DECLINED = "Your card was declined."
_CARDS = (
    Card(SUCCESS),
    Card("5555555555554444", brand="mastercard"),
    Card("378282246310005", brand="amex"),
    Card("4000056655665556", funding="debit"),
    Card("5105105105105100", brand="mastercard", funding="prepaid"),
    Card(DECLINE, code="card_declined", decline_code="generic_decline", message=_DECLINED),
    Card(
        "4000000000009995",
        code="card_declined",
        decline_code="insufficient_funds",
        message="Your card has insufficient funds.",
    ),
    Card("4000000000000069", code="expired_card", message="Your card has expired."),
    Card("4000000000009235", risk_level="elevated"),
    Card(AUTHENTICATE_ONCE, authentication="once"),
    Card(AUTHENTICATE_ALWAYS, authentication="always"),
    Card(REFUSED_LATER, is_refused_later=True),
    Card(DISPUTED, dispute_reason="fraudulent"),
    Card("4000000000002685", dispute_reason="product_not_received"),
    Card(FRAUD_WARNING, has_fraud_warning=True),
    Card(REFUND_SLOW, refund="slow"),
    Card(REFUND_FAILS, refund="fails"),
    Card(AVAILABLE_AT_ONCE, is_available_at_once=True),
)
# Stripe's names for cards that need no page and no number.
BY_NAME = {
    "pm_card_visa": SUCCESS,
    "pm_card_bypassPending": AVAILABLE_AT_ONCE,
    "pm_card_chargeCustomerFail": REFUSED_LATER,
    "pm_card_authenticationRequired": AUTHENTICATE_ALWAYS,
    "pm_card_createDispute": DISPUTED,
    "pm_card_refundFail": REFUND_FAILS,
}
REFUSAL_LATER = Card(
    REFUSED_LATER, code="card_declined", decline_code="generic_decline", message=_DECLINED
)
REFUSAL_OF_AUTHENTICATION = Card(
    AUTHENTICATE_ALWAYS,
    code="authentication_required",
    decline_code="authentication_required",
    message="Your card was declined. This transaction requires authentication.",
)
REFUSAL_ON_PAGE = Card(
    AUTHENTICATE_ONCE,
    code="payment_intent_authentication_failure",
    message="We are unable to authenticate your payment method. Please choose a different "
    "payment method and try again.",
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
