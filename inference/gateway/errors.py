"""The gateway's own refusals; the rest come from `marketplace.core` and `inference.triton`."""

from __future__ import annotations

from inference.triton.errors import ModelNotReadyError
from marketplace.core.errors import (
    BadRequestError,
    ConflictError,
    DeadlineError,
    ForbiddenError,
    GoneError,
    InvalidInputError,
    LimitExceededError,
    MarketplaceError,
    NotFoundError,
    UnavailableError,
)

# A replica that comes up is seen within this time; asking sooner only costs both sides.
NOT_READY_RETRY_S = 5

__all__ = [
    "AccountSuspendedError",
    "BadJSONError",
    "BookingUnknownError",
    "BudgetExceededError",
    "CanceledError",
    "CapacityError",
    "ClaimLostError",
    "ClientGoneError",
    "ConcurrencyLimitedError",
    "DeadlineInvalidError",
    "EventIdInvalidError",
    "FilesUnavailableError",
    "HoldGoneError",
    "IdempotencyInFlightError",
    "IdempotencyMismatchError",
    "InvoicePastDueError",
    "JobQueueFullError",
    "KeyModeForbiddenError",
    "MaximumCostError",
    "ModelNotAllowedError",
    "ModelNotReadyError",
    "ModelWakingError",
    "NoNodeLargeEnoughError",
    "NotOfferedError",
    "OutputRemovedError",
    "ParameterError",
    "QueryBudgetExceededError",
    "QueryBudgetSpentError",
    "RateLimitedError",
    "RequestTimeoutError",
    "StreamBrokenError",
    "StreamKeyedError",
    "StreamLinkError",
    "StreamLinkExpiredError",
    "StreamRestartedError",
    "TagInvalidError",
    "UnitsExceedLimitError",
    "UnsupportedParameterError",
    "WakeQueueFullError",
    "copy_for_another",
]


class AccountSuspendedError(ForbiddenError):
    code = "account_suspended"
    title = "The account is suspended."


class InvoicePastDueError(MarketplaceError):
    """Its keys are paused, not its account suspended: it can read, and work again by paying."""

    code = "invoice_past_due"
    http_status = 402
    title = "An invoice of the account is past due. Pay it, and its keys work again at once."


class KeyModeForbiddenError(ForbiddenError):
    """A test key runs its own account's models only: others' time is not free."""

    code = "test_key_forbidden"
    title = "A test key runs only models of its own account."


class ModelNotAllowedError(ForbiddenError):
    """The account may run it; this key was made for others."""

    code = "model_not_allowed"
    title = "The key does not run this model."


class BadJSONError(BadRequestError):
    title = "The body is not JSON."


class ParameterError(BadRequestError):
    """A parameter below /openai/v1, where clients expect 400 and its name."""

    code = "invalid_parameter"
    title = "A parameter of the request is not valid."

    def __init__(self, param: str, detail: str) -> None:
        super().__init__(detail, param=param)


class UnsupportedParameterError(ParameterError):
    """Silence would be mistaken for a promise."""

    code = "unsupported_parameter"
    title = "A parameter of the request cannot be honoured."


class CapacityError(UnavailableError):
    code = "capacity"
    title = "The gateway is at its limit."


class ModelWakingError(UnavailableError):
    """It slept because nobody called it, and is not loaded yet. Waiting costs nothing."""

    code = "model_waking"
    title = "The model is being loaded. Nothing was charged."


class NoNodeLargeEnoughError(UnavailableError):
    """Its files weigh more than all memory of any node: to wait for one would help nobody."""

    code = "no_node_large_enough"
    retryable = False
    title = "No node has memory enough for this version."


class WakeQueueFullError(UnavailableError):
    """So many wait for models to be loaded that no more may."""

    code = "wake_queue_full"
    title = "Too many requests wait for models that are being loaded."


class RateLimitedError(LimitExceededError):
    code = "rate_limited"
    title = "A limit of requests or units a minute is reached."


class ConcurrencyLimitedError(LimitExceededError):
    code = "concurrency_limited"
    title = "A limit of requests at the same time is reached."


class UnitsExceedLimitError(LimitExceededError):
    """No waiting helps: the request alone is more than a minute allows."""

    code = "units_exceed_limit"
    retryable = False
    title = "The request has more units than the limit allows in a minute."


class JobQueueFullError(LimitExceededError):
    code = "job_queue_full"
    title = "Too many predictions wait already."


class QueryBudgetExceededError(LimitExceededError):
    """The model's creator lets a consumer ask only so many different inputs a day."""

    code = "query_budget_exceeded"
    title = "The day's budget of different inputs to this model is used up."

    def __init__(self, limit: int, *, retry_after_s: int) -> None:
        detail = f"The model answers {limit:,} different inputs of an account a day (UTC)."
        super().__init__(detail, retry_after_s=retry_after_s)


