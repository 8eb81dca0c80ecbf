"""Gateways that are wrong on purpose: the checks of these tests must notice each.

Run as `granian tests.gateway.broken:<name>`, in place of the real application.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
from collections.abc import Callable
from dataclasses import replace

from inference.gateway import grpc_server, holds, job_watch, query_budget
from inference.gateway.app import Application, Gateway
from inference.gateway.auth import Caller
from inference.gateway.coalesce import Coalescer
from inference.gateway.config import REQUESTS_OPEN_MAX
from inference.gateway.delivery import Delivery
from inference.gateway.errors import BookingUnknownError, ClientGoneError
from inference.gateway.events import EventStream
from inference.gateway.http import Request
from inference.gateway.origin import Origins
from inference.gateway.protocols import native_watch
from marketplace.core.address import parse_network
from marketplace.core.errors import MarketplaceError


class BrokenApplication(Application):
    """The real application with one thing broken after its start."""

    def __init__(self, damage: Callable[[Gateway], None]) -> None:
        super().__init__()
        self.damage = damage

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__rsgi_init__(loop)
        self.damage(self.gateway)


def _answer_before_commit(gateway: Gateway) -> None:
    settle = gateway.meter.settle

    async def settle_later(prediction):
        async def job():
            await asyncio.sleep(0.5)
            await settle(prediction)

        gateway.late = asyncio.create_task(job())

    gateway.meter.settle = settle_later


def _skip_hold(gateway: Gateway) -> None:
    async def take(*_):
        return None

    gateway.holds.take = take


def _draw_uncounted(gateway: Gateway) -> None:
    """A slice from which nothing is taken by drawing on it."""
    holds._draw = lambda pot, hold, nanos: holds.Draw(hold, pot, nanos)


def _draw_unreserved(gateway: Gateway) -> None:
    """Draws more than there is on a slice instead of asking for another."""
    draw = gateway.holds.draw

    def overdraw(caller, nanos):
        hold = gateway.holds._find_pot(caller).hold
        if hold is not None:
            hold.left_nanos = max(hold.left_nanos, nanos)
        return draw(caller, nanos)

    gateway.holds.draw = overdraw


def _never_put_back(gateway: Gateway) -> None:
    gateway.holds.put_back = lambda draw: None


def _keep_slices(gateway: Gateway) -> None:
    """Gives nothing back that others ask for."""
    gateway.holds._retire = lambda hold: None


def _forget_failures(gateway: Gateway) -> None:
    gateway.meter.fail = lambda *_: None


def _book_failures(gateway: Gateway) -> None:
    meter = gateway.meter

    def book(prediction, code):
        gateway.late = asyncio.create_task(meter.settle(copy.copy(prediction)))

    meter.fail = book
    _never_put_back(gateway)


def _forget_keys(gateway: Gateway) -> None:
    async def find(*_):
        return None

    async def take(claim):
        pass

    gateway.idempotency.find = find
    gateway.idempotency.take = take
    _ignore_claims(gateway)


def _ignore_claims(gateway: Gateway) -> None:
    """Books a keyed run like any other, so that one that was taken over is booked as well."""
    settle = gateway.meter.settle

    async def settle_unkeyed(prediction):
        prediction.claim = None
        await settle(prediction)

    gateway.meter.settle = settle_unkeyed


def _hear_nothing(gateway: Gateway) -> None:
    gateway.changes._tell = lambda payload: None


def _believe_everybody(gateway: Gateway) -> None:
    gateway.authenticator.origins = Origins([parse_network("0.0.0.0/0")])


def _run_any_model(gateway: Gateway) -> None:
    Caller.require_model = lambda *_: None


def _give_up_on_lost_answers(gateway: Gateway) -> None:
    async def recover(error, attempt):
        for item in gateway.sent:
            if not item.booked.done():
                item.booked.set_exception(BookingUnknownError())
        await gateway.meter._disconnect()

    send = gateway.meter._send_settle

    async def remember(items):
        gateway.sent = items
        return await send(items)

    gateway.meter._send_settle = remember
    gateway.meter._recover = recover


def _lose_count(gateway: Gateway) -> None:
    """Counts every second request."""
    end, seen = gateway.observer.end, []

    def end_sometimes(request, **how):
        seen.append(request)
        if len(seen) % 2:
            end(request, **how)

    gateway.observer.end = end_sometimes


def _log_requests(show: Callable[[Request], object]) -> Callable[[Gateway], None]:
    """Writes something of every request into the log, as one does while looking for a fault."""

    def damage(gateway: Gateway) -> None:
        begin = gateway.observer.begin

        def begin_loudly(request):
            logging.getLogger("debugging").debug("request %s", show(request))
            begin(request)

        gateway.observer.begin = begin_loudly

    return damage


def _log_bodies(gateway: Gateway) -> None:
    run = gateway.predictor.run_batches

    async def run_loudly(prediction, batches, decode, **how):
        logging.getLogger("debugging").debug("batches %s", batches)
        return await run(prediction, batches, decode, **how)

    gateway.predictor.run_batches = run_loudly


def _fill(gateway: Gateway) -> None:
    """As many requests are open as may be."""
    gateway.requests_open = REQUESTS_OPEN_MAX


def _leave_one_place(gateway: Gateway) -> None:
    """One request more may come."""
    gateway.requests_open = REQUESTS_OPEN_MAX - 1


def _count_inputs_alone(gateway: Gateway) -> None:
    def take_over_nothing(counter, row):
        counter.revision = row["revision"]
        counter.has_own_limit, counter.own_limit = False, None

    query_budget._take_over = take_over_nothing


def _keep_limits_alone(gateway: Gateway) -> None:
    """The mistake of most gateways: the limits multiply by the number of processes."""
    limits = gateway.limits

    async def admit_alone(plan, units):
        limits.store.gateways = 1
        return limits._admit_alone(plan, units)

    limits._admit_shared = admit_alone


def _watch_nobody(gateway: Gateway) -> None:
    gateway.running.sweep = lambda: None


def _admit_everybody(gateway: Gateway) -> None:
    def admit(self, deadline_s, *, calls=1):
        self.coming += 1

    Coalescer.admit = admit


def _never_ask_whether_alive(gateway: Gateway) -> None:
    async def check_alive(base_url):
        pass

    gateway.pool._check_alive = check_alive


def _overlook_retries(gateway: Gateway) -> None:
    async def find_implied(claim):
        return None

    gateway.idempotency.find_implied = find_implied


def _charge_without_delivery(gateway: Gateway) -> None:
    Delivery.has_begun = property(lambda _: True, lambda *_: None)


def _forget_deliveries(gateway: Gateway) -> None:
    Delivery.has_begun = property(lambda _: False, lambda *_: None)


def _never_notice_who_left(gateway: Gateway) -> None:
    _watch_nobody(gateway)
    EventStream.on_gone = lambda *_: contextlib.nullcontext()
    EventStream.is_gone = False
    send = EventStream._send

    async def send_to_nobody(events, text):
        with contextlib.suppress(ClientGoneError):
            await send(events, text)

    EventStream._send = send_to_nobody


def _end_in_spite_of_errors(gateway: Gateway) -> None:
    settle = gateway.meter.settle

    async def settle_or_not(prediction):
        with contextlib.suppress(MarketplaceError):
            await settle(prediction)

    gateway.meter.settle = settle_or_not


def _keep_watches(gateway: Gateway) -> None:
    """Leaves a run and granian's future in a ring, which nobody collects."""
    running = gateway.running
    enter = running.enter

    def watch_at_once(prediction, request):
        # However fast the machine is: each is watched, not only who had to wait.
        enter(prediction, request)
        run = running._fresh.pop(prediction.id, None)
        if run is not None:
            run.watch()

    def leave(prediction):
        running._fresh.pop(prediction.id, None)
        run = running._runs.pop(prediction.id, None)
        if run is not None and run.gone is not None:
            run.gone.cancel()

    running.enter = watch_at_once
    running.leave = leave


