"""Write which distributions each image has, with all that these need.

Run: python k8s/images/list_packages.py

It goes from what the selected modules import, and from what the table names, along the
requirements that the installed distributions state. The lists have names only: versions stand
in requirements.txt and requirements-data.txt, which pip is given as constraints.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path.insert(0, str(FOLDER))

import select_sources  # noqa: E402 - it lies beside this file

REQUIREMENTS = ("requirements.txt", "requirements-data.txt")
# Ours: it comes as sources.
OWN = {"strongroom"}
_HEAD = "# Written by list_packages.py: what this image installs, each without its dependencies.\n"


class PackageError(Exception):
    """Something is imported that no pinned distribution brings."""


def list_packages(target: str, outside: Iterable[str]) -> list[str]:
    """The names of a target's distributions, in order.

    Args:
        target: As in the table.
        outside: First parts of modules that are not ours, as `select_sources.select` finds them.

    Raises:
        PackageError: A module has no distribution, or one that is not pinned.
    """
    rules = tomllib.loads(select_sources.TARGETS.read_text())[target]
    pinned = read_pinned(ROOT)
    brought = metadata.packages_distributions()
    modules = set(outside) - sys.stdlib_module_names - set(rules.get("given", ()))
    if missing := sorted(modules - brought.keys()):
        raise PackageError(f"{target}: nothing that is installed brings {missing}")
    wanted = {canonicalize_name(name) for name in rules.get("programs", ())}
    for module in modules:
        wanted |= {canonicalize_name(name) for name in brought[module]} & pinned.keys()
    found = close(wanted, pinned) - OWN
    if unpinned := sorted(found - pinned.keys()):
        raise PackageError(f"{target}: {unpinned} are not pinned")
    return sorted(found)


def close(wanted: Iterable[str], pinned: Mapping[str, str]) -> set[str]:
    """Distributions with all that they need and that is pinned.

    What is needed and not pinned is known to run without: the scanner's clouds, build tools.
    """
    waiting, seen = set(wanted), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for text in metadata.distribution(name).requires or ():
            requirement = Requirement(text)
            needed = canonicalize_name(requirement.name)
            marker = requirement.marker
            if needed in pinned and needed not in seen and (not marker or marker.evaluate()):
                waiting.add(needed)
    return seen


def read_pinned(root: Path) -> dict[str, str]:
    """Versions by distribution, of what an installation has."""
    lines = [line for file in REQUIREMENTS for line in (root / file).read_text().splitlines()]
    matches = [re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", line) for line in lines]
    return {canonicalize_name(match[1]): match[2] for match in matches if match}


def render(names: Iterable[str]) -> str:
    """The text of a list."""
    return _HEAD + "".join(f"{name}\n" for name in names)


def main() -> None:
    """Write every list."""
    for target in tomllib.loads(select_sources.TARGETS.read_text()):
        names = list_packages(target, select_sources.select(target).outside)
        (FOLDER / "packages" / f"{target}.txt").write_text(render(names))


if __name__ == "__main__":
    main()
