"""Load a sealed model inside Triton's stub, and serve it.

The order is the point. Harden; say hello; import; close the sandbox; only then ask for
the key; decrypt; overwrite the key; check every byte; build; run once and compare the
answer; report. A failure anywhere overwrites what was decrypted, tells the node a reason
code, and makes Triton's load fail with that code and nothing else in its log. While a
version is scanned, a second scanner looks at every file after our own checks.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from inference.artifact import formats
from inference.artifact.errors import ArtifactError
from inference.serving import decryption, digest, memory, sandbox
from inference.serving.decryption import Decrypted
from inference.serving.errors import LoadError, RequestError
from inference.serving.execution import Executor
from inference.serving.first_run import check_canaries, warm_up
from inference.serving.output_policy import OutputPolicy, limit
from inference.serving.runtimes.base import Runtime, StreamingRuntime
from inference.serving.session import NodeSession, check_parts
from inference.serving.streaming import StreamExecutor
from marketplace.core.errors import MarketplaceError
from strongroom.errors import StrongroomError
from strongroom.interface import Interface
from strongroom.sealing import wrap
from strongroom.sealing.canonical import encode_base64
from strongroom.sealing.manifest import Manifest

if TYPE_CHECKING:
    from inference.serving.second_opinion import SecondOpinion

PURPOSES = ("scan", "serve")


@dataclass(frozen=True, slots=True)
class LoaderConfig:
    """What stands in the model's configuration; everything else comes from the node."""

    replica_id: str
    socket_path: str
    purpose: str
    root: Path
    # The replica's own folder, from Triton; only a scan puts something into it.
    folder: Path | None = None

    @classmethod
    def parse(cls, args: dict[str, str]) -> LoaderConfig:
        """Read Triton's arguments.

        Raises:
            LoadError: `config_invalid`.
        """
        try:
            parameters = json.loads(args["model_config"])["parameters"]
            values = {name: one["string_value"] for name, one in parameters.items()}
            config = cls(
                replica_id=values["replica_id"],
                socket_path=values["socket"],
                purpose=values["purpose"],
                root=Path(values["root"]).resolve(),
                folder=Path(args["model_repository"]) if "model_repository" in args else None,
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            detail = f"The model's configuration lacks something ({type(error).__name__})."
            raise LoadError("config_invalid", detail) from None
        if config.purpose not in PURPOSES:
            raise LoadError("config_invalid", "The purpose is unknown.")
        return config


@dataclass(slots=True)
class _Clock:
    """Seconds by step."""

    steps: dict[str, float] = field(default_factory=dict)
    _begin: float = field(default_factory=time.monotonic)

    def stop(self, step: str) -> None:
        """The time since the last stop belongs to this step."""
        now = time.monotonic()
        self.steps[f"{step}_s"] = round(now - self._begin, 4)
        self._begin = now


class Loader:
    """What `model_stub.TritonPythonModel` hands its calls to."""

    def __init__(self) -> None:
        self._decrypted: Decrypted | None = None
        self._runtime: Runtime | None = None
        self._executor: Executor | StreamExecutor | None = None
        self._second_opinion: SecondOpinion | None = None

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model.

        Raises:
            RuntimeError: With the reason code; Triton writes it into its log.
        """
        try:
            config = LoaderConfig.parse(args)
            sandbox.harden()
            with NodeSession.connect(config.socket_path) as session:
                try:
                    self._load(config, session)
                except BaseException as error:
                    self.finalize()
                    session.report_failure(*_explain(error))
                    raise
        # A panic of the libraries' Rust is no Exception.
        except BaseException as error:  # noqa: BLE001 - its text may quote what was decrypted
            reason_code, _ = _explain(error)
        else:
            return
        # Outside of the handlers: Triton would log the text of an error's cause, too.
        raise RuntimeError(reason_code)

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer requests of Triton's; a model that streams returns nothing."""
        assert self._executor is not None
        return self._executor.execute(requests)

    def finalize(self) -> None:
        """Let go of the model and overwrite everything that was decrypted."""
        self._executor = None
        if self._second_opinion is not None:
            self._second_opinion.close()
            self._second_opinion = None
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None
        if self._decrypted is not None:
            self._decrypted.wipe()
            self._decrypted = None

    def _load(self, config: LoaderConfig, session: NodeSession) -> None:
        clock = _Clock()
        private_key = wrap.generate_private_key()
        session.say_hello(
            replica_id=config.replica_id,
            public_key=encode_base64(wrap.derive_public_key(private_key)),
            loader_digest=digest.compute_loader_digest(config.root),
        )
        with _receive_artifact(session) as artifact:
            mode = sandbox.read_mode(os.environ)
            sandbox.check_demand(artifact.manifest.policy.sandbox, mode)
            clock.stop("receive")
            policy = OutputPolicy(artifact.manifest.policy.output, artifact.interface)
            threads = _count_threads()
            self._runtime = runtime = _make_runtime(artifact.manifest.runtime, threads)
            buffers = decryption.allocate(artifact.manifest)
            with memory.Prefault(buffers, artifact.handles), _without_collections():
                pb_utils = _import_libraries(runtime)
                self._second_opinion = _prepare_second_opinion(config, artifact.manifest)
            clock.stop("import")
            confined = _confine(config, session, mode)
            clock.stop("sandbox")
            dek = decryption.open_lease(
                session.receive_lease(),
                private_key=private_key,
                replica_id=config.replica_id,
                artifact_id=artifact.manifest.artifact_id,
            )
            del private_key
            clock.stop("lease")
            session.report_progress("decrypting", 0.0)
            try:
                self._decrypted = decryption.decrypt_files(
                    artifact.manifest,
                    artifact.handles,
                    dek,
                    buffers,
                    threads=threads,
                    report=lambda share: session.report_progress("decrypting", share),
                )
            finally:
                memory.wipe(dek)
            clock.stop("decrypt")
        self._validate(session, runtime, artifact.interface)
        clock.stop("validate")
        self._build(session, runtime)
        clock.stop("build")
        # From here on nobody sees more of an answer than its creator lets out.
        limited = limit(runtime, policy)
        compared = _run_first(config, session, limited, artifact)
        self._executor = _make_executor(limited, artifact.interface, pb_utils)
        clock.stop("warm_up")
        loaded = self._describe(clock, confined, threads)
        session.send({"loaded": {**loaded, "vectors_compared": compared}})

    def _validate(self, session: NodeSession, runtime: Runtime, interface: Interface) -> None:
        assert self._decrypted is not None
        session.report_progress("validating", 0.0)
        for one in self._decrypted.files:
            formats.check_content(one.kind, one.path, one.data)
        found = runtime.validate(self._decrypted.files, interface)
        files = [
            {"path": one.path, "kind": one.kind, "size_bytes": len(one.data)}
            for one in self._decrypted.files
        ]
        report = {**found, "files": files}
        if self._second_opinion is not None:
            report["second_opinion"] = self._second_opinion.ask(self._decrypted.files)
        session.send({"validation": report})

    def _build(self, session: NodeSession, runtime: Runtime) -> None:
        assert self._decrypted is not None
        session.report_progress("loading", 0.0)
        runtime.build()
        for one in self._decrypted.files:
            # Weights are used where they lie; everything else has been read.
            if one.kind != "safetensors":
                one.buffer.wipe()

    def _describe(
        self, clock: _Clock, confined: sandbox.SandboxReport, threads: int
    ) -> dict[str, Any]:
        assert self._decrypted is not None
        return {
            **clock.steps,
            "plain_size_bytes": self._decrypted.total_bytes,
            "decrypt_bytes_per_s": int(
                self._decrypted.total_bytes / max(self._decrypted.duration_s, 1e-9)
            ),
            "resident_size_bytes": memory.resident_bytes(),
            "threads": threads,
            "locked": self._decrypted.lock_scope != decryption.NOT_LOCKED,
            "locked_scope": self._decrypted.lock_scope,
            "swap": memory.has_swap(),
            "sandbox": confined.to_json(),
            "versions": _list_versions(),
        }


def _explain(error: BaseException) -> tuple[str, str]:
    """Reason code and detail; texts of libraries stay here, they may quote a file."""
    if isinstance(error, LoadError | ArtifactError | RequestError):
        return error.reason_code, error.detail
    if isinstance(error, StrongroomError | MarketplaceError):
        return error.code, error.detail
    if isinstance(error, MemoryError):
        return "out_of_memory", "The model needs more memory than this node has."
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return "internal_error", f"The loader failed ({type(error).__name__}{place})."


def _count_threads() -> int:
    text = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0))
    return min(int(text), available) if text.isdigit() and int(text) else available


