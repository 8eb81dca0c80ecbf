"""Start, watch and stop a real tritonserver, without a container.

The program comes out of the `nvidia-pytriton` wheel; a vendor's installation can be named
instead. Triton 2.51 has known holes that let a network peer take the server over, so it
listens on loopback only, its control and shared-memory APIs want a secret header, and no
text of a user ever becomes a model's name. The header is a second line of defence: the
command line that carries it can be read by other users of the machine.

Source: triton-inference-server/server v2.51.0, `tritonserver --help`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from inference.triton import processes, repository
from inference.triton.errors import TritonStartError

HOST = "127.0.0.1"
SECRET_HEADER = "strongroom-control"  # noqa: S105 - the header's name, not its value
GRPC_SECRET_HEADER = f"triton-grpc-protocol-{SECRET_HEADER}"
RESTRICTED_APIS = "model-repository,shared-memory,model-config,statistics,trace,logging"

# Each instance begins with one region of this size; larger requests make it grow.
_SHM_BYTES = 1 << 20
# Loading a model blocks its thread for as long as the loader runs.
_LOAD_THREADS = 4
# How often a client may ask whether we are still there; Triton's default is five minutes.
_PING_MS = 10_000
# Idle threads cost little, but two cores gain nothing from Triton's default of eight.
_HTTP_THREADS_MAX = 8
_STUB_TIMEOUT_S = 60
# Which GPUs there are, and the sandbox that a developer chose for a kernel without Landlock.
_INHERITED = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "STRONGROOM_ENV",
    "STRONGROOM_SANDBOX",
)
_LAUNCHER = Path(__file__).with_name("launcher.py")
_KILL_WAIT_S = 10.0
# It is on this machine: a proxy of the environment is for other ways.
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """Where the program lies, and what it needs in its environment to find its parts."""

    program: Path
    backends_dir: Path
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """How one tritonserver is run.

    Args:
        work_dir: Ours alone: backends, the model repository, the log, the pid file.
        host: Where it listens: loopback, or a pod's address on Kubernetes. Never a public one.
        secret: Value of the header that the control APIs demand.
        exit_timeout_s: How long running requests may take to finish at the end.
        threads: Cores that one model may use.
        triton_dir: A vendor's installation (with `bin` and `backends`) instead of the wheel.
        slot_count: How many long runs may go on at once; 0 for as many as come.
    """

    work_dir: Path
    http_port: int
    grpc_port: int
    metrics_port: int
    host: str = HOST
    secret: str = field(default_factory=lambda: secrets.token_hex(24), repr=False)
    exit_timeout_s: int = 10
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    triton_dir: Path | None = None
    slot_count: int = 0

    @property
    def repository_dir(self) -> Path:
        return self.work_dir / "repository"

    @property
    def log_path(self) -> Path:
        return self.work_dir / "triton.log"

    @property
    def pid_path(self) -> Path:
        return self.work_dir / "triton.pid"

    @property
    def http_url(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"{self.host}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self.host}:{self.metrics_port}/metrics"


class TritonServer:
    """One tritonserver process; models are loaded into it by `inference.triton.control`.

    Args:
        config: How it is run.
        may_outlive_us: False ties its life to the thread that calls `start`: the kernel
            kills it when that thread ends, however it ends.
    """

    def __init__(self, config: TritonConfig, *, may_outlive_us: bool = False) -> None:
        self.config = config
        self.may_outlive_us = may_outlive_us
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def is_running(self) -> bool:
        """Whether the process exists; it may not be ready yet."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the process; `wait_ready` says when it answers.

        Raises:
            TritonStartError: The wheel, its stub or this Python's library is missing.
        """
        assert not self.is_running(), "tritonserver runs already"
        # The kernel's death signal follows the thread, so it must be one that stays.
        assert self.may_outlive_us or threading.current_thread() is threading.main_thread()
        config = self.config
        for folder in (config.work_dir, config.repository_dir, config.work_dir / "empty"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        install = find_install(config)
        _keep_one_log(config.log_path)
        with config.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                self._command(install),
                env=scrubbed_environment(config, install),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A model that reads a relative path must find nothing there.
                cwd=config.work_dir / "empty",
                # Ctrl-C in a terminal goes to the node, which drains first.
                start_new_session=True,
            )
        _write_pid_file(config.pid_path, self.process.pid)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the server answers that it is ready.

        Raises:
            TritonStartError: It ended, or did not answer in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running():
                raise TritonStartError(f"tritonserver ended; its log: {self.last_log_lines()}")
            if self.is_ready():
                return
            time.sleep(0.05)
        raise TritonStartError(f"tritonserver is not ready after {timeout_s:g} s")

    def is_ready(self) -> bool:
        """Whether it answers now."""
        url = f"{self.config.http_url}/v2/health/ready"
        try:
            with _LOCAL.open(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError):
            return False

    def stop(self) -> None:
        """Let running requests finish, end the process and clean up behind it."""
        process = self.process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.config.exit_timeout_s + _KILL_WAIT_S)
        if process.poll() is None:
            process.kill()
            process.wait(_KILL_WAIT_S)
        self.clean_up()

    def clean_up(self) -> list[Path]:
        """Remove what a process that has ended leaves behind; returns the regions swept."""
        kill_stray_stubs(self.config)
        self.config.pid_path.unlink(missing_ok=True)
        return processes.sweep_shared_memory()

    def list_stubs(self) -> list[int]:
        """Pids of the loaders that serve a model now."""
        return processes.list_stubs(self.pid) if self.pid else []

    def last_log_lines(self, count: int = 5) -> str:
        """The end of the server's log, for an error's text."""
        with suppress(OSError):
            lines = self.config.log_path.read_text(errors="replace").splitlines()
            return " | ".join(lines[-count:])
        return "(no log)"

    def _command(self, install: TritonInstall) -> list[str]:
        config = self.config
        restricted = f"{RESTRICTED_APIS}:{SECRET_HEADER}={config.secret}"
        parent_pid = 0 if self.may_outlive_us else os.getpid()
        return [
            sys.executable,
            *("-I", "-S", str(_LAUNCHER), str(parent_pid)),
            str(install.program),
            f"--model-repository={config.repository_dir}",
            "--model-control-mode=explicit",
            f"--backend-directory={install.backends_dir}",
            # Else each model.py runs once more, in a stub of its own, before it is loaded.
            "--disable-auto-complete-config",
            # One model that failed must not make the whole server look unready.
            "--strict-readiness=false",
            *("--http-address", config.host, "--http-port", str(config.http_port)),
            *("--grpc-address", config.host, "--grpc-port", str(config.grpc_port)),
            *("--metrics-address", config.host, "--metrics-port", str(config.metrics_port)),
            f"--http-restricted-api={restricted}",
            f"--grpc-restricted-protocol={restricted}",
            f"--grpc-http2-min-recv-ping-interval-without-data={_PING_MS}",
            f"--http-thread-count={max(2, min(_HTTP_THREADS_MAX, config.threads))}",
            f"--model-load-thread-count={_LOAD_THREADS}",
            f"--exit-timeout-secs={config.exit_timeout_s}",
            # Weights are never sent to a device from here.
            "--pinned-memory-pool-byte-size=0",
            "--allow-gpu-metrics=false",
            f"--backend-config=python,shm-default-byte-size={_SHM_BYTES}",
            f"--backend-config=python,shm-growth-byte-size={_SHM_BYTES}",
            f"--backend-config=python,stub-timeout-seconds={_STUB_TIMEOUT_S}",
            *_slot_options(config.slot_count),
        ]


def _slot_options(count: int) -> list[str]:
    if not count:
        return []
    resource = f"{repository.SLOT_RESOURCE}:{count}"
    return ["--rate-limit=execution_count", f"--rate-limit-resource={resource}"]


def find_install(config: TritonConfig) -> TritonInstall:
    """Find the program; out of the wheel, also put a backends folder together.

    Raises:
        TritonStartError: Something is missing.
    """
    if config.triton_dir is not None:
        program = config.triton_dir / "bin/tritonserver"
        if not program.is_file():
            raise TritonStartError(f"there is no {program}")
        return TritonInstall(program, config.triton_dir / "backends", _vendor_environment(config))
    wheel = find_wheel()
    backends = prepare_backends(wheel, config.work_dir / "backends")
    return TritonInstall(
        wheel / "pytriton/tritonserver/bin/tritonserver", backends, stub_environment(wheel)
    )


def find_wheel() -> Path:
    """The folder that nvidia-pytriton is installed in; found without importing it."""
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise TritonStartError("nvidia-pytriton is not installed in this environment")
    return Path(next(iter(spec.submodule_search_locations))).parent


def prepare_backends(wheel: Path, target: Path) -> Path:
    """Put the python backend and the stub of this Python version into one folder.

    The wheel keeps stubs of several versions apart; the server looks for one beside the
    backend. A folder of another version is replaced.
    """
    server = wheel / "pytriton/tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / processes.STUB_PROGRAM
    if not stub.is_file():
        raise TritonStartError(f"the wheel has no stub for Python {version}")
    source = server / "backends/python/libtriton_python.so"
    mark = {"python": version, "wheel": str(wheel), "size_bytes": source.stat().st_size}
    marker = target / "installed.json"
    with suppress(OSError, ValueError):
        if json.loads(marker.read_text()) == mark:
            return target
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(server / "backends/python", target / "python")
    shutil.copy2(stub, target / "python")
    # Written last: a copy that was cut off is begun anew.
    marker.write_text(json.dumps(mark))
    return target


def stub_environment(wheel: Path) -> dict[str, str]:
    """Variables without which the stub finds another Python, or no libraries."""
    libraries = [_libpython_dir(), wheel / "nvidia_pytriton.libs"]
    libraries.append(wheel / "pytriton/tritonserver/external_libs")
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(str(folder) for folder in libraries),
        # The stub takes its site-packages from the first `python3` on PATH.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
    }


def scrubbed_environment(config: TritonConfig, install: TritonInstall) -> dict[str, str]:
    """All that tritonserver and its stubs may know; of ours only `_INHERITED`."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    temporary = config.work_dir / "tmp"
    temporary.mkdir(exist_ok=True, mode=0o700)
    return kept | {
        "HOME": str(config.work_dir / "empty"),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": str(config.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        # Compiled kernels of a model are a copy of it.
        "CUDA_CACHE_DISABLE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        **install.environment,
    }


