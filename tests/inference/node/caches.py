"""What tests of the cache share: an artifact at the platform, and other processes with a cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from uuid import UUID

from tests.inference.node.processes import ROOT
from tests.inference.serving.sealed import seal

NEVER = threading.Event()
INTERFACE = {
    "inputs": [{"name": "x", "kind": "text"}],
    "outputs": [{"name": "y", "kind": "text"}],
}
# A process that fetches versions and holds them until its input ends.
_HOLDER = """
import json, sys, threading
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID
from inference.node import store
from inference.node.cache import ArtifactCache
from inference.node.control_plane import ControlPlane
from inference.node.errors import ReplicaError
from inference.node.identity import IdentityStore

given = json.loads(sys.argv[1])
store.DISK_RESERVE_BYTES = given["reserve_bytes"]
cache = ArtifactCache(
    Path(given["folder"]),
    limit_bytes=given["limit_bytes"],
    control_plane=ControlPlane(given["web_url"], IdentityStore(Path(given["node_dir"]))),
    manifest_dir=Path(given["manifest_dir"]),
)
with ExitStack() as held:
    for version in given["versions"]:
        try:
            held.enter_context(
                cache.hold(UUID(version), on_progress=lambda _: None, cancelled=threading.Event())
            )
            word = "held"
        except ReplicaError as error:
            word = error.reason_code
        print(word, flush=True)
    sys.stdin.read()
"""


def version(sealed):
    return UUID(sealed.manifest.artifact_id)


def assign(platform, folder, *contents):
    files = {f"{index}.bin": ("external_data", one) for index, one in enumerate(contents)}
    made = seal(folder / "parts", files, runtime="onnx", interface=INTERFACE)
    platform.assign(made)
    return made


def fetch(cache, sealed, cancelled=NEVER, on_progress=lambda _: None, **options):
    with cache.hold(
        version(sealed), on_progress=on_progress, cancelled=cancelled, **options
    ) as artifact:
        return artifact


def digests(sealed):
    return [part.sha256 for file in sealed.manifest.files for part in file.parts]


def names_in(folder):
    return sorted(one.name for one in folder.iterdir())


class Holder:
    """A node's process, as far as its cache goes; it dies with SIGKILL."""

    def __init__(
        self, platform, node_dir, folder, *sealed, limit_bytes=1 << 30, prefix=(), reserve_bytes=0
    ):
        given = {
            "folder": str(folder),
            "limit_bytes": limit_bytes,
            "reserve_bytes": reserve_bytes,
            "web_url": platform.web_url,
            "node_dir": str(node_dir),
            # Each of its own, as nodes have.
            "manifest_dir": str(Path(node_dir) / f"manifests-{os.urandom(4).hex()}"),
            "versions": [one.manifest.artifact_id for one in sealed],
        }
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _HOLDER, json.dumps(given)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def word(self):
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()
