"""Say whether a process of this machine is well: exit code 0, or 1 and why.

Run: python -m marketplace.core.probe [worker | beat | node | database | web | gateway | keybroker]

A worker and the schedule touch a file whenever they come round; an old one means that they
hang. A node is well while its agent holds the lock of its folder and its Triton answers. The
database is well if it takes a connection with the address that this process was given. Those
that listen are asked on loopback, for images that have no program to ask with.
"""

from __future__ import annotations

import argparse
import os
import ssl
import stat
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from marketplace.core.env import SettingError, env_int, env_secret, env_text, env_url
from marketplace.core.listen import env_listen

# Far above a few seconds between two notes, and above the time in which a connection to Redis is
# tried again: a process that only waits for others is not ended for it.
NOTE_AGE_MAX_S = 180.0
TIMEOUT_S = 3.0
DATABASE_URLS = (
    "STRONGROOM_DATABASE_URL",
    "STRONGROOM_GATEWAY_DATABASE_URL",
    "STRONGROOM_KEYBROKER_DATABASE_URL",
)
# As `inference.node.config` and `inference.triton.server` have them.
NODE_LOCK = "node.lock"
TRITON_HTTP_PORT = 18000


class NotWellError(Exception):
    """Why a process should be started anew, or not be waited for."""


def find_state_dir() -> Path:
    """Where notes lie: `STRONGROOM_STATE_DIR`, else a folder of this user's for temporary files."""
    default = Path(tempfile.gettempdir()) / f"strongroom-{os.getuid()}"
    return Path(env_text("STRONGROOM_STATE_DIR", str(default)))


def make_state_dir() -> Path:
    """The same folder, made if need be; nobody else may write there.

    Raises:
        SettingError: It is another user's, open to others, or cannot be made.
    """
    folder = find_state_dir()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        detail = f"{folder} cannot be made: {error.strerror}"
        raise SettingError(f"STRONGROOM_STATE_DIR: {detail}") from error
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_ours or found.st_mode & stat.S_IWOTH:
        raise SettingError(f"STRONGROOM_STATE_DIR: {folder} must be a folder of this user's alone")
    return folder


def note(name: str) -> None:
    """Say that a process came round just now."""
    (make_state_dir() / f"{name}.alive").touch(mode=0o600)


def check_note(name: str, *, now: float | None = None) -> None:
    """Raise NotWellError if a process did not come round for `NOTE_AGE_MAX_S`.

    Args:
        name: `worker` or `beat`.
        now: Seconds since 1970.
    """
    path = find_state_dir() / f"{name}.alive"
    try:
        age_s = (time.time() if now is None else now) - path.stat().st_mtime
    except OSError as error:
        raise NotWellError(f"{path}: {error.strerror}") from error
    if age_s > NOTE_AGE_MAX_S:
        raise NotWellError(f"{name} did not come round for {age_s:.0f} s")


def check_node() -> None:
    """Raise NotWellError unless the agent runs and its Triton is ready."""
    lock = Path(env_text("STRONGROOM_NODE_DIR")) / NODE_LOCK
    if not is_locked(lock):
        raise NotWellError(f"no agent holds {lock}")
    host = _as_reached(env_text("STRONGROOM_NODE_TRITON_HOST", "127.0.0.1"))
    port = env_int("STRONGROOM_NODE_TRITON_HTTP_PORT", TRITON_HTTP_PORT, minimum=1, maximum=65535)
    _ask(f"http://{host}:{port}/v2/health/ready")


def check_web() -> None:
    """Raise NotWellError unless the site takes requests, under its own name."""
    host, port = env_listen("STRONGROOM_WEB_LISTEN", "127.0.0.1:8000")
    name = urlsplit(env_url("STRONGROOM_WEB_URL")).netloc
    _ask(f"http://{_as_reached(host)}:{port}/health/ready", name=name)


def check_gateway() -> None:
    """Raise NotWellError unless the gateway takes requests."""
    host, port = env_listen("STRONGROOM_GATEWAY_LISTEN", "127.0.0.1:8001")
    _ask(f"http://{_as_reached(host)}:{port}/health")


def check_keybroker() -> None:
    """Raise NotWellError unless the key broker answers."""
    host, port = env_listen("STRONGROOM_KEYBROKER_LISTEN", "127.0.0.1:8443")
    scheme = "https" if env_text("STRONGROOM_KEYBROKER_TLS_CERT", "") else "http"
    _ask(f"{scheme}://{_as_reached(host)}:{port}/health")


def _as_reached(host: str) -> str:
    """Where something listens on every address, this machine is one of them."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{reached}]" if ":" in reached else reached


def _ask(url: str, name: str = "") -> None:
    # Its certificate has another name than this one, and nothing is told to it.
    context = ssl._create_unverified_context()  # noqa: S323, SLF001 - no shorter way has a name
    request = urllib.request.Request(url, headers={"Host": name} if name else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context):  # noqa: S310
            pass
    except OSError as error:
        raise NotWellError(f"{url}: {error}") from error


def is_locked(path: Path) -> bool:
    """Whether some process holds a file's lock, without trying to take it.

    One that tried could keep an agent out that starts in the same moment.

    Source: proc_locks(5).
    """
    try:
        inode = str(path.stat().st_ino)
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    # "1: FLOCK  ADVISORY  WRITE 708 08:01:1234 0 EOF"; one that waits has "->" behind its number.
    fields = [line.split() for line in lines]
    return any(
        words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode
        for words in fields
        if len(words) > 5
    )


def check_database() -> None:
    """Raise NotWellError unless the database of this process takes a connection and answers."""
    import psycopg

    url = _find_database_url()
    try:
        with psycopg.connect(url, connect_timeout=int(TIMEOUT_S)) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        # Its text may hold the address; the class does not.
        raise NotWellError(f"the database: {type(error).__name__}") from error


def _find_database_url() -> str:
    for name in DATABASE_URLS:
        if os.environ.get(name) or os.environ.get(f"{name}_FILE"):
            return env_secret(name)
    raise SettingError(f"{DATABASE_URLS[0]} is not set")


CHECKS: dict[str, Callable[[], None]] = {
    "worker": lambda: check_note("worker"),
    "beat": lambda: check_note("beat"),
    "node": check_node,
    "database": check_database,
    "web": check_web,
    "gateway": check_gateway,
    "keybroker": check_keybroker,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Look once; 0 if the process is well."""
    parser = argparse.ArgumentParser(prog="python -m marketplace.core.probe")
    parser.add_argument("process", choices=sorted(CHECKS))
    name = parser.parse_args(arguments).process
    try:
        CHECKS[name]()
    except (NotWellError, SettingError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
