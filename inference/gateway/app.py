"""The gateway: the data plane's HTTP front, as an RSGI application without Django.

One process is one event loop. Requests pass key, input, limits, hold, Triton and booking in
this order; see `inference.gateway.predictor`. Several processes need nothing of each other.

Run: granian --interface rsgi --loop uvloop --http 1 --no-ws inference.gateway.app:app, with the
options of `config.SERVER_OPTIONS`, without which as many slow connections as granian takes
keep all others out.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from inference.broker.output import Outputs
from inference.broker.postgres import PostgresBroker
from inference.broker.wakeups import Wakeups
from inference.gateway import memory
from inference.gateway.auth import Authenticator
from inference.gateway.batches import Batches
from inference.gateway.catalog import Catalog
from inference.gateway.changes import Changes, Listener
from inference.gateway.closing import Closing
from inference.gateway.config import (
    CONNECTIONS_MAX,
    FILES_BESIDES,
    GRPC_CONNECTIONS_MAX,
    REQUESTS_OPEN_MAX,
    GatewayConfig,
)
from inference.gateway.database import Database
from inference.gateway.database_clock import DatabaseClock
from inference.gateway.demand import Demand
from inference.gateway.drift import DriftCounter
from inference.gateway.errors import CapacityError
from inference.gateway.files import Files
from inference.gateway.holds import Holds
from inference.gateway.http import Answer, Request, RSGIProtocol
from inference.gateway.idempotency import Idempotency
from inference.gateway.job_watch import JobWatches
from inference.gateway.jobs import Jobs
from inference.gateway.limits import Limits
from inference.gateway.meter import Meter
from inference.gateway.observer import Observer
from inference.gateway.operations import ROOTS as OPERATIONS
from inference.gateway.operations import Operations
from inference.gateway.predictor import Predictor
from inference.gateway.protocols.mcp import MCPProtocol
from inference.gateway.protocols.native import NativeProtocol
from inference.gateway.protocols.oip import OIPProtocol
from inference.gateway.protocols.openai import OpenAIProtocol
from inference.gateway.protocols.pull import PullProtocol
from inference.gateway.query_budget import QueryBudgets
from inference.gateway.queue_watch import QueueWatch
from inference.gateway.route import Routes
from inference.gateway.route_name import name_method, name_route
from inference.gateway.running import Running
from inference.gateway.triton_pool import TritonPool
from inference.gateway.triton_stream import TritonStreams
from inference.gateway.waking import Uses, Waking
from marketplace.core import logs
from marketplace.core.errors import MarketplaceError, NotFoundError
from marketplace.core.problem import problem_headers

if TYPE_CHECKING:
    from inference.gateway.grpc_server import GRPCServer

logger = logging.getLogger(__name__)

_DRAIN_S = 10.0
# For calls of gRPC that still run; those of HTTP are waited for by the server underneath.
_CALLS_DRAIN_S = 5.0
# Each part of this process has so long to come to its end.
_END_S = 3.0
_TIDY_S = 30.0
# An error that a repeat of the same call cannot mend, for client libraries that ask.
_NO_RETRY = frozenset(
    {
        "idempotency_mismatch",
        "booking_unknown",
        "model_failed",
        "output_invalid",
        "media_too_large",
        "units_exceed_limit",
        "no_node_large_enough",
        "canceled",
        # Not within the time that a client waits by itself.
        "query_budget_exceeded",
    }
)


class Family(Protocol):
    """A protocol, as far as this file is concerned."""

    async def answer(self, request: Request) -> Answer:
        """Find the route and answer; raises what is wrong."""

    def render_error(self, request: Request, error: MarketplaceError) -> Answer:
        """An error in the protocol's words."""


