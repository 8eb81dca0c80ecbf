"""What goes through the queue: a job that is handed in, a lease of it, and how that ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, Protocol
from uuid import UUID

# A lease ends so long after its last heartbeat; three of them may be lost.
LEASE_S = 30.0
HEARTBEAT_S = 10.0
# Of one account, waiting or running. Beyond it, it is told to wait.
QUEUED_MAX = 100_000
# Until a job has to be over. What it gave is kept for a day from when it was asked for, and half
# of that is to be left for fetching it.
TIMEOUT_S, TIMEOUT_MAX_S = 3_600, 12 * 3_600
ATTEMPTS_MAX = 3


class Priority(IntEnum):
    """How urgent a job is, the most urgent first."""

    HIGH = 0
    NORMAL = 1
    BATCH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A prediction that is to run later."""

    id: UUID
    account_id: UUID
    version_id: UUID
    creator_id: UUID
    input: Mapping[str, Any]
    api_key_id: UUID | None = None
    price_id: UUID | None = None
    mode: str = "live"
    source: str = "api"
    protocol: str = "native"
    tag: str = ""
    priority: Priority = Priority.NORMAL
    rows: int = 1
    # The most that it can cost.
    gross_nanos: int = 0
    is_rated: bool = False
    # The most units of each kind, where its price is rated by them.
    metered: Mapping[str, int] | None = None
    expected_ms: int = 1_000
    timeout_s: float = TIMEOUT_S
    attempts_max: int = ATTEMPTS_MAX
    has_budget: bool = False
    # One that is claimed for this job; it is complete when the job is in the queue.
    idempotency_key: str | None = None
    webhook_url: str = ""
    webhook_events: tuple[str, ...] = ()
    # The line of a batch that it runs: noted as queued together with it.
    batch_line_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A job that one slot of a node has for now."""

    id: UUID
    node_id: UUID
    slot: int
    # Whoever comes with another one than the newest has lost the job.
    epoch: int
    attempt: int
    account_id: UUID
    api_key_id: UUID | None
    version_id: UUID
    creator_id: UUID
    price_id: UUID | None
    mode: str
    source: str
    protocol: str
    tag: str
    rows: int
    gross_nanos: int
    is_rated: bool
    metered: Mapping[str, int] | None
    created_at: datetime
    deadline_at: datetime
    lease_until: datetime
    input: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Beat:
    """What a node says of a lease that it holds."""

    id: UUID
    epoch: int
    is_running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a lease ended.

    Args:
        state: succeeded, failed or canceled.
        output: What the model said; None where nothing is to be kept.
        error: Code of what went wrong.
        predict_time_us: How long it ran.
        metered: Units of each kind, where its price is rated.
        is_charged: Whether something was delivered that has its price.
        is_kept: Whether input and output may be kept.
    """

    state: str
    output: Any = None
    error: str = ""
    predict_time_us: int = 0
    metered: Mapping[str, int] | None = None
    is_charged: bool = False
    is_kept: bool = True


class SlotTakenError(Exception):
    """The slot has a job already: a node runs one at a time in each."""


class Broker(Protocol):
    """A queue of jobs. Whatever stands behind it, each job is paid for once at the most.

    All methods may raise `BrokerUnavailableError`: what they did is not known then. Each may be
    called again.
    """

    async def submit(self, job: NewJob) -> str:
        """Accept a job: queued, queue_full, claim_lost, insufficient_credit, budget_exceeded.

        Of a job that is the line of a batch also `gone`: the line does not wait any more.
        """

    async def claim(
        self, node_id: UUID, slot: int, version_ids: list[UUID], *, lease_s: float = LEASE_S
    ) -> Lease | None:
        """Lease the next job of these versions to a free slot; raises SlotTakenError."""

    async def find_lease(self, node_id: UUID, job_id: UUID, epoch: int) -> Lease | None:
        """The lease that a node holds; None if it is not, or no longer, its own."""

    async def heartbeat(
        self, node_id: UUID, beats: list[Beat], *, lease_s: float = LEASE_S
    ) -> dict[UUID, str]:
        """Prolong leases: for each go, cancel or stale."""

    async def finish(
        self, node_id: UUID, job_id: UUID, epoch: int, ending: Ending
    ) -> tuple[str, int]:
        """Book a result: settled, free, unpaid or stale, and what it cost in nano-dollars."""

    async def hand_back(
        self, node_id: UUID, job_id: UUID, epoch: int, code: str, detail: str = ""
    ) -> str:
        """Give a job back through no fault of its own: its state then, or stale."""

    async def release_node(self, node_id: UUID, code: str) -> int:
        """Give back all that a node holds; returns how many jobs."""

    async def cancel(self, account_id: UUID, job_id: UUID) -> str | None:
        """Give a job up: its state then; None where the account has no such job."""

    async def reap(self, *, steps_max: int = 1_000) -> dict[str, int]:
        """End leases that ran out and deadlines that passed; how many of which."""

    async def wait_for_work(self, timeout_s: float, version_ids: list[UUID]) -> None:
        """Return when there may be something of these to claim, at the latest after so long."""


class BrokerUnavailableError(Exception):
    """The queue cannot be reached, or did not answer: what it did is not known."""
