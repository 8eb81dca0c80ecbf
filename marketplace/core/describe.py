"""Say in words what a version takes and gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Member:
    """An input or output as a row of the schema table."""

    name: str
    type: str
    rules: str
    description: str


def describe_inputs(interface: Mapping[str, Any]) -> list[Member]:
    """One row for each input."""
    return [_member(one, _input_rules(one)) for one in interface.get("inputs", [])]


def describe_outputs(interface: Mapping[str, Any]) -> list[Member]:
    """One row for each output that callers see."""
    return [
        _member(one, _output_rules(one))
        for one in interface.get("outputs", [])
        if not one.get("hidden")
    ]


def describe_policy(rules: Mapping[str, Mapping[str, Any]]) -> str:
    """What of an answer leaves, in words; empty where it leaves whole.

    Args:
        rules: By output, as the signed manifest has them.
    """
    if len(rules) == 1:
        [rule] = rules.values()
        return f"Answers show {_rule(rule)}."
    return " ".join(f"{name} shows {_rule(rule)}." for name, rule in rules.items())


def _rule(rule: Mapping[str, Any]) -> str:
    count = rule.get("top_k")
    match rule.get("as"):
        case "label":
            shown = "the most likely class only"
        case "probabilities" if count is None:
            shown = "probabilities"
        case "probabilities":
            shown = "the most likely class" if count == 1 else f"the {count} most likely classes"
        case _ if count is None:
            shown = "values"
        case _:
            shown = "the largest value" if count == 1 else f"the {count} largest values"
    match rule.get("decimals"):
        case None:
            return shown
        case 0:
            return f"{shown}, rounded to whole numbers"
        case 1:
            return f"{shown}, rounded to 1 decimal"
        case decimals:
            return f"{shown}, rounded to {decimals} decimals"


def _member(one: Mapping[str, Any], rules: list[str]) -> Member:
    return Member(
        name=str(one.get("name", "")),
        type=_type(one),
        rules=", ".join(rules),
        description=str(one.get("description", "")),
    )


def _type(one: Mapping[str, Any]) -> str:
    if one.get("kind") != "tensor":
        return str(one.get("kind", ""))
    if one.get("media_type"):
        rate = one.get("sample_rate_hz")
        return f"{one['media_type']}, {rate} Hz" if rate else str(one["media_type"])
    shape = ", ".join("n" if size == -1 else str(size) for size in one.get("shape", []))
    return f"{one.get('datatype', '')}[{shape}]"


def _input_rules(one: Mapping[str, Any]) -> list[str]:
    rules = [] if one.get("required", True) else ["optional"]
    if one.get("default") is not None:
        rules.append(f"default {_short(one['default'])}")
    if one.get("minimum") is not None:
        rules.append(f"at least {_short(one['minimum'])}")
    if one.get("maximum") is not None:
        rules.append(f"at most {_short(one['maximum'])}")
    if one.get("max_length") is not None:
        rules.append(f"at most {one['max_length']} characters")
    if one.get("choices"):
        rules.append("one of " + ", ".join(str(choice) for choice in one["choices"][:12]))
    return rules


def _output_rules(one: Mapping[str, Any]) -> list[str]:
    labels = one.get("labels") or []
    if not labels:
        return []
    shown = ", ".join(str(label) for label in labels[:10])
    return [f"{len(labels)} labels: {shown}" + (" …" if len(labels) > 10 else "")]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"
