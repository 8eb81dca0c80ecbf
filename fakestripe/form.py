"""Read the form encoding of Stripe's API: `a[b][0][c]=1` and `a[]=1`.

Names say where a value belongs, not what it is: whether `metadata[0]` is a list or a map
only the schema knows. So everything stays a map of texts here, and `contract` types it.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

FIELDS_MAX = 1_000  # The largest request we know of has about 60.
DEPTH_MAX = 10

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")


class FormError(Exception):
    """The text is no form that Stripe's API could read."""


class Items(list[Any]):
    """Values that were appended with `name[]`; a list whatever the schema says."""


def decode(text: str) -> dict[str, Any]:
    """The fields as nested maps of texts.

    Raises:
        FormError: Too many fields, too deep, or a name used both as value and as map.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError as error:
        raise FormError(f"more than {FIELDS_MAX} fields") from error
    root: dict[str, Any] = {}
    for name, value in pairs:
        _set(root, _parts(name), value)
    return root


def _parts(name: str) -> list[str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise FormError(f"not a field name: {name[:60]}")
    parts = [match[1], *_PART.findall(match[2])]
    if len(parts) > DEPTH_MAX or "" in parts[:-1]:
        raise FormError(f"not a field name: {name[:60]}")
    return parts


def _set(root: dict[str, Any], parts: list[str], value: str) -> None:
    node = root
    path, last = (parts[:-1], parts[-1]) if parts[-1] else (parts[:-2], parts[-2])
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise FormError(f"{part} is both a value and a map")
    if not parts[-1]:
        items = node.setdefault(last, Items())
        if not isinstance(items, Items):
            raise FormError(f"{last} is both a list and a value")
        items.append(value)
    elif isinstance(node.get(last), (dict, Items)):
        raise FormError(f"{last} is both a value and a map")
    else:
        node[last] = value