def _keep_requests(gateway: Gateway) -> None:
    """Remembers every request, as a list of what to do later does that nobody empties."""
    end, kept = gateway.observer.end, []

    def end_and_keep(request, **how):
        kept.append(request)
        end(request, **how)

    gateway.observer.end = end_and_keep


def _ignore_leaving(gateway: Gateway) -> None:
    """Nobody is told that a client of gRPC has left."""

    async def wait_gone(call):
        await asyncio.Event().wait()

    grpc_server._Call.wait_gone = wait_gone


class NarrowApplication(Application):
    """Not broken: the real application, with limits of connections that a test can reach."""

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        grpc_server.GRPC_CONNECTIONS_MAX = 2
        grpc_server.GRPC_CALLS_PER_CONNECTION_MAX = 2
        super().__rsgi_init__(loop)


def _narrow_streams(gateway: Gateway) -> None:
    """Not broken: with limits that a test can reach."""
    gateway.grpc.streams_max = 2
    gateway.grpc.stream_idle_s = 0.5


def _look_at_all(gateway: Gateway) -> None:
    """Not broken: every prediction is looked at, not only so many a second."""
    gateway.drift._is_due = lambda _: True


def _fail_to_take(gateway: Gateway) -> None:
    def take(*_):
        raise RuntimeError("canary-4711")

    _look_at_all(gateway)
    gateway.drift._take = take


def _fail_to_count(gateway: Gateway) -> None:
    def count(_):
        raise RuntimeError("canary-4711")

    _look_at_all(gateway)
    gateway.drift._count = count


def _fail_predictions_with_counts(gateway: Gateway) -> None:
    def note(*_):
        raise RuntimeError

    gateway.drift.note = note


