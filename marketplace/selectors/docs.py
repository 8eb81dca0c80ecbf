"""The documentation inside the product: which pages there are, and search over them.

Guides are Markdown in `templates/docs/guides/{section}/NN-{slug}.md`: the folder is the part of
the documentation, the number the place in it. The reference is made of the documents in
`templates/docs/reference`, which `manage.py write_reference` writes.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.urls import reverse

from marketplace.core import limits
from marketplace.core.docs_search import Index, Passage, Result
from marketplace.core.errors import NotFoundError
from marketplace.core.guide import Guide, render_guide
from marketplace.core.reference import Area, list_areas

FOLDER = settings.BASE_DIR / "templates" / "docs"
REFERENCE = FOLDER / "reference"
# What sources name; pages name the platform's own, so that a command works when pasted.
GATEWAY_STAND_IN, WEB_STAND_IN = "https://gateway.example", "https://strongroom.example"
# By folder, in the order of the navigation.
SECTIONS = {"consumers": "Buy predictions", "creators": "Sell predictions", "admins": "Run it"}
# By document: its name, and the variable that holds its key in examples.
APIS = {
    "gateway": ("Prediction API", "STRONGROOM_API_KEY"),
    "management": ("Management API", "STRONGROOM_TOKEN"),
}
# What the tags of the documents are called; others have their own word.
AREAS = {
    "native": "Predictions, Replicate's shapes",
    "oip": "Open Inference Protocol",
    "openai": "OpenAI's shapes",
    "mcp": "Model Context Protocol",
    "operations": "Health and metrics",
    "sign-in": "Signing in",
    "models": "Models and channels",
    "keys": "API keys",
    "artifacts": "Sealed files",
    "input-budgets": "Budgets of inputs",
    "wallet": "Wallet and cards",
}
# A guide's line that stands for a list made of the code.
_LISTS = re.compile(r"^\{\{(errors|reasons)\}\}$", re.MULTILINE)
# A code is found by its name; what explains it should come first otherwise.
_CODE_WEIGHT, _OPERATION_WEIGHT = 0.35, 0.6


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the documentation; a guide, or an area of the reference."""

    url: str
    title: str
    description: str
    group: str
    guide: Guide | None = None
    api: str = ""
    area: Area | None = None


@dataclass(frozen=True, slots=True)
class Docs:
    """All pages in their order, and the index over them."""

    pages: Sequence[Page]
    index: Index

    @property
    def groups(self) -> list[tuple[str, list[Page]]]:
        """The pages by the part that they belong to."""
        found: dict[str, list[Page]] = {}
        for page in self.pages:
            found.setdefault(page.group, []).append(page)
        return list(found.items())

    def neighbours(self, page: Page) -> tuple[Page | None, Page | None]:
        """The page before and the page after."""
        place = self.pages.index(page)
        before = self.pages[place - 1] if place else None
        return before, self.pages[place + 1] if place + 1 < len(self.pages) else None


def load_docs() -> Docs:
    """The documentation, with this platform's addresses; read once by a process."""
    return _load(settings.GATEWAY_URL, settings.WEB_URL)


def get_page(url: str) -> Page:
    """The page at an address.

    Raises:
        NotFoundError: There is none.
    """
    for page in load_docs().pages:
        if page.url == url:
            return page
    raise NotFoundError("The documentation has no such page.")


def search_docs(query: str) -> list[Result]:
    """What fits a query best; of one that is too long, its beginning counts."""
    return load_docs().index.search(query[: limits.SEARCH_LENGTH_MAX])


def read_document(api: str) -> bytes:
    """An OpenAPI document, as it is downloaded.

    Raises:
        NotFoundError: There is no such API.
    """
    if api not in APIS:
        raise NotFoundError("There is no such API.")
    return json.dumps(_document(api, settings.GATEWAY_URL, settings.WEB_URL)).encode()


@functools.cache
def _load(gateway_url: str, web_url: str) -> Docs:
    pages = [*_list_guides(gateway_url, web_url), *_list_areas(gateway_url, web_url)]
    passages = [one for page in pages for one in _list_passages(page)]
    return Docs(pages, Index([*passages, *_list_codes()]))


