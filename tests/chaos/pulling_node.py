"""A node that pulls jobs, as a process that may be killed: the real puller, and a real Triton.

    python -m tests.chaos.pulling_node SETTINGS

SETTINGS is JSON: `gateway_url`, `token`, `grpc_url` and `secret` of Triton, `version_id`, `model`
(its name there), `slot_count`, and `journal`: a file to which it adds a line for each answer to a
result, `{job_id, epoch, outcome}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np

from inference.node import log
from inference.node.control_plane import JobQueue
from inference.node.pulling import Job, Puller
from inference.triton import frames
from inference.triton.control import TritonControl
from marketplace.core.errors import MarketplaceError


@dataclass(frozen=True)
class Settings:
    gateway_url: str
    token: str
    grpc_url: str
    secret: str
    version_id: str
    model: str
    slot_count: int
    journal: str


class WatchedQueue(JobQueue):
    """Notes what it is answered, before anybody else learns of it."""

    def __init__(self, settings: Settings) -> None:
        identities: Any = SimpleNamespace(current=SimpleNamespace(token=settings.token))
        super().__init__(settings.gateway_url, identities)
        self._journal = os.open(settings.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def finish(self, job_id: UUID, frame: bytes) -> str:
        outcome = super().finish(job_id, frame)
        epoch = frames.load(frame)[0]["epoch"]
        line = {"job_id": str(job_id), "epoch": epoch, "outcome": outcome}
        os.write(self._journal, json.dumps(line).encode() + b"\n")
        return outcome


def main() -> None:
    """Pull until it is killed, or told to stop: then what runs is finished or handed back."""
    settings = Settings(**json.loads(sys.argv[1]))
    log.configure()
    control = TritonControl(settings.grpc_url, settings.secret)

    def list_versions() -> list[UUID]:
        try:
            is_ready = control.is_model_ready(settings.model)
        except MarketplaceError:
            is_ready = False
        return [UUID(settings.version_id)] if is_ready else []

    def run(job: Job) -> dict[str, np.ndarray]:
        return control.infer_until(
            settings.model,
            job.tensors,
            job.output_names,
            timeout_s=job.run_max_s,
            cancelled=job.cancelled,
        )

    puller = Puller(
        WatchedQueue(settings),
        slot_count=settings.slot_count,
        list_versions=list_versions,
        run=run,
        kill=lambda _: None,
    )
    is_told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_told.set())
    puller.start()
    is_told.wait()
    puller.stop(timeout_s=5.0)


if __name__ == "__main__":
    main()
