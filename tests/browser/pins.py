"""Write static/js/push/SHA256SUMS: the scripts that the push page may run, dependencies first.

Run after a script was changed and looked at: PYTHONPATH=.:sdk python -m tests.browser.pins
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

STATIC = Path(__file__).resolve().parents[2] / "static"
PINS = STATIC / "js" / "push" / "SHA256SUMS"
ENTRY = STATIC / "js" / "push" / "push.js"
# No module imports them: they run behind floe.js in the worker.
WORKER = (STATIC / "js" / "push" / "sha256.js", STATIC / "js" / "push" / "worker.js")
_IMPORT = re.compile(
    r"""^(?:import|export) .*?from ["'](\.[^"']+)["'];""", re.MULTILINE | re.DOTALL
)


def list_modules(path: Path) -> list[Path]:
    """All that a module imports, then itself; of two that import each other, either comes first."""
    seen: list[Path] = []
    _visit(path, seen, [])
    return seen


def _visit(path: Path, seen: list[Path], above: list[Path]) -> None:
    for target in _IMPORT.findall(path.read_text()):
        found = (path.parent / target).resolve()
        if found not in seen and found not in above:
            _visit(found, seen, [*above, path])
    if path not in seen:
        seen.append(path)


def write_sums() -> str:
    """The text of the list, as `sha256sum` writes it."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(STATIC).as_posix()}\n"
        for path in [*list_modules(ENTRY)[:-1], *WORKER, ENTRY]
    )


if __name__ == "__main__":
    PINS.write_text(write_sums())
