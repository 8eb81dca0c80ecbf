"""The node: all its parts, put together and run.

The main thread supervises: it starts Triton, looks at every replica four times a second,
and drains at the end. Beside it run the line to the platform, the keepers of leases and of the
certificate, the socket for loaders, and a thread for each step that takes time.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
from typing import Any
from uuid import UUID

import numpy as np

from inference.node import health, metrics, trial
from inference.node.cache import ArtifactCache
from inference.node.canary import Canaries
from inference.node.certificates import CertificateKeeper
from inference.node.config import NodeConfig
from inference.node.control_plane import ControlPlane, JobQueue, KeyBroker
from inference.node.errors import IdentityError
from inference.node.gpu import GPUWatch
from inference.node.identity import IdentityStore
from inference.node.leases import Lease, LeaseKeeper
from inference.node.loading import ReplicaLoader
from inference.node.log import event
from inference.node.origin import Mirror
from inference.node.platform_link import PlatformLink
from inference.node.prefetch import Prefetcher
from inference.node.pulling import Job, Puller, run_job
from inference.node.reconcile import Reconciler
from inference.node.replica import WorkOrder
from inference.node.stub_socket import StubSocket
from inference.node.supervisor import TritonSupervisor
from inference.node.trial import Infer, Result
from inference.node.workbench import Workbench
from inference.triton import processes, repository
from inference.triton.control import TritonControl
from inference.triton.errors import ModelNotReadyError
from inference.triton.server import TritonServer, stop_orphan
from marketplace.core.clock import to_wire, utc_now
from marketplace.core.metrics_listener import MetricsListener
from strongroom.sealing.manifest import Manifest

logger = logging.getLogger("node")

TICK_S = 0.25
# Loads that are ended when the node stops; their loaders are killed, so this is short.
DRAIN_TIMEOUT_S = 8.0
# Leases that cannot be given back in this time run out by themselves.
RELEASE_TIMEOUT_S = 5.0


class Node:
    """One node, from its settings to its end."""

    def __init__(self, config: NodeConfig) -> None:
        for folder in (config.node_dir, config.run_dir, config.triton.work_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.config = config
        self._lock_handle = _lock_folder(config)
        self._stopping = threading.Event()
        self._support = health.probe_sandbox(config.environment)
        self._gpus = GPUWatch(config.triton.metrics_url)
        identities = IdentityStore(config.node_dir)
        self._control_plane = ControlPlane(config.web_url, identities)
        self._cache = ArtifactCache(
            config.cache_dir,
            limit_bytes=config.cache_bytes,
            control_plane=self._control_plane,
            manifest_dir=config.manifest_dir,
            mirror=Mirror(config.mirror_url) if config.mirror_url else None,
        )
        self._broker = KeyBroker(
            config.keybroker_url, identities, config.evidence, ca=config.keybroker_ca
        )
        self._server = TritonServer(config.triton)
        self._control = TritonControl(config.triton.grpc_url, config.triton.secret)
        self._stubs = StubSocket(
            config.socket_path,
            broker=self._broker,
            find_server_pid=lambda: self._server.pid,
            repository_dir=config.triton.repository_dir,
        )
        self._leases = LeaseKeeper(
            self._broker,
            list_leases=self._list_leases,
            on_loss=lambda _: self._link.wake(),
        )
        self._reconciler = Reconciler(
            loader=self._make_loader(), leases=self._leases, on_change=self._wake
        )
        self._prefetcher = self._make_prefetcher() if config.prefetches else None
        self._workbench = Workbench(self._control_plane, self._run_work)
        self._queue = JobQueue(config.gateway_url, identities) if config.gateway_url else None
        self._puller = self._make_puller()
        self._canaries = Canaries(
            interval_s=config.canary_interval_s,
            list_orders=self._reconciler.list_canaries,
            is_busy=lambda: (
                self._reconciler.is_loading() or self._workbench.is_busy or self._runs_job()
            ),
            find_infer=lambda order: self._find_infer(order.manifest),
            on_record=self._reconciler.note_canary,
            on_wrong=self._reconciler.condemn,
        )
        self._supervisor = TritonSupervisor(
            self._server,
            self._control,
            on_lost=self._reconciler.lose_triton,
            on_change=self._wake,
        )
        self._link = PlatformLink(
            name=config.name,
            pool=config.pool,
            control_plane=self._control_plane,
            broker=self._broker,
            identities=identities,
            read_join_token=config.read_join_token,
            on_desired=self._reconciler.set_desired,
            describe=self._describe,
            on_reported=lambda body: self._reconciler.note_reported(body["replicas"]),
        )
        self._certificates = CertificateKeeper(
            self._broker, identities, on_rejected=self._link.join_anew
        )
        self._identities = identities
        self._metrics = self._serve_metrics()

    def stop(self) -> None:
        """Ask the node to drain and end; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Run until `stop`; must be called from the main thread."""
        event(logger, "node.start", name=self.config.name, pid=os.getpid())
        self._clean_up_earlier_run()
        try:
            self._stubs.start()
            if self._metrics is not None:
                self._metrics.start()
            self._leases.start()
            self._certificates.start()
            self._link.start()
            if self._puller is not None:
                self._puller.start()
            if self._prefetcher is not None:
                self._prefetcher.start()
            while not self._stopping.wait(TICK_S):
                self._supervisor.tick()
                self._reconciler.tick(is_triton_ready=self._supervisor.is_ready)
                self._cache.keep(self._reconciler.list_versions())
                self._workbench.tick(self._reconciler.list_work())
                if self._supervisor.is_ready:
                    self._canaries.tick()
        finally:
            self._drain()

    def _serve_metrics(self) -> MetricsListener | None:
        config = self.config
        metrics.watch(self._read_numbers)
        if config.metrics_listen is None:
            return None
        render = metrics.REGISTRY.render
        return MetricsListener(config.metrics_listen, render, token=config.metrics_token)

    def _read_numbers(self) -> metrics.Samples:
        """What the node is like now, for its metrics."""
        counts = dict.fromkeys(metrics.STATES, 0) | self._reconciler.count_states()
        for state, count in counts.items():
            yield "replicas", count, {"state": state}
        yield "triton_ready", int(self._supervisor.is_ready), {}
        yield "leases_held", len(self._reconciler.list_leases()), {}
        running = 0 if self._puller is None else self._puller.running_count
        yield "jobs_running", running, {}
        yield "cache_bytes", self._cache.store.describe()["used_bytes"], {}
        yield "cache_limit_bytes", self.config.cache_bytes, {}
        disk = shutil.disk_usage(self.config.cache_dir)
        yield "disk_free_bytes", disk.free, {}
        yield "disk_size_bytes", disk.total, {}
        identity = self._identities.current
        if identity.has_joined and identity.certificate:
            yield "certificate_expiry_timestamp_seconds", identity.expires_at.timestamp(), {}
        skew_s = self._broker.clock_skew_s
        if skew_s is not None:
            yield "clock_skew_seconds", skew_s, {}
        if self._link.heard_at_s:
            yield "platform_heard_timestamp_seconds", self._link.heard_at_s, {}

    def _wake(self) -> None:
        self._link.wake()

    def _list_leases(self) -> list[Lease]:
        return self._reconciler.list_leases()

    def _make_loader(self) -> ReplicaLoader:
        config = self.config
        return ReplicaLoader(
            cache=self._cache,
            triton=self._control,
            stubs=self._stubs,
            leases=self._leases,
            repository_dir=config.triton.repository_dir,
            socket_path=config.socket_path,
            support=self._support,
            parallel=max(2, os.cpu_count() or 1),
        )

    def _make_prefetcher(self) -> Prefetcher:
        return Prefetcher(
            self._cache,
            self._control_plane,
            # A node that has no server yet, or loads, wants line, disk and cores for that.
            is_busy=lambda: not self._supervisor.is_ready or self._reconciler.is_loading(),
        )

    def _make_puller(self) -> Puller | None:
        if self._queue is None or not self.config.slot_count:
            return None
        return Puller(
            self._queue,
            slot_count=self.config.slot_count,
            list_versions=lambda: list(self._reconciler.find_served()),
            run=self._run_job,
            kill=self._kill_job,
        )

    def _runs_job(self) -> bool:
        return self._puller is not None and self._puller.is_busy

    def _run_job(self, job: Job) -> dict[str, np.ndarray]:
        found = self._reconciler.find_served().get(job.version_id)
        if found is None:
            raise ModelNotReadyError
        return run_job(self._control, repository.model_name(found[0]), job)

    def _kill_job(self, version_id: UUID) -> None:
        """End the process of a model that does not stop; it is loaded again."""
        _, pid = self._reconciler.find_served().get(version_id, (None, 0))
        if processes.kill_descendant(pid, os.getpid()):
            event(logger, "job.killed", level=logging.WARNING, version=version_id)

    def _run_work(self, order: WorkOrder, cancelled: threading.Event) -> Result:
        return trial.run(
            order,
            self._find_infer(order.manifest),
            triton_version=self._supervisor.version,
            cancelled=cancelled,
        )

    def _find_infer(self, manifest: Manifest) -> Infer:
        """How a model is called: one that could stream has another way in."""
        if manifest.parsed_interface.streamed_output is not None:
            return self._control.infer_streaming
        return self._control.infer

    def _describe(self) -> dict[str, Any]:
        config = self.config.triton
        return {
            # So that the platform sees how far this machine's clock is off.
            "at": to_wire(utc_now()),
            "triton": {
                "ready": self._supervisor.is_ready,
                "version": self._supervisor.version,
                "http_url": config.http_url,
                "grpc_url": config.grpc_url,
                "metrics_url": config.metrics_url,
            },
            "info": {
                **health.describe_machine(self.config.node_dir),
                "sandbox": self._support.to_json(),
                "cache": self._cache.store.describe(),
                **self._gpus.describe(is_ready=self._supervisor.is_ready),
            },
            "replicas": self._reconciler.describe(),
        }

    def _clean_up_earlier_run(self) -> None:
        """What a node that was killed leaves: its server, its loaders, their memory."""
        config = self.config.triton
        was_orphaned = stop_orphan(config)
        removed = repository.clear(config.repository_dir)
        swept = processes.sweep_shared_memory()
        if was_orphaned or removed or swept:
            event(
                logger,
                "node.cleaned_up",
                orphan=was_orphaned,
                models=len(removed),
                regions=len(swept),
            )

    def _drain(self) -> None:
        """Stop being routed to, finish what runs, give the keys back, leave nothing behind."""
        event(logger, "node.drain")
        if self._puller is not None:
            self._puller.stop(timeout_s=self.config.drain_s)
        self._link.stop(timeout_s=2.0)
        self._certificates.stop()
        if self._prefetcher is not None:
            self._prefetcher.stop(timeout_s=1.0)
        self._workbench.stop(timeout_s=1.0)
        held = self._reconciler.list_leases()
        last_words = self._describe() | {"leaving": True}
        last_words["triton"]["ready"] = False
        is_heard = self._link.report_once(last_words)
        self._stubs.close()
        self._reconciler.drain(timeout_s=DRAIN_TIMEOUT_S)
        self._supervisor.stop()
        self._leases.stop()
        if is_heard:
            self._release(held)
            self._link.report_once({**last_words, "replicas": []})
        repository.clear(self.config.triton.repository_dir)
        self._control.close()
        self._cache.close()
        self._control_plane.close()
        if self._queue is not None:
            self._queue.close()
        self._broker.close()
        if self._metrics is not None:
            self._metrics.stop()
        os.close(self._lock_handle)
        event(logger, "node.end")

    def _release(self, held: list[Lease]) -> None:
        deadline = time.monotonic() + RELEASE_TIMEOUT_S
        for lease in held:
            if time.monotonic() > deadline:
                return
            if lease.loss is None:
                self._leases.release(lease)


def _lock_folder(config: NodeConfig) -> int:
    """One agent for one folder; the lock ends with the process, however it ends."""
    handle = os.open(config.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise IdentityError(f"another agent runs in {config.node_dir}") from error
    return handle
