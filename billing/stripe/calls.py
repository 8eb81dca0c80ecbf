"""What all calls to Stripe share: our own errors, long lists, and reading values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import stripe

from billing.errors import (
    CardDeclinedError,
    StripeListTooLongError,
    StripeRefusedError,
    StripeUnavailableError,
)

RETRY_AFTER_S = 5
LIST_SIZE_MAX = 1_000
PAGE_SIZE = 100

CURRENCY = "usd"

Metadata = Mapping[str, str]


class Calls:
    """A group of calls over one client. Safe to share between threads.

    Every method raises StripeUnavailableError when the outcome is not known or nothing was
    done, and the same call may be repeated; StripeRefusedError when repeating is no use.
    """

    def __init__(self, client: stripe.StripeClient) -> None:
        self._v1 = client.v1
        self._v2 = client.v2


@contextmanager
def our_errors() -> Iterator[None]:
    """Turn the SDK's errors into ours."""
    try:
        yield
    except (stripe.APIConnectionError, stripe.RateLimitError) as error:
        raise StripeUnavailableError(retry_after_s=RETRY_AFTER_S) from error
    except stripe.StripeError as error:
        # 409: the first call with this key still runs. 5xx: nobody knows.
        if (error.http_status or 500) >= 500 or error.http_status == 409:
            raise StripeUnavailableError(retry_after_s=RETRY_AFTER_S) from error
        raise _refusal(error) from error


def _refusal(error: stripe.StripeError) -> StripeRefusedError:
    # Stripe's own sentence can quote keys and addresses; the cause keeps it for the log.
    params: dict[str, Any] = {"stripe_code": error.code, "stripe_request_id": error.request_id}
    detail = f"The payment service refused the request ({error.code or error.http_status})."
    if not isinstance(error, stripe.CardError):
        return StripeRefusedError(detail, **params)
    told = error.error
    intent = None if told is None else told.payment_intent
    return CardDeclinedError(
        f"The card was declined ({(told and told.decline_code) or error.code}).",
        **params,
        decline_code=(told and told.decline_code) or error.code,
        payment_intent_id=None if intent is None else intent.id,
    )


def read_all(rows: Any) -> list[Any]:
    """Every row of a list, page by page; call it inside `our_errors`.

    Raises:
        StripeListTooLongError: More than `LIST_SIZE_MAX`; ask for a shorter period.
    """
    found = list(islice(rows.auto_paging_iter(), LIST_SIZE_MAX + 1))
    if len(found) > LIST_SIZE_MAX:
        raise StripeListTooLongError("The period holds too many movements for one list.")
    return found


def read_latest(rows: Any) -> Iterator[Any]:
    """The newest `LIST_SIZE_MAX` rows of a list, for a search that may end early."""
    return islice(rows.auto_paging_iter(), LIST_SIZE_MAX)


def period(start: datetime | None, end: datetime | None) -> Any:
    """Stripe's filter `created`; the end is not part of it."""
    bounds = {}
    if start is not None:
        bounds["gte"] = int(start.timestamp())
    if end is not None:
        bounds["lt"] = int(end.timestamp())
    return bounds


def at(moment: int) -> datetime:
    """A time of Stripe's, which are Unix seconds."""
    return datetime.fromtimestamp(moment, UTC)


def id_of(value: Any) -> str | None:
    """The id of something that is an id, an expanded object, or nothing."""
    return value if value is None or isinstance(value, str) else str(value.id)


def texts(metadata: Any) -> dict[str, str]:
    """Metadata as a dictionary, whatever form the SDK gives it."""
    if metadata is None:
        return {}
    return dict(metadata.to_dict() if isinstance(metadata, stripe.StripeObject) else metadata)
