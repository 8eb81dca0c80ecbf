"""Find a running home and take its environment.

`bin/up` keeps all state below one folder, the home, and writes there what the web's
processes were started with. `manage.py` reads it, so that every command works against
the running product without a line of configuration.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

ENV_FILE = "env.json"
OPTION = "--home"
ROOT = Path(__file__).resolve().parents[2]


def find_home() -> Path:
    """`STRONGROOM_HOME`, else `var/` beside manage.py."""
    return Path(os.environ.get("STRONGROOM_HOME") or ROOT / "var").resolve()


def take_option(arguments: list[str]) -> list[str]:
    """Read `--home DIR` or `--home=DIR` anywhere on a command line, and take it out.

    It counts as `STRONGROOM_HOME` does, and wins over it.

    Raises:
        ValueError: The option stands there without a folder.
    """
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word != OPTION and not word.startswith(f"{OPTION}="):
            rest.append(word)
            continue
        folder = next(words, "") if word == OPTION else word.partition("=")[2]
        if not folder:
            raise ValueError(f"{OPTION} needs a folder")
        os.environ["STRONGROOM_HOME"] = folder
    return rest


def load_environment() -> bool:
    """Fill unset variables from the home's file; false if there is none."""
    path = find_home() / ENV_FILE
    if not path.is_file():
        return False
    for name, value in json.loads(path.read_text()).items():
        os.environ.setdefault(name, value)
    return True
