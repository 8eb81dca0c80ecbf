"""Write what the documentation says about addresses and errors, from the code itself.

The site may not import the gateway, and need not make these documents each time it starts: they
lie in `templates/docs/reference`, and a test holds them to what this command would write.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from drf_spectacular.generators import SchemaGenerator

from inference.gateway import openapi
from inference.selectors.remedies import REMEDIES
from marketplace.core.errors import MarketplaceError
from marketplace.selectors.docs import GATEWAY_STAND_IN, REFERENCE, WEB_STAND_IN

# By name: packages above this one are looked at, not built on.
_PACKAGES = ("marketplace", "inference", "billing")
# Only importable inside Triton's python backend, or programs, or no part of the product.
_LEFT_OUT = ("inference.serving.", ".__main__", ".migrations", ".management")


class Command(BaseCommand):
    help = "Write the OpenAPI documents and the lists of codes that the documentation shows."

    def add_arguments(self, parser: Any) -> None:
        """Another folder than the documentation's own is for tests."""
        parser.add_argument("--folder", type=Path, default=REFERENCE)

    def handle(self, *args: Any, **options: Any) -> None:
        for name, document in make_reference().items():
            text = json.dumps(document, indent=1, ensure_ascii=False)
            (options["folder"] / f"{name}.json").write_text(text + "\n")
            self.stdout.write(f"wrote  {name}.json")


def make_reference() -> dict[str, Any]:
    """By name: the documents of both APIs, the errors, and the reasons of onboarding."""
    management = SchemaGenerator(urlconf=settings.ROOT_URLCONF).get_schema(public=True)
    management["servers"] = [{"url": WEB_STAND_IN}]
    return {
        "gateway": openapi.describe(GATEWAY_STAND_IN),
        "management": management,
        "errors": list_errors(),
        "reasons": dict(sorted(REMEDIES.items())),
    }


def list_errors() -> list[dict[str, Any]]:
    """Every code that an answer can have, with its statuses and what it says, by code."""
    found: dict[str, list[type[MarketplaceError]]] = {}
    classes: list[type[MarketplaceError]] = [MarketplaceError, *_list_classes()]
    for one in classes:
        found.setdefault(one.code, []).append(one)
    return [
        {
            "code": code,
            "statuses": sorted({one.http_status for one in some}),
            "texts": sorted({one.title for one in some}),
            "is_retryable": any(one.retryable for one in some),
        }
        for code, some in sorted(found.items())
    ]


def _list_classes() -> Iterator[type[MarketplaceError]]:
    """All errors of the product; of modules that nobody has imported yet, too."""
    for name in _PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not any(part in module.name for part in _LEFT_OUT):
                importlib.import_module(module.name)
    waiting: list[type[MarketplaceError]] = [MarketplaceError]
    while waiting:
        for one in waiting.pop().__subclasses__():
            waiting.append(one)
            if one.__module__.split(".")[0] in _PACKAGES:
                yield one
