"""Bring one replica up, or down: every step from ciphertext to a model that answers.

Each function is called in a thread of its own and either comes to its end or leaves
nothing behind: no model in Triton, no folder, no lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inference.node.cache import ArtifactCache, CachedArtifact
from inference.node.errors import CancelledError, ReplicaError
from inference.node.health import SandboxSupport
from inference.node.leases import Lease, LeaseKeeper
from inference.node.log import event
from inference.node.replica import Desired
from inference.node.stub_socket import SESSION_CODES, LoadSession, StubSocket
from inference.serving.errors import SandboxError
from inference.triton import control, repository
from inference.triton.errors import (
    ModelLoadError,
    ModelUnloadError,
    RepositoryError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from marketplace.core.errors import MarketplaceError
from strongroom.sealing.manifest import Manifest

logger = logging.getLogger("node.loading")

# Below the five minutes after which onboarding takes a silent replica for dead.
LOAD_TIMEOUT_S = 240.0
# Requests that run may take this long to finish.
UNLOAD_TIMEOUT_S = 60.0
# A model without a process has nothing to finish: it leaves at once or never.
DEAD_UNLOAD_TIMEOUT_S = 2.0
# Between Triton's word and the end of the loader's conversation.
_SESSION_END_S = 5.0
# The loader found that the ciphertext is not what was sealed.
_SPOILED_CODES = frozenset({"tampered", "part_size_mismatch"})

OnPhase = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A replica that answers."""

    manifest: Manifest
    lease: Lease
    stub_pid: int
    load_ms: float
    loaded: dict[str, object]


