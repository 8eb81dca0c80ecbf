"""`/v1/predictions/{id}/stream`: a prediction as events, while it waits and runs and afterwards.

| event | data |
|---|---|
| status | `{status, progress}`: where it is, each time that changes |
| output | a piece of text, as it is |
| restart | its node has gone: what was put out so far is void, and it begins anew |
| done | `{status, output, metrics, data_removed}`: the outputs besides the text; \
`reason` where it was canceled |
| error | `{status, code, detail, metrics}`: it has failed |

With `?events=output` only output, done and error are sent, the kinds that Replicate's clients know;
where it begins anew the stream ends with an error then, for they could not be told otherwise.

The address that a prediction names carries its own right to this one stream, until a moment:
Replicate's JavaScript client opens it without a key.

Every event has an id, from which `Last-Event-ID` goes on.

Source: replicate-python 1.0, `stream.py`; WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from inference.core.file_link import LinkExpiredError, LinkWrongError
from inference.core.stream_link import check_stream_right
from inference.gateway.auth import PREDICT, READ, Caller
from inference.gateway.database import Row
from inference.gateway.errors import (
    ClientGoneError,
    StreamLinkError,
    StreamLinkExpiredError,
    StreamRestartedError,
)
from inference.gateway.events import EventStream, streamed
from inference.gateway.http import Answer, Request
from inference.gateway.job_watch import Cursor, Event, JobWatches
from inference.gateway.protocols.native_stream import render_event
from marketplace.core.errors import BadRequestError, MarketplaceError, NotFoundError
from marketplace.core.problem import problem

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

_LAST = "last-event-id"
_QUIET = frozenset({"status", "restart"})

_WHOSE = """
    SELECT account_id FROM inference_prediction WHERE id = %(id)s
    UNION ALL SELECT account_id FROM inference_job WHERE id = %(id)s LIMIT 1
"""


async def open_link(request: Request, prediction_id: UUID, gateway: Gateway) -> Caller:
    """The account whose prediction an address with a signature names: it needs no key.

    Raises:
        StreamLinkError: It was not made by us for this prediction, or was changed.
        StreamLinkExpiredError: Its time is over.
        NotFoundError: The prediction is gone.
        AccountSuspendedError, AccountFrozenError: Its account may not see it now.
    """
    query = request.query
    try:
        check_stream_right(
            gateway.config.playground_secret,
            prediction_id,
            query.get("expires", ""),
            query["signature"],
            now_s=time.time(),
        )
    except LinkWrongError:
        raise StreamLinkError from None
    except LinkExpiredError:
        raise StreamLinkExpiredError from None
    row = await gateway.database.fetch_one(_WHOSE, {"id": prediction_id})
    if row is None:
        raise NotFoundError("There is no such prediction any more.")
    return await gateway.authenticator.find_caller(row["account_id"], None)


async def answer(
    request: Request,
    caller: Caller,
    row: Row,
    watches: JobWatches,
    *,
    find: Callable[[], Awaitable[Row]],
    render: Callable[[Row], Awaitable[dict[str, Any]]],
) -> Answer:
    """Send the events of a prediction.

    Args:
        request: What is answered.
        caller: Who may see it.
        row: The prediction.
        watches: Follow it.
        find: The row as it is now.
        render: Makes of it what its consumer sees.

    Raises:
        EventIdInvalidError: `Last-Event-ID` is none of this prediction.
        BadRequestError: `events` is neither all nor output.
        ConcurrencyLimitedError, CapacityError: Too many are watched already.
        OutputRemovedError: What follows the id is not kept any more.
    """
    caller.require(PREDICT, READ)
    is_plain = _read_kinds(request)
    headers = request.headers
    # One that is there and cannot be read is none of ours.
    last_id = headers.get(_LAST, "?") if _LAST in headers else None
    cursor = Cursor.parse(row["id"], last_id)
    if cursor.is_end:
        # By the standard: there is nothing more, and no use in coming again.
        return Answer(204, b"")
    last = cursor

    def render_error(error: MarketplaceError) -> str:
        document = problem(error, request_id=request.request_id) | {"instance": request.path}
        return render_event("error", str(last), orjson.dumps(document).decode())

    with watches.place(caller.account_id):
        async with EventStream(request, render_error) as events:
            following = watches.follow(
                cursor, find=find, render=render, is_gone=lambda: events.is_gone
            )
            async for event in following:
                last = event.cursor
                if is_plain and event.kind in _QUIET:
                    if event.kind == "restart":
                        raise StreamRestartedError
                    continue
                await _send(events, event)
            if events.is_gone:
                raise ClientGoneError
    return streamed(cost_nanos=row["cost_nanos"])


async def _send(events: EventStream, event: Event) -> None:
    is_text = event.kind == "output"
    text = event.data if is_text else orjson.dumps(event.data).decode()
    rendered = render_event(event.kind, str(event.cursor), text)
    if is_text:
        await events.send(rendered)
    else:
        await events.finish(rendered)


def _read_kinds(request: Request) -> bool:
    """Whether only the kinds of Replicate's clients are wanted."""
    wanted = request.query.get("events", "all")
    if wanted not in ("all", "output"):
        raise BadRequestError("events is all or output.")
    return wanted == "output"
