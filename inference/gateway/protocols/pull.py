"""`/node/v1`: where nodes come for jobs. They need no way in to them, and no database.

| call | body | answer |
|---|---|---|
| POST start | `{}` | what the node held before goes back into the queue |
| POST claim | `{slot, version_ids, wait_s}` | a frame with a job, or 204 after `wait_s` |
| POST heartbeat | `{jobs: [{id, epoch, is_running}]}` | `{words: {id: word}, drain}` |
| POST jobs/{id}/output | `{epoch, seq, chunks}` | `{word, next}` |
| POST jobs/{id}/finish | a frame `{epoch, error, predict_time_us}` with outputs | `{outcome}` |
| POST jobs/{id}/hand-back | `{epoch, code, detail}` | `{state}` |

Words are go, cancel and stale. Frames are those of `inference.triton.frames`. Whoever comes with an
epoch that is not the newest is told `stale`: another node has the job, and what this one found is
discarded.

`output` is what a job says while it runs: pieces of its streamed output, the first of which has the
number `seq`, counted from 0 under each lease. What comes again is passed over, what comes too early
is refused (`output_out_of_order`). Besides cancel and stale its words are kept, full (no more is
kept of this job) and away (nothing can be kept now); the whole output comes with `finish` anyway.
A run that was canceled may bring with `finish` what it had given until then, and `piece_count`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from inference.broker.job import (
    HEARTBEAT_S,
    LEASE_S,
    Beat,
    BrokerUnavailableError,
    SlotTakenError,
)
from inference.gateway.cache import Cache
from inference.gateway.config import (
    CLAIM_WAIT_MAX_S,
    JOB_RUN_MAX_S,
    NODE_JOBS_MAX,
    NODE_SLOTS_MAX,
    NODE_TTL_S,
    NODE_VERSIONS_MAX,
    OUTPUT_BYTES_MAX,
    OUTPUT_CHUNKS_MAX,
)
from inference.gateway.database import DatabaseUnavailableError
from inference.gateway.http import Answer, Request, json_answer, parse_json
from inference.gateway.jobs import Jobs, Work
from inference.triton import frames
from inference.triton.errors import TensorError
from marketplace.core import keys
from marketplace.core.clock import utc_now
from marketplace.core.errors import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    MarketplaceError,
    MethodNotAllowedError,
    NotFoundError,
    PayloadTooLargeError,
)
from marketplace.core.problem import CONTENT_TYPE, problem

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

_FIND_NODE = """
    SELECT id, drain_requested_at IS NOT NULL AS is_draining FROM inference_node
    WHERE token_digest = %s AND revoked_at IS NULL
