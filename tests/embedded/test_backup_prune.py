"""What `bin/backup prune` keeps and deletes, in folders that were filled by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedded.backup import making, pruning
from embedded.backup.__main__ import main
from embedded.backup.sealed import BackupError


def segment(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{number >> 8:08X}{number & 0xFF:08X}"


def add_backup(folder: Path, day: int, first: int, objects: list[str] | None, timeline=1) -> Path:
    """As `make` leaves it; without a home if `objects` is None."""
    place = folder / f"202611{day:02d}T030000Z"
    place.mkdir(parents=True)
    document = {"version": 1, "label": place.name, "first_wal": segment(first, timeline)}
    if objects is not None:
        document["objects"] = len(objects)
        (place / making.OBJECTS_LIST).write_text(json.dumps(dict.fromkeys(objects, 1)))
        for name in objects:
            (folder / "objects" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "objects" / name).write_bytes(b"x")
    (place / "backup.json").write_text(json.dumps(document))
    (place / "base.sealed").write_bytes(b"base")
    return place


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three backups, one a day; the log of all days; each day one model came and one went."""
    folder = tmp_path / "backups"
    add_backup(folder, 1, 0x0FE, ["a/1", "a/2"])
    add_backup(folder, 2, 0x100, ["a/2", "b/3"])
    add_backup(folder, 3, 0x102, ["b/3", "b/4"])
    (folder / "wal").mkdir()
    for number in range(0x0FC, 0x105):
        (folder / "wal" / f"{segment(number)}.sealed").write_bytes(b"log")
    (folder / "wal" / "00000002.history.sealed").write_bytes(b"log")
    return folder


def list_files(folder: Path) -> set[str]:
    found = (str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())
    return {name for name in found if name != ".lock"}


def test_the_newest_stay_with_all_that_they_need(folder):
    plan = pruning.prune(folder, keep=2)
    assert [one.name for one in plan.backups] == ["20261101T030000Z"]
    left = list_files(folder)
    assert {name for name in left if name.startswith("objects/")} == {
        "objects/a/2",
        "objects/b/3",
        "objects/b/4",
    }
    log = sorted(name for name in left if name.startswith("wal/") and "history" not in name)
    assert log == [f"wal/{segment(number)}.sealed" for number in range(0x100, 0x105)]
    assert "wal/00000002.history.sealed" in left
    for day in (2, 3):
        place = f"202611{day:02d}T030000Z"
        assert {f"{place}/{name}" for name in ("backup.json", "base.sealed", "objects.json")} < left
    # Nothing else: no draft of what was deleted.
    assert [one.name for one in folder.iterdir() if one.name.startswith(".")] == [".lock"]
    assert pruning.prune(folder, keep=2).freed_bytes == 0


@pytest.mark.parametrize("keep", [3, 4, 1000])
def test_no_more_than_asked_goes(folder, keep):
    before = list_files(folder)
    plan = pruning.prune(folder, keep=keep)
    # The log from before the first backup is of use to nobody.
    old = {f"wal/{segment(number)}.sealed" for number in (0x0FC, 0x0FD)}
    assert before - list_files(folder) == old
    assert plan.backups == plan.objects == []
    assert plan.freed_bytes == 6


def test_a_dry_run_says_the_same_and_changes_nothing(folder, capsys):
    before = list_files(folder)
    words = ["prune", "--folder", str(folder), "--keep", "1"]
    assert main([*words, "--dry-run"]) == 0
    looked = capsys.readouterr().out
    assert list_files(folder) == before
    assert main(words) == 0
    done = capsys.readouterr().out
    assert looked.replace("would be deleted", "deleted") == done
    assert "2 backups, 6 segments of the log, 2 objects deleted" in done
    assert "1 kept, the oldest is 20261103T030000Z" in done
    gone = before - list_files(folder)
    assert len(gone) == 2 * 3 + 6 + 2


@pytest.mark.parametrize("keep", [0, -1])
def test_one_has_to_stay(folder, keep, capsys):
    before = list_files(folder)
    assert main(["prune", "--folder", str(folder), "--keep", str(keep)]) == 2
    assert "at least one backup has to stay" in capsys.readouterr().err
    assert list_files(folder) == before


def test_a_folder_without_backups_is_refused(tmp_path, capsys):
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "x").write_text("mine")
    for place in (tmp_path, tmp_path / "missing"):
        assert main(["prune", "--folder", str(place), "--keep", "1"]) == 2
        assert "there is no backup" in capsys.readouterr().err
    assert list_files(tmp_path) == {"objects/x"}


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2, "label": "20261101T030000Z"}'])
def test_what_is_not_known_keeps_all_it_may_need(folder, text, capsys):
    """A backup of a later version, or one whose description is damaged."""
    unknown = folder / "20261101T030000Z"
    (unknown / "backup.json").write_text(text)
    before = list_files(folder)
    assert main(["prune", "--folder", str(folder), "--keep", "1"]) == 0
    assert f"left alone: {unknown.name} is no backup" in capsys.readouterr().out
    assert {name.partition("/")[0] for name in before - list_files(folder)} == {"20261102T030000Z"}


