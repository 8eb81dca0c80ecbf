"""A node for the tests of jobs: the real puller over HTTP, and a real Triton behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

import numpy as np

from inference.models import Node
from inference.node.control_plane import JobQueue
from inference.node.pulling import Job, Puller, run_job
from inference.triton.control import TritonControl
from inference.triton.repository import model_name
from marketplace.core import keys


class _Identity:
    def __init__(self, token: str) -> None:
        self.token = token


class _Identities:
    def __init__(self, token: str) -> None:
        self.current = _Identity(token)


def give_token(node: Node) -> str:
    """Have a node known by a token; returns it."""
    secret = keys.generate(keys.NODE)
    node.token_digest = secret.digest
    node.save(update_fields=["token_digest"])
    return secret.text


class PullingNode:
    """One node that runs jobs of `replicas` (by version); `bend` may change how it runs them."""

    def __init__(
        self,
        gateway_url: str,
        node: Node,
        triton,
        replicas: dict[UUID, UUID],
        *,
        slot_count: int = 1,
        bend: Callable[[Job, Callable[[Job], dict[str, np.ndarray]]], dict[str, np.ndarray]]
        | None = None,
    ) -> None:
        self.replicas = replicas
        self.killed: list[UUID] = []
        self.ran: list[UUID] = []
        self._bend = bend
        self._control = TritonControl(triton.config.grpc_url, triton.config.secret)
        self.queue = JobQueue(gateway_url, _Identities(give_token(node)))
        self.puller = Puller(
            self.queue,
            slot_count=slot_count,
            list_versions=lambda: list(self.replicas),
            run=self._run,
            kill=self.killed.append,
        )
        self._is_stopped = threading.Event()
        self.puller.start()

    def _run(self, job: Job) -> dict[str, np.ndarray]:
        self.ran.append(job.id)
        return self._bend(job, self._infer) if self._bend else self._infer(job)

    def _infer(self, job: Job) -> dict[str, np.ndarray]:
        return run_job(self._control, model_name(self.replicas[job.version_id]), job)

    def stop(self, timeout_s: float = 0.0) -> None:
        if not self._is_stopped.is_set():
            self._is_stopped.set()
            self.puller.stop(timeout_s=timeout_s)
            self.queue.close()
            self._control.close()
