"""docker-compose.yml as it is once the variables of .env are put in."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::([-?])([^}]*))?\}")


class UnsetError(Exception):
    """A variable that must be given is not."""


def read_example() -> dict[str, str]:
    """The variables of k8s/compose/env.example, with what a person fills in."""
    lines = (ROOT / "k8s/compose/env.example").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs} | {"STRONGROOM_LOADER_DIGESTS": "a" * 64}


def interpolate(text: str, variables: dict[str, str]) -> str:
    """Put variables in as Compose does: `${A}`, `${A:-default}`, `${A:?why it must be there}`."""

    def put(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        value = variables.get(name, "")
        if not value and kind == "?":
            raise UnsetError(name)
        return value or (rest or "" if kind == "-" else "")

    return _VARIABLE.sub(put, text)


def load(variables: dict[str, str] | None = None) -> dict[str, Any]:
    """The document, without the parts that only others refer to."""
    text = (ROOT / "docker-compose.yml").read_text()
    document = yaml.safe_load(interpolate(text, read_example() if variables is None else variables))
    return {name: value for name, value in document.items() if not name.startswith("x-")}


def changed(document: dict[str, Any], service: str, **members: Any) -> dict[str, Any]:
    """A copy in which members of a service are others; None takes one out."""
    copied = copy.deepcopy(document)
    for name, value in members.items():
        if value is None:
            del copied["services"][service][name]
        else:
            copied["services"][service][name] = value
    return copied


def list_networks(service: dict[str, Any]) -> set[str]:
    return set(service.get("networks", ()))


def read_environment(service: dict[str, Any]) -> dict[str, str]:
    return dict(service.get("environment", {}))
