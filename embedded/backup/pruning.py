"""Delete old backups, and what only they needed: the log before them, and ciphertext."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedded.backup.making import DRAFT_SUFFIX, held
from embedded.backup.reading import SEGMENT_SUFFIX, list_labels, list_objects, read_document
from embedded.backup.sealed import BackupError


@dataclass(frozen=True, slots=True)
class Plan:
    """What stays and what goes. Deleted in this order, a stop in between harms no kept backup."""

    kept: list[Path]
    unknown: list[Path]
    backups: list[Path]
    drafts: list[Path]
    segments: list[Path]
    objects: list[Path]
    freed_bytes: int
    without_list: list[Path]
    """Kept ones that do not say which ciphertext is theirs; all of it stays for them."""


def prune(folder: Path, *, keep: int, dry_run: bool = False) -> Plan:
    """Keep the newest backups of a folder, with all that a restore of them needs.

    Args:
        folder: Of all backups.
        keep: How many stay, at least one. What this program does not know is not counted, and
            keeps all that it may need.
        dry_run: Look only.

    Raises:
        BackupError: Nothing would be left, a list of a kept backup is damaged, or one is made now.
    """
    if keep < 1:
        raise BackupError("at least one backup has to stay: --keep 1 or more")
    if not list_labels(folder):
        raise BackupError(f"there is no backup in {folder}")
    try:
        with held(folder):
            plan = _plan(folder, keep)
            if not dry_run:
                _carry_out(plan)
    except OSError as error:
        raise BackupError(f"not all could be deleted, run it again: {error}") from error
    return plan


def _plan(folder: Path, keep: int) -> Plan:
    first_wal: dict[Path, str] = {}
    unknown = []
    for place in (folder / label for label in list_labels(folder)):
        try:
            first_wal[place] = str(read_document(place)["first_wal"])
        except (BackupError, KeyError):
            unknown.append(place)
    kept = list(first_wal)[-keep:]
    if not kept:
        raise BackupError(f"there is no backup in {folder} that this program knows")
    without_list = [place for place in kept if _lacks_list(place)]
    backups, segments, objects = list(first_wal)[:-keep], [], []
    drafts = sorted(folder.glob(f".[0-9]*T*Z{DRAFT_SUFFIX}"))
    if not unknown:
        # Not the oldest one's: after a restore the log may have gone on from an earlier place.
        oldest = min(first_wal[place][8:] for place in kept)
        segments = sorted(_segments_before(folder / "wal", oldest))
    if not unknown and not without_list:
        needed = {name for place in kept for name in list_objects(place) or {}}
        objects = sorted(_files_but(folder / "objects", needed))
    freed_bytes = sum(map(_measure, [*backups, *drafts, *segments, *objects]))
    return Plan(kept, unknown, backups, drafts, segments, objects, freed_bytes, without_list)


def _lacks_list(place: Path) -> bool:
    return list_objects(place) is None and "objects" in read_document(place)


def _segments_before(wal: Path, oldest: str) -> Iterable[Path]:
    """Changes of timelines stay: they are small, and each later restore asks for them."""
    for path in wal.glob(f"*{SEGMENT_SUFFIX}"):
        name = path.name.removesuffix(SEGMENT_SUFFIX)
        if not name.endswith(".history") and name[8:] < oldest:
            yield path


def _files_but(objects: Path, needed: set[str]) -> Iterable[Path]:
    for path in objects.rglob("*"):
        if path.is_file() and str(path.relative_to(objects)) not in needed:
            yield path


def _carry_out(plan: Plan) -> None:
    for place in plan.backups:
        # No half of one may ever look like a whole one.
        draft = place.with_name(f".{place.name}{DRAFT_SUFFIX}")
        place.rename(draft)
        shutil.rmtree(draft)
    for place in plan.drafts:
        shutil.rmtree(place)
    for path in (*plan.segments, *plan.objects):
        path.unlink()


def _measure(place: Path) -> int:
    files = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)
