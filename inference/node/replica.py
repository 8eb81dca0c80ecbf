"""What this node knows of one replica, and what it says of it."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from inference.node.errors import ReplicaError
from inference.node.leases import Lease
from inference.triton.repository import model_name
from strongroom.sealing.manifest import Manifest

PURPOSES = ("scan", "serve")
WORK_KINDS = ("test", "benchmark")
# What the loader calls its phases, in the platform's words.
STATES_BY_PHASE = {"sandboxed": "starting"}
# Where each step of the way begins, for one progress bar over all of it.
_WAY = ("assigned", "fetching", "starting", "decrypting", "validating", "loading", "warming")


@dataclass(frozen=True, slots=True)
class Work:
    """Something to do with a loaded replica, once."""

    id: UUID
    kind: str


@dataclass(frozen=True, slots=True)
class Desired:
    """One line of the desired state."""

    id: UUID
    version_id: UUID
    purpose: str
    work: Work | None = None

    @property
    def is_same_as(self) -> tuple[UUID, str]:
        """What cannot change without loading anew."""
        return self.version_id, self.purpose


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """Work, and the loaded replica that it is to be done with."""

    work: Work
    replica_id: UUID
    manifest: Manifest
    stub_pid: int
    load_ms: float


@dataclass(frozen=True, slots=True)
class CanaryOrder:
    """A replica in service, to be asked one of its test vectors."""

    replica_id: UUID
    manifest: Manifest
    stub_pid: int


class Stage(enum.Enum):
    """What the node is doing about a replica."""

    # Nothing is loaded; it will be, when it is due.
    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"
    # Nothing is loaded and nothing will be.
    GONE = "gone"


@dataclass(slots=True)
class Replica:
    """One replica on this node. The reconciler's lock guards every member."""

    desired: Desired
    stage: Stage = Stage.WAITING
    state: str = "assigned"
    progress: float = 0.0
    detail: str = ""
    reason_code: str = ""
    # The loader's word on the files and on the load; sent until the platform has it.
    report: dict[str, Any] = field(default_factory=dict)
    is_report_sent: bool = True
    attempts: int = 0
    # Of the monotonic clock; 0 is at once.
    retry_at: float = 0.0
    crashes: list[float] = field(default_factory=list)
    # Set while it is loaded.
    manifest: Manifest | None = None
    lease: Lease | None = None
    stub_pid: int = 0
    load_ms: float = 0.0
    # Why it must go although it is wanted and its lease holds.
    condemned: ReplicaError | None = None
    # Ends a load that runs.
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> UUID:
        return self.desired.id

    @property
    def name(self) -> str:
        """The model's name in Triton."""
        return model_name(self.desired.id)

    def enter(self, stage: Stage, state: str, *, detail: str = "") -> None:
        """Go on to the next stage; what was said of the one before is forgotten."""
        self.stage, self.state, self.detail, self.reason_code = stage, state, detail, ""
        self.progress = 1.0 if stage is Stage.READY else 0.0

    def fail(self, error: ReplicaError) -> None:
        """End here, with the reason."""
        self.enter(Stage.FAILED, "failed", detail=error.detail)
        self.reason_code = error.reason_code

    def forget_load(self) -> None:
        """Nothing of it is loaded any more."""
        self.manifest, self.lease, self.stub_pid, self.condemned = None, None, 0, None

    def describe(self) -> dict[str, Any]:
        """The line of the report."""
        phase = self.state
        if self.state in _WAY:
            phase = f"{self.state} ({_WAY.index(self.state) + 1} of {len(_WAY)})"
        line: dict[str, Any] = {
            "id": str(self.id),
            "state": self.state,
            "phase": self.detail or phase,
            "progress": round(self.progress, 3),
        }
        if self.reason_code:
            line |= {"reason_code": self.reason_code, "detail": self.detail}
        if self.report and not self.is_report_sent:
            line["report"] = self.report
        return line


def parse_desired(document: dict[str, Any]) -> list[Desired]:
    """Read the desired state; lines of another form are left out, not guessed.

    Raises:
        ValueError: The document as a whole has another form: nothing may be unloaded on
            its word.
    """
    lines = document.get("replicas")
    if not isinstance(lines, list):
        raise ValueError("the desired state has no list of replicas")
    return [desired for line in lines if (desired := _parse_line(line)) is not None]


def _parse_line(line: Any) -> Desired | None:
    try:
        replica_id, purpose = UUID(line["id"]), line["purpose"]
        if purpose not in PURPOSES or line.get("triton_name") != model_name(replica_id):
            return None
        work = line.get("work")
        found = Work(UUID(work["id"]), work["kind"]) if work else None
        return Desired(replica_id, UUID(line["version_id"]), purpose, found)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