"""
_CODE_LENGTH_MAX, _DETAIL_LENGTH_MAX = 64, 500


class SlotBusyError(ConflictError):
    code = "slot_busy"
    title = "The slot has a job already."


class OutputOutOfOrderError(ConflictError):
    code = "output_out_of_order"
    title = "What the job said before is missing."


class PullProtocol:
    """Answers the routes below /node."""

    def __init__(self, gateway: Gateway, jobs: Jobs) -> None:
        self.gateway = gateway
        self.jobs = jobs
        self._nodes: Cache[bytes, tuple[UUID, bool]] = Cache(NODE_TTL_S)
        self._nodes.enable()

    async def answer(self, request: Request) -> Answer:
        """Find the route and answer.

        Raises:
            MarketplaceError: What is wrong with the request, or with us.
        """
        node_id, is_draining = await self._authenticate(request)
        if request.method != "POST":
            raise MethodNotAllowedError
        try:
            match request.segments[1:]:
                case ["v1", "start"]:
                    count = await self.jobs.broker.release_node(node_id, "node_restarted")
                    return json_answer({"released_count": count})
                case ["v1", "claim"]:
                    return await self._claim(request, node_id)
                case ["v1", "heartbeat"]:
                    return await self._take_heartbeat(request, node_id, is_draining)
                case ["v1", "jobs", job_id, "output"]:
                    return await self._append(request, node_id, _read_id(job_id))
                case ["v1", "jobs", job_id, "finish"]:
                    return await self._finish(request, node_id, _read_id(job_id))
                case ["v1", "jobs", job_id, "hand-back"]:
                    return await self._hand_back(request, node_id, _read_id(job_id))
        except BrokerUnavailableError:
            raise DatabaseUnavailableError from None
        raise NotFoundError

    def render_error(self, request: Request, error: MarketplaceError) -> Answer:
        """The error as problem+json."""
        document = problem(error, request_id=request.request_id)
        answer = json_answer(document | {"instance": request.path}, status=error.http_status)
        answer.content_type = CONTENT_TYPE
        return answer

    async def _authenticate(self, request: Request) -> tuple[UUID, bool]:
        scheme, _, text = (request.headers.get("authorization") or "").partition(" ")
        text = text.strip()
        if (
            scheme.lower() != "bearer"
            or not text.startswith(keys.NODE)
            or not keys.is_well_formed(text)
        ):
            raise AuthenticationError("This is not the token of a node.")
        digest = keys.digest(text)
        known = self._nodes.get(digest)
        if known is None:
            generation = self._nodes.generation
            row = await self.gateway.database.fetch_one(_FIND_NODE, [digest])
            if row is None:
                raise AuthenticationError("This is not the token of a node.")
            known = (row["id"], row["is_draining"])
            self._nodes.put(digest, known, generation=generation)
        return known

    async def _claim(self, request: Request, node_id: UUID) -> Answer:
        body = await _read_object(request)
        slot, wait_s = body.get("slot"), body.get("wait_s", 0)
        version_ids = _read_ids(body.get("version_ids"))
        if type(slot) is not int or not 0 <= slot < NODE_SLOTS_MAX:
            raise BadRequestError(f"slot is a whole number below {NODE_SLOTS_MAX}.")
        if not isinstance(wait_s, int | float) or not 0 <= wait_s <= CLAIM_WAIT_MAX_S:
            raise BadRequestError(f"wait_s is at most {CLAIM_WAIT_MAX_S:g}.")
        deadline_s = time.monotonic() + wait_s
        while True:
            if (await self._authenticate(request))[1]:
                # It asks again soon, and is not told that there is nothing to do.
                await asyncio.sleep(min(NODE_TTL_S, max(0.0, deadline_s - time.monotonic())))
                return Answer(status=204, body=b"")
            try:
                work = await self.jobs.claim(node_id, slot, version_ids)
            except SlotTakenError:
                raise SlotBusyError from None
            if work is not None:
                return _render_work(work)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or self.gateway.closing.has_begun:
                return Answer(status=204, body=b"")
            await self.jobs.broker.wait_for_work(left_s, version_ids)

    async def _take_heartbeat(self, request: Request, node_id: UUID, is_draining: bool) -> Answer:
        body = await _read_object(request)
        given = body.get("jobs")
        if not isinstance(given, list) or len(given) > NODE_JOBS_MAX:
            raise BadRequestError(f"jobs is a list of at most {NODE_JOBS_MAX}.")
        beats = [
            Beat(_read_id(one.get("id")), _read_epoch(one), one.get("is_running") is True)
            for one in given
            if isinstance(one, dict)
        ]
        words = await self.jobs.heartbeat(node_id, beats) if beats else {}
        document = {"words": {str(one): word for one, word in words.items()}, "drain": is_draining}
        return json_answer(document)

    async def _append(self, request: Request, node_id: UUID, job_id: UUID) -> Answer:
        body = await _read_object(request)
        number, chunks = body.get("seq"), _read_chunks(body.get("chunks"))
        if type(number) is not int or not 0 <= number < 2**31:
            raise BadRequestError("seq is a whole number, counted from 0.")
        word, expected = await self.jobs.append(node_id, job_id, _read_epoch(body), number, chunks)
        if word == "gap":
            raise OutputOutOfOrderError(f"The next chunk is number {expected}.", next=expected)
        return json_answer({"word": word, "next": expected})

    async def _finish(self, request: Request, node_id: UUID, job_id: UUID) -> Answer:
        try:
            document, found = frames.load(await request.read_body())
        except TensorError as fault:
            raise BadRequestError(f"The body is no frame: {fault}.") from None
        error = _read_text(document, "error", _CODE_LENGTH_MAX)
        predict_time_us = document.get("predict_time_us")
        if type(predict_time_us) is not int or predict_time_us < 0:
            raise BadRequestError("predict_time_us is a whole number.")
        if not (error or found) or (found and error not in ("", "canceled")):
            raise BadRequestError("A job has either an error or outputs.")
        piece_count = document.get("piece_count", 0)
        if type(piece_count) is not int or not 0 <= piece_count < 2**31:
            raise BadRequestError("piece_count is a whole number.")
        outcome = await self.jobs.finish(
            node_id,
            job_id,
            _read_epoch(document),
            outputs=frames.to_outputs(found) if found else None,
            error=error,
            predict_time_us=min(predict_time_us, int(JOB_RUN_MAX_S * 1e6)),
            piece_count=piece_count,
        )
        return json_answer({"outcome": outcome})

    async def _hand_back(self, request: Request, node_id: UUID, job_id: UUID) -> Answer:
        body = await _read_object(request)
        state = await self.jobs.broker.hand_back(
            node_id,
            job_id,
            _read_epoch(body),
            _read_text(body, "code", _CODE_LENGTH_MAX) or "unavailable",
            _read_text(body, "detail", _DETAIL_LENGTH_MAX),
        )
        return json_answer({"state": state})


def _render_work(work: Work) -> Answer:
    lease = work.lease
    left_s = (lease.deadline_at - utc_now()).total_seconds()
    document = {
        "id": str(lease.id),
        "epoch": lease.epoch,
        "attempt": lease.attempt,
        "version_id": str(lease.version_id),
        "output_names": list(work.output_names),
        "streamed_output": work.streamed_output,
        "run_max_s": max(0.0, min(JOB_RUN_MAX_S, left_s)),
        "lease_s": LEASE_S,
        "heartbeat_s": HEARTBEAT_S,
    }
    answer = Answer(status=200, body=frames.dump(document, work.tensors))
    answer.content_type = frames.CONTENT_TYPE
    return answer


async def _read_object(request: Request) -> dict[str, Any]:
    body = parse_json(await request.read_body())
    if not isinstance(body, dict):
        raise BadRequestError("The body must be an object.")
    return body


def _read_id(text: Any) -> UUID:
    try:
        return UUID(text)
    except (ValueError, TypeError, AttributeError):
        raise BadRequestError("An id is a UUID.") from None


def _read_ids(given: Any) -> list[UUID]:
    if not isinstance(given, list) or len(given) > NODE_VERSIONS_MAX:
        raise BadRequestError(f"version_ids is a list of at most {NODE_VERSIONS_MAX}.")
    return [_read_id(one) for one in given]


def _read_chunks(given: Any) -> list[str]:
    if not isinstance(given, list) or not 0 < len(given) <= OUTPUT_CHUNKS_MAX:
        raise BadRequestError(f"chunks is a list of 1 to {OUTPUT_CHUNKS_MAX} texts.")
    if not all(isinstance(one, str) and one for one in given):
        raise BadRequestError("A chunk is a text, and not empty.")
    if sum(len(one.encode()) for one in given) > OUTPUT_BYTES_MAX:
        raise PayloadTooLargeError(
            f"The chunks of one call have at most {OUTPUT_BYTES_MAX} bytes.",
            limit_bytes=OUTPUT_BYTES_MAX,
        )
    return given


def _read_epoch(body: dict[str, Any]) -> int:
    epoch = body.get("epoch")
    if type(epoch) is not int or not 0 < epoch < 2**63:
        raise BadRequestError("epoch is a whole number above zero.")
    return epoch


def _read_text(body: dict[str, Any], name: str, length_max: int) -> str:
    text = body.get(name, "")
    if not isinstance(text, str) or "\x00" in text:
        raise BadRequestError(f"{name} is a text.")
    return text[:length_max]
