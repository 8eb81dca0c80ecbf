"""What may be set as a limit: rates, budgets, and the models and networks of a key.

Each check returns what is to be stored, or says which field is wrong. `None` means that there
is no such limit; a list without entries means all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from marketplace.core import limits
from marketplace.core.address import parse_network
from marketplace.core.errors import FieldError, InvalidInputError
from marketplace.core.money import AMOUNT_NANOS_MAX, format_nanos
from marketplace.models import APIKey
from marketplace.models.account import SLUG_PATTERN
from marketplace.models.catalog import MODEL_NAME_PATTERN
from marketplace.models.limits import CONCURRENCY_MAX, PER_MINUTE_MAX, QUERIES_MAX, Limited

# The most that each may be set to. Whatever bears them has columns of these names.
RATE_FIELDS: Mapping[str, int] = {
    "requests_per_minute": PER_MINUTE_MAX,
    "units_per_minute": PER_MINUTE_MAX,
    "concurrency_max": CONCURRENCY_MAX,
}
# Of a model: how many different inputs each consumer may ask.
QUERY_FIELDS: Mapping[str, int] = {
    "queries_per_day_max": QUERIES_MAX,
    "queries_total_max": QUERIES_MAX,
}
BUDGET_FIELDS = ("budget_day_nanos", "budget_month_nanos", "budget_total_nanos")
LIST_FIELDS = ("allowed_models", "allowed_networks")
KEY_LIMIT_FIELDS = (*RATE_FIELDS, *BUDGET_FIELDS, *LIST_FIELDS)

_OWNER, _NAME = re.compile(SLUG_PATTERN), re.compile(MODEL_NAME_PATTERN)


def check_rates(fields: Mapping[str, Any]) -> None:
    """Check those of `RATE_FIELDS` and `QUERY_FIELDS` that are there.

    Raises:
        InvalidInputError: With a pointer to each that is wrong.
    """
    faults: list[FieldError] = [
        {"pointer": f"/{name}", "detail": f"From 1 to {maximum:,}, or none."}
        for name, maximum in {**RATE_FIELDS, **QUERY_FIELDS}.items()
        if not _is_none_or_within(fields.get(name), maximum)
    ]
    if faults:
        raise InvalidInputError(errors=faults)


def check_key_limits(mode: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Check what a key of some mode shall be limited to; lists come back tidied.

    Args:
        mode: One of `APIKey.Mode`.
        fields: Some of `KEY_LIMIT_FIELDS`.

    Raises:
        InvalidInputError: With a pointer to each that is wrong.
    """
    assert set(fields) <= set(KEY_LIMIT_FIELDS), set(fields)
    _require_mode(mode, fields)
    check_rates(fields)
    amount = f"More than $0, at most {format_nanos(AMOUNT_NANOS_MAX)}, or none."
    faults: list[FieldError] = [
        {
            "pointer": f"/{name}",
            "detail": amount,
        }
        for name in BUDGET_FIELDS
        if not _is_none_or_within(fields.get(name), AMOUNT_NANOS_MAX)
    ]
    tidied = dict(fields)
    for name, read in (("allowed_models", _read_model), ("allowed_networks", _read_network)):
        if name in fields:
            tidied[name], found = _read_list(name, fields[name], read)
            faults += found
    if faults:
        raise InvalidInputError(errors=faults)
    return tidied


def describe_changes(row: Limited, fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For the audit log: of those fields that differ, what was and what shall be."""
    return {
        name: {"from": getattr(row, name), "to": value}
        for name, value in fields.items()
        if getattr(row, name) != value
    }


def _require_mode(mode: str, fields: Mapping[str, Any]) -> None:
    refused: Iterable[str] = ()
    detail = ""
    if mode == APIKey.Mode.TOKEN:
        refused, detail = KEY_LIMIT_FIELDS, "A creator token runs no predictions."
    elif mode == APIKey.Mode.TEST:
        refused, detail = BUDGET_FIELDS, "A test key costs nothing, so it has no budget."
    faults: list[FieldError] = [
        {"pointer": f"/{name}", "detail": detail} for name in refused if fields.get(name)
    ]
    if faults:
        raise InvalidInputError(errors=faults)


def _is_none_or_within(value: Any, maximum: int) -> bool:
    return value is None or (type(value) is int and 1 <= value <= maximum)


def _read_list(
    name: str, texts: Iterable[str], read: Callable[[str], str]
) -> tuple[list[str], list[FieldError]]:
    """The entries, each once, in their order; and what is wrong with some of them."""
    entries: dict[str, None] = {}
    faults: list[FieldError] = []
    for index, text in enumerate(texts):
        if index == limits.ALLOWED_ENTRIES_MAX:
            detail = f"At most {limits.ALLOWED_ENTRIES_MAX} entries."
            return [], [{"pointer": f"/{name}", "detail": detail}]
        try:
            entries[read(text)] = None
        except ValueError as error:
            faults.append({"pointer": f"/{name}/{index}", "detail": str(error)})
    return list(entries), faults


def _read_model(text: str) -> str:
    owner, _, name = text.strip().partition("/")
    if not _OWNER.fullmatch(owner) or not _NAME.fullmatch(name):
        raise ValueError(f"{text[:120]!r} is no model: owner/name, without a version.")
    return f"{owner}/{name}"


def _read_network(text: str) -> str:
    try:
        return str(parse_network(text))
    except ValueError:
        detail = "is no network: such as 203.0.113.0/24, 2001:db8::/32 or one address."
        raise ValueError(f"{text[:60]!r} {detail}") from None
