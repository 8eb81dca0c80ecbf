"""Keep a release's gateway for the tests of the next: python -m tests.gateway.pack_release 0.1.0.

What is packed are the files that the gateway imports, and the SQL and Lua beside them.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("releases")


def list_files() -> list[Path]:
    """Every file of ours that a running gateway has read."""
    package = importlib.import_module("inference.gateway")
    for module in pkgutil.walk_packages(package.__path__, "inference.gateway."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    names = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    found = {Path(name) for name in names if name and Path(name).is_relative_to(ROOT)}
    for folder in ("inference/gateway", "inference/broker"):
        found |= {path for path in (ROOT / folder).rglob("*") if path.suffix in (".lua", ".sql")}
    return sorted(path for path in found if ".venv" not in path.parts and "tests" not in path.parts)


def pack(target: Path) -> None:
    """Write the archive, the same for the same files."""
    with tarfile.open(target, "w:xz") as tar:
        for path in list_files():
            info = tar.gettarinfo(path, str(path.relative_to(ROOT)))
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            with path.open("rb") as file:
                tar.addfile(info, file)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    pack(FOLDER / f"gateway-{sys.argv[1]}.tar.xz")
