"""Copy what one image needs of this repository, and nothing else.

Run: python k8s/images/select_sources.py TARGET FOLDER

It follows the imports of the target's roots, those inside functions too, and copies these
modules with the packages that they stand in and the other files (SQL, Lua, JSON) that lie
beside them. So the key broker's image has no code of the site, and a module that is imported
anew needs no list to be changed.
"""

from __future__ import annotations

import ast
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGETS = Path(__file__).with_name("targets.toml")
# Our packages, and the folder that each lies in.
PACKAGES = {"marketplace": ".", "inference": ".", "billing": ".", "strongroom": "sdk"}
# Tools and their leavings, never part of a program.
_IGNORED = {".pyc", ".pyi", ".md"}


class SelectionError(Exception):
    """The sources do not fit the table of targets."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What one image is made of.

    Args:
        files: Relative to the root.
        outside: First parts of modules that are imported and are not ours, by who imports them.
    """

    files: frozenset[Path]
    outside: dict[str, set[str]] = field(default_factory=dict)


def select(target: str, root: Path = ROOT) -> Selection:
    """Find the files of a target.

    Raises:
        SelectionError: It is not in the table, or imports what the table leaves out.
    """
    table = tomllib.loads(TARGETS.read_text())
    if target not in table:
        raise SelectionError(f"{target} is none of {', '.join(table)}")
    rules = table[target]
    left_out = set(rules.get("left_out", ()))
    waiting = {name for rule in rules["roots"] for name in _expand(rule, root)} - left_out
    seen: set[str] = set()
    outside: dict[str, set[str]] = {}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for imported, is_module in _list_imports(name, root):
            first = imported.partition(".")[0]
            if first not in PACKAGES:
                outside.setdefault(first, set()).add(name)
                continue
            found = _as_modules(imported, root)
            if is_module and imported not in found:
                raise SelectionError(f"{name} imports {imported}, which is not there")
            if lost := found & left_out:
                raise SelectionError(f"{name} imports {sorted(lost)}, which {target} leaves out")
            waiting |= found - seen
    files = {_find(name, root) for name in seen}
    files |= {path for folder in {file.parent for file in files} for path in _beside(folder, root)}
    for folder in rules.get("data", ()):
        files |= {path for path in (root / folder).rglob("*") if path.is_file()}
    return Selection(frozenset(path.relative_to(root) for path in files), outside)


def _expand(rule: str, root: Path) -> Iterator[str]:
    if not rule.endswith(".*"):
        yield rule
        return
    package = rule.removesuffix(".*")
    folder = _find(package, root).parent
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        yield ".".join([package, *parts]).removesuffix(".__init__")


def _find(name: str, root: Path) -> Path:
    path = _find_or_none(name, root)
    if path is None:
        raise SelectionError(f"there is no module {name}")
    return path


def _find_or_none(name: str, root: Path) -> Path | None:
    base = root / PACKAGES.get(name.split(".", maxsplit=1)[0], ".") / Path(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _as_modules(imported: str, root: Path) -> set[str]:
    """A module with the packages around it; of a name in a module, the module."""
    parts = imported.split(".")
    names = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return {name for name in names if _find_or_none(name, root) is not None}


def _list_imports(name: str, root: Path) -> Iterator[tuple[str, bool]]:
    """What a module imports, and whether that must be a module; else it may be a name in one."""
    path = _find(name, root)
    # A package runs before what is in it.
    yield from ((parent, True) for parent in [name.rpartition(".")[0]] if parent)
    for node in _walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise SelectionError(f"{name} imports relatively")
            yield node.module, True
            yield from ((f"{node.module}.{alias.name}", False) for alias in node.names)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not is_for_types:
            yield from _walk(child)


def _beside(folder: Path, root: Path) -> Iterator[Path]:
    if folder == root:
        return
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".py" and path.suffix not in _IGNORED:
            yield path


def main(target: str, folder: Path) -> None:
    """Copy the files of a target; the folder must not be there yet."""
    folder.mkdir(parents=True)
    for path in sorted(select(target).files):
        (folder / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: select_sources.py TARGET FOLDER")
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except (SelectionError, FileExistsError) as error:
        sys.exit(f"select_sources.py: {error}")