def stop_orphan(config: TritonConfig) -> bool:
    """Stop the tritonserver that an earlier, killed process of ours left; false if none.

    The pid alone may belong to a stranger by now: the time it began and the repository in
    its command line must fit as well.
    """
    pid = _read_pid_file(config)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not _wait_gone(pid, config.exit_timeout_s + _KILL_WAIT_S):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _wait_gone(pid, _KILL_WAIT_S)
    config.pid_path.unlink(missing_ok=True)
    return bool(kill_stray_stubs(config)) or pid is not None


def kill_stray_stubs(config: TritonConfig) -> list[int]:
    """Kill stubs of this repository whose server is gone; they hold weights in the clear."""
    killed = []
    for pid in processes.list_pids():
        if not _is_stub_of(pid, config) or _has_living_server(pid):
            continue
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
    for pid in killed:
        _wait_gone(pid, _KILL_WAIT_S)
    return killed


def _is_stub_of(pid: int, config: TritonConfig) -> bool:
    if processes.command_name(pid) != processes.STUB_PROGRAM:
        return False
    repository = f"{config.repository_dir}/"
    return any(argument.startswith(repository) for argument in processes.read_command(pid))


def _has_living_server(pid: int) -> bool:
    parent_pid = processes.find_parent_pid(pid)
    return parent_pid is not None and processes.command_name(parent_pid) == "tritonserver"


