"""The home: one folder with all state, its secrets, and who may run on it.

```
lock            held while it runs; holds the pid
secrets.json    passwords and keys, made once
env.json        what the web was started with; manage.py reads it
demo.json       logins and models of the demo, written when it is ready
ports.json      ports of the parts nobody chose, kept from start to start
logs/           one file for each part, with one older file at most
postgres/ redis/ keybroker/ node/ objects/ beat/ stripe/    one folder for each part
tls/            authority, certificate and key with which the key broker is served
run/            sockets
```
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedded import ports
from embedded.errors import StartError
from marketplace.core import keys

# Postgres with its log of changes (1 GB at most), sealed demo models twice (at rest and in
# the node's cache, 0.4 GB each), their plain files while they are sealed, and logs.
DISK_FREE_BYTES_MIN = 3 * 1024**3
# A unix socket's address has 108 bytes; the node puts names of its own behind the folder.
RUN_DIR_LENGTH_MAX = 70

_SECRETS: Mapping[str, Callable[[], str]] = {
    "secret_key": lambda: secrets.token_urlsafe(48),
    "postgres_superuser": lambda: secrets.token_hex(24),
    "strongroom_owner": lambda: secrets.token_hex(24),
    "strongroom_app": lambda: secrets.token_hex(24),
    "strongroom_gateway": lambda: secrets.token_hex(24),
    "strongroom_keybroker": lambda: secrets.token_hex(24),
    "redis": lambda: secrets.token_hex(24),
    "redis_gateway": lambda: secrets.token_hex(24),
    "keybroker_token": lambda: secrets.token_urlsafe(32),
    "receipt_key": lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
    "playground_secret": lambda: secrets.token_urlsafe(32),
    "search_key": lambda: keys.generate(keys.TEST).text,
    "stripe_secret_key": lambda: "sk_test_" + secrets.token_hex(24),
    "stripe_webhook_secret": lambda: "whsec_" + secrets.token_hex(24),
}
PORT_NAMES = (
    "postgres",
    "redis",
    "keybroker",
    "fakestripe",
    "triton_http",
    "triton_grpc",
    "triton_metrics",
)


@dataclass(frozen=True, slots=True)
class Home:
    """A home and the places in it."""

    path: Path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def env_file(self) -> Path:
        return self.path / "env.json"

    @property
    def demo_file(self) -> Path:
        return self.path / "demo.json"

    @property
    def join_token_file(self) -> Path:
        return self.path / "node" / "join-token"

    @property
    def tls_ca(self) -> Path:
        return self.path / "tls" / "ca.pem"

    @property
    def tls_certificate(self) -> Path:
        return self.path / "tls" / "keybroker.pem"

    @property
    def tls_key(self) -> Path:
        return self.path / "tls" / "keybroker.key"

    def __truediv__(self, name: str) -> Path:
        return self.path / name


class Lock:
    """The right to run on a home; it ends with the processes that hold it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def release(self) -> None:
        """Let the next one in."""
        os.close(self.descriptor)


def make(path: Path) -> Home:
    """Make the folders that are missing.

    Raises:
        StartError: The place cannot be used.
    """
    home = Home(path.expanduser().absolute())
    try:
        # As root another user must pass to its own folder in it; nobody may list it.
        home.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        for name in ("logs", "keybroker", "node", "objects", "beat", "stripe", "run"):
            (home / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartError(f"the home {home.path} cannot be used: {error.strerror}") from error
    if not os.access(home.path, os.W_OK | os.X_OK):
        raise StartError(f"the home {home.path} is not writable")
    return home


def check_disk(home: Home) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        StartError: Too little is free.
    """
    free_bytes = shutil.disk_usage(home.path).free
    if free_bytes < DISK_FREE_BYTES_MIN:
        raise StartError(
            f"{free_bytes / 1024**3:.1f} GiB are free at {home.path},"
            f" {DISK_FREE_BYTES_MIN / 1024**3:.0f} GiB are needed"
        )


def lock(home: Home) -> Lock:
    """Take the home for this process and those that it forks.

    Raises:
        StartError: Somebody runs on it.
    """
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
        os.close(descriptor)
        raise StartError(f"the home {home.path} is in use by process {holder}") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return Lock(descriptor)


def load_secrets(home: Home) -> dict[str, str]:
    """The home's secrets; those that are missing are made now, once."""
    path = home / "secrets.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    missing = {name: make_one() for name, make_one in _SECRETS.items() if name not in known}
    if missing:
        known |= missing
        write_private(path, known)
    return known


def choose_ports(home: Home, taken: set[int]) -> dict[str, int]:
    """Ports of the inner parts: those of the last start where they are free.

    Args:
        home: Where the choice is kept.
        taken: Ports that are spoken for.
    """
    path = home / "ports.json"
    known: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text())
    chosen: dict[str, int] = {}
    for name in PORT_NAMES:
        port = known.get(name, 0)
        avoid = taken | set(chosen.values())
        usable = port > 0 and port not in avoid and ports.is_free(port)
        chosen[name] = port if usable else ports.choose(avoid)
    write_private(path, chosen)
    return chosen


def run_dir(home: Home) -> Path:
    """A folder for unix sockets with a name short enough, ours alone."""
    inside = home / "run"
    if len(str(inside)) <= RUN_DIR_LENGTH_MAX:
        return inside
    return Path(tempfile.mkdtemp(prefix="strongroom-", dir="/tmp"))


def write_private(path: Path, document: Any) -> None:
    """Replace a JSON file in one step; only its owner can read it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
    Path(name).replace(path)
