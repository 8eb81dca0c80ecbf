"""Errors of billing that callers may see."""

from __future__ import annotations

from marketplace.core.errors import (
    BadRequestError,
    ConflictError,
    InvalidInputError,
    LimitExceededError,
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


class StripeListTooLongError(StripeRefusedError):
    """More objects in a period than one list holds; a shorter period may be asked for."""


class CardDeclinedError(StripeRefusedError):
    """A bank refused a charge; `decline_code` says why, `payment_intent_id` what is left."""

    code = "card_declined"
    http_status = 402
    title = "The card was declined."


class WebhookRefusedError(BadRequestError):
    code = "webhook_refused"
    title = "This is not a webhook that Stripe signed now."


class InvoiceNotFinalError(ConflictError):
    code = "invoice_not_final"
    title = "The invoice is a draft: what it comes to is not certain yet."


class InvoiceTooLargeError(ConflictError):
    code = "invoice_too_large"
    title = "The invoice has more predictions than one document holds."


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


class TooManyDeclinesError(LimitExceededError):
    code = "too_many_declines"
    title = "Too many payments of this account were declined. Buying credit is paused."


class NothingToRefundError(ConflictError):
    code = "nothing_to_refund"
    title = "There is no unspent credit that was bought."


class RefundTooLargeError(ConflictError):
    """More than what is unspent and was paid; `refundable_cents` says how much is."""

    code = "refund_too_large"
    title = "That is more than what can be paid back."


class NoSavedCardError(ConflictError):
    code = "no_saved_card"
    title = "The account has no saved card."


class AutoTopupUntaxedError(ConflictError):
    code = "auto_topup_untaxed"
    title = "Credit cannot be bought by itself where tax is worked out on the payment page."


class CaseDecidedError(ConflictError):
    code = "case_decided"
    title = "This case is cleared already."


class StatementDiffersError(MarketplaceError):
    """The ledger and the predictions do not tell the same; for the platform's operator."""

    code = "statement_differs"
    title = "This statement does not add up, so there is none. The platform was told."


class PayoutTooLargeError(MarketplaceError):
    """More predictions than one document may have."""

    code = "payout_too_large"
    http_status = 422
    title = "This payout has more predictions than one document may have."
