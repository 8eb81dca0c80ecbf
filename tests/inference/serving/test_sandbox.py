from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from inference.serving import probe, sandbox, seccomp
from inference.serving.errors import SandboxError
from tests.inference.serving.children import ROOT, run_child

REFUSED = dict.fromkeys(probe.PROBES, probe.REFUSED)
# Root may read everybody's memory, so two processes of an ordinary user are needed.
ORDINARY_USER = "nobody" if os.geteuid() == 0 else None
# Calls that a kernel may deny to ordinary users without any sandbox.
NOT_FOR_EVERYBODY = set() if os.geteuid() == 0 else {"bpf", "io_uring"}


def test_confined_process_can_do_none_of_it():
    report = run_child(
        """
        sandbox.harden()
        answer(confine().to_json())
        """
    )

    assert report["probe"] == REFUSED
    assert report["landlock_abi"] >= 1
    assert report["seccomp"] is True


def test_without_the_sandbox_the_probe_finds_every_door_open():
    outcomes = run_child("answer(probe.run())")

    closed = {name for name, outcome in outcomes.items() if outcome != probe.ALLOWED}
    assert outcomes.keys() == probe.PROBES.keys()
    assert closed <= NOT_FOR_EVERYBODY


@pytest.mark.parametrize(
    ("_part", "_open_door"),
    [
        ("seccomp.install", "socket_inet"),
        ("landlock.restrict", "read_etc"),
        *([("sandbox.drop_capabilities", "read_other_process")] if os.geteuid() == 0 else []),
    ],
)
def test_each_part_left_out_stops_the_load(_part, _open_door):
    detail = run_child(
        f"""
        from inference.serving.errors import SandboxError
        sandbox.harden()
        {_part} = lambda *_: 0
        try:
            confine()
        except SandboxError as error:
            answer(str(error))
        """
    )

    assert detail.startswith("sandbox_incomplete: ")
    assert _open_door in detail or "landlock_restrict_self" in detail


def test_threads_that_run_already_are_confined_too():
    code = """
        {patch}
        release, found = threading.Event(), []
        def look():
            release.wait()
            opened = errno_of(lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)))
            found.append([opened, kernel.has_capability(21)])
        old = [threading.Thread(target=look) for _ in range(4)]
        [one.start() for one in old]
        sandbox.harden()
        report = confine()
        release.set()
        [one.join() for one in old]
        answer([report.threads, found])
        """
    only_this_thread = """
        def call_here(number, first, second, *, what):
            kernel.syscall(number, first, second)
            return 1
        threads.call_in_all = sandbox.call_in_all = call_here
        """

    count, found = run_child(code.format(patch=""))
    # NumPy may have a thread of its own.
    assert count >= 5
    assert found == [[errno.EACCES, False]] * 4

    # Without going to every thread, the old ones keep what they had.
    count, found = run_child(code.format(patch=only_this_thread))
    assert count == 1
    assert found == [[0, os.geteuid() == 0]] * 4


def test_libraries_still_work_afterwards():
    found = run_child(
        """
        import torch, onnxruntime
        torch.set_num_threads(2)
        sandbox.harden()
        confine()
        total = (torch.ones(600, 600) @ torch.ones(600, 600)).sum().item()
        thread = threading.Thread(target=lambda: answer([total, len(threads.list_threads()) > 1]))
        thread.start()
        thread.join()
        """
    )

    assert found == [600.0**3, True]


def test_only_our_code_and_the_libraries_can_be_read():
    found = run_child(
        """
        readable = [ROOT / "inference/serving/sandbox.py", ROOT / "sdk/strongroom/interface.py",
                    Path(json.__file__)]
        hidden = [ROOT / "pyproject.toml", ROOT / "manage.py", ROOT / "sdk/pyproject.toml",
                  Path("/etc/passwd"), Path("/etc/hostname"), Path("/tmp")]
        sandbox.harden()
        confine()
        opened = lambda path: errno_of(lambda: os.close(os.open(path, os.O_RDONLY)))
        answer([[opened(one) for one in readable], [opened(one) for one in hidden]])
        """
    )

    assert found == [[0, 0, 0], [errno.EACCES] * 6]


