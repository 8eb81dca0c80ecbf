"""Predictions that run later: into the queue, out of it to nodes, and back with what they found.

A job meets the same checks, limits and prices as a prediction that is waited for. Its money is
reserved when it is accepted, and taken in the transaction that stores what it gave.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from inference.broker.job import (
    ATTEMPTS_MAX,
    TIMEOUT_S,
    Beat,
    Broker,
    BrokerUnavailableError,
    Ending,
    Lease,
    NewJob,
    Priority,
)
from inference.broker.output import Outputs
from inference.gateway import metering
from inference.gateway.auth import Caller
from inference.gateway.catalog import Catalog, Offer, Priced
from inference.gateway.config import (
    JOB_LOOK_S,
    JOB_RUN_MAX_S,
    JOB_WAIT_MAX_S,
    OUTPUT_SO_FAR_CHARS_MAX,
    REAP_S,
)
from inference.gateway.database import Database, DatabaseUnavailableError
from inference.gateway.errors import (
    BudgetExceededError,
    ClaimLostError,
    FilesUnavailableError,
    JobQueueFullError,
    NoNodeLargeEnoughError,
)
from inference.gateway.input_files import fetch_named
from inference.gateway.output_files import OutputFiles
from inference.gateway.prediction import Prediction
from inference.gateway.predictor import Predictor, refuse_nul
from inference.triton import tensors as wire
from inference.triton.errors import OutputError, TensorError
from inference.triton.tensors import Tensor
from marketplace.core.errors import InsufficientCreditError, MarketplaceError
from strongroom.interface import Interface

logger = logging.getLogger(__name__)

# Postgres or the site does not answer, which is no fault of a job's.
_AWAY = (DatabaseUnavailableError, FilesUnavailableError)
_REFUSALS: Mapping[str, type[MarketplaceError]] = {
    "insufficient_credit": InsufficientCreditError,
    "budget_exceeded": BudgetExceededError,
}
# What an account's next job of a version waits behind (what is on offer, and what of its own is not
# yet), and how long one of the runs takes; counted up to a limit.
_DEPTH = """
    SELECT (SELECT count(*) FROM (SELECT 1 FROM inference_job j WHERE j.version_id = %(version)s
            AND j.state = 'queued' AND j.is_offered LIMIT 10000) q)
            + coalesce((SELECT f.parked_count FROM inference_jobflow f
                WHERE f.version_id = %(version)s AND f.account_id = %(account)s), 0)
            AS waiting_count,
        (SELECT p.mean_us FROM inference_jobpace p WHERE p.version_id = %(version)s) AS mean_us,
        (SELECT count(*) FROM inference_replica r JOIN inference_node n ON n.id = r.node_id
            WHERE r.version_id = %(version)s AND r.state = 'ready' AND r.wanted
                AND n.revoked_at IS NULL AND n.triton_ready) AS place_count
"""
# How far the replica has come that will be ready first, and how long that takes, where it is known.
_PLACE = """
    SELECT j.state, j.is_offered, j.attempt, j.cancel_requested_at IS NOT NULL AS is_canceling,
        CASE WHEN j.state = 'queued' THEN (SELECT count(*) FROM (
            SELECT 1 FROM inference_job o WHERE o.version_id = j.version_id
                AND o.state = 'queued' AND o.is_offered
                -- All on offer are ahead of one that is not: it has no rank yet.
                AND (NOT j.is_offered
                    OR (o.rank_at, o.deadline_at, o.id) < (j.rank_at, j.deadline_at, j.id))
                LIMIT 10000) a)
            + CASE WHEN j.is_offered THEN 0 ELSE (SELECT count(*) FROM (
                SELECT 1 FROM inference_job o WHERE o.account_id = j.account_id
                    AND o.version_id = j.version_id AND o.state = 'queued'
                    AND NOT o.is_offered AND (o.priority, o.id) < (j.priority, j.id)
                LIMIT 10000) b) END
        END AS ahead_count, j.version_id, j.account_id, r.state AS replica_state, r.progress,
        d.id IS NOT NULL AS is_waking,
        greatest(0, d.cold_start_ms / 1000.0
            - coalesce(extract(epoch FROM clock_timestamp() - d.waking_since), 0)
            )::float8 AS load_left_s
    FROM inference_job j
    LEFT JOIN LATERAL (SELECT r.state, r.progress FROM inference_replica r
        JOIN inference_node n ON n.id = r.node_id
        WHERE j.state = 'queued' AND r.version_id = j.version_id AND r.purpose = 'serve'
            AND r.wanted AND n.revoked_at IS NULL AND (r.state <> 'ready' OR n.triton_ready)
            AND r.state = ANY(%(way)s)
        ORDER BY array_position(%(way)s, r.state::text) DESC, r.progress DESC LIMIT 1) r ON true
    LEFT JOIN inference_deployment d ON d.version_id = j.version_id AND d.stopped_at IS NULL
        AND (d.slept_at IS NOT NULL OR d.waking_since IS NOT NULL)
    WHERE j.id = %(id)s
