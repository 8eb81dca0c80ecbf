"""Which k6 is run, how its ends are told apart, and what grows under load."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from bench import k6, k6_program, memory_watch
from embedded import ports
from embedded.environment import ROOT

# Nobody listens there.
NOBODY = ["--url", "http://127.0.0.1:9", "--model", "a/b", "--rate", "2", "--seconds", "1"]


# --- The program ---


def test_the_package_is_pinned_for_each_machine():
    lines = (ROOT / "bench/requirements-k6.txt").read_text()
    pins = re.findall(r"^([a-z0-9-]+==[0-9.]+)", lines, re.MULTILINE)

    assert "--require-hashes" in lines.splitlines()
    assert pins == ["k6==1.1.0"]
    assert len(set(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", lines))) == len(k6_program.SHA256)
    assert "aarch64" in k6_program.SHA256


def test_k6_of_the_environment_is_the_one_that_is_pinned():
    k6_program.require_known(k6_program.find_k6())


def test_another_program_is_refused_and_not_run(tmp_path, monkeypatch):
    program = tmp_path / "beside/k6/bin/k6"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    with pytest.raises(SystemExit, match=r"is not the k6 that is pinned.*It was not run"):
        k6.main(["steady", *NOBODY])

    assert not (tmp_path / "was-run").exists()
    # The control: where it is the one that is known, it is run.
    digest = subprocess.run(["sha256sum", program], capture_output=True, text=True, check=True)
    monkeypatch.setitem(k6_program.SHA256, platform.machine(), digest.stdout.split()[0])
    k6.main(["steady", *NOBODY])
    assert (tmp_path / "was-run").exists()


def test_one_byte_more_is_another_program(tmp_path):
    program = tmp_path / "k6"
    shutil.copyfile(k6_program.find_k6(), program)
    k6_program.require_known(program)
    with program.open("ab") as file:
        file.write(b"\0")

    with pytest.raises(SystemExit, match="is not the k6 that is pinned"):
        k6_program.require_known(program)


def test_a_machine_without_a_pin_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(SystemExit, match="not for riscv64"):
        k6_program.find_k6()


# --- How a run ends ---


def test_each_script_is_a_kind_of_load():
    scripts = {path.stem for path in k6.SCRIPTS.glob("*.js")}
    assert scripts == {*k6.KINDS, "common", "one_address"}


def summary(*missed: str, sent: int = 100, dropped: int = 0) -> dict:
    """Of three thresholds, with those that were missed."""
    counts = {"http_reqs": sent, "dropped_iterations": dropped}
    names = ("http_req_duration", "http_req_failed", "dropped_iterations")
    metrics = {name: {"thresholds": {"limit": {"ok": name not in missed}}} for name in names}
    for name, count in counts.items():
        metrics.setdefault(name, {})["values"] = {"count": count}
    return {"metrics": metrics}


@pytest.mark.parametrize(
    ("_case", "found", "status", "drifts", "end", "said"),
    [
        ("kept", summary(), 0, [], 0, "kept: the objectives"),
        ("missed", summary("http_req_duration"), 99, [], 99, "missed: .*http_req_duration"),
        ("grew", summary(), 0, ["it grew"], 99, "missed: .*it grew"),
        (
            "k6 is too small",
            summary("dropped_iterations", dropped=7),
            99,
            [],
            99,
            "not measured: 7 requests were not sent in time.*nothing is known",
        ),
        (
            "both",
            summary("http_req_failed", "dropped_iterations", dropped=7),
            99,
            [],
            99,
            "missed: .*http_req_failed, 7 requests were not sent",
        ),
        ("nothing sent", summary(sent=0), 0, [], 1, "failed: not one request was sent"),
        ("no figures", {"metrics": {}}, 0, [], 1, "failed: not one request was sent"),
        ("script", {"metrics": {}}, 107, ["it grew"], 107, "failed with 107: the script has an"),
        ("options", {"metrics": {}}, 104, [], 104, "failed with 104: its options are not valid"),
        ("told", summary(), 105, [], 105, "failed with 105: it was told to stop"),
        ("crash", {"metrics": {}}, 109, [], 109, "failed with 109: it crashed"),
        ("file", {"metrics": {}}, 255, [], 255, "failed with 255: the command or the"),
        ("killed", {"metrics": {}}, -9, [], -9, "failed with -9: signal 9 ended it"),
        ("new", {"metrics": {}}, 77, [], 77, "failed with 77: its status is 77"),
    ],
)
def test_ends_are_told_apart(_case, found, status, drifts, end, said):
    judged, sentence = k6.judge(found, status, drifts)

    assert judged == end
    assert re.match(said, sentence), sentence


THROWS_AT_ONCE = 'throw new Error("at once"); export default function () {}'
THROWS_EACH_TIME = """
export { handleSummary } from "./common.js";
export const options = { vus: 1, iterations: 2,
  thresholds: { http_req_duration: ["p(95)<1"], checks: ["rate>=0.99"] } };