class ReplicaLoader:
    """Loads and unloads replicas.

    Args:
        cache: Where the ciphertext is.
        triton: Loads and unloads models.
        stubs: Where the loaders come for it.
        leases: Ends those of loads that failed.
        repository_dir: Triton's model folders.
        socket_path: Told to the loaders.
        support: What can confine the loaders here.
        parallel: How many models are loaded at once; each load wants a core.
    """

    def __init__(
        self,
        *,
        cache: ArtifactCache,
        triton: control.TritonControl,
        stubs: StubSocket,
        leases: LeaseKeeper,
        repository_dir: Path,
        socket_path: Path,
        support: SandboxSupport,
        parallel: int,
    ) -> None:
        self._cache = cache
        self._triton = triton
        self._stubs = stubs
        self._leases = leases
        self._repository_dir = repository_dir
        self._socket_path = socket_path
        self._support = support
        self._slots = threading.BoundedSemaphore(parallel)
        self._sessions: dict[threading.Event, LoadSession] = {}

    def load(
        self,
        desired: Desired,
        *,
        on_phase: OnPhase,
        on_validation: Callable[[dict[str, object]], None],
        cancelled: threading.Event,
    ) -> Loaded:
        """Fetch, load and check a replica.

        Raises:
            ReplicaError: It does not come up, with the reason.
            CancelledError: `cancelled` was set.
        """
        try:
            return self._load(desired, on_phase, on_validation, cancelled)
        except ReplicaError as error:
            if error.reason_code not in _SPOILED_CODES:
                raise
            # What lies in our cache may have gone bad: it is read, and what is wrong fetched anew.
            event(logger, "cache.spoiled", version=desired.version_id, reason=error)
            self._cache.distrust(desired.version_id)
        try:
            return self._load(desired, on_phase, on_validation, cancelled)
        except ReplicaError as error:
            if error.reason_code in _SPOILED_CODES:
                detail = f"The sealed files are not what was sealed: {error.detail}"
                raise ReplicaError("artifact_corrupt", detail) from error
            raise

    def unload(self, name: str, *, is_dead: bool = False) -> None:
        """Take a model out of Triton, and wait until it is gone.

        Args:
            name: In Triton.
            is_dead: Its process has ended. Triton 2.51 keeps such a model for ever if
                requests ended with it; it takes none any more, and the next load under its
                name takes its place all the same.

        Raises:
            ReplicaError: It stays.
        """
        timeout_s = DEAD_UNLOAD_TIMEOUT_S if is_dead else UNLOAD_TIMEOUT_S
        try:
            self._triton.unload(name, timeout_s=timeout_s)
        except (ModelUnloadError, TritonDeadlineError) as error:
            if not is_dead:
                detail = f"The model does not leave: {error.detail}"
                raise ReplicaError("deadline", detail) from error
            event(logger, "replica.left_behind", model=name, reason=error.detail)
        except TritonUnavailableError:
            # A server that is gone holds nothing; one that hangs is restarted by others.
            event(logger, "replica.unload_without_triton", model=name)
        repository.remove_model(self._repository_dir, name)

    def abort(self, cancelled: threading.Event) -> None:
        """End the load that this event belongs to, even if the loader is busy."""
        cancelled.set()
        session = self._sessions.get(cancelled)
        if session is not None:
            self._stubs.abort(session)

    def _load(
        self,
        desired: Desired,
        on_phase: OnPhase,
        on_validation: Callable[[dict[str, object]], None],
        cancelled: threading.Event,
    ) -> Loaded:
        on_phase("fetching", 0.0)
        with self._cache.hold(
            desired.version_id,
            on_progress=lambda share: on_phase("fetching", share),
            cancelled=cancelled,
            check=self._check_demands,
        ) as artifact:
            on_phase("starting", 0.0)
            self._wait_for_slot(cancelled)
            try:
                session = self._make_session(desired, artifact, on_phase, cancelled)
                return self._load_into_triton(session, on_validation)
            finally:
                self._slots.release()

    def _check_demands(self, manifest: Manifest) -> None:
        try:
            self._support.check_demand(manifest.policy.sandbox)
        except SandboxError as error:
            raise ReplicaError(error.reason_code, error.detail) from error

    def _wait_for_slot(self, cancelled: threading.Event) -> None:
        while not self._slots.acquire(timeout=0.2):
            if cancelled.is_set():
                raise CancelledError

    def _make_session(
        self,
        desired: Desired,
        artifact: CachedArtifact,
        on_phase: OnPhase,
        cancelled: threading.Event,
    ) -> LoadSession:
        name = repository.model_name(desired.id)
        return LoadSession(
            replica_id=desired.id,
            model_name=name,
            purpose=desired.purpose,
            artifact=artifact,
            on_phase=on_phase,
            cancelled=cancelled,
        )

    def _load_into_triton(
        self, session: LoadSession, on_validation: Callable[[dict[str, object]], None]
    ) -> Loaded:
        begin = time.monotonic()
        self._write_folder(session)
        self._stubs.expect(session)
        self._sessions[session.cancelled] = session
        try:
            if session.cancelled.is_set():
                raise CancelledError
            self._call_triton(session)
            load_ms = (time.monotonic() - begin) * 1000
            return self._finish(session, load_ms)
        except BaseException:
            self._undo(session)
            raise
        finally:
            del self._sessions[session.cancelled]
            self._stubs.forget(session)
            if session.validation is not None:
                on_validation(session.validation)

    def _write_folder(self, session: LoadSession) -> None:
        parameters = repository.Parameters(session.replica_id, self._socket_path, session.purpose)
        interface = session.artifact.manifest.parsed_interface
        try:
            # An attempt before this one, or a Triton before this one, may have left it.
            if (self._repository_dir / session.model_name).exists():
                self.unload(session.model_name)
            repository.write_model(self._repository_dir, interface, parameters)
        except RepositoryError as error:
            raise ReplicaError("unavailable", error.detail) from error
        except OSError as error:
            raise ReplicaError("disk_full", f"The disk refused: {error.strerror}.") from error
        except MarketplaceError as error:
            raise ReplicaError("triton_unavailable", error.detail) from error

    def _call_triton(self, session: LoadSession) -> None:
        try:
            self._triton.load(session.model_name, timeout_s=LOAD_TIMEOUT_S)
        except ModelLoadError as error:
            if session.cancelled.is_set():
                raise CancelledError from error
            raise self._explain(session, error) from error
        except TritonDeadlineError as error:
            detail = f"The model was not loaded within {LOAD_TIMEOUT_S:g} s."
            raise ReplicaError("load_timeout", detail) from error
        except MarketplaceError as error:
            raise ReplicaError("triton_unavailable", error.detail) from error

    def _explain(self, session: LoadSession, error: ModelLoadError) -> ReplicaError:
        """The loader's own reason if it gave one, else what can be told from outside."""
        if session.stub_pid:
            session.over.wait(_SESSION_END_S)
        if "is not healthy" in error.detail:
            # Triton's words for a stub that died: the loader may have named its failure before.
            default = ReplicaError("stub_died", "The loader's process ended while it loaded.")
        elif error.detail.rpartition(": ")[2] in SESSION_CODES:
            default = ReplicaError("session_broken", "The loader did not reach this node's agent.")
        else:
            default = ReplicaError("load_failed", error.detail)
        failure = session.failure
        if failure is None or failure.reason_code == "session_broken":
            return default
        return failure

    def _finish(self, session: LoadSession, load_ms: float) -> Loaded:
        session.over.wait(_SESSION_END_S)
        if session.cancelled.is_set():
            raise CancelledError
        if session.failure is not None:
            raise session.failure
        if session.lease is None or session.loaded is None:
            detail = "The model is ready without having asked for its key."
            raise ReplicaError("session_broken", detail)
        return Loaded(
            manifest=session.artifact.manifest,
            lease=session.lease,
            stub_pid=session.stub_pid,
            load_ms=load_ms,
            loaded=session.loaded,
        )

    def _undo(self, session: LoadSession) -> None:
        self._stubs.abort(session)
        if session.lease is not None:
            self._leases.release(session.lease)
        try:
            self.unload(session.model_name)
        except (ReplicaError, MarketplaceError) as error:
            # The next attempt begins with the same unload.
            event(logger, "replica.undo_failed", model=session.model_name, error=error)
