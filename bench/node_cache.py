"""What a second node on a machine saves by the first one's ciphertext, and what it still costs.

Each round, on one disk and with the files evicted from the page cache: the first node fetches a
version from a stand-in of the platform on loopback (so without a network's time); a second one
finds it in the folder that both share; a third does so while the files are in the page cache;
a node that has read them before does it once more. Against the floor: to read the same files
from the disk, evicted too, and do nothing with them. The share after that, decryption, is the
same for all and is shown once.

Run: .venv/bin/python -m bench.node_cache [--mib 512] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from embedded.environment import ROOT
from inference.node.cache import ArtifactCache
from inference.node.control_plane import ControlPlane, KeyBroker
from inference.node.identity import IdentityStore
from inference.serving import decryption
from tests.inference.node.platform import JOIN_TOKEN, Platform
from tests.inference.serving.sealed import SealedModel, seal

STEPS = ("floor", "first node", "second node", "second node, warm", "same node again", "decrypt")
_READ_BYTES = 1024 * 1024
_INTERFACE = {
    "inputs": [{"name": "x", "kind": "text"}],
    "outputs": [{"name": "y", "kind": "text"}],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    place = ROOT / "var" / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix="node-cache-") as name:
        folder = Path(name)
        files = {"model.bin": ("external_data", os.urandom(options.mib << 20))}
        sealed = seal(folder / "sealed", files, runtime="onnx", interface=_INTERFACE)
        with _connected(folder, sealed) as control_plane:
            rounds = [
                _measure(folder / f"round-{number}", control_plane, sealed)
                for number in range(options.rounds)
            ]
    medians = {step: statistics.median(one[step] for one in rounds) for step in STEPS}
    print("\n".join(_draw(medians, rounds, options.mib << 20)))
    if options.json:
        options.json.write_text(json.dumps({"mib": options.mib, "rounds": rounds}, indent=1))
    return 0


@contextmanager
def _connected(folder: Path, sealed: SealedModel) -> Iterator[ControlPlane]:
    platform = Platform()
    try:
        identities = IdentityStore(folder)
        with KeyBroker(platform.broker_url, identities) as broker:
            broker.join(join_token=JOIN_TOKEN, name="bench")
        with ControlPlane(platform.web_url, identities) as control_plane:
            control_plane.enrol(name="bench", triton={}, info={})
            platform.assign(sealed)
            yield control_plane
    finally:
        platform.close()


def _measure(folder: Path, control_plane: ControlPlane, sealed: SealedModel) -> dict[str, float]:
    """Seconds of each step, with a folder of its own."""

    def node(name: str) -> ArtifactCache:
        return ArtifactCache(
            folder / "shared",
            limit_bytes=1 << 40,
            control_plane=control_plane,
            manifest_dir=folder / name,
        )

    first, second, third = node("1"), node("2"), node("3")
    parts: list[Path] = []

    def fetch(cache: ArtifactCache) -> None:
        options = {"on_progress": lambda _: None, "cancelled": threading.Event()}
        with cache.hold(UUID(sealed.manifest.artifact_id), **options) as artifact:
            parts[:] = artifact.parts

    found: dict[str, float] = {}
    _evict(sealed.parts)
    found["first node"] = _time(lambda: fetch(first))
    _evict(parts)
    found["second node"] = _time(lambda: fetch(second))
    found["second node, warm"] = _time(lambda: fetch(third))
    found["same node again"] = _time(lambda: fetch(third))
    found["decrypt"] = _time(lambda: _decrypt(sealed, parts))
    _evict(parts)
    found["floor"] = _time(lambda: _read(parts))
    for path in parts:
        path.unlink()
    return found


def _time(step: Callable[[], None]) -> float:
    started_at = time.perf_counter()
    step()
    return time.perf_counter() - started_at


def _evict(paths: Sequence[Path]) -> None:
    """Out of the page cache: what is on the disk alone has to be read from there."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _read(paths: Sequence[Path]) -> None:
    buffer = bytearray(_READ_BYTES)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _decrypt(sealed: SealedModel, parts: Sequence[Path]) -> None:
    handles = [os.open(one, os.O_RDONLY) for one in parts]
    try:
        found = decryption.decrypt_files(
            sealed.manifest,
            handles,
            bytearray(sealed.dek),
            decryption.allocate(sealed.manifest),
            threads=len(os.sched_getaffinity(0)),
            report=lambda _: None,
        )
        for one in found.files:
            one.buffer.wipe()
    finally:
        for handle in handles:
            os.close(handle)


def _draw(medians: dict[str, float], rounds: list[dict[str, float]], size_bytes: int) -> list[str]:
    lines = [
        f"{size_bytes >> 20} MiB, {len(rounds)} rounds, medians (smallest to largest)",
        "",
        "| step | s | MiB/s | of the floor | of the first node |",
        "|---|---|---|---|---|",
    ]
    for step in STEPS:
        seconds = medians[step]
        span = f"{min(one[step] for one in rounds):.2f} to {max(one[step] for one in rounds):.2f}"
        lines.append(
            f"| {step} | {seconds:.2f} ({span}) | {size_bytes / seconds / 2**20:.0f} "
            f"| {seconds / medians['floor']:.2f} | {seconds / medians['first node']:.2f} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
