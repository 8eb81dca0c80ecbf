"""Spans of work that no request waits for, sent to an OpenTelemetry collector where one is named.

For workers and nodes. Without a collector nothing of OpenTelemetry is imported, and a span costs
a look at one name. Spans hold ids and codes, never names, addresses, keys or contents.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from marketplace.core.env import SettingError, env_ratio
from marketplace.core.logs import describe_error

logger = logging.getLogger(__name__)

COLLECTORS = (
    "STRONGROOM_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)
RATIO = 0.01
# Beyond this the oldest are dropped; nobody waits for a collector.
WAITING_MAX = 2048
EXPORT_MS = 1000


class Spans:
    """Makes the spans of one process.

    Args:
        service: What the process is called in traces.
        env: The environment; that of the process by default.

    Raises:
        SettingError: A setting has a form that is not accepted.
    """

    def __init__(self, service: str, env: Mapping[str, str] | None = None) -> None:
        source = os.environ if env is None else env
        self.service = service
        self.is_on = any(source.get(name) for name in COLLECTORS)
        self.endpoint = source.get("STRONGROOM_OTLP_ENDPOINT", "").rstrip("/")
        self.ratio = env_ratio("STRONGROOM_OTLP_RATIO", RATIO, env=source)
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise SettingError("STRONGROOM_OTLP_ENDPOINT must begin with http:// or https://")
        self._lock = threading.Lock()
        # The process that the provider was made in: a child begins with one of its own.
        self._owner_pid = 0
        self._provider: Any = None

    @contextmanager
    def span(self, name: str, **ids: object) -> Iterator[None]:
        """Time the block as a span of its own trace, if it is one of those that are traced.

        An error of the block is noted by its class and goes on; one of tracing never does.
        """
        if not self.is_on or random.random() >= self.ratio:  # noqa: S311 - a sample
            yield
            return
        span = self._begin(name, ids)
        try:
            yield
        except BaseException as error:
            self._end(span, error)
            raise
        self._end(span, None)

    def stop(self) -> None:
        """Send what waits."""
        if self._provider is not None and self._owner_pid == os.getpid():
            self._provider.shutdown()

    def _begin(self, name: str, ids: Mapping[str, object]) -> Any:
        try:
            attributes = {f"strongroom.{key}": str(one) for key, one in ids.items()}
            tracer = self._find_provider().get_tracer("strongroom")
            return tracer.start_span(name, attributes=attributes)
        except Exception as error:  # noqa: BLE001 - work does not fail for its trace
            logger.warning("a span is lost: %s", describe_error(error))
            return None

    def _end(self, span: Any, error: BaseException | None) -> None:
        if span is None:
            return
        from opentelemetry.trace import StatusCode

        if error is not None:
            span.set_attribute("error.type", describe_error(error))
            span.set_status(StatusCode.ERROR)
        span.end()

    def _find_provider(self) -> Any:
        with self._lock:
            if self._provider is None or self._owner_pid != os.getpid():
                self._provider, self._owner_pid = self._make_provider(), os.getpid()
            return self._provider

    def _make_provider(self) -> Any:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(
            # Who asks for a span here has been chosen already.
            sampler=sampling.ALWAYS_ON,
            resource=Resource.create({"service.name": self.service}),
        )
        exporter = OTLPSpanExporter(f"{self.endpoint}/v1/traces" if self.endpoint else None)
        provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=WAITING_MAX,
                max_export_batch_size=WAITING_MAX // 4,
                schedule_delay_millis=EXPORT_MS,
            )
        )
        return provider


_spans: dict[str, Spans] = {}


def find_spans(service: str) -> Spans:
    """The spans of this process; its settings are read at the first use."""
    if service not in _spans:
        _spans[service] = Spans(service)
    return _spans[service]
