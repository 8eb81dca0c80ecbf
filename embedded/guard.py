"""Two processes, so that the death of either leaves nothing behind.

The one a person sees is the guard. It does nothing but wait for the supervisor, its only
child, and pass signals on to it. If the supervisor ends, in whatever way, the guard ends
everything that is left of it. If the guard is killed, the supervisor stops as on Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from embedded import descendants
from inference.triton.processes import sweep_shared_memory

# After a supervisor that was killed: its children got their stop signals at that moment.
_PATIENCE_S = 6.0


def run(main: Callable[[], int]) -> int:
    """Run `main` in a child; returns its exit code when nothing of it is left."""
    descendants.adopt_orphans()
    guard_pid = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os._exit(_run_child(main, guard_pid))

    def forward(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    descendants.end_all(_PATIENCE_S if code < 0 else 0.0)
    sweep_shared_memory()
    return code if code >= 0 else 1


def _run_child(main: Callable[[], int], guard_pid: int) -> int:
    # Out of the terminal's group: Ctrl-C reaches the guard alone, which passes it on once.
    os.setpgid(0, 0)
    # And a group in the background may be kept from writing to the terminal.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    descendants.adopt_orphans()
    code = 1
    try:
        descendants.follow_parent(signal.SIGTERM, guard_pid)
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - printed as Python would, then the process ends
        sys.excepthook(*sys.exc_info())
    finally:
        # Here too: the guard may be gone.
        descendants.end_all(0.0)
        sys.stdout.flush()
        sys.stderr.flush()
    return code
