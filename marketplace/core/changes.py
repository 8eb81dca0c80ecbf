"""What is different between two versions, in sentences for those who call them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from marketplace.core.describe import describe_policy

# A creator may change everything at once; a list longer than this is read by nobody.
CHANGES_MAX = 12
_VALUE_LENGTH_MAX = 40
# Members that do not change what a caller sends or gets.
_SILENT = frozenset({"description", "example"})
# A file's size differs by some bytes without saying anything: tenths of a percent.
_SIZE_PER_MILLE = 10


def list_changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """The differences between two versions.

    Args:
        new: `runtime`, `interface`, `output_policy` and `size_bytes` of the later one.
        old: The same of the one before.
    """
    changes = [
        *_compare_members("Input", new["interface"], old["interface"], "inputs"),
        *_compare_members("Output", new["interface"], old["interface"], "outputs"),
        *_compare_batch(new["interface"], old["interface"]),
    ]
    if new["output_policy"] != old["output_policy"]:
        shown = describe_policy(new["output_policy"]) or "Answers leave whole."
        changes.append(f"What answers show has changed. {shown}")
    if new["runtime"] != old["runtime"]:
        changes.append(f"Runtime: {old['runtime'] or 'none'} → {new['runtime'] or 'none'}.")
    if size := _compare_size(new["size_bytes"], old["size_bytes"]):
        changes.append(size)
    if len(changes) > CHANGES_MAX:
        rest = len(changes) - CHANGES_MAX
        changes = [*changes[:CHANGES_MAX], f"And {rest} more."]
    return changes


def _compare_members(
    word: str, new: Mapping[str, Any], old: Mapping[str, Any], part: str
) -> list[str]:
    before, after = _by_name(old, part), _by_name(new, part)
    changes = [f"{word} {name} is gone." for name in before if name not in after]
    for name, one in after.items():
        if name not in before:
            changes.append(f"{word} {name} is new{_tell_duty(word, one)}.")
            continue
        other = before[name]
        for member in sorted((one.keys() | other.keys()) - _SILENT):
            if one.get(member) != other.get(member):
                told = f"{_show(other.get(member))} → {_show(one.get(member))}"
                changes.append(f"{word} {name}, {member.replace('_', ' ')}: {told}.")
    return changes


def _tell_duty(word: str, one: Mapping[str, Any]) -> str:
    if word != "Input":
        return ""
    return " and required" if one.get("required", True) else " and optional"


def _by_name(interface: Mapping[str, Any], part: str) -> dict[str, Mapping[str, Any]]:
    return {
        str(one.get("name", "")): one for one in interface.get(part, []) if not one.get("hidden")
    }


def _compare_batch(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    before, after = ((one.get("batch") or {}).get("max_size", 1) for one in (old, new))
    return [f"Rows of one call: {before} → {after}."] if before != after else []


def _compare_size(new: int, old: int) -> str:
    if not old or not new or abs(new - old) * 1_000 < old * _SIZE_PER_MILLE:
        return ""
    percent = (new - old) * 100 // old
    return f"Sealed size: {percent:+d} %."


def _show(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    is_short = len(text) <= _VALUE_LENGTH_MAX
    return text if is_short else text[: _VALUE_LENGTH_MAX - 1] + "…"
