"""The SDK installs alone: it needs what it declares, and nothing of the rest of the product."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import strongroom

SDK = Path(__file__).resolve().parents[2] / "sdk"
# What `strongroom/__init__.py` imports when it is first used: its own modules, see the test.
LAZY = "_MODULES[name]"
PRODUCT = {"marketplace", "inference", "billing", "embedded", "fakestripe", "tests"}


def normalize(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def list_declared() -> set[str]:
    """Distributions that sdk/pyproject.toml names, those of its extras included."""
    project = tomllib.loads((SDK / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return {normalize(Requirement(line).name) for line in lines}


def list_imports(source: str) -> Iterator[str]:
    """Top-level names of what a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            wanted = node.args[0]
            is_text = isinstance(wanted, ast.Constant)
            yield wanted.value.partition(".")[0] if is_text else ast.unparse(wanted)


def find_undeclared(sources: Iterable[str], declared: set[str]) -> set[str]:
    """Imported names that are neither Python's, nor the SDK's own, nor declared."""
    found = {name for source in sources for name in list_imports(source)}
    owners = metadata.packages_distributions()
    return {
        name
        for name in found - sys.stdlib_module_names - {"strongroom", LAZY}
        if not {normalize(one) for one in owners.get(name, [])} & declared
    }


def read_sources() -> list[str]:
    return [path.read_text() for path in (SDK / "strongroom").rglob("*.py")]


def test_every_import_is_declared() -> None:
    assert find_undeclared(read_sources(), list_declared()) == set()
    assert {name.partition(".")[0] for name in strongroom._MODULES.values()} == {"strongroom"}


def test_every_declared_dependency_is_imported() -> None:
    imported = {name for source in read_sources() for name in list_imports(source)}
    owners = metadata.packages_distributions()
    used = {normalize(one) for name in imported for one in owners.get(name, [])}

    assert list_declared() - used == set()


def test_nothing_of_the_product_is_imported() -> None:
    imported = {name for source in read_sources() for name in list_imports(source)}

    assert imported & PRODUCT == set()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import numpy.linalg", "numpy"),
        ("def late():\n    from onnx import helper", "onnx"),
        ("try:\n    import orjson\nexcept ImportError:\n    pass", "orjson"),
        ("import importlib\nx = importlib.import_module('torch.nn')", "torch"),
        ("if x:\n    from marketplace.core import ids", "marketplace"),
        ("from . import push", "."),
    ],
)
def test_the_check_finds_what_is_not_declared(source: str, name: str) -> None:
    assert find_undeclared(["import httpx", source], {"httpx"}) == {name}


# --- Installed ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDK as a wheel, built without a network from a copy of nothing but its folder."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    shutil.copytree(SDK, folder / "sdk", ignore=left_out)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir", "--quiet"]
    pip(["wheel", *options, "--wheel-dir", str(folder), str(folder / "sdk")])
    [built] = folder.glob("strongroom-*.whl")
    return built


def pip(arguments: list[str]) -> None:
    command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", *arguments]
    # With --python pip runs once more, and would find the checkout's SDK installed already.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


class Environment:
    """An empty virtual environment with the SDK in it.

    Args:
        folder: Where to make it.
        wheel: The built SDK.
        without: Dependencies that are left out with all that only they need.
    """

    def __init__(self, folder: Path, wheel: Path, *, without: set[str] = frozenset()) -> None:
        venv.create(folder / "venv", with_pip=False)
        self._programs = folder / "venv" / "bin"
        self._elsewhere = folder / "elsewhere"
        self._elsewhere.mkdir()
        python = str(self._programs / "python")
        pip(["--python", python, "install", "--no-deps", "--no-index", "--quiet", str(wheel)])
        [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
        for name in list_closure(list_declared() - without):
            link_distribution(name, packages)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs in another folder, with nobody's settings."""
        return subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._elsewhere,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self._elsewhere)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def list_closure(names: set[str]) -> set[str]:
    """The distributions, and what they need in turn."""
    closure: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        closure.add(name)
        needed = [Requirement(line) for line in metadata.requires(name) or []]
        plain = {"extra": ""}
        here = {
            normalize(one.name) for one in needed if not one.marker or one.marker.evaluate(plain)
        }
        waiting |= here - closure
    return closure


def link_distribution(name: str, packages: Path) -> None:
    """Make an installed distribution importable in other site-packages, and no other one."""
    distribution = metadata.distribution(name)
    tops = {path.parts[0] for path in distribution.files or []} - {"..", "__pycache__"}
    for top in tops:
        source = Path(str(distribution.locate_file(top)))
        if not (packages / top).exists() and source.exists():
            (packages / top).symlink_to(source)


def test_it_runs_alone(wheel: Path, tmp_path: Path) -> None:
    alone = Environment(tmp_path, wheel)

    helped = alone.run("strongroom", "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "Sell predictions, keep the weights." in helped.stdout
    assert alone.run("strongroom", "--version").stdout.endswith("0.1.0\n")

    # Every module, and none from the repository.
    script = (
        "import importlib, pkgutil, strongroom;"
        "found = list(pkgutil.walk_packages(strongroom.__path__, 'strongroom.'));"
        "[importlib.import_module(one.name) for one in found];"
        "print(len(found), strongroom.__file__)"
    )
    imported = alone.run("python", "-I", "-c", script)
    assert imported.returncode == 0, imported.stderr
    count, _, path = imported.stdout.strip().partition(" ")
    assert int(count) == len(read_sources()) - 1
    assert Path(path).is_relative_to(tmp_path)
    absent = alone.run("python", "-I", "-c", "import numpy")
    assert "No module named 'numpy'" in absent.stderr


def test_it_would_not_run_without_a_dependency(wheel: Path, tmp_path: Path) -> None:
    alone = Environment(tmp_path, wheel, without={"rich"})

    assert "No module named 'rich'" in alone.run("strongroom", "--help").stderr
