import os
import signal
import sys
import time
from pathlib import Path

import pytest

from embedded import child as children
from embedded.child import Child, State, describe_exit, read_from, rotate
from embedded.processes import Process, says


def make(tmp_path, code, *, is_task=False, **changes):
    process = Process(
        name="part",
        command=[sys.executable, "-u", "-c", code],
        env={"PATH": "/usr/bin:/bin"},
        is_ready=None if is_task else says("up"),
        cwd=tmp_path,
        **changes,
    )
    return Child(process, tmp_path)


def watch_until(child, *states, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while child.state not in states:
        assert time.monotonic() < deadline, (child.state, child.detail, child.read_log())
        child.watch()
        time.sleep(0.01)


def stop(child):
    child.stop()
    deadline = time.monotonic() + 15
    while not child.is_over:
        assert time.monotonic() < deadline
        child.watch_stop()
        time.sleep(0.01)


def test_a_part_becomes_ready_and_stops(tmp_path):
    child = make(tmp_path, "import time; print('up'); time.sleep(60)")
    assert child.state is State.WAITING
    child.start()
    assert child.state is State.STARTING

    watch_until(child, State.READY)
    pid = child.pid
    stop(child)

    assert child.state is State.STOPPED
    assert child.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_each_failure_doubles_the_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(children, "BACKOFF_MAX_S", 0.3)
    child = make(tmp_path, "print('broken'); raise SystemExit(3)")
    child.start()
    seen = []
    for _ in range(5):
        watch_until(child, State.BACKING_OFF)
        seen.append(child.detail)
        watch_until(child, State.STARTING)

    assert seen == [f"it ended (exit 3), again in {wait} s" for wait in (0.05, 0.1, 0.2, 0.3, 0.3)]
    assert child.restarts == 5
    stop(child)


def test_after_a_quiet_time_the_next_failure_is_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "STABLE_AFTER_S", 0.2)
    child = make(tmp_path, "import time; print('up'); time.sleep(60)")
    child.failures = 4
    child.start()
    watch_until(child, State.READY)

    time.sleep(0.25)
    child.watch()

    assert child.failures == 0
    stop(child)


def test_what_ignores_the_stop_signal_is_killed_in_time(tmp_path):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)"
    child = make(tmp_path, code, stop_timeout_s=0.3)
    child.start()
    watch_until(child, State.READY)

    begin = time.monotonic()
    stop(child)

    assert 0.3 <= time.monotonic() - begin < 5


def test_what_does_not_become_ready_in_time_fails(tmp_path):
    child = make(tmp_path, "import time; time.sleep(60)", start_timeout_s=0.3)
    child.start()

    watch_until(child, State.BACKING_OFF)

    assert child.detail == "not ready after 0 s, again in 0.5 s"
    assert child.failures == 1
    stop(child)


def test_its_group_ends_with_it(tmp_path):
    code = (
        "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, 'up');"
        "import time; time.sleep(60)"
    )
    child = make(tmp_path, code)
    child.start()
    watch_until(child, State.READY)
    grandchild = int(child.read_log().split()[0])

    os.kill(child.pid, signal.SIGKILL)
    watch_until(child, State.BACKING_OFF)

    assert child.detail == "it ended (SIGKILL), again in 0.5 s"
    deadline = time.monotonic() + 5
    while Path(f"/proc/{grandchild}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stop(child)


def test_a_task_is_done_or_failed_and_never_repeated(tmp_path):
    good = make(tmp_path, "print('> for people'); print('a step')", is_task=True)
    good.start()
    watch_until(good, State.DONE, State.FAILED)
    assert good.state is State.DONE
    assert good.take_announcements() == ["for people"]
    assert good.take_announcements() == []

    bad = make(tmp_path, "raise SystemExit('reason')", is_task=True)
    bad.start()
    watch_until(bad, State.DONE, State.FAILED)
    assert bad.state is State.FAILED
    assert bad.last_words() == ["reason"]


def test_a_task_shows_its_newest_line(tmp_path):
    child = make(
        tmp_path, "print('step 1'); print('step 2'); import time; time.sleep(9)", is_task=1
    )
    child.start()
    deadline = time.monotonic() + 10
    while child.detail != "step 2":
        assert time.monotonic() < deadline
        assert child.take_announcements() == []
        time.sleep(0.01)
    child.kill()
    watch_until(child, State.FAILED)


def test_the_log_of_an_earlier_start_is_not_taken_for_this_one(tmp_path):
    (tmp_path / "part.log").write_text("up\n> old news\n")
    child = make(tmp_path, "import time; time.sleep(60)")
    assert child.take_announcements() == []

    child.start()
    child.watch()

    assert child.state is State.STARTING
    assert child.read_log() == ""
    stop(child)


def test_its_log_is_private(tmp_path):
    child = make(tmp_path, "print('up')", is_task=True)
    child.start()
    watch_until(child, State.DONE)

    assert child.log.stat().st_mode & 0o777 == 0o600


def test_a_log_is_rotated_one_byte_past_the_limit(tmp_path):
    log = tmp_path / "part.log"
    log.write_bytes(b"x" * 100)
    assert not rotate(log, 100)

    log.write_bytes(b"x" * 100 + b"y")
    with log.open("ab") as writer:
        assert rotate(log, 100)
        writer.write(b"later")

    assert (tmp_path / "part.log.1").read_bytes() == b"x" * 99 + b"y"
    assert (tmp_path / "part.log.1").stat().st_mode & 0o777 == 0o600
    assert log.read_bytes() == b"later"
    assert not rotate(tmp_path / "missing.log")


def test_reading_a_log_is_bounded_and_survives_its_rotation(tmp_path, monkeypatch):
    log = tmp_path / "part.log"
    log.write_text("0123456789")

    assert read_from(log, 4) == "456789"
    assert read_from(log, 99) == "0123456789"  # It was emptied and written again.
    monkeypatch.setattr(children, "LOG_READ_BYTES_MAX", 3)
    assert read_from(log, 0) == "789"
    assert read_from(tmp_path / "missing", 0) == ""


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exit 0"), (3, "exit 3"), (-9, "SIGKILL"), (-99, "signal 99")]
)
def test_exit_codes_for_people(code, text):
    assert describe_exit(code) == text
