import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from embedded import home, up
from embedded.environment import ROOT
from tests.stack import ANY_PORTS


def run_up(*arguments, **env):
    return subprocess.run(
        [sys.executable, "-P", "-m", "embedded.up", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("option", ["web", "gateway", "grpc"])
def test_a_taken_port_is_refused_in_one_line(tmp_path, taken_port, option):
    outcome = run_up("--home", tmp_path, *ANY_PORTS, f"--{option}-port", taken_port)

    assert outcome.returncode == 2
    assert outcome.stdout == ""
    expected = f"port {taken_port} is taken: choose another with --{option}-port"
    assert outcome.stderr == f"bin/up: {expected}\n"
    assert not (tmp_path / "postgres").exists()


def test_a_home_in_use_is_refused_in_one_line(tmp_path):
    lock = home.lock(home.make(tmp_path))
    try:
        outcome = run_up(*ANY_PORTS, STRONGROOM_HOME=str(tmp_path))
    finally:
        lock.release()

    assert outcome.returncode == 2
    expected = f"the home {tmp_path} is in use by process {os.getpid()}"
    assert outcome.stderr == f"bin/up: {expected}\n"


def test_too_little_disk_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(home, "DISK_FREE_BYTES_MIN", 1 << 60)

    code = up.main(["--home", str(tmp_path), *ANY_PORTS])

    assert code == 2
    assert capsys.readouterr().err.startswith("bin/up: ")
    home.lock(home.Home(tmp_path)).release()  # It is not kept.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--web-port", "65536"], "'65536' is not a port"),
        (["--web-port", "-1"], "'-1' is not a port"),
        (["--web-port", "x"], "'x' is not a port"),
        (["--web-port", "8000", "--gateway-port", "8000"], "must differ"),
        (["--gateway-port", "8001", "--grpc-port", "8001"], "must differ"),
        (["--check", "--no-seed"], "--check needs the demo models"),
        (["--what"], "unrecognized arguments"),
    ],
)
def test_wrong_options_are_refused(tmp_path, arguments, reason, capsys):
    with pytest.raises(SystemExit) as caught:
        up.main(["--home", str(tmp_path / "home"), *arguments])

    assert caught.value.code == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_the_command_line_to_paste_survives_quotes(tmp_path):
    place = up.Place(
        home=home.Home(tmp_path),
        secrets={},
        ports={},
        web_port=8000,
        gateway_port=8001,
        grpc_port=8002,
        run_dir=tmp_path,
    )
    home.write_private(
        place.home.demo_file,
        {
            "models": [{"name": "demo/x", "example_input": {"text": "it's $HOME"}}],
            "consumer": {"api_key": "sk_live_x"},
        },
    )

    (line,) = [text for text in up._welcome(place) if text.startswith("curl")]
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert words[2] == "http://127.0.0.1:8001/v1/models/demo/x/predictions"
    assert words[4] == "Authorization: Bearer sk_live_x"
    assert words[-1] == '{"input":{"text":"it\'s $HOME"}}'


# --- bin/up itself: before any Python of ours runs ---


@pytest.fixture
def checkout(tmp_path):
    """A copy of what bin/up reads, with no environment made."""
    place = tmp_path / "checkout"
    (place / "sdk").mkdir(parents=True)
    shutil.copytree(ROOT / "bin", place / "bin")
    for name in ("requirements.txt", "requirements-data.txt", "sdk/pyproject.toml"):
        shutil.copyfile(ROOT / name, place / name)
    return place


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run_bin(checkout: Path, *tools: Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
    path = os.pathsep.join([*map(str, tools), "/usr/bin", "/bin"])
    return subprocess.run(
        ["/bin/bash", str(checkout / "bin" / "up"), "--help"],
        env={"PATH": path, "HOME": str(checkout)},
        cwd=cwd or checkout,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_wrong_python_is_refused_in_one_line(checkout, tmp_path):
    for name in ("python3.11", "python3", "python"):
        fake(tmp_path, name, '[ "$1" = --version ] && echo "Python 3.9.2" && exit; exit 1')

    outcome = run_bin(checkout, tmp_path)

    assert outcome.returncode == 2
    assert outcome.stderr == (
        "bin/up: Python 3.11 is needed (found: Python 3.9.2); set STRONGROOM_PYTHON\n"
    )
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_is_refused_in_one_line(checkout, tmp_path):
    fake(tmp_path, "python3.11", 'case "$2" in *ensurepip*) exit 1;; esac; exit 0')

    outcome = run_bin(checkout, tmp_path)

    assert outcome.returncode == 2
    assert outcome.stderr == (
        "bin/up: Python's venv module is missing: apt-get install python3.11-venv\n"
    )


def test_too_little_disk_for_the_packages_is_refused_in_one_line(checkout, tmp_path):
    fake(tmp_path, "python3.11", "exit 0")
    fake(tmp_path, "df", "printf 'Avail\\n5242880\\n'")

    outcome = run_bin(checkout, tmp_path)

    assert outcome.returncode == 2
    assert outcome.stderr == (
        f"bin/up: 5 GiB are free at {checkout}, 8 GiB are needed to install\n"
    )


def test_it_installs_once_and_again_after_a_change(checkout, tmp_path):
    calls = tmp_path / "calls"
    venv_python = checkout / ".venv" / "bin" / "python"
    venv_python.parent.mkdir(parents=True)
    fake(venv_python.parent, "python", f'echo "$*" >> {calls}; exit 0')

    assert run_bin(checkout).returncode == 0
    pips = [line for line in calls.read_text().splitlines() if " pip " in f" {line} "]
    assert [" ".join(line.split()[5:]) for line in pips] == [
        "--requirement requirements.txt",
        "--no-deps --requirement requirements-data.txt",
        "--no-deps --editable ./sdk",
    ]
    assert calls.read_text().splitlines()[-1] == "-P -m embedded.up --help"

    calls.unlink()
    assert run_bin(checkout).returncode == 0
    assert "pip" not in calls.read_text()

    calls.unlink()
    with (checkout / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    assert run_bin(checkout).returncode == 0
    assert calls.read_text().count("-m pip") == 3


def test_a_failed_install_is_not_taken_for_done(checkout, tmp_path):
    venv_python = checkout / ".venv" / "bin" / "python"
    venv_python.parent.mkdir(parents=True)
    fake(venv_python.parent, "python", 'case "$*" in *requirements-data*) exit 1;; esac; exit 0')

    for _ in range(2):
        outcome = run_bin(checkout)
        assert outcome.returncode == 2
        assert outcome.stderr == "bin/up: pip could not install requirements-data.txt\n"


def test_it_runs_from_any_folder_and_keeps_it(checkout, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    seen = tmp_path / "seen"
    venv_python = checkout / ".venv" / "bin" / "python"
    venv_python.parent.mkdir(parents=True)
    fake(venv_python.parent, "python", f'case "$*" in *embedded.up*) pwd > {seen};; esac; exit 0')

    assert run_bin(checkout, cwd=elsewhere).returncode == 0

    assert seen.read_text().strip() == str(elsewhere)
