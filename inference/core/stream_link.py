"""The address of one prediction's events that carries its own right, until a moment.

Replicate's JavaScript client opens `urls.stream` without a key.
Source: replicate-javascript 1.0, `lib/stream.js`.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from inference.core.file_link import check_right, write_right

# It ends with a full hour, so that who asks again gets the same address, and lies at least so far
# behind the prediction's deadline, or behind now: who comes back with the last id finds it open.
LINK_MARGIN_S = 3_600
_STREAM = b"link to the events of a prediction"


def write_stream_right(
    secret: str, prediction_id: UUID, deadline: datetime, *, now_s: float
) -> str:
    """For the query of the address of a prediction's events.

    Args:
        secret: What the gateways and the site share.
        prediction_id: Which.
        deadline: When it is over at the latest.
        now_s: Seconds since 1970.
    """
    return write_right(secret, _STREAM, prediction_id, choose_expiry(deadline, now_s=now_s))


def choose_expiry(deadline: datetime, *, now_s: float) -> int:
    """Until when an address is good that is told now, in seconds since 1970."""
    hours = int(max(now_s, deadline.timestamp())) // 3_600
    return (hours + 1) * 3_600 + LINK_MARGIN_S


def check_stream_right(
    secret: str, prediction_id: UUID, expires: str, signature: str, *, now_s: float
) -> None:
    """Refuse an address that does not open this prediction's events now.

    Raises:
        LinkWrongError: It was not made by us, was changed, or is one of something else.
        LinkExpiredError: Its time is over.
    """
    check_right(secret, _STREAM, prediction_id, expires, signature, now_s=now_s)