def test_only_unknown_ones_are_refused(folder):
    for place in folder.glob("2026*"):
        (place / "backup.json").unlink()
    before = list_files(folder)
    with pytest.raises(BackupError, match="that this program knows"):
        pruning.prune(folder, keep=1)
    assert list_files(folder) == before


def test_a_kept_one_without_a_list_keeps_all_ciphertext(folder, capsys):
    """Made by a version before there were lists."""
    (folder / "20261103T030000Z" / "objects.json").unlink()
    assert main(["prune", "--folder", str(folder), "--keep", "1"]) == 0
    assert "all of it stays" in capsys.readouterr().out
    assert len(list((folder / "objects").rglob("?/?"))) == 4
    assert not (folder / "20261101T030000Z").exists()


def test_a_damaged_list_of_a_kept_one_stops_it(folder, capsys):
    (folder / "20261103T030000Z" / "objects.json").write_text("[1]")
    before = list_files(folder)
    assert main(["prune", "--folder", str(folder), "--keep", "1"]) == 2
    assert "objects.json is no list of files" in capsys.readouterr().err
    assert list_files(folder) == before


def test_a_backup_of_a_database_alone_needs_no_ciphertext(folder):
    add_backup(folder, 4, 0x103, None)
    pruning.prune(folder, keep=1)
    assert not [one for one in (folder / "objects").rglob("*") if one.is_file()]
    assert len(list((folder / "wal").glob("0000000100*"))) == 2


def test_after_a_restore_to_an_earlier_moment_the_earliest_log_counts(folder):
    """The newest backup's log starts before the one's that is older."""
    add_backup(folder, 4, 0x0FF, ["b/3"], timeline=2)
    pruning.prune(folder, keep=2)
    left = sorted(one.name for one in (folder / "wal").glob("00000001*"))
    assert left[0] == f"{segment(0x0FF)}.sealed"


def test_what_a_killed_make_or_prune_left_is_deleted(folder):
    for name in (".20261103T040000Z.new", ".20261031T030000Z.new"):
        (folder / name).mkdir()
        (folder / name / "base.sealed").write_bytes(b"half")
    assert pruning.prune(folder, keep=3).freed_bytes == 2 * 4 + 6
    assert not list(folder.glob(".*.new"))


def test_a_prune_that_is_stopped_harms_no_kept_backup(folder, monkeypatch):
    """Whichever deletion is its last: what is kept is whole, and the next run ends the work."""
    goal = folder.with_name("goal")
    for number in range(1, 20):
        copy = folder.with_name(f"copy{number}")
        _copy(folder, copy)
        _stop_at(monkeypatch, number)
        try:
            pruning.prune(copy, keep=1)
        except Stopped:
            monkeypatch.undo()
            assert {"objects/b/3", "objects/b/4", f"wal/{segment(0x102)}.sealed"} < list_files(copy)
            for place in copy.glob("2026*"):
                assert (place / "backup.json").exists()
                assert (place / "base.sealed").exists()
            pruning.prune(copy, keep=1)
        else:
            break
        if not goal.exists():
            monkeypatch.undo()
            _copy(folder, goal)
            pruning.prune(goal, keep=1)
        assert list_files(copy) == list_files(goal)
    assert number > 8, "it was hardly ever stopped"


class Stopped(BaseException):
    """As if the process were killed there."""


def _stop_at(monkeypatch, number: int) -> None:
    count = 0

    def counted(original):
        def delete(*arguments, **options):
            nonlocal count
            count += 1
            if count == number:
                raise Stopped
            return original(*arguments, **options)

        return delete

    monkeypatch.setattr(pruning.shutil, "rmtree", counted(pruning.shutil.rmtree))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))


def _copy(source: Path, target: Path) -> None:
    for name in list_files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((source / name).read_bytes())


def test_nothing_is_pruned_while_a_backup_is_made(folder, capsys):
    """Ciphertext that was just copied is in no list yet."""
    (folder / "objects" / "new").write_bytes(b"x")
    before = list_files(folder)
    words = ["prune", "--folder", str(folder), "--keep", "1"]
    with making.held(folder):
        assert main(words) == 2
        assert "a backup is being made or deleted" in capsys.readouterr().err
        with pytest.raises(BackupError, match="is being made or deleted"):
            making.make(folder, url="postgresql://nobody@127.0.0.1:1/x", public_key=b"")
        assert list_files(folder) == before
    # The control: nothing else would have kept it.
    assert main(words) == 0
    assert not (folder / "objects" / "new").exists()
