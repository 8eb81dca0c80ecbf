"""Errors of billing that callers may see."""

from __future__ import annotations

from marketplace.core.errors import BadRequestError, ConflictError, MarketplaceError


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