@dataclass(frozen=True, slots=True)
class _Artifact:
    """What the node handed over; the descriptors are closed at the end of the block."""

    manifest: Manifest
    interface: Interface
    handles: Sequence[int]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            os.close(handle)


def _receive_artifact(session: NodeSession) -> _Artifact:
    """Wait for manifest and parts, and check what can be checked of them now."""
    text, handles = session.receive_artifact()
    try:
        manifest = Manifest.parse(text)
        check_parts(handles, list(decryption.part_sizes(manifest)))
        formats.check_layout(manifest.runtime, [one.kind for one in manifest.files])
        for one in manifest.files:
            formats.check_name(one.path)
        return _Artifact(manifest, manifest.parsed_interface, handles)
    except BaseException:
        for handle in handles:
            os.close(handle)
        raise


def _make_runtime(name: str, threads: int) -> Runtime:
    # Imported here: a graph needs no torch, a language model no ONNX Runtime.
    if name == "onnx":
        from inference.serving.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(threads=threads)
    from inference.serving.runtimes.transformers import TransformersRuntime

    return TransformersRuntime(threads=threads)


def _make_executor(
    runtime: Runtime, interface: Interface, pb_utils: Any
) -> Executor | StreamExecutor:
    if interface.streamed_output is None:
        return Executor(runtime, interface, pb_utils)
    # Validation has refused a streamed output for every other runtime.
    return StreamExecutor(cast("StreamingRuntime", runtime), interface, pb_utils)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Do without the garbage collector while libraries are imported, and spare it them later.

    What imports make stays. To look through it again and again took a fifth of their time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_libraries(runtime: Runtime) -> Any:
    runtime.import_libraries()
    import triton_python_backend_utils

    return triton_python_backend_utils