"""
# A replica's states from the first to the last, and what they are called here.
_WAY: Mapping[str, str] = {
    "assigned": "waking",
    "fetching": "fetching",
    "starting": "preparing",
    "decrypting": "decrypting",
    "validating": "validating",
    "loading": "loading",
    "warming": "warming",
    "ready": "queued",
}
_FITS_NOWHERE = "SELECT inference_fits_nowhere(%s) AS fits_nowhere"
_RETENTION = "SELECT retention_days FROM marketplace_account WHERE id = %s"
_STATE = "SELECT state FROM inference_job WHERE id = %s"
_HELD = """
    SELECT j.cancel_requested_at IS NOT NULL AS is_canceling, a.retention_days = 0 AS keeps_nothing
    FROM inference_job j JOIN marketplace_account a ON a.id = j.account_id
    WHERE j.id = %s AND j.lease_node_id = %s AND j.lease_epoch = %s
        AND j.state IN ('leased', 'running')
"""
# What is being said now, and under which lease; nothing of an account that keeps nothing.
_SAYING = """
    SELECT j.lease_epoch, (SELECT o->>'name' FROM jsonb_array_elements(v.interface->'outputs') o
        WHERE o->'stream' = 'true'::jsonb LIMIT 1) AS streamed
    FROM inference_job j JOIN marketplace_modelversion v ON v.id = j.version_id
        JOIN marketplace_account a ON a.id = j.account_id
    WHERE j.id = %s AND j.state IN ('leased', 'running') AND a.retention_days > 0
"""
_PRICE = "SELECT to_jsonb(p) AS price FROM billing_price p WHERE p.id = %s"
OVER = frozenset({"succeeded", "failed", "canceled", "dead"})


class LineGoneError(Exception):
    """The line of a batch is in the queue already, or is not to come there any more."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a caller wants a job to be run."""

    priority: Priority = Priority.NORMAL
    timeout_s: float = TIMEOUT_S
    attempts_max: int = ATTEMPTS_MAX
    webhook_url: str = ""
    webhook_events: tuple[str, ...] = ()
    # The line that it is, in the transaction that queues it; None where it belongs to no batch.
    batch_line_id: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """A lease, and what a node needs to run it."""

    lease: Lease
    tensors: Sequence[Tensor]
    output_names: Sequence[str]
    # The output that comes in pieces; empty where none does.
    streamed_output: str = ""


