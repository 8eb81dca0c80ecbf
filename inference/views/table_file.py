"""Rows of a page as a file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse

from marketplace.core.errors import InvalidInputError

FORMATS = ("csv", "json")


def read_format(request: HttpRequest) -> str:
    """The `format` that is asked for; csv if none is.

    Raises:
        InvalidInputError: It is none of `FORMATS`.
    """
    kind = request.GET.get("format", "csv")
    if kind not in FORMATS:
        detail = f"Must be one of {', '.join(FORMATS)}."
        raise InvalidInputError(errors=[{"pointer": "/format", "detail": detail}])
    return kind


def answer_file(
    kind: str,
    name: str,
    *,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> HttpResponse:
    """The file as a download.

    Args:
        kind: One of `FORMATS`.
        name: Of the file, without its ending.
        columns: The members of each row, in their order.
        rows: What is in it.
        about: What a JSON file says before its rows; a CSV file has rows alone.
    """
    answer: HttpResponse
    if kind == "json":
        answer = JsonResponse({**about, "rows": list(rows)}, json_dumps_params={"indent": 1})
    else:
        answer = HttpResponse(content_type="text/csv; charset=utf-8")
        writer = csv.DictWriter(answer, columns)
        writer.writeheader()
        writer.writerows(rows)
    answer["Content-Disposition"] = f'attachment; filename="{name}.{kind}"'
    return answer