def _keep_texts(gateway: Gateway) -> None:
    count = gateway.drift._count

    def keep(item):
        count(item)
        text = item.clips["input", "note"].text.decode()
        for part in gateway.drift._parts.values():
            part.sketch[text] = {0: 1}

    _look_at_all(gateway)
    gateway.drift._count = keep


def _forget_lengths(gateway: Gateway) -> None:
    """Whoever comes back to a prediction gets all of it again."""
    follow = gateway.watches.follow

    def follow_anew(cursor, **how):
        return follow(replace(cursor, length=0), **how)

    gateway.watches.follow = follow_anew


def _keep_little(gateway: Gateway) -> None:
    """Right, but for very short logs."""
    gateway.outputs._limits = (2, 1000)


def _trust_redis_alone(gateway: Gateway) -> None:
    """A stream ends with what its log had."""
    _keep_little(gateway)
    job_watch._Watch._say_rest = lambda watch, text: iter(())


def _join_runs(gateway: Gateway) -> None:
    """What a second run says is taken for more of the first."""
    job_watch._Watch._note_lease = lambda watch, state: iter(())
    take = job_watch._Watch._take

    def take_all(watch, chunk):
        watch.cursor = replace(watch.cursor, epoch=chunk.epoch, length=chunk.start)
        return take(watch, chunk)

    job_watch._Watch._take = take_all


def _open_any_stream(gateway: Gateway) -> None:
    """A signature opens the events of every prediction, for ever."""
    native_watch.check_stream_right = lambda *_, **__: None


def _believe_every_lease(gateway: Gateway) -> None:
    """What a node says is kept, whoever has the job."""

    async def append(node_id, job_id, epoch, number, chunks):
        return await gateway.outputs.append(job_id, epoch, number, chunks)

    gateway.jobs.append = append


def _count_the_owner(gateway: Gateway) -> None:
    note = gateway.drift.note

    def note_all(prediction, *rest):
        prediction.offer = replace(prediction.offer, owner_id=None)
        note(prediction, *rest)

    _look_at_all(gateway)
    gateway.drift.note = note_all


answers_before_commit = BrokenApplication(_answer_before_commit)
skips_hold = BrokenApplication(_skip_hold)
draws_uncounted = BrokenApplication(_draw_uncounted)
draws_unreserved = BrokenApplication(_draw_unreserved)
never_puts_back = BrokenApplication(_never_put_back)
keeps_slices = BrokenApplication(_keep_slices)
forgets_failures = BrokenApplication(_forget_failures)
books_failures = BrokenApplication(_book_failures)
forgets_keys = BrokenApplication(_forget_keys)
ignores_claims = BrokenApplication(_ignore_claims)
logs_paths = BrokenApplication(_log_requests(lambda request: request.path))
logs_keys = BrokenApplication(_log_requests(lambda request: request.headers.get("authorization")))
logs_bodies = BrokenApplication(_log_bodies)
is_full = BrokenApplication(_fill)
has_one_place = BrokenApplication(_leave_one_place)
keeps_requests = BrokenApplication(_keep_requests)
keeps_watches = BrokenApplication(_keep_watches)
loses_count = BrokenApplication(_lose_count)
hears_nothing = BrokenApplication(_hear_nothing)
believes_everybody = BrokenApplication(_believe_everybody)
runs_any_model = BrokenApplication(_run_any_model)
charges_without_delivery = BrokenApplication(_charge_without_delivery)
forgets_deliveries = BrokenApplication(_forget_deliveries)
never_notices_who_left = BrokenApplication(_never_notice_who_left)
ends_in_spite_of_errors = BrokenApplication(_end_in_spite_of_errors)
gives_up_on_lost_answers = BrokenApplication(_give_up_on_lost_answers)
counts_inputs_alone = BrokenApplication(_count_inputs_alone)
keeps_limits_alone = BrokenApplication(_keep_limits_alone)
watches_nobody = BrokenApplication(_watch_nobody)
admits_everybody = BrokenApplication(_admit_everybody)
never_asks_whether_alive = BrokenApplication(_never_ask_whether_alive)
overlooks_retries = BrokenApplication(_overlook_retries)
looks_at_all = BrokenApplication(_look_at_all)
fails_to_take = BrokenApplication(_fail_to_take)
fails_to_count = BrokenApplication(_fail_to_count)
fails_predictions_with_counts = BrokenApplication(_fail_predictions_with_counts)
keeps_texts = BrokenApplication(_keep_texts)
counts_the_owner = BrokenApplication(_count_the_owner)
ignores_leaving = BrokenApplication(_ignore_leaving)
has_narrow_streams = BrokenApplication(_narrow_streams)
has_narrow_connections = NarrowApplication()
forgets_lengths = BrokenApplication(_forget_lengths)
keeps_little = BrokenApplication(_keep_little)
trusts_redis_alone = BrokenApplication(_trust_redis_alone)
joins_runs = BrokenApplication(_join_runs)
opens_any_stream = BrokenApplication(_open_any_stream)
believes_every_lease = BrokenApplication(_believe_every_lease)