def _wait_gone(pid: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while processes.is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _write_pid_file(path: Path, pid: int) -> None:
    document = {"pid": pid, "start_ticks": processes.find_start_ticks(pid)}
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document))
    temporary.replace(path)


def _read_pid_file(config: TritonConfig) -> int | None:
    try:
        document = json.loads(config.pid_path.read_text())
        pid, start_ticks = int(document["pid"]), document["start_ticks"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if start_ticks is None or processes.find_start_ticks(pid) != start_ticks:
        return None
    ours = f"--model-repository={config.repository_dir}" in processes.read_command(pid)
    return pid if ours and processes.is_alive(pid) else None


def _keep_one_log(path: Path) -> None:
    if path.exists():
        path.replace(path.with_suffix(".log.1"))


def _libpython_dir() -> Path:
    """The folder of this interpreter's own libpython.

    It must come first: with the library of another patch version, extension modules fail
    on undefined symbols.
    """
    name = sysconfig.get_config_var("INSTSONAME") or sysconfig.get_config_var("LDLIBRARY")
    for folder in _library_dirs():
        if name and str(name).endswith((".so", ".so.1.0")) and (folder / str(name)).is_file():
            return folder
    raise TritonStartError("this Python has no shared libpython, which Triton's stub needs")


def _library_dirs() -> Iterator[Path]:
    library_dir = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    yield library_dir
    yield Path(sys.base_prefix) / "lib"
    yield library_dir / str(sysconfig.get_config_var("MULTIARCH") or "")


def _vendor_environment(config: TritonConfig) -> dict[str, str]:
    assert config.triton_dir is not None
    libraries = f"{config.triton_dir / 'lib'}"
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [libraries, inherited])),
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    }
