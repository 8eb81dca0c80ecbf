"""Errors of billing that callers may see."""

from __future__ import annotations

from marketplace.core.errors import (
    BadRequestError,
    ConflictError,
    InvalidInputError,
    MarketplaceError,
    NotFoundError,
)


class TransferConflictError(ConflictError):
    code = "transfer_conflict"
    title = "This idempotency key was used for another transfer."


class StripeUnavailableError(MarketplaceError):
    code = "stripe_unavailable"
    http_status = 503
    retryable = True
    title = "The payment service does not answer right now."


class StripeRefusedError(MarketplaceError):
    code = "stripe_refused"
    http_status = 502
    title = "The payment service refused the request."


class CardDeclinedError(StripeRefusedError):
    """A bank refused a charge; `decline_code` says why, `payment_intent_id` what is left."""

    code = "card_declined"
    http_status = 402
    title = "The card was declined."


class WebhookRefusedError(BadRequestError):
    code = "webhook_refused"
    title = "This is not a webhook that Stripe signed now."


class ReceiptKeyError(MarketplaceError):
    """The worker has no key that it may sign receipts with; for its operator."""

    code = "receipt_key"
    title = "There is no receipt key that follows the published ones."


class NoComingPriceError(NotFoundError):
    title = "No price was announced that could be withdrawn."


class OfferDearerError(InvalidInputError):
    """An offer is in force without being accepted, so it can only lower what an account pays."""

    code = "offer_dearer"
    title = "Something would cost this account more than it does now."


class CouponRefusedError(InvalidInputError):
    code = "coupon_refused"
    title = "The code cannot be used."
