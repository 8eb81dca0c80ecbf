"""One prediction from hold to booking, the same for every protocol.

limits -> (wake) -> budget of inputs -> claim (keyed requests) -> hold -> route -> Triton ->
settle. An answer is returned only after its booking is on disk; whatever fails on the way releases
the hold and charges nothing.
A stream is charged from its first piece on: its end is told after its booking is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

from inference.gateway import metering
from inference.gateway.auth import Caller
from inference.gateway.catalog import Offer, require_price
from inference.gateway.coalesce import Outputs
from inference.gateway.delivery import Delivery
from inference.gateway.drift import DriftCounter
from inference.gateway.errors import (
    BookingUnknownError,
    BudgetExceededError,
    ClientGoneError,
    HoldGoneError,
    KeyModeForbiddenError,
    StreamBrokenError,
)
from inference.gateway.files import Files
from inference.gateway.holds import Holds
from inference.gateway.http import Request
from inference.gateway.idempotency import Claim, Idempotency
from inference.gateway.limits import Limits
from inference.gateway.meter import Meter
from inference.gateway.metrics import METRICS
from inference.gateway.output_files import OutputFiles
from inference.gateway.prediction import Prediction
from inference.gateway.query_budget import QueryBudgets
from inference.gateway.route import Replica, Routes
from inference.gateway.running import Running
from inference.gateway.triton_pool import (
    INFRASTRUCTURE_ERRORS,
    ServerSilentError,
    TritonPool,
)
from inference.gateway.triton_stream import TritonStreams
from inference.gateway.waking import Uses, Waking
from inference.triton.errors import (
    ModelExecutionError,
    ModelNotReadyError,
    OutputError,
    TensorError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from inference.triton.tensors import Tensor
from marketplace.core.clock import utc_now
from marketplace.core.errors import DeadlineError, InsufficientCreditError, MarketplaceError

logger = logging.getLogger(__name__)

# What leaves it open whether a booking was made.
_MAYBE_BOOKED = (BookingUnknownError, HoldGoneError, asyncio.CancelledError)

_COUNT = """
    SELECT units FROM billing_usagecounter WHERE account_id = %s AND model_id = %s
        AND starts_on = date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date
