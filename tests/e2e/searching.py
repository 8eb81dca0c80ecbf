"""Search everything that the running product has written or holds for some bytes."""

from __future__ import annotations

import base64
import json
import mmap
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import redis

from embedded import postgres
from tests.stack import Stack

PIECE_BYTES = 16 << 20
# So many numbers are a canary.
COUNT = 16
# Kernel views; processes and shared memory are searched by themselves.
_NOT_DISK = ("/proc", "/sys", "/dev")


class Canary:
    """Bytes that exist nowhere else, and every spelling in which they could be written.

    Args:
        spellings: The bytes to look for.
    """

    def __init__(self, spellings: list[bytes]) -> None:
        self.spellings = spellings
        self._longest = max(map(len, spellings))

    @classmethod
    def of(cls, content: bytes) -> Canary:
        """The canary of these bytes, which are finite 32-bit floats."""
        # Base64 of a longer text depends on where in a group of three the bytes begin; the
        # letters at both ends depend on the neighbours.
        base64s = [base64.b64encode(b"\0" * shift + content)[4:-4] for shift in range(3)]
        numbers = np.frombuffer(content, np.float32).tolist()
        spellings = [
            content,
            content.hex().encode(),
            content.hex().upper().encode(),
            *base64s,
            *(text.replace(b"+", b"-").replace(b"/", b"_") for text in base64s),
            json.dumps(numbers)[1:-1].encode(),
            json.dumps(numbers, separators=(",", ":"))[1:-1].encode(),
        ]
        return cls(spellings)

    @classmethod
    def make(cls) -> Canary:
        """64 bytes of chance, as sixteen numbers."""
        chance = np.random.default_rng(int.from_bytes(os.urandom(16), "big"))
        return cls.of(chance.standard_normal(COUNT).astype(np.float32).tobytes())

    @classmethod
    def any_of(cls, canaries: Iterable[Canary]) -> Canary:
        """One that is found where one of these would be, in a single pass."""
        return cls([spelling for canary in canaries for spelling in canary.spellings])

    @property
    def content(self) -> bytes:
        """The bytes themselves."""
        return self.spellings[0]

    @property
    def numbers(self) -> np.ndarray:
        """The bytes as the numbers that a model holds."""
        return np.frombuffer(self.content, np.float32)

    def is_in(self, content: bytes | mmap.mmap) -> bool:
        """Whether some bytes hold it in any spelling."""
        return any(content.find(spelling) >= 0 for spelling in self.spellings)

    def is_in_stream(self, pieces: Iterator[bytes]) -> bool:
        """Whether a stream holds it, also across the borders of its pieces."""
        tail = b""
        for piece in pieces:
            if self.is_in(tail + piece):
                return True
            tail = piece[-self._longest :]
        return False


def list_changed_files(since: float, *but: Path) -> Iterator[Path]:
    """Every regular file on the machine that was made or changed after a moment.

    Shared memory is among them; what this process may not see is not.
    """
    left_out = {*map(str, but), *_NOT_DISK}
    for root in ("/", "/dev/shm"):
        for folder, names, files in os.walk(root):
            names[:] = [one for one in names if str(Path(folder, one)) not in left_out]
            for name in files:
                path = Path(folder, name)
                try:
                    found = path.lstat()
                except OSError:
                    continue
                if stat.S_ISREG(found.st_mode) and found.st_ctime >= since:
                    yield path


def list_files(*folders: Path) -> Iterator[Path]:
    """Every regular file below some folders, whenever it was changed: a browser's profile, say."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path


def list_mapped_files(pids: Iterable[int], since: float) -> Iterator[Path]:
    """Files behind mappings of processes, deleted ones and memory files among them.

    Those that have a name and have not changed after the moment are left out: libraries.
    """
    seen: set[str] = set()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            addresses, _, _, _, inode, *rest = line.split(maxsplit=5)
            if inode == "0" or not rest or rest[0] in seen:
                continue
            seen.add(rest[0])
            # There, unlike here, addresses have no leading zeros.
            name = "-".join(one.lstrip("0") for one in addresses.split("-"))
            path = Path(f"/proc/{pid}/map_files/{name}")
            named = Path(rest[0])
            try:
                if named.stat().st_ctime < since:
                    continue
                path = named
            except OSError:
                pass
            yield path


def list_core_folders(pids: Iterable[int]) -> list[Path]:
    """Where the kernel would write memory of these processes if they crashed."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    folders = set()
    if pattern.startswith("/"):
        folders.add(Path(pattern).parent)
    for pid in pids:
        try:
            folder = Path(f"/proc/{pid}/cwd").readlink()
        except OSError:
            continue
        # The serving process stands in a folder that is gone: there, no file can be made.
        if folder.is_dir():
            folders.add(folder)
    return sorted(folders)


