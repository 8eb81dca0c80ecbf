"""Visitors at one address, sent by k6, that go on until they are told to stop.

k6 knows only runs of a fixed length. So one short run follows the other, each started in time,
whether or not the last one has all its answers.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.balancer import REQUEST_ID
from bench.k6 import SCRIPTS
from bench.k6_program import find_k6

# Further apart than a run has requests.
NUMBERS_PER_RUN = 100_000
# The last requests of a run may wait for a gateway that hangs.
END_WITHIN_S = 240.0


@dataclass(frozen=True, slots=True)
class Visit:
    """One request and how it ended.

    Args:
        kind: `paid` for a prediction, `job` for one that runs later, `site` for a page.
        number: Its `X-Load-Request`; pages have none.
        started_s: Seconds since 1970, as `ended_s`.
        error: Status and text of an answer that was not the wanted one; else empty.
        id: Of the prediction, as it was answered.
    """

    kind: str
    number: int
    started_s: float
    ended_s: float
    status: int
    error: str
    id: str


def is_keyed(number: int) -> bool:
    """Whether a request had an Idempotency-Key; one_address.js decides by the same rule."""
    return number // 4 % 2 == 1


class Visitors:
    """k6 at one address.

    Args:
        folder: For what k6 writes.
        target: URL, KEY, MODEL, INPUT, SITE_URL of one_address.js.
        rate: Predictions a second; a quarter as many jobs and half as many pages come with them.
        run_s: Length of one of k6's runs.
    """

    def __init__(
        self, folder: Path, target: Mapping[str, str], *, rate: int = 8, run_s: int = 8
    ) -> None:
        self._folder, self._target, self._rate, self._run_s = folder, target, rate, run_s
        self._name = secrets.token_hex(8)
        self._is_over = threading.Event()
        self._runs: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def headers_of(self, number: int) -> dict[str, str]:
        """As k6 sent them, for who asks again."""
        keyed = {"Idempotency-Key": f"{self._name}-{number}"} if is_keyed(number) else {}
        return {REQUEST_ID: str(number), **keyed}

    def _send(self) -> None:
        while not self._is_over.is_set():
            self._runs.append(self._start(len(self._runs)))
            time.sleep(self._run_s)

    def _start(self, run: int) -> subprocess.Popen[bytes]:
        given = {"FIRST": run * NUMBERS_PER_RUN, "RATE": self._rate, "SECONDS": self._run_s}
        env = {
            **self._target,
            "NAME": self._name,
            **{name: str(value) for name, value in given.items()},
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "NO_COLOR": "1",
        }
        command: list[str | Path] = [find_k6(), "run", "--quiet", "--no-usage-report"]
        command += ["--include-system-env-vars", "--no-summary", "--log-format", "raw"]
        # No port for its own API: two runs overlap.
        command += ["--address", "", "--console-output", self._folder / f"visits-{run}.jsonl"]
        with (self._folder / f"k6-{run}.log").open("wb") as log:
            return subprocess.Popen(
                [*command, SCRIPTS / "one_address.js"], env=env, stdout=log, stderr=log
            )

    def stop(self) -> list[Visit]:
        """Let the last run end; what happened to each request.

        Raises:
            RuntimeError: k6 failed, or could not send every request in time.
        """
        self._is_over.set()
        self._thread.join(2 * self._run_s)
        visits = []
        for run, process in enumerate(self._runs):
            status = process.wait(END_WITHIN_S)
            if status != 0:
                said = (self._folder / f"k6-{run}.log").read_text()
                raise RuntimeError(f"k6 ended with {status}: {said[-2000:]}")
            lines = (self._folder / f"visits-{run}.jsonl").read_text().splitlines()
            visits += [Visit(**json.loads(line)) for line in lines]
        return visits

    def kill(self) -> None:
        """End at once; for a test that failed meanwhile."""
        self._is_over.set()
        self._thread.join(2 * self._run_s)
        for process in self._runs:
            if process.poll() is None:
                process.kill()
                process.wait()
