"""Other users of the machine, who try to look into a process."""

from __future__ import annotations

import os
import subprocess

IS_ROOT = os.geteuid() == 0
_LOOK = "import sys; open(f'/proc/{sys.argv[1]}/{sys.argv[2]}', 'rb').read(1)"


def check_closed(pid: int) -> None:
    """Memory, mappings and environment are closed to other users, and to its own one, too.

    Root looks as `nobody`; anybody else as who they are, which is the process's own user.
    """
    for name in ("mem", "maps", "environ"):
        done = subprocess.run(
            ["/usr/bin/python3", "-c", _LOOK, str(pid), name],
            user="nobody" if IS_ROOT else None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "PermissionError" in done.stderr) == (1, True), done.stderr