"""

T = TypeVar("T")


def _as_it_is(output: Any) -> Any:
    return output


class Predictor:
    """Runs predictions."""

    def __init__(  # noqa: PLR0913 - one for each part of the process
        self,
        *,
        limits: Limits,
        queries: QueryBudgets,
        drift: DriftCounter,
        holds: Holds,
        routes: Routes,
        pool: TritonPool,
        streams: TritonStreams,
        meter: Meter,
        idempotency: Idempotency,
        running: Running,
        waking: Waking,
        uses: Uses,
        files: Files,
    ) -> None:
        self.limits = limits
        self.queries = queries
        self.drift = drift
        self.holds = holds
        self.routes = routes
        self.pool = pool
        self.streams = streams
        self.meter = meter
        self.idempotency = idempotency
        self.running = running
        self.waking = waking
        self.uses = uses
        self.files = files
        self.database = holds.database
        # Predictions that run without money, by account and model.
        self._running_free: dict[tuple[UUID, UUID], UUID] = {}

    def begin(
        self,
        request: Request,
        caller: Caller,
        offer: Offer,
        *,
        protocol: str,
        rows: int,
        claim: Claim | None,
    ) -> Prediction:
        """A prediction that may run; nothing is written yet.

        Raises:
            KeyModeForbiddenError: A test key for another account's model.
            ModelNotReadyError: The model has no price.
        """
        if caller.is_test and offer.owner_id != caller.account_id:
            raise KeyModeForbiddenError
        request.limits = self.limits.plan(caller, offer)
        days = caller.retention_days
        prediction_id = request.repeats or request.id
        return Prediction(
            id=prediction_id,
            caller=caller,
            offer=offer,
            price=require_price(offer, caller),
            files=OutputFiles(self.files, caller.account_id, prediction_id, days) if days else None,
            protocol=protocol,
            rows=rows,
            created_at=request.created_at,
            deadline_s=request.started_s + request.deadline_s,
            allowed_s=request.deadline_s,
            claim=None if request.repeats else claim,
            is_repeat=request.repeats is not None,
            trace=request.trace,
            tag=request.tag,
        )

    async def run(
        self,
        prediction: Prediction,
        tensors: Sequence[Tensor],
        decode: Callable[[Outputs], T],
        *,
        request: Request,
        to_stored: Callable[[T], Any] = _as_it_is,
    ) -> T:
        """Run it in one call and book it; see `run_batches`."""
        return await self.run_batches(
            prediction,
            [tensors],
            lambda batches: decode(batches[0]),
            request=request,
            to_stored=to_stored,
        )

    async def run_batches(
        self,
        prediction: Prediction,
        batches: Sequence[Sequence[Tensor]],
        decode: Callable[[list[Outputs]], T],
        *,
        request: Request,
        to_stored: Callable[[T], Any] = _as_it_is,
    ) -> T:
        """Run it and book it; what is returned may be sent.

        All batches belong to one prediction: they are booked together once the last has been
        answered, and should one fail, none is charged.

        Args:
            prediction: From `begin`.
            batches: The inputs, checked, of one call each; called one after the other.
            decode: Makes the answer's output of the model's tensors.
            request: Its client is watched while this takes long.
            to_stored: Makes the JSON of an output that is kept for a retry.

        Raises:
            BookingUnknownError: It may have been charged.
            MarketplaceError: Nothing was charged.
        """
        metering.bound(prediction, batches)
        # Before any money moves: most often nothing is wrong but a missing replica.
        replica = await self.waking.find(prediction.offer.version_id)
        with await self.limits.admit(prediction.caller, prediction.offer, prediction.rows):
            if replica is None:
                replica = await self._wake(prediction, request)
            self.queries.admit(prediction.caller, prediction.offer, batches)
            return await self._run_admitted(
                prediction, batches, decode, replica, request=request, to_stored=to_stored
            )

    async def _wake(self, prediction: Prediction, request: Request) -> Replica:
        """Wait for a version that sleeps, as long as the prediction has time.

        Raises:
            MarketplaceError: It was not loaded in time, or the prediction was given up.
        """
        await self.waking.require_credit(prediction)
        began_s = time.monotonic()
        self.running.enter(prediction, request)
        try:
            async with _until_stopped(prediction):
                replica = await self.waking.wait(
                    prediction.offer.version_id, deadline_s=prediction.deadline_s
                )
        except MarketplaceError as error:
            prediction.note("wake", began_s, time.monotonic(), error)
            raise
        finally:
            self.running.leave(prediction)
        now_s = time.monotonic()
        prediction.note("wake", began_s, now_s)
        prediction.series.cold_start_seconds.observe(now_s - began_s)
        request.cold_start_ms = round((now_s - began_s) * 1000)
        return replica

    async def _run_admitted(
        self,
        prediction: Prediction,
        batches: Sequence[Sequence[Tensor]],
        decode: Callable[[list[Outputs]], T],
        replica: Replica,
        *,
        request: Request,
        to_stored: Callable[[T], Any],
    ) -> T:
        self.uses.note(prediction.offer.version_id)
        replica.calls.admit(prediction.deadline_s, calls=len(batches))
        self.running.enter(prediction, request)
        try:
            try:
                if prediction.claim is not None:
                    await self.idempotency.take(prediction.claim)
                await self._hold(prediction)
                prediction.check_going_on()
            finally:
                replica.calls.arrive()
            # One after the other: a large request takes its turns among the others.
            outputs = [await self._infer(prediction, one, replica) for one in batches]
            output = decode(outputs)
            if prediction.files is not None:
                await prediction.files.store()
            metering.measure(prediction, batches, outputs)
            prediction.completed_at = utc_now()
            if prediction.claim is not None and not prediction.caller.keeps_nothing:
                # A keyed client may come back for it.
                prediction.output = _make_stored(to_stored(output), prediction.claim)
            prediction.begin_booking()
            await self._settle(prediction)
        except BaseException as error:
            await self._give_up(prediction, error)
            raise
        finally:
            self.running.leave(prediction)
        self.drift.note(prediction, batches, outputs)
        return output

    async def run_stream(
        self, prediction: Prediction, tensors: Sequence[Tensor], delivery: Delivery
    ) -> dict[str, Any]:
        """Run it, hand on each piece as it comes, and book it; its end may be told then.

        Whoever ends it, it is charged if a piece was delivered, and else it is not.

        Args:
            prediction: From `begin`, without a claim.
            tensors: The inputs, checked.
            delivery: Takes the pieces.

        Returns:
            The whole answer.

        Raises:
            StreamBrokenError, BookingUnknownError: It was, or may have been, charged.
            ClientGoneError: It was charged if a piece was delivered.
            MarketplaceError: Nothing was charged.
        """
        assert prediction.claim is None
        metering.bound(prediction, [tensors])
        replica = await self.waking.find(prediction.offer.version_id)
        with await self.limits.admit(prediction.caller, prediction.offer, prediction.rows):
            if replica is None:
                replica = await self._wake(prediction, delivery.events.request)
            self.queries.admit(prediction.caller, prediction.offer, [tensors])
            return await self._stream_admitted(prediction, tensors, delivery, replica)

    async def _stream_admitted(
        self,
        prediction: Prediction,
        tensors: Sequence[Tensor],
        delivery: Delivery,
        replica: Replica,
    ) -> dict[str, Any]:
        self.uses.note(prediction.offer.version_id)
        replica.calls.admit(prediction.deadline_s)
        self.running.enter(prediction, delivery.events.request)
        try:
            try:
                await self._hold(prediction)
            finally:
                replica.calls.arrive()
            await self._stream(prediction, tensors, delivery, replica)
            answer = delivery.finish()
            if not delivery.has_begun:
                prediction.check_going_on()
        except BaseException as error:
            if not delivery.has_begun:
                await self._give_up(prediction, error)
                raise
            metering.measure_stream(prediction, [tensors], delivery.beside, delivery.piece_count)
            await self._book(prediction)
            delivery.events.request.broken_cost_nanos = prediction.gross_nanos
            if isinstance(error, MarketplaceError) and not isinstance(error, ClientGoneError):
                raise StreamBrokenError(error.code) from error
            raise
        finally:
            self.running.leave(prediction)
        metering.measure_stream(prediction, [tensors], delivery.beside, delivery.piece_count)
        await self._book(prediction)
        self.drift.note(prediction, [tensors], [delivery.outputs])
        return answer

    async def _book(self, prediction: Prediction) -> None:
        """Book what was delivered, also if it was stopped."""
        prediction.completed_at = utc_now()
        prediction.is_booking = True
        try:
            await self._settle(prediction)
        except BaseException as error:
            await self._give_up(prediction, error)
            raise

    async def _stream(
        self,
        prediction: Prediction,
        tensors: Sequence[Tensor],
        delivery: Delivery,
        replica: Replica,
    ) -> None:
        """Stream from a replica, or from another one if the first fails before it says a word.

        Raises:
            MarketplaceError: Time is up, the client has left, or it was canceled.
        """

        def leave() -> None:
            prediction.stop(ClientGoneError())

        with delivery.events.on_gone(leave):
            async with _until_stopped(prediction):
                try:
                    await self._stream_from(replica, prediction, tensors, delivery)
                    return
                except INFRASTRUCTURE_ERRORS as error:
                    other = await self._pick_another(
                        prediction, replica, error, is_final=delivery.has_begun
                    )
                # The first one's time is nobody's.
                prediction.predict_time_s = 0.0
                await self._stream_from(other, prediction, tensors, delivery)

    async def _stream_from(
        self,
        replica: Replica,
        prediction: Prediction,
        tensors: Sequence[Tensor],
        delivery: Delivery,
    ) -> None:
        deadline_s = prediction.deadline_s
        outputs = [one.name for one in prediction.offer.interface.wire_outputs]
        prediction.queue(replica.id)
        async with replica.calls.place(tensors, deadline_s=deadline_s):
            prediction.start()
            parts = self.streams.stream(
                replica.grpc_address,
                replica.triton_name,
                tensors,
                outputs,
                deadline_s=deadline_s,
                traceparent=prediction.name_call(),
            )
            try:
                with _reported(replica):
                    async with aclosing(parts):
                        async for part in parts:
                            await delivery.take(part)
                            prediction.has_delivered = delivery.has_begun
            finally:
                prediction.end()

    async def _hold(self, prediction: Prediction) -> None:
        nanos, caller = prediction.gross_nanos, prediction.caller
        if prediction.is_repeat:
            # It was admitted, paid for and recorded the first time.
            return
        if nanos:
            began_s = time.monotonic()
            try:
                prediction.draw = await self.holds.take(caller, nanos)
            except (InsufficientCreditError, BudgetExceededError) as error:
                if not await self._take_free(prediction):
                    _observe(METRICS.observe_hold, "hold", prediction, began_s, error)
                    raise
            except BaseException as error:
                _observe(METRICS.observe_hold, "hold", prediction, began_s, error)
                raise
            _observe(METRICS.observe_hold, "hold", prediction, began_s)
        prediction.is_admitted = True

    async def _take_free(self, prediction: Prediction) -> bool:
        """Whether it may run without money, as one of the month's free ones.

        Only the booking decides that, and books nothing should it cost something after all. So
        that this gives away nothing, one at a time runs like this of an account and a model.
        """
        free_units = prediction.price.terms.free_units
        key = (prediction.caller.account_id, prediction.offer.model_id)
        if not free_units or key in self._running_free:
            return False
        self._running_free[key] = prediction.id
        is_free = False
        try:
            row = await self.database.fetch_one(_COUNT, key)
            is_free = (row["units"] if row else 0) + prediction.rows <= free_units
        finally:
            if not is_free:
                self._leave_free(prediction)
        if is_free:
            prediction.gross_nanos = 0
        return is_free

    def _leave_free(self, prediction: Prediction) -> None:
        key = (prediction.caller.account_id, prediction.offer.model_id)
        if self._running_free.get(key) == prediction.id:
            del self._running_free[key]

    async def _settle(self, prediction: Prediction) -> None:
        if prediction.is_repeat:
            return
        reserved_nanos = prediction.gross_nanos
        began_s = time.monotonic()
        try:
            await self.meter.settle(prediction)
        except BaseException as error:
            _observe(METRICS.observe_settle, "settle", prediction, began_s, error)
            is_spent = isinstance(error, _MAYBE_BOOKED)
            # It may be booked.
            if is_spent and prediction.draw is not None:
                self.holds.lose(prediction.draw)
                prediction.draw = None
            raise
        finally:
            if self._running_free:
                self._leave_free(prediction)
        _observe(METRICS.observe_settle, "settle", prediction, began_s)
        if prediction.draw is not None and prediction.gross_nanos < reserved_nanos:
            rest_nanos = reserved_nanos - prediction.gross_nanos
            self.holds.put_back(replace(prediction.draw, nanos=rest_nanos))

    async def _give_up(self, prediction: Prediction, error: BaseException) -> None:
        """Release what was reserved. Only a claim is waited for: its retry may come at once."""
        if self._running_free:
            self._leave_free(prediction)
        if prediction.is_admitted:
            self.meter.fail(prediction, _read_code(error))
        if prediction.draw is not None:
            self.holds.put_back(prediction.draw)
            prediction.draw = None
        if prediction.claim is not None:
            await self.idempotency.release(prediction.claim)

    async def _infer(
        self, prediction: Prediction, tensors: Sequence[Tensor], replica: Replica
    ) -> Outputs:
        """Call a replica, and once another one if the first has failed us."""
        try:
            return await self._call(prediction, tensors, replica)
        except INFRASTRUCTURE_ERRORS as error:
            other = await self._pick_another(prediction, replica, error)
        return await self._call(prediction, tensors, other)

    async def _pick_another(
        self,
        prediction: Prediction,
        failed: Replica,
        error: MarketplaceError,
        *,
        is_final: bool = False,
    ) -> Replica:
        """The replica to try after one has failed us; raises the error if there is none.

        Args:
            prediction: What was tried.
            failed: Where.
            error: With which it failed.
            is_final: Whether it is too late for another one.
        """
        failed.penalise()
        other = await self.routes.pick(prediction.offer.version_id, besides=failed)
        if other is failed or is_final:
            raise error
        prediction.series.observe_retry()
        logger.info("prediction %s goes to another replica: %s", prediction.id, error.code)
        return other

    async def _call(
        self, prediction: Prediction, tensors: Sequence[Tensor], replica: Replica
    ) -> Outputs:
        if time.monotonic() >= prediction.deadline_s:
            raise DeadlineError
        interface = prediction.offer.interface
        outputs = [one.name for one in interface.wire_outputs]
        if interface.streamed_output is not None:
            return await self._call_streaming(prediction, tensors, replica, outputs)

        async def send(together: Sequence[Tensor], /, **how: Any) -> Outputs:
            began_s = time.monotonic()
            # Of a call for several requests, in the trace of the one that leads it.
            how["traceparent"] = prediction.name_call()
            try:
                with _reported(replica):
                    return await self.pool.infer(
                        replica.base_url, replica.triton_name, together, outputs, **how
                    )
            finally:
                prediction.series.call_seconds.observe(time.monotonic() - began_s)

        prediction.queue(replica.id)
        try:
            found = await replica.calls.infer(
                send,
                tensors,
                deadline_s=prediction.deadline_s,
                on_start=prediction.start,
                on_wait=prediction.wait_on,
            )
        except BaseException as error:
            prediction.fail(error)
            raise
        prediction.end()
        return found

    async def _call_streaming(
        self,
        prediction: Prediction,
        tensors: Sequence[Tensor],
        replica: Replica,
        outputs: Sequence[str],
    ) -> Outputs:
        """Call a model that could stream, which Triton does not take over HTTP."""
        deadline_s = prediction.deadline_s
        prediction.queue(replica.id)
        try:
            async with (
                _until_stopped(prediction),
                replica.calls.place(tensors, deadline_s=deadline_s),
            ):
                prediction.start()
                with _reported(replica):
                    found = await self.streams.infer(
                        replica.grpc_address,
                        replica.triton_name,
                        tensors,
                        outputs,
                        deadline_s=deadline_s,
                        traceparent=prediction.name_call(),
                    )
        except BaseException as error:
            prediction.fail(error)
            raise
        prediction.end()
        return found


@asynccontextmanager
async def _until_stopped(prediction: Prediction) -> AsyncIterator[None]:
    """End the block when the prediction is given up, or its time is.

    Raises:
        TritonDeadlineError: Time is up.
        MarketplaceError: With which it was given up.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[Any] = loop.create_future()
    try:
        async with asyncio.timeout(prediction.deadline_s - time.monotonic()) as limit:

            def end(stop: asyncio.Future[Any]) -> None:
                stop.exception()
                if not limit.expired():
                    limit.reschedule(loop.time())

            stop.add_done_callback(end)
            prediction.wait_on(stop)
            try:
                yield
            finally:
                stop.remove_done_callback(end)
    except TimeoutError:
        prediction.check_going_on()
        raise TritonDeadlineError from None
    finally:
        if not stop.cancel():
            stop.exception()


