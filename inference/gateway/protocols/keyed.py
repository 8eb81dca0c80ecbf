"""The body of a request that predicts, and what was booked under its key before.

The same for every protocol: a retry with the same `Idempotency-Key` must find the first
prediction before anything of it is read, so that it is answered even where the model, its
price or its interface have changed since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from inference.gateway.auth import PREDICT, Caller
from inference.gateway.config import BODIES_PER_ACCOUNT_MAX
from inference.gateway.database import Row
from inference.gateway.deadline import is_async_preferred, read_deadline
from inference.gateway.errors import CapacityError, OutputRemovedError
from inference.gateway.http import Answer, Request, json_answer
from inference.gateway.idempotency import (
    IMPLIED_PREFIX,
    Claim,
    read_key,
    read_retry_count,
)
from inference.gateway.tag import read_tag
from marketplace.core.ids import to_public

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

REPLAYED = ("idempotent-replayed", "true")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyedBody:
    """A body; a claim where the request has a key; the prediction that the key has got."""

    body: bytes
    claim: Claim | None = None
    earlier: UUID | None = None


async def _read_as_it_is(request: Request) -> tuple[bytes, str]:
    return await request.read_body(), ""


async def read_keyed_body(
    gateway: Gateway,
    request: Request,
    caller: Caller,
    *,
    read: Callable[[Request], Awaitable[tuple[bytes, str]]] = _read_as_it_is,
) -> KeyedBody:
    """Read a request that wants a prediction.

    Args:
        gateway: Whose bookings are asked.
        request: Its body has not been read.
        caller: Who asks.
        read: The body, and what else than its octets decides how it is read.

    Raises:
        ForbiddenError: The key may not predict.
        InvoicePastDueError: The account has not paid for earlier predictions.
        MarketplaceError: The body or the key cannot be taken, or its first run is on its way.
    """
    caller.require(PREDICT)
    keyed = await _read_body(gateway, request, caller, read)
    if keyed.earlier is None:
        # Who repeats a request gets its answer; nothing new is begun.
        caller.require_paid()
    return keyed


async def _read_body(
    gateway: Gateway,
    request: Request,
    caller: Caller,
    read: Callable[[Request], Awaitable[tuple[bytes, str]]],
) -> KeyedBody:
    request.deadline_s = read_deadline(request.headers, request.deadline_s)
    request.tag = read_tag(request.headers)
    key = read_key(request.headers)
    body, mark = await take_body(gateway, request, caller, read)
    if key is None:
        return await _read_counted(gateway, request, caller, body, mark)
    claim = Claim(caller.account_id, key, request.fingerprint(body, mark=mark), request.id)
    earlier = await find_earlier(gateway, request, caller, claim)
    return KeyedBody(body, None if request.repeats else claim, earlier)


async def take_body(
    gateway: Gateway, request: Request, caller: Caller, read: Callable[[Request], Awaitable[T]]
) -> T:
    """Read a body as one of the few of its account that may be on their way.

    Raises:
        CapacityError: There are too many.
        MarketplaceError: What reading it raises.
    """
    open_bodies = gateway.bodies_open
    count = open_bodies.get(caller.account_id, 0)
    if count >= BODIES_PER_ACCOUNT_MAX:
        raise CapacityError("Too many bodies of this account have not arrived.", retry_after_s=1)
    open_bodies[caller.account_id] = count + 1
    try:
        return await read(request)
    finally:
        open_bodies[caller.account_id] -= 1
        if not open_bodies[caller.account_id]:
            del open_bodies[caller.account_id]


async def find_earlier(
    gateway: Gateway, request: Request, caller: Caller, claim: Claim
) -> UUID | None:
    """The prediction that a key has got already; None if the request may run, or is to run again.

    Raises:
        IdempotencyMismatchError, IdempotencyInFlightError: The key was used, or is in use.
        RateLimitedError: The caller asks too often.
    """
    earlier = await gateway.idempotency.find(claim.account_id, claim.key, claim.fingerprint)
    request.prediction_id = earlier or request.id
    if _repeat(gateway, request, caller, earlier):
        return None
    request.is_replay = earlier is not None
    if earlier is not None:
        # It runs nothing and costs a look-up, as reading the prediction does.
        gateway.limits.admit_read(caller)
    return earlier


async def _read_counted(
    gateway: Gateway, request: Request, caller: Caller, body: bytes, mark: str
) -> KeyedBody:
    """A body without a key; a claim of ours if its client counts its attempts."""
    count = read_retry_count(request.headers)
    if count is None:
        return KeyedBody(body)
    claim = Claim(
        caller.account_id,
        f"{IMPLIED_PREFIX}{to_public(request.id)}",
        request.fingerprint(body, mark=f"{caller.key_id}\n{mark}"),
        request.id,
        is_implied=True,
    )
    earlier = await gateway.idempotency.find_implied(claim) if count else None
    request.prediction_id = earlier or request.id
    if _repeat(gateway, request, caller, earlier):
        return KeyedBody(body)
    return KeyedBody(body, claim, earlier)


def _repeat(gateway: Gateway, request: Request, caller: Caller, earlier: UUID | None) -> bool:
    """Whether it runs again in the place of one whose answer nobody was allowed to keep."""
    if earlier is None or not caller.keeps_nothing or is_async_preferred(request.headers):
        return False
    if gateway.idempotency.may_repeat(earlier):
        request.repeats = earlier
    return request.repeats is not None


def take_output(row: Row) -> Any:
    """What was stored of the first answer.

    Raises:
        OutputRemovedError: It was too large to be kept, or is too old.
    """
    if row["output"] is None:
        raise OutputRemovedError
    return row["output"]


def replay(row: Row) -> Answer:
    """The stored answer of a protocol that keeps it whole; raises what `take_output` does."""
    return json_answer(take_output(row), headers=[REPLAYED], cost_nanos=row["cost_nanos"])