class QueryBudgetSpentError(ForbiddenError):
    """No waiting helps; only the model's creator does."""

    code = "query_budget_spent"
    title = "The budget of different inputs to this model is used up."

    def __init__(self, limit: int) -> None:
        detail = f"The model answers {limit:,} different inputs of an account in all."
        super().__init__(detail)


class NotOfferedError(NotFoundError):
    """A call of the protocol that controls a server; there is none to control."""

    code = "not_offered"
    http_status = 501
    title = "This call is not offered here."


class PriceUnboundedError(InvalidInputError):
    """Nothing runs whose most is not known: that much is reserved before."""

    code = "price_unbounded"
    title = "The most that this prediction can cost is not known."


class MaximumCostError(InvalidInputError):
    """The caller has said how much it may cost; the most that it can cost is more."""

    code = "maximum_cost"
    title = "The prediction could cost more than the request allows."


class HoldGoneError(DeadlineError):
    """It took longer than its credit was reserved for; nothing was booked."""


class IdempotencyInFlightError(ConflictError):
    code = "idempotency_in_flight"
    retryable = True
    title = "The first request with this idempotency key is still running."


class IdempotencyMismatchError(InvalidInputError):
    code = "idempotency_mismatch"
    title = "This idempotency key was used for another request."


class ClaimLostError(ConflictError):
    """A retry took the key over while this run was still on its way; it was not booked."""

    code = "idempotency_in_flight"
    retryable = True
    title = "A retry with the same idempotency key has taken over. This run was not charged."


class OutputRemovedError(MarketplaceError):
    """The retry of a keyed request whose output is not kept: it was too large, or too long ago."""

    code = "output_removed"
    http_status = 410
    title = "This request was answered and charged before; its output is not kept any more."


class RequestTimeoutError(BadRequestError):
    """The body came too slowly; a connection that trickles must not hold its place."""

    code = "request_timeout"
    http_status = 408
    title = "The body did not arrive in time."


class BudgetExceededError(MarketplaceError):
    """The key may spend no more for now; its account may."""

    code = "budget_exceeded"
    http_status = 402
    title = "A budget of the key is used up."


class DeadlineInvalidError(BadRequestError):
    """A header that limits the time and says nothing that can be kept."""

    code = "invalid_deadline"
    title = "The time limit of the request is not valid."


class TagInvalidError(BadRequestError):
    """A header that names the request's usage, and cannot be kept as it is."""

    code = "invalid_tag"
    title = "The tag of the request is not valid."


class CanceledError(MarketplaceError):
    """The consumer has cancelled it while it ran."""

    code = "canceled"
    http_status = 499
    title = "The prediction was canceled. It was not charged."


class ClientGoneError(MarketplaceError):
    """Nobody is there to read the answer. What is not delivered is not charged."""

    code = "client_gone"
    http_status = 499
    title = "The connection was closed before the answer."


class StreamBrokenError(MarketplaceError):
    """The stream ended early, after something of it had been delivered."""

    code = "stream_broken"
    title = "The answer broke off. What was delivered of it was charged."

    def __init__(self, cause: str) -> None:
        super().__init__(f"The answer broke off ({cause}). What was delivered of it was charged.")


class StreamKeyedError(BadRequestError):
    """A stream is charged as it was delivered, once; no retry could deliver it again."""

    code = "stream_with_key"
    title = "A stream cannot be repeated: leave out its Idempotency-Key, or `stream`."


class EventIdInvalidError(BadRequestError):
    """A `Last-Event-ID` that says nothing of this prediction: going on there would be a guess."""

    code = "invalid_event_id"
    title = "The id of the last event is not one of this prediction."


class StreamRestartedError(ConflictError):
    """Its node has gone, and it runs again on another one, which may say something else."""

    code = "stream_restarted"
    retryable = True
    title = "The prediction began anew. What was put out so far is void: watch it again."


class StreamLinkError(MarketplaceError):
    code = "stream_link_invalid"
    http_status = 403
    title = "This address of a prediction's events was changed, or belongs to another one."


class StreamLinkExpiredError(GoneError):
    code = "stream_link_expired"
    title = "This address of events has expired. Ask for the prediction again to get another."


class BookingUnknownError(UnavailableError):
    """Postgres went away while it booked; only asking for the prediction can tell."""

    code = "booking_unknown"
    retryable = False
    title = "The prediction ran, and it is not known yet whether it was booked."


def copy_for_another(error: BaseException) -> MarketplaceError:
    """The same failure for one more caller; what is no error of ours is an internal one.

    Each gets an exception of its own: a traceback grows with every place that one passes.
    """
    if not isinstance(error, MarketplaceError):
        return MarketplaceError()
    # Not by its constructor, which is different for each class.
    copied = type(error).__new__(type(error))
    copied.args = error.args
    vars(copied).update(vars(error))
    return copied


class FilesUnavailableError(UnavailableError):
    code = "files_unavailable"
    title = "The site, which keeps the files, does not answer."