@contextmanager
def _reported(replica: Replica) -> Iterator[None]:
    """Tell the replica's breaker how a call ended."""
    try:
        yield
    except (TritonUnavailableError, ModelNotReadyError) as error:
        replica.breaker.fail(is_silent=isinstance(error, ServerSilentError))
        raise
    except (ModelExecutionError, TensorError):
        replica.breaker.succeed()
        raise
    replica.breaker.succeed()


def _read_code(error: BaseException) -> str:
    return error.code if isinstance(error, MarketplaceError) else MarketplaceError.code


def _observe(
    count: Callable[[float, str], None],
    name: str,
    prediction: Prediction,
    began_s: float,
    error: BaseException | None = None,
) -> None:
    """Count how long a part took and how it ended, and remember it for a trace."""
    now_s = time.monotonic()
    count(now_s - began_s, "" if error is None else _read_code(error))
    prediction.note(name, began_s, now_s, error)


def _make_stored(stored: Any, claim: Claim) -> Any:
    """What is kept; nothing of what cannot be, if the caller has not asked for keeping it."""
    try:
        refuse_nul(stored)
    except OutputError:
        if not claim.is_implied:
            raise
        return None
    return stored


def refuse_nul(output: object) -> None:
    """Refuse what cannot be stored for a retry: Postgres' JSON holds no NUL character.

    Raises:
        OutputError: There is one.
    """
    level: list[object] = [output]
    while level:
        if any(isinstance(one, str) and "\x00" in one for one in level):
            raise OutputError("The model answered a NUL character, which cannot be stored.")
        inner: list[object] = []
        for one in level:
            if isinstance(one, list):
                inner.extend(one)
            elif isinstance(one, dict):
                inner.extend(one.values())
        level = inner
