"""Another system user for servers that refuse to run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import StartError
from embedded.launcher import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

USER_NAME = "strongroom-postgres"
_NO_CAPABILITY = -1


@dataclass(frozen=True, slots=True)
class SystemUser:
    """Whom a child runs as.

    Args:
        uid: User id; -1 means the user that we are.
        gid: Its group.
        capability: Number of the one capability it keeps, or -1.
    """

    uid: int = -1
    gid: int = -1
    capability: int = _NO_CAPABILITY

    def own(self, path: Path) -> None:
        """Give a file or an empty folder to this user."""
        if self.uid >= 0:
            os.chown(path, self.uid, self.gid)


OURSELVES = SystemUser()


def unprivileged_user(paths: Iterable[Path]) -> SystemUser:
    """Ourselves, or as root another user that can reach `paths`.

    Raises:
        StartError: The user cannot be made, or could not enter the folders.
    """
    if os.geteuid() != 0:
        return OURSELVES
    entry = _find_or_make()
    closed = next((path for path in paths if not can_enter(path, entry.pw_uid, entry.pw_gid)), None)
    capability = _NO_CAPABILITY if closed is None else _reading_capability(closed)
    return SystemUser(entry.pw_uid, entry.pw_gid, capability)


def can_enter(path: Path, uid: int, gid: int) -> bool:
    """Whether every folder above `path` lets this user pass, by its mode."""
    return all(_lets_pass(folder.stat(), uid, gid) for folder in path.resolve().parents)


def _lets_pass(status: os.stat_result, uid: int, gid: int) -> bool:
    if status.st_uid == uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def _reading_capability(closed: Path) -> int:
    """The weaker of the two that help; containers often take one of them from root."""
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if _permitted_capabilities() >> capability & 1:
            return capability
    raise StartError(
        f"the user {USER_NAME} cannot enter the folders above {closed}:"
        " choose another place with --home, or run as an ordinary user"
    )


def _permitted_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _find_or_make() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(USER_NAME)
    except KeyError:
        pass
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise StartError(f"as root a system user {USER_NAME} is needed and useradd is missing")
    options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    options += ["--shell", "/usr/sbin/nologin", USER_NAME]
    # Another bin/up may make it at this moment: what counts is that it exists afterwards.
    outcome = subprocess.run([program, *options], capture_output=True, text=True, check=False)
    try:
        return pwd.getpwnam(USER_NAME)
    except KeyError:
        raise StartError(f"useradd {USER_NAME}: {outcome.stderr.strip()}") from None
