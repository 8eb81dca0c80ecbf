import json
import os
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from embedded import home, ports
from embedded.errors import StartError

Usage = namedtuple("Usage", "total used free")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_for_the_owner_only(tmp_path):
    place = home.make(tmp_path / "home")

    first = home.load_secrets(place)
    second = home.load_secrets(place)

    assert first == second
    assert mode(place / "secrets.json") == 0o600
    assert len(set(first.values())) == len(first)
    assert all(len(value) >= 32 for value in first.values())


def test_two_homes_share_no_secret(tmp_path):
    one, other = (home.load_secrets(home.make(tmp_path / name)) for name in "ab")

    assert not set(one.values()) & set(other.values())


def test_a_secret_that_is_missing_is_added(tmp_path):
    place = home.make(tmp_path)
    home.write_private(place / "secrets.json", {"redis": "kept"})

    secrets = home.load_secrets(place)

    assert secrets["redis"] == "kept"
    assert secrets["keybroker_token"]


def test_folders_with_keys_and_artifacts_are_closed(tmp_path):
    place = home.make(tmp_path / "home")

    for name in ("keybroker", "node", "objects", "logs", "run", "stripe"):
        assert mode(place / name) == 0o700
    assert mode(place.path) == (0o711 if os.geteuid() == 0 else 0o700)


def test_a_private_file_is_never_open_in_between(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    path.chmod(0o644)

    home.write_private(path, {"new": True})

    assert json.loads(path.read_text()) == {"new": True}
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_way_is_one_clear_line(tmp_path):
    (tmp_path / "home").write_text("")

    with pytest.raises(StartError, match=r"the home .* cannot be used: File exists"):
        home.make(tmp_path / "home")


def test_a_home_is_taken_by_one_process_only(tmp_path):
    place = home.make(tmp_path)
    code = (
        "import sys; from pathlib import Path; from embedded import home\n"
        "home.lock(home.make(Path(sys.argv[1]))); print('taken', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "taken\n"

        with pytest.raises(StartError, match=f"in use by process {holder.pid}$"):
            home.lock(place)

        holder.kill()
        holder.wait()
        home.lock(place).release()


def test_too_little_disk_is_refused_at_the_limit(tmp_path, monkeypatch):
    place = home.make(tmp_path)
    free = home.DISK_FREE_BYTES_MIN
    monkeypatch.setattr(home.shutil, "disk_usage", lambda path: Usage(free * 2, free, free))
    home.check_disk(place)

    monkeypatch.setattr(home.shutil, "disk_usage", lambda path: Usage(free * 2, free, free - 1))
    with pytest.raises(StartError, match=r"3\.0 GiB are free at .*, 3 GiB are needed"):
        home.check_disk(place)


def test_inner_ports_are_kept_while_they_are_free(tmp_path, monkeypatch):
    place = home.make(tmp_path)
    first = home.choose_ports(place, {8000})
    assert len(set(first.values())) == len(home.PORT_NAMES)
    assert home.choose_ports(place, {8000}) == first

    taken = first["redis"]
    monkeypatch.setattr(ports, "is_free", lambda port: port != taken)
    second = home.choose_ports(place, {8000})

    assert second["redis"] != taken
    assert {**second, "redis": taken} == first


def test_a_port_that_somebody_asked_for_is_not_kept(tmp_path):
    place = home.make(tmp_path)
    first = home.choose_ports(place, set())

    second = home.choose_ports(place, {first["postgres"]})

    assert second["postgres"] != first["postgres"]


def test_sockets_move_out_of_a_home_with_a_long_name(tmp_path):
    short = home.Home(Path("/tmp/h"))
    assert home.run_dir(short) == Path("/tmp/h/run")

    moved = home.run_dir(home.Home(tmp_path / ("x" * 80)))
    try:
        assert len(str(moved)) <= home.RUN_DIR_LENGTH_MAX
        assert mode(moved) == 0o700
    finally:
        moved.rmdir()