def _list_guides(gateway_url: str, web_url: str) -> Iterator[Page]:
    for section, label in SECTIONS.items():
        for path in sorted((FOLDER / "guides" / section).glob("*.md")):
            text = fill_addresses(fill_lists(path.read_text()), gateway_url, web_url)
            guide = render_guide(text)
            url = reverse("marketplace:docs-guide", args=[section, path.stem.partition("-")[2]])
            yield Page(url, guide.title, guide.description, label, guide=guide)


def fill_addresses(text: str, gateway_url: str, web_url: str) -> str:
    """A text with the platform's addresses in the place of the stand-ins."""
    gateway = urlsplit(gateway_url)
    text = text.replace(GATEWAY_STAND_IN, gateway_url).replace(WEB_STAND_IN, web_url)
    # Clients of gRPC and of Triton take a host without a scheme.
    text = text.replace("gateway.example:8002", f"{gateway.hostname}:8002")
    return text.replace("gateway.example", gateway.netloc)


def fill_lists(text: str) -> str:
    """A text with the lists that its lines stand for."""
    return _LISTS.sub(lambda match: _TABLES[match[1]](), text)


def _table_of_errors() -> str:
    rows = [
        f"| `{one['code']}` | {', '.join(map(str, one['statuses']))} "
        f"| {'yes' if one['is_retryable'] else 'no'} | {' '.join(one['texts'])} |"
        for one in _read("errors")
    ]
    return "\n".join(
        ["| code | status | may be repeated | what it says |", "|---|---|---|---|", *rows]
    )


def _table_of_reasons() -> str:
    rows = [f"| `{code}` | {text} |" for code, text in _read("reasons").items()]
    return "\n".join(["| code | what to do |", "|---|---|", *rows])


_TABLES = {"errors": _table_of_errors, "reasons": _table_of_reasons}


def _list_areas(gateway_url: str, web_url: str) -> Iterator[Page]:
    for api, (label, token) in APIS.items():
        for area in list_areas(_document(api, gateway_url, web_url), token=token):
            url = reverse("marketplace:docs-area", args=[api, area.slug])
            title = AREAS.get(area.slug, area.slug.replace("-", " ").capitalize())
            text = f"{label}: {title}. Addresses, members, answers, and an example of each."
            yield Page(url, title, text, label, api=api, area=area)


def _document(api: str, gateway_url: str, web_url: str) -> Any:
    return _read(api) | {"servers": [{"url": gateway_url if api == "gateway" else web_url}]}


@functools.cache
def _read(name: str) -> Any:
    return json.loads((REFERENCE / f"{name}.json").read_text())


def _list_passages(page: Page) -> Iterator[Passage]:
    if page.guide is not None:
        for one in page.guide.sections:
            url = f"{page.url}#{one.id}" if one.id else page.url
            text = one.text if one.id else f"{page.description} {one.text}"
            # A list of codes is many passages, which stand below.
            shown = page.description if one.id.startswith("all-") else text
            words = "" if one.id else page.guide.words
            title = one.title or page.title
            yield Passage(url, page.title, title, shown, page.group, words=words)
    if page.area is not None:
        for operation in page.area.operations:
            place = (f"{page.url}#{operation.anchor}", page.title, operation.title)
            yield Passage(*place, operation.words, page.group, _OPERATION_WEIGHT)


def _list_codes() -> Iterator[Passage]:
    errors = reverse("marketplace:docs-guide", args=["consumers", "errors"])
    for one in _read("errors"):
        text = " ".join([f"Status {', '.join(map(str, one['statuses']))}.", *one["texts"]])
        yield Passage(f"{errors}#all-codes", "Errors", one["code"], text, "Codes", _CODE_WEIGHT)
    reasons = reverse("marketplace:docs-guide", args=["creators", "onboarding"])
    for code, text in _read("reasons").items():
        yield Passage(f"{reasons}#all-reasons", "Onboarding", code, text, "Codes", _CODE_WEIGHT)
