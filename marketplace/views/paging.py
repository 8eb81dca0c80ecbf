"""One page of a list."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

from marketplace.core import limits


def page_of(request: HttpRequest, rows: QuerySet[Any], size: int = limits.PAGE_SIZE) -> Page[Any]:
    """The page that `?page=` asks for; the nearest one where there is no such."""
    return Paginator(rows, size).get_page(request.GET.get("page"))