def is_in_file(canary: Canary, path: Path) -> bool:
    """Whether a file holds the canary; one that vanished does not."""
    try:
        with path.open("rb") as file:
            return canary.is_in_stream(iter(lambda: file.read(PIECE_BYTES), b""))
    except OSError:
        return False


def list_open_files(pids: list[int]) -> Iterator[Path]:
    """Open regular files that have no name any more, memory files among them."""
    for pid in pids:
        try:
            descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue
        for one in descriptors:
            try:
                found = one.stat()
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                yield one


def database_url(stack: Stack) -> str:
    """Where PostgreSQL's superuser reaches the database of the product."""
    secret = json.loads((stack.home / "secrets.json").read_text())["postgres_superuser"]
    port = json.loads((stack.home / "ports.json").read_text())["postgres"]
    return postgres.url(port, postgres.SUPERUSER, secret)


def redis_url(stack: Stack) -> str:
    """Where Redis is reached, with its password."""
    return str(json.loads((stack.home / "env.json").read_text())["STRONGROOM_REDIS_URL"])


def dump_database(stack: Stack) -> Iterator[bytes]:
    """The whole database as text; PostgreSQL's own files may hold it compressed."""
    dump = subprocess.run(
        [postgres.programs() / "pg_dump", database_url(stack)],
        env=postgres.environment(),
        capture_output=True,
        check=True,
    )
    yield dump.stdout


def read_redis(stack: Stack) -> Iterator[bytes]:
    """Every key of Redis with its value; its own files may hold them compressed."""
    with redis.Redis.from_url(redis_url(stack)) as client:
        readers = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"stream": client.xrange,
        }
        for key in client.scan_iter(count=1_000):
            kind = client.type(key)
            if kind != b"none":
                yield key + b" " + b"".join(_flatten(readers[kind](key))) + b"\n"


def save_redis(stack: Stack) -> Iterator[bytes]:
    """The file that Redis would leave behind; values are written as they are for once."""
    with redis.Redis.from_url(redis_url(stack)) as client:
        before = client.config_get("rdbcompression")["rdbcompression"]
        client.config_set("rdbcompression", "no")
        try:
            client.save()
            folder = Path(client.config_get("dir")["dir"])
            path = folder / client.config_get("dbfilename")["dbfilename"]
            content = path.read_bytes()
            path.unlink()
        finally:
            client.config_set("rdbcompression", before)
    yield content


def _flatten(value: object) -> Iterator[bytes]:
    match value:
        case bytes():
            yield value
        case dict():
            for pair in value.items():
                yield from _flatten(pair)
        case list() | tuple() | set():
            for one in value:
                yield from _flatten(one)


def read_starts(pids: list[int]) -> Iterator[bytes]:
    """Command lines and environments of processes."""
    for pid in pids:
        for name in ("cmdline", "environ"):
            try:
                yield Path(f"/proc/{pid}/{name}").read_bytes() + b"\n"
            except OSError:
                continue


def read_memory(pid: int) -> Iterator[bytes]:
    """The memory of a process that no file on disk stands behind; needs root.

    Mappings that cannot be read, such as the kernel's own, are left out.
    """
    process = Path(f"/proc/{pid}")
    try:
        mappings = (process / "maps").read_text().splitlines()
        with (process / "mem").open("rb", buffering=0) as memory:
            for line in mappings:
                addresses, rights, _, _, inode, *_ = line.split(maxsplit=5)
                if "r" in rights and (inode == "0" or "w" in rights):
                    begin, end = (int(one, 16) for one in addresses.split("-"))
                    yield from _read_mapping(memory, begin, end)
    except OSError:
        return


def _read_mapping(memory, begin: int, end: int) -> Iterator[bytes]:
    while begin < end:
        try:
            memory.seek(begin)
            piece = memory.read(min(PIECE_BYTES, end - begin))
        except (OSError, ValueError, OverflowError):
            return
        if not piece:
            return
        yield piece
        begin += len(piece)
