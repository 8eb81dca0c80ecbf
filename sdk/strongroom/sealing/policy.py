"""What a creator demands of those who run a version: part of the signed manifest.

The demands stand in the manifest because nobody but the creator may lower them: the key
broker reads there which evidence a node must show, the serving process how well it must be
confined and what may leave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

from strongroom.interface import Interface
from strongroom.sealing.errors import PolicyError

# What a node can show of itself, each stronger than the one before.
EVIDENCE_KINDS = ("none-dev", "tpm", "tdx+nvidia")
SANDBOXES = ("landlock",)
SHOWN_AS = ("probabilities", "label")
TOP_K_MAX = 1000
DECIMALS_MAX = 8
FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})

_NO_RULES: Mapping[str, OutputRule] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class OutputRule:
    """What is done to the last axis of an output before it leaves the serving process.

    In this order: `shown_as` (`probabilities`: softmax; `label`: 1 for the largest, else 0),
    `top_k` (all but the k largest become 0), `decimals` (rounded).
    """

    shown_as: str | None = None
    top_k: int | None = None
    decimals: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The form in the manifest."""
        members = {"as": self.shown_as, "top_k": self.top_k, "decimals": self.decimals}
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Policy:
    """A version's demands. None, and no rule, demand nothing."""

    evidence: str | None = None
    sandbox: str | None = None
    output: Mapping[str, OutputRule] = field(default_factory=lambda: _NO_RULES)

    @classmethod
    def parse(cls, value: Any, interface: Interface) -> Policy:
        """Read a policy from decoded JSON.

        Raises:
            PolicyError: With a JSON pointer, from the policy on, to the first fault.
        """
        members = _members(value, ("evidence", "sandbox", "output"), "")
        return cls(
            evidence=_one_of(members, "evidence", EVIDENCE_KINDS, ""),
            sandbox=_one_of(members, "sandbox", SANDBOXES, ""),
            output=_parse_rules(members.get("output", {}), interface),
        )

    def to_json(self) -> dict[str, Any]:
        """The shortest description that parses to this policy."""
        members: dict[str, Any] = {}
        if self.evidence is not None:
            members["evidence"] = self.evidence
        if self.sandbox is not None:
            members["sandbox"] = self.sandbox
        if self.output:
            members["output"] = {name: rule.to_json() for name, rule in self.output.items()}
        return members


def _parse_rules(value: Any, interface: Interface) -> Mapping[str, OutputRule]:
    if not isinstance(value, dict):
        _refuse("/output", "Must be an object.")
    shown = {one.name: one for one in interface.wire_outputs}
    rules = {}
    for name, members in value.items():
        place = f"/output/{name[:64]}"
        output = shown.get(name)
        if output is None:
            _refuse(place, "The interface has no such output.")
        if output.datatype not in FLOATS:
            _refuse(place, "Only outputs of floating-point numbers have a rule.")
        rules[name] = _parse_rule(members, place)
    return MappingProxyType(rules)


def _parse_rule(value: Any, pointer: str) -> OutputRule:
    members = _members(value, ("as", "top_k", "decimals"), pointer)
    if not members:
        _refuse(pointer, "A rule must say something.")
    return OutputRule(
        shown_as=_one_of(members, "as", SHOWN_AS, pointer),
        top_k=_integer(members, "top_k", 1, TOP_K_MAX, pointer),
        decimals=_integer(members, "decimals", 0, DECIMALS_MAX, pointer),
    )


def _members(value: Any, known: tuple[str, ...], pointer: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(pointer, "Must be an object.")
    for name in sorted(set(value) - set(known)):
        _refuse(f"{pointer}/{name[:64]}", "This member is not known here.")
    return value


def _one_of(
    members: Mapping[str, Any], name: str, allowed: tuple[str, ...], pointer: str
) -> str | None:
    if name not in members:
        return None
    value = members[name]
    if not isinstance(value, str) or value not in allowed:
        _refuse(f"{pointer}/{name}", f"Must be one of: {', '.join(allowed)}.")
    return value


def _integer(
    members: Mapping[str, Any], name: str, minimum: int, maximum: int, pointer: str
) -> int | None:
    if name not in members:
        return None
    value = members[name]
    if type(value) is not int or not minimum <= value <= maximum:
        _refuse(f"{pointer}/{name}", f"Must be an integer from {minimum} to {maximum}.")
    return value


def _refuse(pointer: str, detail: str) -> NoReturn:
    raise PolicyError(pointer, detail)