export default function () { throw new Error("each time"); }
"""
STOPS_ITSELF = """
import exec from "k6/execution";
export default function () { exec.test.abort("enough"); }
"""
NO_THRESHOLD = """
export const options = { thresholds: { http_req_duration: ["nonsense"] } };
export default function () {}
"""


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        (THROWS_AT_ONCE, 107, "failed with 107: the script has an error"),
        ("export default function ( {", 107, "failed with 107: the script has an error"),
        # k6 says 0 here: what was never measured was never beyond its limit.
        (THROWS_EACH_TIME, 1, "failed: not one request was sent"),
        (STOPS_ITSELF, 108, "failed with 108: the script stopped the test"),
        (NO_THRESHOLD, 104, "failed with 104: its options are not valid"),
        (None, 255, "failed with 255: the command or the script's file is wrong"),
    ],
)
def test_scripts_that_fail_miss_no_objective(tmp_path, monkeypatch, capfd, script, status, said):
    shutil.copyfile(k6.SCRIPTS / "common.js", tmp_path / "common.js")
    if script is not None:
        (tmp_path / "steady.js").write_text(script)
    monkeypatch.setattr(k6, "SCRIPTS", tmp_path)

    ended = k6.main(["steady", *NOBODY])

    printed = capfd.readouterr().out
    assert ended == status, printed
    assert said in printed
    assert "objectives" not in printed


def test_a_server_that_is_not_there_misses_them(capfd):
    assert k6.main(["steady", *NOBODY]) == k6.MISSED
    assert re.search(r"missed: the objectives: .*http_req_failed", capfd.readouterr().out)


@pytest.mark.parametrize("text", ["0.9", "-1", "nan", "x"])
def test_ratio_that_is_none_is_refused(text):
    with pytest.raises(SystemExit):
        k6.main(["soak", *NOBODY, "--memory-drift-max", text])


# --- Memory ---

MIB = 2**20


@pytest.mark.parametrize(
    ("_case", "series", "said"),
    [
        ("even", [100 * MIB] * 40, ""),
        ("a peak", [100 * MIB] * 39 + [900 * MIB], ""),
        ("less", [100 * MIB] * 20 + [50 * MIB] * 20, ""),
        ("at the limit", [100 * MIB] * 20 + [125 * MIB] * 20, ""),
        ("beyond", [100 * MIB] * 20 + [126 * MIB] * 20, "126.0 MiB, the first's 100.0"),
        ("a leak", [(100 + n) * MIB for n in range(80)], "more than 1.25 times"),
        ("too few", [100 * MIB] * 7, "memory was read 7 times"),
        ("none", [], "memory was read 0 times"),
    ],
)
def test_what_leaks_is_found(_case, series, said):
    found = memory_watch.find_growth(series, 1.25)
    assert said in found
    assert bool(found) == bool(said)


# Listens, and keeps 64 MiB more at each line that it reads.
SERVER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
kept = []
print("ready", flush=True)
for line in sys.stdin:
    kept.append(bytearray(b"x" * (64 << 20)))
    print("kept", flush=True)
"""


@contextmanager
def serve():
    port = ports.choose()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
        bufsize=0,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.communicate()


def wait_for(memory: memory_watch.MemoryWatch, count: int) -> None:
    deadline_s = time.monotonic() + 30
    while len(memory.sizes_bytes) < count:
        assert time.monotonic() < deadline_s, memory.sizes_bytes
        time.sleep(0.02)


@pytest.mark.parametrize(("leaks", "said"), [(True, "more than 1.25 times"), (False, "")])
def test_a_process_that_leaks_is_found(leaks, said):
    half = memory_watch.SAMPLES_MIN
    with serve() as (url, process):
        with memory_watch.MemoryWatch(url, seconds=1) as memory:
            wait_for(memory, half)
            if leaks:
                process.stdin.write(b"more\n")
                assert process.stdout.readline() == b"kept\n"
            # Whatever came meanwhile, this many again are after it.
            wait_for(memory, 2 * len(memory.sizes_bytes))
        found = memory.describe_growth(1.25)

        assert f"({process.pid})" in memory.watched
        assert said in found
        assert bool(found) == leaks


def test_a_process_that_ended_is_no_success():
    with serve() as (url, process):
        with memory_watch.MemoryWatch(url, seconds=1) as memory:
            process.kill()
            process.wait()
        assert "has ended" in memory.describe_growth(1.25)


def test_nobody_to_watch_is_said():
    port = ports.choose()
    with memory_watch.MemoryWatch(f"http://127.0.0.1:{port}", seconds=1) as memory:
        pass
    assert memory.watched == ""
    assert memory.describe_growth(1.25) == ""
