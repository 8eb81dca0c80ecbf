"""Find the files of packages that are installed for their data only, without importing them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def find_package(name: str) -> Path:
    """The folder of an installed package.

    Its `__init__` must not run: what it would import is not installed on purpose.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {name} is not installed (requirements-data.txt)")
    return Path(spec.submodule_search_locations[0])
