#!/usr/bin/env python3
"""Administrative commands, run against the home that is found (see marketplace.core.home)."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    root = Path(__file__).resolve().parent
    sys.path[:0] = [str(root), str(root / "sdk")]
    from marketplace.core.home import load_environment, take_option

    try:
        sys.argv = take_option(sys.argv)
    except ValueError as error:
        sys.exit(f"manage.py: {error}")
    load_environment()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
