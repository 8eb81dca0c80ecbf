"""Files that are no models, sealed by a client that does not look, against the whole product."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.children import wait_for
from tests.e2e.terminal import Creator
from tests.inference.artifact.hostile_files import samples
from tests.inference.artifact.onnx_models import WEIGHTS, linear
from tests.stack import Stack

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ("pickle_4", "torch_zip", "torchscript", "pt2", "zip", "script")
REFUSED_WITHIN_S = 180.0
# The client as it is, but for the files: the honest one is found, another is sealed.
TAMPERED = """
import dataclasses, sys
from pathlib import Path
import strongroom.commands.model as command
from strongroom.cli import main
find = command.read_folder
def find_other(root, **options):
    found = find(root, **options)
    [file] = found.files
    other = Path(root).resolve().parent / "hostile" / Path(root).resolve().name
    file = dataclasses.replace(file, location=other, size_bytes=other.stat().st_size)
    return dataclasses.replace(found, files=(file,))
command.read_folder = find_other
main()
"""


def push_tampered(creator: Creator, name: str) -> str:
    """Push the folder `name` with the bytes of `hostile/name`; the version's id."""
    done = subprocess.run(
        [sys.executable, "-c", TAMPERED, "push", name, "--json"],
        env=creator.environment,
        cwd=creator.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["id"]


def list_stubs(stack: Stack) -> list[int]:
    """Serving processes, of whatever model."""
    return [
        pid
        for pid in stack.pids
        if "triton_python_backend_stub" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


@pytest.mark.timeout(1_900)
def test_they_are_refused_and_nothing_of_them_stays(stack: Stack, tmp_path: Path) -> None:
    creator = Creator(stack, tmp_path)
    y = [sum(row[column] for row in WEIGHTS.tolist()) for column in range(WEIGHTS.shape[1])]
    vectors = [{"input": {"x": [1.0] * WEIGHTS.shape[0]}, "expected": {"y": y}}]
    (tmp_path / "vectors.json").write_text(json.dumps(vectors))
    (tmp_path / "hostile").mkdir()
    serving = len(list_stubs(stack))
    expected, versions = {}, {}
    for kind in NAMES:
        name = f"hostile-{secrets.token_hex(3)}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(linear())
        creator.init(name, title=kind, price="0.0001")
        content, expected[kind] = samples(tmp_path)[kind]
        (tmp_path / "hostile" / name).write_bytes(content)
        versions[kind] = push_tampered(creator, name), name

    def read(kind: str) -> dict:
        version_id, name = versions[kind]
        rows = json.loads(creator.run("versions", f"demo/{name}", "--json"))
        return next(row for row in rows if row["id"] == version_id)

    for kind in NAMES:
        wait_for(lambda kind=kind: read(kind)["state"] == "failed", kind, within_s=REFUSED_WITHIN_S)
    failed = {
        kind: [
            (step["name"], step["reason_code"])
            for step in read(kind)["steps"]
            if step["reason_code"]
        ]
        for kind in NAMES
    }

    assert failed == {kind: [("validate", expected[kind])] for kind in NAMES}
    # The payload of the pickles never ran, and no process holds a file of theirs.
    assert not (tmp_path / "RAN").exists()
    wait_for(lambda: len(list_stubs(stack)) <= serving, "the scan replicas to leave")
