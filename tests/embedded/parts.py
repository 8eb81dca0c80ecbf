"""Run a small supervisor of trivial children, as a process of its own.

Run: python -m tests.embedded.parts FOLDER, where FOLDER holds parts.json: a list of
{"name", "code", "after"?, "task"?, "stop_timeout_s"?}. A part is ready when it says "up".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from embedded import guard, processes, status
from embedded.processes import Process
from embedded.supervisor import StartFailedError, Supervisor


def build(folder: Path) -> list[Process]:
    return [
        Process(
            name=part["name"],
            command=[sys.executable, "-u", "-c", part["code"]],
            env={"PATH": "/usr/bin:/bin", "FOLDER": str(folder)},
            after=tuple(part.get("after", ())),
            is_ready=None if part.get("task") else processes.says("up"),
            stop_timeout_s=part.get("stop_timeout_s", 5.0),
            cwd=folder,
        )
        for part in json.loads((folder / "parts.json").read_text())
    ]


def supervise(folder: Path) -> int:
    display = status.for_stream(plain=True)
    supervisor = Supervisor(build(folder), folder / "logs", display)
    supervisor.install_signals()
    try:
        if supervisor.start_all():
            display.say("ALL READY")
            supervisor.run()
    except StartFailedError as error:
        display.say(f"FAILED {error.child.name}: {' '.join(error.child.last_words())}")
        return 1
    finally:
        supervisor.stop_all()
    return 0


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "logs").mkdir(exist_ok=True)
    sys.exit(guard.run(lambda: supervise(place)))
