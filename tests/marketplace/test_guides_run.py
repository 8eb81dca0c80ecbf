"""The programs of the guides, run as readers do: with curl, the command line and real clients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from marketplace.selectors.docs import fill_addresses
from tests.marketplace import guides
from tests.marketplace.guides import Block
from tests.marketplace.stand_in_gateway import KEY, serve

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 120
BLOCKS = guides.all_blocks()
# Receivers of webhooks call nobody; they are run in tests/inference/test_webhook_guide.py.
RECEIVERS = "85-webhooks"
PROGRAMS = [one for one in BLOCKS if one.language == "python" and one.guide != RECEIVERS]
# One that sends nothing to the gateway is checked, and not run.
SHELL = [
    (one.guide, line)
    for one in BLOCKS
    if one.language == "bash"
    for line in guides.list_lines(one)
    if line.startswith(("curl ", "strongroom predict ", "strongroom submit "))
]


@pytest.fixture
def gateway():
    with serve() as server:
        yield server


def run(arguments: list[str], server, config: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "sdk"),
        "STRONGROOM_API_KEY": KEY,
        "STRONGROOM_CONFIG_DIR": str(config),
    }
    return subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def run_program(block: Block, server, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "program.py"
    path.write_text(fill_addresses(block.text, server.url, "http://127.0.0.1:1"))
    return run([sys.executable, str(path)], server, folder)


def run_line(line: str, server, folder: Path) -> subprocess.CompletedProcess[str]:
    text = fill_addresses(line, server.url, "http://127.0.0.1:1")
    text = text.replace("curl ", "curl --silent --show-error --fail-with-body ", 1)
    text = text.replace("strongroom ", f"{sys.executable} -m strongroom.cli ", 1)
    return run(["/bin/sh", "-c", text], server, folder)


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda one: f"{one.guide}-{one.text[:60]!r}"[-40:])
def test_a_program_runs(gateway, tmp_path, block):
    done = run_program(block, gateway, tmp_path)

    assert (done.returncode, gateway.faults) == (0, []), done.stderr[-800:]
    assert gateway.calls
    assert done.stdout.strip()


@pytest.mark.parametrize(("guide", "line"), SHELL)
def test_a_command_runs(gateway, tmp_path, guide, line):
    done = run_line(line, gateway, tmp_path)

    assert (done.returncode, gateway.faults) == (0, []), done.stderr[-800:] + done.stdout[-300:]
    assert gateway.calls


def test_all_clients_of_the_guide_are_run():
    told = " ".join(one.text for one in PROGRAMS)

    for package in ("from strongroom", "import replicate", "from openai", "import tritonclient"):
        assert package in told
    assert len(SHELL) >= 10


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/v1/models/demo/smollm2/predictions", "/v1/models/demo/predictions"),
        ('"input"', '"inputs"'),
        ("Authorization", "X-Authorization"),
    ],
)
def test_control_a_wrong_command_fails(gateway, tmp_path, old, new):
    line = next(line for guide, line in SHELL if "smollm2/predictions" in line)

    assert old in line
    assert run_line(line.replace(old, new), gateway, tmp_path).returncode != 0
    assert gateway.faults


def test_control_a_wrong_program_fails(gateway, tmp_path):
    block = next(one for one in PROGRAMS if "from strongroom" in one.text)
    wrong = Block(block.guide, block.language, block.text.replace("client.predict", "client.run"))

    assert run_program(wrong, gateway, tmp_path).returncode != 0