def test_signals_reach_nobody_else_but_the_server_can_be_watched():
    found = run_child(
        """
        import signal
        heard = []
        signal.signal(signal.SIGUSR1, lambda *_: heard.append(True))
        sandbox.harden()
        confine()
        outcomes = [errno_of(lambda: os.kill(os.getppid(), 0)),
                    errno_of(lambda: os.kill(os.getppid(), signal.SIGCONT)),
                    errno_of(lambda: os.kill(os.getpid(), signal.SIGUSR1)),
                    errno_of(lambda: kernel.syscall(234, os.getppid(), os.getppid(), 0))]
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        answer([outcomes, heard])
        """
    )

    assert found == [[0, errno.EPERM, errno.EPERM, errno.EPERM], [True]]


def test_inherited_sockets_are_closed():
    found = run_child(
        """
        import socket
        kept, dropped = socket.socket(), socket.socket()
        closed = sandbox.close_sockets(keep=frozenset([kept.fileno()]))
        answer([closed, errno_of(lambda: os.fstat(kept.fileno())),
                errno_of(lambda: os.fstat(dropped.fileno()))])
        """
    )

    assert found == [1, 0, errno.EBADF]


def test_no_core_is_written_when_it_crashes(tmp_path):
    code = f"""
import os, resource, signal, sys
sys.path[:0] = [{str(ROOT)!r}]
from inference.serving import sandbox
resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))
sandbox.harden()
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
os.kill(os.getpid(), signal.SIGSEGV)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)

    assert done.returncode == -11
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("_hardens", "_is_readable"), [(True, False), (False, True)])
def test_another_process_of_the_same_user_cannot_read_its_memory(_hardens, _is_readable):
    harden = "sandbox.harden()" if _hardens else ""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
from inference.serving import sandbox
{harden}
print("ready", flush=True)
sys.stdin.read()
"""
    victim = subprocess.Popen(
        ["/usr/bin/python3", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=ORDINARY_USER,
    )
    try:
        assert victim.stdout.readline() == "ready\n"
        attempt = subprocess.run(
            ["/usr/bin/python3", "-c", f"open('/proc/{victim.pid}/mem', 'rb')"],
            user=ORDINARY_USER,
            capture_output=True,
            check=False,
        )
    finally:
        victim.communicate("")

    assert (attempt.returncode == 0) is _is_readable


# --- Where the kernel cannot do it ---


def test_kernel_without_landlock_is_refused():
    code = """
        from inference.serving.errors import SandboxError
        landlock.find_abi = lambda: 0
        sandbox.harden()
        try:
            answer(confine({mode!r}).to_json())
        except SandboxError as error:
            answer(error.reason_code)
        """

    assert run_child(code.format(mode="")) == "sandbox_unsupported"
    weaker = run_child(code.format(mode=sandbox.SECCOMP_ONLY))
    still_open = {name for name, outcome in weaker["probe"].items() if outcome == probe.ALLOWED}
    assert weaker["landlock_abi"] == 0
    assert still_open <= probe.LANDLOCK_PROBES


def test_other_processors_are_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")

    with pytest.raises(SandboxError, match="sandbox_unsupported"):
        seccomp.install()


@pytest.mark.parametrize(
    ("_environment", "_mode"),
    [
        ({}, ""),
        ({"STRONGROOM_SANDBOX": "seccomp-only", "STRONGROOM_ENV": "development"}, "seccomp-only"),
    ],
)
def test_mode_comes_from_the_environment(_environment, _mode):
    assert sandbox.read_mode(_environment) == _mode


@pytest.mark.parametrize(
    "_environment",
    [
        {"STRONGROOM_SANDBOX": "seccomp-only"},
        {"STRONGROOM_SANDBOX": "seccomp-only", "STRONGROOM_ENV": "production"},
        {"STRONGROOM_SANDBOX": "off", "STRONGROOM_ENV": "development"},
    ],
)
def test_weaker_modes_are_refused(_environment):
    with pytest.raises(SandboxError, match="sandbox_refused"):
        sandbox.read_mode(_environment)


def test_folders_above_the_project_are_never_readable(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT), str(ROOT.parent), "/", "", "relative"])

    readable = sandbox.find_readable(ROOT)

    assert ROOT / "inference" in readable
    assert not [path for path in readable if ROOT.is_relative_to(path)]
