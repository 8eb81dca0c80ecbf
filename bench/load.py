"""Closed-loop load by wrk: so many connections, each sends again when it has its answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embedded import descendants

WARM_UP_S = 1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SCRIPT = """
wrk.method = "POST"
local file = io.open({body}, "rb")
wrk.body = file:read("*a")
file:close()
{headers}
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
function init(args) refused = 0 end
function response(status, headers, body)
  if status < 200 or status > 299 then refused = refused + 1 end
end
function done(summary, latency, requests)
  local refused = 0
  for _, thread in ipairs(threads) do refused = refused + thread:get("refused") end
  local errors = summary.errors
  io.write(string.format(
    'RESULT {{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "refused": %d,' ..
    ' "broken": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), refused,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"""


class LoadError(Exception):
    """A measurement that says nothing: wrk is missing, or requests failed."""


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement.

    Args:
        requests_per_s: Answered with 2xx.
        p50_ms: Median from the first byte of a request to the last of its answer.
        p99_ms: The same for the slowest hundredth.
        cpu_us: Processor time of the measured processes per request.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent again and again."""

    url: str
    headers: Mapping[str, str]
    body: bytes


def find_wrk() -> str:
    """Its path.

    Raises:
        LoadError: It is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise LoadError("wrk is needed: sudo apt-get install wrk")
    return path


def measure(
    request: Request, *, connections: int, duration_s: int, pids: Iterable[int], folder: Path
) -> Result:
    """Warm up, then send for a while.

    Args:
        request: Every one is the same.
        connections: Open at the same time; one thread of wrk serves them all.
        duration_s: Without the warm-up.
        pids: Whose processor time counts, that of their descendants included.
        folder: For wrk's script.

    Raises:
        LoadError: A request was refused or broke off: what is left is no measurement.
    """
    (folder / "body").write_bytes(request.body)
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}"
        for name, value in request.headers.items()
    )
    script = folder / "load.lua"
    script.write_text(_SCRIPT.format(body=json.dumps(str(folder / "body")), headers=headers))
    command = [find_wrk(), "--threads=1", f"--connections={connections}", f"--script={script}"]
    command += ["--timeout=30s"]
    _run([*command, f"--duration={WARM_UP_S}s", request.url])
    before_s = _read_processor_s(pids)
    found = _run([*command, f"--duration={duration_s}s", request.url])
    after_s = _read_processor_s(pids)
    # What a process used that ended meanwhile is lost: servers keep theirs.
    used_s = sum(used - before_s.get(pid, 0.0) for pid, used in after_s.items())
    if found["refused"] or found["broken"] or not found["requests"]:
        raise LoadError(f"{request.url} at {connections} connections: {found}")
    return Result(
        requests_per_s=found["requests"] / found["duration_us"] * 1e6,
        p50_ms=found["p50_us"] / 1000,
        p99_ms=found["p99_us"] / 1000,
        cpu_us=used_s / found["requests"] * 1e6,
    )


def _run(command: list[str]) -> dict[str, int]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise LoadError(f"wrk failed: {done.stderr[-500:]}")
    return json.loads(lines[0].removeprefix("RESULT "))


def _read_processor_s(pids: Iterable[int]) -> dict[int, float]:
    families = {one for pid in pids for one in (pid, *descendants.list_descendants(pid))}
    found = {}
    for pid in families:
        with suppress(OSError):
            # The program's name, in brackets, may hold anything.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return found