def _prepare_second_opinion(config: LoaderConfig, manifest: Manifest) -> SecondOpinion | None:
    if config.purpose != "scan":
        return None
    if config.folder is None:
        raise LoadError("config_invalid", "Triton did not say where the replica's folder is.")
    # Imported here: serving needs none of it, and it takes seconds and 100 MB.
    from inference.serving.second_opinion import SecondOpinion

    return SecondOpinion.prepare(manifest, config.folder / "opened")


def _confine(config: LoaderConfig, session: NodeSession, mode: str) -> sandbox.SandboxReport:
    readable = sandbox.find_readable(config.root)
    _enter_empty_folder()
    # From here on no limit of the process can be changed.
    memory.limit_address_space()
    return sandbox.confine(readable=readable, keep_fds=[session.fileno()], mode=mode)


def _enter_empty_folder() -> None:
    """Make relative paths lead nowhere: the folder is removed while we stand in it.

    ONNX Runtime looks for external data beside the working directory.
    """
    folder = tempfile.mkdtemp(prefix="strongroom-")
    os.chdir(folder)
    Path(folder).rmdir()


def _run_first(
    config: LoaderConfig, session: NodeSession, runtime: Runtime, artifact: _Artifact
) -> int:
    """Run once at least; returns how many test vectors were compared."""
    session.report_progress("warming", 0.0)
    manifest, interface = artifact.manifest, artifact.interface
    # While a version is scanned, onboarding compares every vector, and tells what differs.
    if config.purpose == "serve" and manifest.test_vectors:
        return check_canaries(runtime, manifest, interface)
    warm_up(runtime, manifest, interface)
    return 0


def _list_versions() -> dict[str, str]:
    names: dict[str, str] = {}
    for package in ("torch", "transformers", "tokenizers", "onnxruntime", "numpy"):
        if package in sys.modules:
            names[package] = version(package)
    return names