class Gateway:
    """Everything one process holds, and the entry that granian calls."""

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.database = Database(config.database_url)
        self.authenticator = Authenticator(
            self.database,
            playground_secret=config.playground_secret,
            trusted_proxies=config.trusted_proxies,
        )
        self.catalog = Catalog(self.database)
        self.clock = DatabaseClock(self.database)
        self.routes = Routes(self.database)
        self.holds = Holds(self.database, ttl_s=config.hold_ttl_s)
        self.running = Running()
        self.waking = Waking(self.database, self.routes)
        self.uses = Uses(self.database)
        listeners: list[Listener] = [self.authenticator, self.catalog, self.routes, self.holds]
        self.changes = Changes(config.database_url, [*listeners, self.running])
        self.pool = TritonPool()
        self.streams = TritonStreams()
        self.meter = Meter(config.database_url, wait_s=config.settle_wait_s)
        self.idempotency = Idempotency(self.database, claim_ttl_s=config.hold_ttl_s)
        self.limits = Limits(config)
        self.queries = QueryBudgets(self.database, secret=config.playground_secret)
        self.drift = DriftCounter(self.database, secret=config.playground_secret)
        self.files = Files(config)
        self.predictor = Predictor(
            limits=self.limits,
            queries=self.queries,
            drift=self.drift,
            holds=self.holds,
            routes=self.routes,
            pool=self.pool,
            streams=self.streams,
            meter=self.meter,
            idempotency=self.idempotency,
            running=self.running,
            waking=self.waking,
            uses=self.uses,
            files=self.files,
        )
        self.wakeups = Wakeups(config.redis_url)
        self.broker = PostgresBroker(config.database_url, self.wakeups)
        self.outputs = Outputs(config.redis_url)
        self.jobs = Jobs(self.broker, self.catalog, self.predictor, self.database, self.outputs)
        self.closing = Closing()
        self.watches = JobWatches(self.jobs, self.database, self.outputs, self.closing)
        self.batches = Batches(self.jobs, self.authenticator, self.catalog, self.database)
        self.queue_watch = QueueWatch(self.database)
        self.demand = Demand(self.database, config.pools)
        self.native = NativeProtocol(self)
        self.oip = OIPProtocol(self)
        self.openai = OpenAIProtocol(self)
        self.mcp = MCPProtocol(self)
        self.pull = PullProtocol(self, self.jobs)
        self.operations = Operations(self)
        self.observer = Observer(config)
        self.requests_open = 0
        # By account: how many bodies are on their way.
        self.bodies_open: dict[UUID, int] = {}
        self.grpc = self._make_grpc()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to listen and to tidy; Postgres may come later than this process."""
        await self.database.open()
        await self.broker.open()
        self.wakeups.start()
        self.outputs.start()
        await self.limits.start()
        for job in (
            self.changes.run(),
            self.clock.run(),
            self.authenticator.flush_used(),
            self.routes.run(),
            self.holds.run(),
            self.running.run(),
            self.jobs.run(),
            self.batches.run(),
            self.queue_watch.run(),
            self.demand.run(),
            self.uses.run(self.running.list_versions),
            self.queries.run(),
            self.drift.run(),
            self.pool.run(),
            self._tidy(),
        ):
            self._tasks.append(asyncio.create_task(job))
        if self.grpc is not None:
            await self.grpc.start()

    async def stop(self) -> None:
        """Book what is on its way, then let go of everything, one thing after the other."""
        if self.grpc is not None:
            await self.grpc.stop(_CALLS_DRAIN_S)
        await self.meter.drain(_DRAIN_S)
        for name, end in (
            ("holds", self.holds.close),
            ("tasks", self._end_tasks),
            ("limits", self.limits.stop),
            ("queries", self.queries.close),
            ("drift", self.drift.close),
            ("streams", self.streams.close),
            ("files", self.files.close),
            ("wakeups", self.wakeups.close),
            ("outputs", self.outputs.close),
            ("broker", self.broker.close),
            ("database", self.database.close),
        ):
            try:
                async with asyncio.timeout(_END_S):
                    await end()
            except Exception:  # What cannot be let go of in good order ends with the process.
                logger.exception("the end of %s is not waited for", name)
        self.pool.close()
        self.observer.stop()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def is_ready(self) -> bool:
        """Whether predictions should be sent here: they can be taken, also a moment from now."""
        return self.has_database() and not self.closing.is_draining

    def has_database(self) -> bool:
        """Whether Postgres is there, tells of changes and the time."""
        return self.changes.is_listening and self.clock.is_known

    async def handle(self, scope: Any, protocol: RSGIProtocol) -> None:
        """Answer one request; nothing that it raises goes further."""
        request = Request(
            method=scope.method,
            path=scope.path,
            segments=scope.path.strip("/").split("/"),
            query_string=scope.query_string,
            headers=scope.headers,
            protocol=protocol,
            scope=scope,
            body_bytes_max=self.config.body_bytes_max,
            deadline_s=self.config.deadline_s,
        )
        if request.segments[0] in OPERATIONS:
            answer = await self._answer(request, scope.client)
        else:
            answer = await self._answer_counted(request, scope.client)
        if request.events is not None and request.events.has_begun:
            request.events.close()
            return
        protocol.response_bytes(
            answer.status,
            [
                ("content-type", answer.content_type),
                ("x-cost-nano-usd", str(answer.cost_nanos)),
                *request.common_headers,
                *answer.headers,
                *request.limit_headers,
                # The client's next request goes by a new connection, to another gateway.
                *([("connection", "close")] if self.closing.is_draining else []),
            ],
            answer.body,
        )
        if request.body_is_unread:
            await request.discard_body()

    async def answer_call(self, request: Request, family: Family) -> Answer:
        """Answer a request that came another way than by HTTP, in the words of its family."""
        return await self._answer_counted(request, "", family)

    async def _answer_counted(
        self, request: Request, peer: str, family: Family | None = None
    ) -> Answer:
        self.observer.begin(request)
        self.requests_open += 1
        try:
            answer = await self._answer(request, peer, family)
        finally:
            self.requests_open -= 1
        status = answer.outcome_status or answer.status
        self.observer.end(request, status=status, cost_nanos=answer.cost_nanos)
        return answer

    async def _answer(self, request: Request, peer: str, called: Family | None = None) -> Answer:
        """The answer, an error included, in the words of the protocol that was called."""
        family = called or self._choose_family(request.segments[0])
        try:
            if request.segments[0] in OPERATIONS:
                return self.operations.answer(request, peer)
            if self.requests_open > REQUESTS_OPEN_MAX:
                raise CapacityError(retry_after_s=1)
            if called is not None:
                return await called.answer(request)
            match request.segments:
                case ["v1" | "v2" | "openai" | "mcp" | "node", *_]:
                    return await family.answer(request)
            raise NotFoundError
        except MarketplaceError as error:
            failure = error
        except Exception:  # The one place where every error ends.
            logger.exception("request %s failed", request.request_id, extra=_fields(request))
            failure = MarketplaceError()
        answer = family.render_error(request, failure)
        answer.headers += _error_headers(failure)
        answer.cost_nanos = request.broken_cost_nanos
        request.code = failure.code
        if failure.http_status >= 500:
            # Not the path itself, which may hold anything.
            logger.warning(
                "%s %s %s: %d %s",
                *(request.request_id, name_method(request.method), name_route(request.segments)),
                *(failure.http_status, failure.code),
                extra=_fields(request),
            )
        if request.events is not None:
            await request.events.fail(failure)
        return answer

    def _choose_family(self, segment: str) -> Family:
        match segment:
            case "v2":
                return self.oip
            case "openai":
                return self.openai
            case "mcp":
                return self.mcp
            case "node":
                return self.pull
        return self.native

    def _make_grpc(self) -> GRPCServer | None:
        if not self.config.grpc_listen:
            return None
        # It takes half a second to import.
        from inference.gateway.grpc_server import GRPCServer

        return GRPCServer(self)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            self.pool.keep_only(self.routes.list_base_urls())
            self.streams.keep_only(self.routes.list_grpc_addresses())


class Application:
    """What granian loads: reads the environment when its worker starts, not before."""

    def __init__(self) -> None:
        self.gateway: Gateway | None = None

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start; granian calls it once per worker, before the first request."""
        # An error's own text may quote what a request held.
        logs.configure(hides_errors=True)
        # The pool says every second that Postgres is away; once a connection is enough.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        _raise_file_limit()
        self.gateway = Gateway(GatewayConfig.from_env())
        loop.run_until_complete(self.gateway.start())
        self.gateway.closing.hear(loop)
        memory.tune()

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop; granian calls it when the last request has been answered."""
        if self.gateway is not None:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(self.gateway.stop())

    async def __rsgi__(self, scope: Any, protocol: RSGIProtocol) -> None:
        """Answer one request."""
        assert self.gateway is not None
        await self.gateway.handle(scope, protocol)


def _fields(request: Request) -> dict[str, Any]:
    return {"fields": {"request_id": request.request_id}}


def _raise_file_limit() -> None:
    """Let the process have as many connections as it takes; many systems begin at 1,024 files."""
    wanted = CONNECTIONS_MAX + GRPC_CONNECTIONS_MAX + FILES_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
        if limit < wanted:
            logger.warning("%d open files are allowed, of %d that are wanted", limit, wanted)


def _error_headers(error: MarketplaceError) -> list[tuple[str, str]]:
    headers = {name.lower(): value for name, value in problem_headers(error).items()}
    headers.pop("cache-control", None)
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.code in _NO_RETRY:
        headers["x-should-retry"] = "false"
    return list(headers.items())


app = Application()
