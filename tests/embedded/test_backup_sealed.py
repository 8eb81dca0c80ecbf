"""Sealed files of a backup: only the key opens them, and nothing of them can be changed."""

from __future__ import annotations

import io
import stat

import pytest

from embedded.backup import sealed
from embedded.backup.__main__ import main
from embedded.backup.reading import find_gap, read_moment
from embedded.backup.sealed import BackupError, make_keys, open_stream, seal_stream
from strongroom.sealing import floe

PLAIN = floe.PRODUCTION.plain_bytes


@pytest.fixture
def keys(tmp_path):
    make_keys(tmp_path / "public", tmp_path / "private")
    return (
        sealed.read_public_key(tmp_path / "public"),
        sealed.read_private_key(tmp_path / "private"),
    )


class Dribbling(io.BytesIO):
    """A pipe: it gives less than is asked for."""

    def read(self, size=-1):
        return super().read(min(size, 70_001))


def seal(tmp_path, keys, plain: bytes, name="x"):
    target = tmp_path / f"{name}.sealed"
    seal_stream(Dribbling(plain), target, name=name, public_key=keys[0])
    return target


def open_all(path, key, name="x") -> bytes:
    pieces = []
    open_stream(path, name=name, private_key=key, write=lambda piece: pieces.append(bytes(piece)))
    return b"".join(pieces)


@pytest.mark.parametrize("size", [0, 1, PLAIN - 1, PLAIN, PLAIN + 1, 2 * PLAIN, 2 * PLAIN + 7])
def test_what_was_sealed_comes_out(tmp_path, keys, size):
    plain = bytes(range(256)) * (size // 256 + 1)
    path = seal(tmp_path, keys, plain[:size])
    assert open_all(path, keys[1]) == plain[:size]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert plain[:64] not in path.read_bytes() or size < 64


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[: -floe.SEGMENT_BYTES],
        lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
        lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
        lambda data: b"x" + data[1:],
        lambda data: data[:21],
        lambda data: b"",
    ],
    ids=["shorter", "longer", "a segment", "wrap", "end", "magic", "wrap cut", "empty"],
)
def test_a_changed_file_is_refused(tmp_path, keys, change):
    path = seal(tmp_path, keys, b"p" * (2 * PLAIN + 5))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BackupError, match=r"cannot be opened|no sealed file"):
        open_all(path, keys[1])


def test_another_key_or_name_opens_nothing(tmp_path, keys):
    path = seal(tmp_path, keys, b"secret")
    make_keys(tmp_path / "public-2", tmp_path / "private-2")
    with pytest.raises(BackupError):
        open_all(path, sealed.read_private_key(tmp_path / "private-2"))
    with pytest.raises(BackupError):
        open_all(path, keys[1], name="y")
    assert open_all(path, keys[1]) == b"secret"


def test_a_source_that_breaks_leaves_no_file(tmp_path, keys):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        seal_stream(Broken(), tmp_path / "x.sealed", name="x", public_key=keys[0])
    assert {one.name for one in tmp_path.iterdir()} == {"public", "private"}


def test_keys_are_never_overwritten_and_never_mistaken(tmp_path, capsys):
    words = ["keygen", "--public", str(tmp_path / "a"), "--private", str(tmp_path / "b")]
    assert main(words) == 0
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err
    for reader, path in ((sealed.read_public_key, "b"), (sealed.read_private_key, "a")):
        with pytest.raises(BackupError, match="is not a strongroom backup"):
            reader(tmp_path / path)
    (tmp_path / "c").write_text("strongroom-backup-public AAAA\n")
    with pytest.raises(BackupError, match="damaged"):
        sealed.read_public_key(tmp_path / "c")


def test_gaps_are_found_across_the_end_of_a_file_number():
    whole = ["0000000100000000000000FE", "0000000100000000000000FF", "000000010000000100000000"]
    assert find_gap(whole) == ""
    assert find_gap([whole[0], whole[2]]) == "00000000000000FE"
    assert find_gap([]) == ""


@pytest.mark.parametrize("text", ["yesterday", "2026-11-23T09:45:00", ""])
def test_a_moment_says_its_time_zone(text):
    with pytest.raises(BackupError):
        read_moment(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["make", "--folder", "x", "--public", "nowhere"], "the key nowhere cannot be read"),
        (["check", "--folder", "x", "--private", "nowhere"], "the key nowhere cannot be read"),
    ],
)
def test_what_is_missing_is_said(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) in (1, 2)
    assert said in capsys.readouterr().err
