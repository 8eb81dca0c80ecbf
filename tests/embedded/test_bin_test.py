"""`bin/test` before any test runs: a browser and a TPM are found, installed, or asked for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from embedded.environment import ROOT

# All that the script needs of a machine, and no browser.
TOOLS = (
    *("bash", "basename", "cat", "chmod", "dirname", "env", "flock", "mkdir", "mktemp"),
    *("readlink", "rm", "sha256sum", "touch", "uname"),
)
# A software TPM, and the tools that talk to one.
TPM = ("swtpm", "tpm2_quote")
# Debian's packages that are unpacked beside .venv.
UNPACKED = ("prometheus", "haproxy")
LINTED = 77


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout that is installed, on a machine without a browser."""
    shutil.copytree(ROOT / "bin", tmp_path / "checkout/bin")
    (tmp_path / "checkout/sdk").mkdir()
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-data.txt"):
        shutil.copyfile(ROOT / name, tmp_path / "checkout" / name)
    shutil.copyfile(ROOT / "sdk/pyproject.toml", tmp_path / "checkout/sdk/pyproject.toml")
    for path in (*ROOT.glob("tests/*/requirements-*.txt"), ROOT / "bench/requirements-k6.txt"):
        copy = tmp_path / "checkout" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    for name in UNPACKED:
        (tmp_path / "checkout/.venv/beside" / name).mkdir(parents=True)
        (tmp_path / "checkout/.venv/beside" / name / ".unpacked").touch()
    (tmp_path / "tools").mkdir()
    for name in TOOLS:
        (tmp_path / "tools" / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "checkout/.venv/bin").mkdir(parents=True)
    make(tmp_path / "checkout/.venv/bin/python", "exit 0")
    # The first thing that is run when everything is there; the script ends with its code.
    make(tmp_path / "checkout/.venv/bin/ruff", f"exit {LINTED}")
    for name in TPM:
        make(tmp_path / "tools" / name, "exit 0")
    return tmp_path


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What it printed about anything but Python's packages."""
    return [line for line in done.stdout.splitlines() if ".venv" not in line]


def make(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(machine: Path, *, uid: int) -> subprocess.CompletedProcess[str]:
    make(machine / "tools/id", f"echo {uid}")
    return subprocess.run(
        [machine / "tools/bash", machine / "checkout/bin/test"],
        env={"PATH": str(machine / "tools"), "HOME": str(machine)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_a_browser_that_is_there_is_taken(machine, name):
    make(machine / "tools" / name, "exit 0")

    done = run(machine, uid=1000)

    assert (done.returncode, said(done)) == (LINTED, ["== ruff"])


def test_root_gets_one_from_apt(machine):
    make(machine / "tools/apt-get", f'echo "$*" >> {machine}/calls')

    done = run(machine, uid=0)

    assert (done.returncode, said(done)) == (LINTED, ["Installing Chromium ...", "== ruff"])
    assert (machine / "calls").read_text().splitlines() == [
        "update -qq",
        "install -y -qq --no-install-recommends chromium",
    ]


def test_anybody_else_is_told_how(machine):
    make(machine / "tools/apt-get", f"touch {machine}/calls")

    done = run(machine, uid=1000)

    assert (done.returncode, said(done)) == (2, [])
    assert done.stderr == (
        "bin/test: the browser tests need Chromium: sudo apt-get install chromium\n"
    )
    assert not (machine / "calls").exists()


def test_an_install_that_fails_is_said(machine):
    make(machine / "tools/apt-get", "exit 100")

    done = run(machine, uid=0)

    assert done.returncode == 2
    assert done.stderr == "bin/test: Chromium could not be installed with apt-get\n"


@pytest.mark.parametrize("missing", TPM)
def test_root_gets_a_software_tpm_from_apt(machine, missing):
    make(machine / "tools/chromium", "exit 0")
    make(machine / "tools/apt-get", f'echo "$*" >> {machine}/calls')
    (machine / "tools" / missing).unlink()

    done = run(machine, uid=0)

    wanted = ["Installing swtpm and tpm2-tools ...", "== ruff"]
    assert (done.returncode, said(done)) == (LINTED, wanted)
    assert (machine / "calls").read_text().splitlines() == [
        "update -qq",
        "install -y -qq --no-install-recommends swtpm tpm2-tools",
    ]


def test_others_are_told_what_to_install_for_a_tpm(machine):
    make(machine / "tools/chromium", "exit 0")
    (machine / "tools/swtpm").unlink()

    done = run(machine, uid=1000)

    assert done.returncode == 2
    assert "sudo apt-get install swtpm tpm2-tools" in done.stderr


def test_prometheus_is_unpacked_beside_and_nothing_is_installed(machine):
    make(machine / "tools/chromium", "exit 0")
    beside = machine / "checkout/.venv/beside/prometheus"
    shutil.rmtree(beside)
    # The first time there are no lists of packages.
    make(
        machine / "tools/apt-get",
        f'echo "$*" >> {machine}/calls\n'
        f'[ "$1" = update ] && exec > {machine}/lists\n'
        f'[ "$1" != download ] || {{ [ -e {machine}/lists ] && echo > prometheus_1_amd64.deb; }}',
    )
    make(
        machine / "tools/dpkg",
        '[ -s "$2" ] && mkdir -p "$3/usr/bin" && echo "#!/bin/sh" > "$3/usr/bin/promtool" &&'
        ' chmod +x "$3/usr/bin/promtool"',
    )

    first, second = run(machine, uid=0), run(machine, uid=0)

    wanted = ["Unpacking prometheus beside .venv ...", "== ruff"]
    assert (first.returncode, first.stdout.splitlines()[-2:]) == (LINTED, wanted), first.stderr
    assert (second.returncode, said(second)) == (LINTED, ["== ruff"])
    assert (machine / "calls").read_text().splitlines() == [
        "download -qq prometheus",
        "update -qq",
        "download -qq prometheus",
    ]
    assert {one.name for one in beside.iterdir()} == {"usr", ".unpacked"}


@pytest.mark.parametrize("name", UNPACKED)
def test_what_cannot_be_had_is_asked_for(machine, name):
    make(machine / "tools/chromium", "exit 0")
    (machine / "checkout/.venv/beside" / name / ".unpacked").unlink()
    make(machine / "tools/apt-get", "exit 100")

    done = run(machine, uid=1000)

    assert done.returncode == 2
    assert f"the tests need {name}: apt-get could not download it" in done.stderr


def test_a_program_that_does_not_run_is_said_and_tried_again(machine):
    make(machine / "tools/chromium", "exit 0")
    (machine / "checkout/.venv/beside/haproxy/.unpacked").unlink()
    make(machine / "tools/apt-get", "echo > haproxy.deb")
    make(machine / "tools/dpkg", "exit 0")

    done = run(machine, uid=1000)

    assert done.returncode == 2
    assert "does not run" in done.stderr
    assert not (machine / "checkout/.venv/beside/haproxy/.unpacked").exists()
