"""What a file would be as a batch, before it is one: its first lines, and what they would cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from django.conf import settings

from inference.core.batch_lines import (
    LINES_MAX,
    FileTooLargeError,
    Line,
    TooManyLinesError,
    read_lines,
)
from inference.errors import GatewayUnavailableError
from inference.models import File
from inference.services import file as files
from inference.services.playground import make_token
from marketplace.models import Account, ModelVersion, User
from strongroom.errors import InputError, InterfaceError
from strongroom.interface import Interface

# Lines that are shown, and of these, those whose price is asked for one by one.
LINES_SHOWN = 5
LINES_PRICED = 3
_TIMEOUT = httpx.Timeout(5.0, connect=2.0)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a file says.

    Args:
        lines: The first of them, with what is wrong with each.
        good: Of all lines, those that are lines of a batch; whether a model takes their inputs is
            known of the first ones only.
        bad: Of all lines, those that are not.
        fault: Why none of it can be run; empty for nothing.
        maximum_nanos: The most that all good lines may cost, by the first ones; None if unknown.
        estimate_nanos: What they will probably cost.
    """

    lines: list[Line] = field(default_factory=list)
    good: int = 0
    bad: int = 0
    fault: str = ""
    maximum_nanos: int | None = None
    estimate_nanos: int | None = None


def preview_file(*, account: Account, user: User, version: ModelVersion, file: File) -> Preview:
    """Look at a file of lines for a model; nothing runs, and nothing is charged.

    Raises:
        FileGoneError: The file is gone.
    """
    lines = read_lines(_read_chunks(file))
    shown: list[Line] = []
    good = bad = 0
    try:
        for line in lines:
            if len(shown) < LINES_SHOWN:
                line = _check(version, line)  # noqa: PLW2901 - with what the model says of it
                shown.append(line)
            good, bad = good + (not line.code), bad + bool(line.code)
    except TooManyLinesError:
        return Preview(shown, good, bad, f"A batch has at most {LINES_MAX:,} lines.")
    except FileTooLargeError:
        return Preview(shown, good, bad, "The file is larger than a batch may be.")
    if not good:
        return Preview(shown, good, bad, "There is no line in it that could be run.")
    samples = [one for one in shown if not one.code]
    maximum_nanos, estimate_nanos = _price(account, user, version, samples[:LINES_PRICED], good)
    return Preview(shown, good, bad, "", maximum_nanos, estimate_nanos)


def _read_chunks(file: File) -> Iterator[bytes]:
    with files.open_file(file) as stream:
        yield from iter(lambda: stream.read(files.CHUNK_BYTES), b"")


def _check(version: ModelVersion, line: Line) -> Line:
    if line.input is None:
        return line
    try:
        Interface.parse(version.interface).check_input(json.loads(line.input))
    except InterfaceError:
        return line
    except InputError as error:
        first = error.errors[0]
        detail = f"{first['pointer']}: {first['detail']}"
        return Line(line.number, line.custom_id, line.input, "validation", detail)
    return line


def _price(
    account: Account, user: User, version: ModelVersion, samples: list[Line], count: int
) -> tuple[int | None, int | None]:
    """The most and the probable cost of `count` lines that are like the samples."""
    maxima, estimates = [], []
    for line in samples:
        try:
            answer = _ask(account, user, version, json.loads(line.input or "{}"))
        except GatewayUnavailableError:
            break
        maxima.append(answer["maximum_nano_usd"])
        estimates.append(answer["estimate_nano_usd"])
    if not maxima:
        return None, None
    # Rounded up: more than a sum of estimates is no surprise.
    return -(-sum(maxima) * count // len(maxima)), -(-sum(estimates) * count // len(estimates))


def _ask(
    account: Account, user: User, version: ModelVersion, given: dict[str, Any]
) -> dict[str, int]:
    model = f"{version.model.account.slug}/{version.model.name}:{version.number}"
    headers = {"Authorization": f"Bearer {make_token(account=account, user=user)}"}
    try:
        answer = httpx.post(
            f"{settings.GATEWAY_URL}/v1/price",
            json={"version": model, "input": given, "batch": True},
            headers=headers,
            timeout=_TIMEOUT,
            trust_env=False,
        )
        document = answer.raise_for_status().json()
        return {name: int(document[name]) for name in ("maximum_nano_usd", "estimate_nano_usd")}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise GatewayUnavailableError(retry_after_s=5) from error
