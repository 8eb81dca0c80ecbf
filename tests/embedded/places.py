"""The environments that `bin/up` would make, for a home in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embedded import home
from embedded.environment import Place


def make_place(folder: Path, *, person: Mapping[str, str]) -> Place:
    """A place with secrets and ports, where nothing runs.

    Args:
        folder: The home is made in it.
        person: The environment of whoever would have started it.
    """
    place_home = home.make(folder / "home")
    return Place(
        home=place_home,
        secrets=home.load_secrets(place_home),
        ports={name: 20_000 + at for at, name in enumerate(home.PORT_NAMES)},
        web_port=8000,
        gateway_port=8001,
        grpc_port=8002,
        run_dir=place_home / "run",
        person=person,
    )