class Jobs:
    """All that a gateway does with the queue.

    Args:
        broker: The queue.
        catalog: Knows the interfaces of versions.
        predictor: Whose limits and keys hold for jobs, too.
        database: For what is only read.
        outputs: What jobs say while they run.
    """

    def __init__(
        self,
        broker: Broker,
        catalog: Catalog,
        predictor: Predictor,
        database: Database,
        outputs: Outputs,
    ) -> None:
        self.broker = broker
        self.outputs = outputs
        self._telling: set[asyncio.Task[None]] = set()
        self.catalog = catalog
        self.predictor = predictor
        self.database = database

    async def run(self) -> None:
        """Look after the queue for ever: lost leases, late jobs, rests of money."""
        while True:
            await asyncio.sleep(REAP_S)
            try:
                counts = await self.broker.reap()
            except BrokerUnavailableError:
                continue
            if any(counts.values()):
                logger.info("queue: %s", counts)

    async def submit(
        self,
        prediction: Prediction,
        tensors: Sequence[Tensor],
        given: Mapping[str, Any],
        wish: Wish,
        *,
        was_admitted: bool = False,
    ) -> None:
        """Accept a prediction that runs later.

        Args:
            prediction: From `Predictor.begin`.
            tensors: Its inputs, checked; only looked at.
            given: Its input, checked, with its defaults: what will be run.
            wish: How.
            was_admitted: Whether its limits have counted it already.

        Raises:
            JobQueueFullError: It would wait too long, or its account has too many waiting.
            NoNodeLargeEnoughError: It would wait for ever.
            DatabaseUnavailableError: It may have been accepted; a keyed retry will tell.
            LineGoneError: It is the line of a batch, and nothing is to be done.
            MarketplaceError: Nothing was accepted.
        """
        predictor, caller = self.predictor, prediction.caller
        prediction.allowed_s = min(JOB_RUN_MAX_S, wish.timeout_s)
        metering.bound(prediction, [tensors])
        if not was_admitted:
            # Only what waits now is limited in number, so the place is free again at once.
            with await predictor.limits.admit(caller, prediction.offer, prediction.rows):
                pass
        predictor.queries.admit(caller, prediction.offer, [tensors])
        expected_ms = await self._refuse_wait(prediction.offer, caller.account_id)
        claim = prediction.claim
        if claim is not None:
            await predictor.idempotency.take(claim)
        job = NewJob(
            id=prediction.id,
            account_id=caller.account_id,
            api_key_id=caller.key_id,
            version_id=prediction.offer.version_id,
            creator_id=prediction.offer.owner_id,
            price_id=prediction.price.id,
            mode=prediction.mode,
            source=caller.source,
            protocol=prediction.protocol,
            tag=prediction.tag,
            priority=wish.priority,
            rows=prediction.rows,
            gross_nanos=prediction.gross_nanos,
            is_rated=prediction.is_rated,
            metered=prediction.metered,
            expected_ms=expected_ms,
            timeout_s=wish.timeout_s,
            attempts_max=wish.attempts_max,
            has_budget=caller.has_budget and not caller.is_test,
            idempotency_key=None if claim is None else claim.key,
            webhook_url=wish.webhook_url,
            webhook_events=wish.webhook_events,
            batch_line_id=wish.batch_line_id,
            input=given,
        )
        try:
            outcome = await self.broker.submit(job)
        except BrokerUnavailableError:
            raise DatabaseUnavailableError from None
        if outcome == "queued":
            return
        if claim is not None:
            await predictor.idempotency.release(claim)
        if outcome == "queue_full":
            raise JobQueueFullError(
                "The account has too many predictions waiting.", retry_after_s=JOB_LOOK_S
            )
        if outcome == "gone":
            raise LineGoneError
        if outcome == "claim_lost":
            raise ClaimLostError(retry_after_s=1)
        raise _REFUSALS[outcome]

    async def cancel(self, account_id: UUID, job_id: UUID) -> str | None:
        """Give a job up: its state then; None if it is none of the account's."""
        try:
            return await self.broker.cancel(account_id, job_id)
        except BrokerUnavailableError:
            raise DatabaseUnavailableError from None

    async def wait_until_over(self, job_id: UUID, timeout_s: float) -> bool:
        """Whether it was over within so long."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        wait_s = 0.02
        while True:
            row = await self.database.fetch_one(_STATE, [job_id])
            if row is None or row["state"] in OVER:
                return True
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                return False
            await asyncio.sleep(min(wait_s, left_s))
            wait_s = min(wait_s * 1.5, 0.5)

    async def describe_place(self, job_id: UUID) -> dict[str, Any] | None:
        """Where a job is on its way; None if there is none.

        Returns:
            `stage`: queued; while no replica of its version is ready, waking, fetching (with
            `percent` of the bytes, as the next ones where it is known), preparing, decrypting,
            validating, loading or warming; starting (a node has it), running, or how it ended.
            While it waits, `position` (1 is next) and `eta_s`, a guess from how long such loads
            and runs take.
        """
        row = await self.database.fetch_one(_PLACE, {"id": job_id, "way": list(_WAY)})
        if row is None:
            return None
        stage = "starting" if row["state"] == "leased" else row["state"]
        place: dict[str, Any] = {
            "stage": "canceling" if row["is_canceling"] else stage,
            "attempt": row["attempt"],
        }
        if row["state"] != "queued":
            return place
        depth = await self._measure(row["version_id"], row["account_id"])
        eta_s = _predict_wait_s(depth, row["ahead_count"])
        if row["replica_state"] is not None:
            place["stage"] = _WAY[row["replica_state"]]
        elif row["is_waking"]:
            place["stage"] = "waking"
        if place["stage"] != "queued":
            eta_s += row["load_left_s"] or 0
            if row["progress"]:
                place["percent"] = min(100, math.floor(row["progress"] * 100))
        return place | {"position": row["ahead_count"] + 1, "eta_s": round(eta_s, 1)}

    async def show_output(self, job_id: UUID) -> dict[str, str] | None:
        """What a job that runs has said so far, by the name of its output; None for nothing.

        The beginning of it where it is long. None as well where nothing may be kept of it, and
        where Redis has lost it: then it is told when it is over.
        """
        row = await self.database.fetch_one(_SAYING, [job_id])
        if row is None or row["streamed"] is None:
            return None
        text = await self.outputs.read_text(job_id, row["lease_epoch"], OUTPUT_SO_FAR_CHARS_MAX)
        return {row["streamed"]: text} if text else None

    async def claim(self, node_id: UUID, slot: int, version_ids: list[UUID]) -> Work | None:
        """The next job for a slot, with its tensors. One that cannot be run any more is ended."""
        while True:
            lease = await self.broker.claim(node_id, slot, version_ids)
            if lease is None:
                return None
            try:
                offer = await self.catalog.find_version(lease.version_id)
                tensors = await self._encode(offer, lease)
            except _AWAY as error:
                # It waits a moment.
                await self.broker.hand_back(node_id, lease.id, lease.epoch, error.code)
                return None
            except (MarketplaceError, TensorError) as error:
                code = error.code if isinstance(error, MarketplaceError) else "model_not_ready"
                await self._fail(lease, code)
                continue
            names = [one.name for one in offer.interface.wire_outputs]
            streamed = offer.interface.streamed_output
            return Work(lease, tensors, names, "" if streamed is None else streamed.name)

    async def heartbeat(self, node_id: UUID, beats: list[Beat]) -> dict[UUID, str]:
        """See `Broker.heartbeat`."""
        return await self.broker.heartbeat(node_id, beats)

    async def append(
        self, node_id: UUID, job_id: UUID, epoch: int, number: int, chunks: Sequence[str]
    ) -> tuple[str, int]:
        """Keep what a job says while it runs, for those who watch it.

        Args:
            node_id: Who comes with it.
            job_id: Which.
            epoch: Of the lease.
            number: Of the first chunk; the first of a lease has 0.
            chunks: Pieces of its streamed output.

        Returns:
            A word, and the number that is expected next. stale: the node has lost the job; cancel:
            its account wants it no more, and nothing was kept; else see `Outputs.append`.
        """
        row = await self.database.fetch_one(_HELD, [job_id, node_id, epoch])
        if row is None:
            return "stale", 0
        if row["is_canceling"]:
            return "cancel", number
        if row["keeps_nothing"]:
            # Not in Redis either, which may write to a disk: all of it comes with the end.
            return "full", number
        return await self.outputs.append(job_id, epoch, number, chunks)

    async def finish(
        self,
        node_id: UUID,
        job_id: UUID,
        epoch: int,
        *,
        outputs: Mapping[str, Any] | None,
        error: str,
        predict_time_us: int,
        piece_count: int = 0,
    ) -> str:
        """Take what a node found, work out its price, and book it.

        Args:
            node_id: Who comes with it.
            job_id: Which.
            epoch: Of the lease.
            outputs: The model's tensors by name; None if it gave none. Of a run that was
                canceled, what it had given until then.
            error: Code of what went wrong; `canceled` where it was stopped; empty for nothing.
            predict_time_us: How long it ran.
            piece_count: In how many pieces the outputs of a canceled run came.

        Returns:
            How it was booked; `stale` where the node has lost the job.
        """
        lease = await self.broker.find_lease(node_id, job_id, epoch)
        if lease is None:
            return "stale"
        outcome = await self._end(lease, outputs, error, predict_time_us, piece_count)
        if outcome != "stale":
            task = asyncio.create_task(self.outputs.end(job_id, epoch))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        return outcome

    async def _end(
        self,
        lease: Lease,
        outputs: Mapping[str, Any] | None,
        error: str,
        predict_time_us: int,
        piece_count: int,
    ) -> str:
        node_id, job_id, epoch = lease.node_id, lease.id, lease.epoch
        if outputs is not None and error:
            ending = await self._judge_part(lease, outputs, predict_time_us, piece_count)
            return (await self.broker.finish(node_id, job_id, epoch, ending))[0]
        if outputs is None:
            state = "canceled" if error == "canceled" else "failed"
            ending = Ending(state=state, error=error, predict_time_us=predict_time_us)
            return (await self.broker.finish(node_id, job_id, epoch, ending))[0]
        try:
            ending, note = await self._judge(lease, outputs, predict_time_us)
        except _AWAY:
            # The node comes again with what it found.
            raise
        except MarketplaceError as fault:
            return await self._fail(lease, fault.code, predict_time_us)
        outcome, _ = await self.broker.finish(node_id, job_id, epoch, ending)
        if outcome == "settled":
            self.predictor.drift.note(*note)
        return outcome

    async def _judge(
        self, lease: Lease, outputs: Mapping[str, Any], predict_time_us: int
    ) -> tuple[Ending, Any]:
        """What the outputs say and cost; raises what is wrong with them."""
        offer = await self.catalog.find_version(lease.version_id)
        prediction = await self._recall(lease, offer)
        prediction.predict_time_s = predict_time_us / 1e6
        batches = [await self._encode(offer, lease)]
        if any(one.media_type for one in offer.interface.visible_outputs):
            prediction.files = await self._find_place(lease)
        rows = wire.decode(offer.interface, outputs, keep=prediction.keep)
        if len(rows) != lease.rows:
            raise OutputError(f"the model answered {len(rows)} rows to {lease.rows}")
        output = rows[0]
        refuse_nul(output)
        metering.measure(prediction, batches, [dict(outputs)])
        if prediction.files is not None:
            await prediction.files.store()
        ending = Ending(
            state="succeeded",
            output=output,
            predict_time_us=predict_time_us,
            metered=prediction.metered,
            is_charged=True,
        )
        return ending, (prediction, batches, [dict(outputs)])

    async def _judge_part(
        self, lease: Lease, outputs: Mapping[str, Any], predict_time_us: int, piece_count: int
    ) -> Ending:
        """What a run had given when it was canceled, and what that costs.

        As with a stream that its client leaves: charged once something of it is there. What its
        account has not canceled, or what cannot be read, is free.
        """
        free = Ending(state="canceled", error="canceled", predict_time_us=predict_time_us)
        row = await self.database.fetch_one(_HELD, [lease.id, lease.node_id, lease.epoch])
        if row is None or not row["is_canceling"]:
            return free
        try:
            offer = await self.catalog.find_version(lease.version_id)
            output = _read_part(offer.interface, outputs)
            batches = [await self._encode(offer, lease)]
        except _AWAY:
            raise
        except (MarketplaceError, TensorError):
            return free
        if not output:
            return free
        prediction = await self._recall(lease, offer)
        prediction.predict_time_s = predict_time_us / 1e6
        metering.measure_stream(prediction, batches, outputs, piece_count)
        return Ending(
            state="canceled",
            output=output,
            error="canceled",
            predict_time_us=predict_time_us,
            metered=prediction.metered,
            is_charged=True,
        )

    async def _encode(self, offer: Offer, lease: Lease) -> list[Tensor]:
        given = await fetch_named(
            self.predictor.files, lease.account_id, offer.interface, lease.input
        )
        return wire.encode(offer.interface, [given])

    async def _find_place(self, lease: Lease) -> OutputFiles | None:
        """Where its files are kept; None if its account keeps none."""
        row = await self.database.fetch_one(_RETENTION, [lease.account_id])
        days = 0 if row is None else int(row["retention_days"])
        files = self.predictor.files
        return OutputFiles(files, lease.account_id, lease.id, days) if days else None

    async def _recall(self, lease: Lease, offer: Offer) -> Prediction:
        """The prediction as it was when it was accepted, as far as its price needs it."""
        row = await self.database.fetch_one(_PRICE, [lease.price_id])
        price = offer.price if row is None else Priced.from_row(row["price"])
        assert price is not None
        caller = Caller(
            account_id=lease.account_id,
            slug="",
            key_id=lease.api_key_id,
            is_test=lease.mode == "test",
            scopes=frozenset(),
            expires_at=None,
            is_suspended=False,
            source=lease.source,
        )
        prediction = Prediction(
            id=lease.id,
            caller=caller,
            offer=offer,
            price=price,
            protocol=lease.protocol,
            rows=lease.rows,
            created_at=lease.created_at,
            deadline_s=math.inf,
        )
        prediction.gross_nanos = lease.gross_nanos
        prediction.metered = None if lease.metered is None else dict(lease.metered)
        return prediction

    async def _fail(self, lease: Lease, code: str, predict_time_us: int = 0) -> str:
        ending = Ending(state="failed", error=code, predict_time_us=predict_time_us)
        found = await self.broker.finish(lease.node_id, lease.id, lease.epoch, ending)
        return found[0]

    async def _refuse_wait(self, offer: Offer, account_id: UUID) -> int:
        """How long a run will probably take, in milliseconds.

        Raises:
            NoNodeLargeEnoughError: None will ever run it.
            JobQueueFullError: The queue is too long.
        """
        depth = await self._measure(offer.version_id, account_id)
        if not depth["place_count"]:
            row = await self.database.fetch_one(_FITS_NOWHERE, [offer.version_id])
            if row is not None and row["fits_nowhere"]:
                raise NoNodeLargeEnoughError
        wait_s = _predict_wait_s(depth, depth["waiting_count"])
        if depth["mean_us"] and wait_s > JOB_WAIT_MAX_S:
            raise JobQueueFullError(
                f"Predictions of this version wait for about {wait_s:.0f} s.",
                retry_after_s=math.ceil(wait_s - JOB_WAIT_MAX_S) + 1,
            )
        return max(1, (depth["mean_us"] or 1_000_000) // 1_000)

    async def _measure(self, version_id: UUID, account_id: UUID) -> dict[str, Any]:
        parameters = {"version": version_id, "account": account_id}
        row = await self.database.fetch_one(_DEPTH, parameters)
        assert row is not None
        return row


def _predict_wait_s(depth: Mapping[str, Any], ahead_count: int) -> float:
    """How long `ahead_count` runs take on the places that there are."""
    mean_s = (depth["mean_us"] or 1_000_000) / 1e6
    return ahead_count * mean_s / max(1, depth["place_count"])


def _read_part(interface: Interface, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a stream that was stopped has given: its text, and the rest if all of that is there.

    Raises:
        OutputError: It cannot be read, or not be kept.
    """
    streamed = interface.streamed_output
    given = None if streamed is None else outputs.get(streamed.name)
    if streamed is None or given is None:
        return {}
    try:
        [output] = wire.decode(interface, outputs)
    except (OutputError, ValueError):
        try:
            output = {streamed.name: bytes(given.ravel()[0]).decode()}
        except (UnicodeDecodeError, IndexError, TypeError) as error:
            raise OutputError("what was written is no text") from error
    refuse_nul(output)
    return output if output[streamed.name] else {}
