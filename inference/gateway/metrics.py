"""What this process counts: cheap to note on the way of a request, rendered when asked for.

Noting is adding to a number in a list or a dict, in the one thread of the event loop, so
there is neither a lock nor a look-up of labels (prometheus_client takes one to two
microseconds for each of these). `inference.gateway.metrics_page` writes it all down.

Labels are models and versions, never accounts: a consumer is not a series. How many versions
have series of their own is bounded; the others share one, named `other`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from inference.gateway.config import OBSERVED_VERSIONS_MAX
from marketplace.core.exposition import OTHER, Histogram

if TYPE_CHECKING:
    from inference.gateway.catalog import Offer

OK = "ok"
# What alerts ask for is there before it first happens: see marketplace.core.exposition.
HOLD_REFUSALS = ("insufficient_credit", "budget_exceeded", "unavailable", "deadline", "internal")
SETTLE_FAILURES = ("deadline", "unavailable", "booking_unknown", "conflict", "internal")

# Upper ends of the buckets. Below a millisecond lies what is the gateway's own; predictions
# end at their deadline, which is a minute unless it was set.
LATENCY_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
SHORT_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0),
)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Series:
    """What is counted of one version of a model."""

    __slots__ = (
        *("call_requests", "call_rows", "call_seconds", "cold_start_seconds"),
        *("first_token_seconds", "model"),
        *("queue_seconds", "request_seconds", "requests", "retries", "token_seconds", "version"),
    )

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version
        self.requests: dict[tuple[str, int, str], int] = {}
        self.retries = 0
        self.request_seconds = Histogram(LATENCY_S)
        self.queue_seconds = Histogram(SHORT_S)
        self.call_seconds = Histogram(LATENCY_S)
        self.call_rows = Histogram(COUNTS)
        self.call_requests = Histogram(COUNTS)
        self.cold_start_seconds = Histogram(LATENCY_S)
        self.first_token_seconds = Histogram(LATENCY_S)
        self.token_seconds = Histogram(SHORT_S)

    def observe_first_token(self, seconds: float) -> None:
        """A stream has begun: from the arrival of the request to its first token."""
        self.first_token_seconds.observe(seconds)

    def observe_token(self, seconds: float) -> None:
        """A stream went on: from one token to the next."""
        self.token_seconds.observe(seconds)

    def observe_call(self, *, requests: int, rows: int) -> None:
        """A call leaves for a replica, with the rows of one or more requests."""
        self.call_requests.observe(requests)
        self.call_rows.observe(rows)

    def observe_retry(self) -> None:
        """A prediction goes to another replica, because one has failed it."""
        self.retries += 1


class Metrics:
    """All that is counted. One for the process: see `METRICS`."""

    def __init__(self, *, versions_max: int = OBSERVED_VERSIONS_MAX) -> None:
        self.versions_max = versions_max
        # Requests that never named a model that they may see.
        self.without_model = Series("", "")
        self.other = Series(OTHER, OTHER)
        self.by_version: dict[UUID, Series] = {}
        self.hold_seconds = Histogram(SHORT_S)
        self.hold_refusals = dict.fromkeys(HOLD_REFUSALS, 0)
        self.settle_seconds = Histogram(SHORT_S)
        self.settle_failures = dict.fromkeys(SETTLE_FAILURES, 0)
        self.settle_batch_size = Histogram(COUNTS)
        self.settle_batch_seconds = Histogram(SHORT_S)
        self.replays: dict[str, int] = {}

    def of(self, offer: Offer) -> Series:
        """The series of a version; the shared one for versions beyond the limit."""
        series = self.by_version.get(offer.version_id)
        if series is None:
            if len(self.by_version) >= self.versions_max:
                return self.other
            series = Series(offer.model, str(offer.number))
            self.by_version[offer.version_id] = series
        return series

    def of_version(self, version_id: UUID) -> Series:
        """The same by the version's id, once a request for it was seen."""
        return self.by_version.get(version_id, self.other)

    def observe_answer(
        self, offer: Offer | None, protocol: str, status: int, code: str, seconds: float
    ) -> None:
        """A request was answered.

        Args:
            offer: What it was about; None if it came to none.
            protocol: Whose address was called.
            status: Of HTTP.
            code: Of the error, or `ok`.
            seconds: From its arrival; counted for successes only, so that quick refusals do
                not make a slow model look fast.
        """
        series = self.without_model if offer is None else self.of(offer)
        outcome = (protocol, status, code)
        series.requests[outcome] = series.requests.get(outcome, 0) + 1
        if status < 400:
            series.request_seconds.observe(seconds)

    def observe_replay(self, protocol: str) -> None:
        """A retry with a known idempotency key got what was booked before."""
        self.replays[protocol] = self.replays.get(protocol, 0) + 1

    def observe_hold(self, seconds: float, refusal: str = "") -> None:
        """Money was reserved, or not: then `refusal` is the error's code."""
        self.hold_seconds.observe(seconds)
        if refusal:
            self.hold_refusals[refusal] = self.hold_refusals.get(refusal, 0) + 1

    def observe_settle(self, seconds: float, failure: str = "") -> None:
        """A prediction was booked, with the time it waited for it; or not, and why."""
        self.settle_seconds.observe(seconds)
        if failure:
            self.settle_failures[failure] = self.settle_failures.get(failure, 0) + 1

    def observe_settle_batch(self, size: int, seconds: float) -> None:
        """One statement has booked so many predictions together, in this time."""
        self.settle_batch_size.observe(size)
        self.settle_batch_seconds.observe(seconds)


# Counted by every part of a gateway; a process has one.
METRICS = Metrics()
