"""Traces of some requests, sent to an OpenTelemetry collector where one is named.

A trace is ours: its id is the request's id as 32 hexadecimal digits. What a client sends as
`traceparent` decides neither the ids nor whether we trace; it becomes a link of ours, so that
its owner finds the way. On the way of a request only times are noted; spans are made of them
once it is answered, and leave from a thread of the SDK through a queue that drops what is
too much. Spans hold ids, never names, keys or what a prediction takes and gives.

Without a collector nothing of OpenTelemetry is imported. Source: W3C Trace Context, level 2.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from inference.gateway.config import (
    SPANS_PER_REQUEST_MAX,
    SPANS_WAITING_MAX,
    TRACE_EXPORT_S,
    TRACE_STOP_S,
)
from inference.gateway.route_name import name_method, name_route
from marketplace.core.logs import describe_error

if TYPE_CHECKING:
    from inference.gateway.config import GatewayConfig
    from inference.gateway.http import Request

logger = logging.getLogger(__name__)

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_NANOS = 1_000_000_000
# The stage of a call to a replica.
CALL_STAGE = "triton"


@dataclass(slots=True)
class Stage:
    """A part of a request's time, on the clock of `time.monotonic`."""

    name: str
    began_s: float
    ended_s: float
    error: str
    ids: dict[str, UUID | None]
    # Of its span, where Triton was told of it; 0: any.
    span_id: int = 0


class Trace:
    """What is noted of one request on its way.

    Args:
        trace_id: That of the request.
    """

    __slots__ = ("_call_id", "stages", "trace_id")

    def __init__(self, trace_id: int = 0) -> None:
        self.stages: list[Stage] = []
        self.trace_id = trace_id
        self._call_id = 0

    def name_call(self) -> str:
        """The `traceparent` of a call that leaves now; the next stage `triton` is its span."""
        self._call_id = random.getrandbits(64) or 1
        return f"00-{self.trace_id:032x}-{self._call_id:016x}-01"

    def add(
        self,
        name: str,
        began_s: float,
        ended_s: float,
        error: BaseException | None = None,
        **ids: UUID | None,
    ) -> None:
        """Note a part that has ended; beyond the limit nothing more is noted."""
        if len(self.stages) < SPANS_PER_REQUEST_MAX:
            failure = "" if error is None else describe_error(error)
            stage = Stage(name, began_s, ended_s, failure, ids)
            if name == CALL_STAGE:
                stage.span_id, self._call_id = self._call_id, 0
            self.stages.append(stage)


class Tracer:
    """Chooses which requests are traced, and sends what was noted of them.

    Args:
        endpoint: Address of the collector without `/v1/traces`; empty where the standard
            variables of OpenTelemetry name it.
        ratio: Which part of the requests is traced.
    """

    def __init__(self, endpoint: str, ratio: float) -> None:
        self.ratio = ratio
        self._exporter = _Exporter(endpoint)

    def begin(self, request_id: UUID) -> Trace | None:
        """A trace for a request, if it is one of those that are traced."""
        return Trace(request_id.int) if random.random() < self.ratio else None  # noqa: S311 - a sample

    def end(self, request: Request, status: int) -> None:
        """Hand over what was noted; never raises."""
        assert request.trace is not None
        try:
            self._exporter.send(request, request.trace, status)
        except Exception as error:  # noqa: BLE001 - an answer does not fail for its trace
            logger.warning("a trace is lost: %s", describe_error(error))

    def stop(self) -> None:
        """Send what waits, for a moment; a collector that is away holds nobody up."""
        thread = threading.Thread(target=self._exporter.stop, daemon=True)
        thread.start()
        thread.join(TRACE_STOP_S)


def make_tracer(config: GatewayConfig) -> Tracer | None:
    """The tracer that the settings ask for, or none."""
    return Tracer(config.otlp_endpoint, config.trace_ratio) if config.is_traced else None


def read_traceparent(text: str | None) -> tuple[int, int] | None:
    """Trace and span of a client's header; None for whatever is not in its exact form."""
    match = _TRACEPARENT.fullmatch(text or "")
    if match is None:
        return None
    trace_id, span_id = int(match[1], 16), int(match[2], 16)
    return (trace_id, span_id) if trace_id and span_id else None


class _Exporter:
    """The SDK's tracer, its queue, and its thread that sends."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._trace = trace
        self._ids = _make_ids()
        self._provider = TracerProvider(
            # Who asks for a trace here has been chosen already.
            sampler=sampling.ALWAYS_ON,
            resource=Resource.create({"service.name": "strongroom-gateway"}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(f"{endpoint}/v1/traces" if endpoint else None),
                max_queue_size=SPANS_WAITING_MAX,
                max_export_batch_size=SPANS_WAITING_MAX // 4,
                schedule_delay_millis=TRACE_EXPORT_S * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("strongroom.gateway")

    def send(self, request: Request, noted: Trace, status: int) -> None:
        """Make the spans of a request that has been answered."""
        trace = self._trace
        began_ns = round(request.created_at.timestamp() * _NANOS)

        def to_ns(moment_s: float) -> int:
            return began_ns + round((moment_s - request.started_s) * _NANOS)

        self._ids.trace_id = request.id.int
        root = self._tracer.start_span(
            f"{name_method(request.method)} {name_route(request.segments)}",
            context=trace.set_span_in_context(trace.INVALID_SPAN),
            kind=trace.SpanKind.SERVER,
            links=self._find_links(request),
            start_time=began_ns,
            attributes=_describe(request, status),
        )
        if status >= 500:
            root.set_status(trace.StatusCode.ERROR)
        context = trace.set_span_in_context(root)
        for stage in noted.stages:
            self._ids.span_id = stage.span_id
            span = self._tracer.start_span(
                stage.name,
                context=context,
                start_time=to_ns(stage.began_s),
                attributes={f"strongroom.{name}": str(one) for name, one in stage.ids.items()},
            )
            if stage.error:
                span.set_attribute("error.type", stage.error)
                span.set_status(trace.StatusCode.ERROR)
            span.end(to_ns(stage.ended_s))
        root.end(to_ns(request.ended_s))

    def stop(self) -> None:
        """Send what waits, and end the thread."""
        self._provider.shutdown()

    def _find_links(self, request: Request) -> list[Any]:
        parent = read_traceparent(request.headers.get("traceparent"))
        if parent is None:
            return []
        return [self._trace.Link(self._trace.SpanContext(*parent, is_remote=True))]


def _make_ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class RequestIds(RandomIdGenerator):
        """Span ids by chance; the trace's id is that of the request."""

        trace_id = 0
        # Of the next span alone, where it was given away already.
        span_id = 0

        def generate_span_id(self) -> int:
            given, self.span_id = self.span_id, 0
            return given or super().generate_span_id()

        def generate_trace_id(self) -> int:
            return self.trace_id

    return RequestIds()


def _describe(request: Request, status: int) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "http.request.method": name_method(request.method),
        "http.route": name_route(request.segments),
        "http.response.status_code": status,
        "strongroom.request_id": request.request_id,
        "strongroom.code": request.code,
    }
    if request.caller is not None:
        attributes["strongroom.account_id"] = str(request.caller.account_id)
        if request.caller.key_id is not None:
            attributes["strongroom.key_id"] = str(request.caller.key_id)
    if request.offer is not None:
        attributes["strongroom.model_id"] = str(request.offer.model_id)
        attributes["strongroom.version_id"] = str(request.offer.version_id)
    return attributes
