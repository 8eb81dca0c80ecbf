"""An OpenAPI document as pages for people: areas, operations, members, an example in curl.

Reads what our two documents have, not all that OpenAPI allows; what is unknown is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marketplace.core.guide import make_anchor

Document = Mapping[str, Any]

METHODS = ("get", "post", "put", "patch", "delete")
# Members within members: deeper ones stand in the document that can be downloaded.
DEPTH_MAX = 2
# In examples: what a reader recognises.
_SAMPLES: Mapping[str, Any] = {
    "account": "acme",
    "owner": "acme",
    "name": "digits",
    "model": "acme/digits",
    "version": "acme/digits",
    "reference": "acme%2Fdigits",
    "channel": "prod",
    "number": "1",
    "input": {"image": [0, 0, 5]},
    "messages": [{"role": "user", "content": "Hello"}],
    "prompt": "Hello",
    "text_input": "Hello",
    "email": "you@example.com",
    "expires_at": "2027-01-31T00:00:00Z",
    "valid_until": "2027-01-31T00:00:00Z",
}


@dataclass(frozen=True, slots=True)
class Member:
    """Something that is sent or answered: where it stands, what it may be."""

    name: str
    place: str
    kind: str
    is_required: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of one status; `codes` are those of a refusal."""

    status: str
    text: str
    types: tuple[str, ...]
    members: tuple[Member, ...]
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address."""

    anchor: str
    method: str
    path: str
    title: str
    text: str
    needs_key: bool
    parameters: tuple[Member, ...]
    body_types: tuple[str, ...]
    body: tuple[Member, ...]
    answers: tuple[Answer, ...]
    refusals: tuple[Answer, ...]
    curl: str

    @property
    def words(self) -> str:
        """What it can be found by."""
        names = [one.name for one in (*self.parameters, *self.body)]
        return " ".join([f"{self.method} {self.path}", self.text, *names])


@dataclass(frozen=True, slots=True)
class Area:
    """The operations of one tag."""

    slug: str
    operations: tuple[Operation, ...]


def list_areas(document: Document, *, token: str) -> list[Area]:
    """The areas of a document, in the order in which they first appear.

    Args:
        document: OpenAPI 3.1, of ours.
        token: The shell's variable that holds the key, for examples.
    """
    found: dict[str, list[Operation]] = {
        tag["name"]: [] for tag in document.get("tags", ()) if isinstance(tag, dict)
    }
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                reader = _Reader(document, path, method, token)
                operations = found.setdefault(item[method]["tags"][0], [])
                operations.append(reader.read([one.anchor for one in operations]))
    return [Area(slug, tuple(operations)) for slug, operations in found.items() if operations]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one operation of a document."""

    document: Document
    path: str
    method: str
    token: str

    def read(self, taken: Sequence[str]) -> Operation:
        item = self.document["paths"][self.path]
        said = item[self.method]
        title = _make_title(said, self.method, self.path)
        declared = [*item.get("parameters", ()), *said.get("parameters", ())]
        content = said.get("requestBody", {}).get("content", {})
        answers = [self._answer(status, one) for status, one in said["responses"].items()]
        security = said.get("security", self.document.get("security", []))
        return Operation(
            anchor=make_anchor(title, taken),
            method=self.method.upper(),
            path=self.path,
            title=title,
            text=said.get("description", ""),
            needs_key=bool(security) and {} not in security,
            parameters=tuple(self._parameter(one) for one in declared),
            body_types=tuple(content),
            body=self._body(content),
            answers=tuple(one for one in answers if _is_success(one.status)),
            refusals=tuple(one for one in answers if not _is_success(one.status)),
            curl=self._curl(content, has_key=bool(security)),
        )

    def _parameter(self, said: Document) -> Member:
        is_required = bool(said.get("required"))
        kind = describe_kind(self._resolve(said.get("schema", {})))
        return Member(said["name"], said["in"], kind, is_required)

    def _body(self, content: Document) -> tuple[Member, ...]:
        return tuple(self._members(_first_schema(content)))

    def _members(self, schema: Document, prefix: str = "", depth: int = 1) -> Iterator[Member]:
        whole = self._resolve(schema)
        required = whole.get("required", ())
        for name, one in whole.get("properties", {}).items():
            member = self._resolve(one)
            yield Member(f"{prefix}{name}", "body", describe_kind(member), name in required)
            if depth < DEPTH_MAX:
                yield from self._members(member, f"{prefix}{name}.", depth + 1)

    def _answer(self, status: str, said: Document) -> Answer:
        whole = self._resolve(said)
        content = whole.get("content", {})
        is_refusal = not _is_success(status)
        return Answer(
            status=status,
            text=whole.get("description", ""),
            types=tuple(content),
            members=() if is_refusal else tuple(self._members(_first_schema(content))),
            codes=_read_codes(whole.get("description", "")) if is_refusal else (),
        )

    def _curl(self, content: Document, *, has_key: bool) -> str:
        server = self.document["servers"][0]["url"]
        path = re.sub(r"\{(\w+)\}", lambda match: str(sample(match[1])), self.path)
        method = "" if self.method == "get" else f" -X {self.method.upper()}"
        lines = [f'curl{method} "{server}{path}"']
        if has_key:
            lines.append(f'-H "Authorization: Bearer ${self.token}"')
        if "application/json" in content:
            body = self._sample(content["application/json"]["schema"])
            lines.append('-H "Content-Type: application/json"')
            lines.append(f"-d '{json.dumps(body)}'")
        elif content:
            lines += ['-H "Content-Type: application/octet-stream"', "--data-binary @part"]
        return " \\\n  ".join(lines)

    def _sample(self, schema: Document) -> Any:
        """A body with what is required of it."""
        whole = self._resolve(schema)
        required = whole.get("required", ())
        properties = whole.get("properties", {})
        names = [name for name in properties if name in required] or list(properties)[:1]
        return {name: self._sample_of(name, properties[name]) for name in names}

    def _sample_of(self, name: str, schema: Document) -> Any:
        if name in _SAMPLES:
            return _SAMPLES[name]
        one = self._resolve(schema)
        if "enum" in one:
            return one["enum"][0]
        match one.get("type"):
            case "integer" | "number":
                return max(1, int(one.get("minimum", 1)))
            case "boolean":
                return True
            case "array":
                return []
            case "object":
                return {}
        return sample(name)

    def _resolve(self, schema: Document) -> Document:
        """What a reference means; members of `allOf` put together."""
        while "$ref" in schema:
            place: Any = self.document
            for step in schema["$ref"].removeprefix("#/").split("/"):
                place = place[step]
            schema = place
        for part in schema.get("allOf", ()):
            schema = {**self._resolve(part), **schema}
        return schema


def _first_schema(content: Document) -> Document:
    """Of the type that is named first."""
    for one in content.values():
        schema: Document = one.get("schema", {})
        return schema
    return {}


def sample(name: str) -> Any:
    """A value for an example; in capitals where the reader has one."""
    return _SAMPLES.get(name, name.upper())


def describe_kind(schema: Document) -> str:
    """In a few words what a value may be."""
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(one) for one in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(describe_kind(one) for one in choices))
    if "$ref" in schema:
        return "object"
    kinds = schema.get("type", "any")
    text = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    return text + "".join(_list_bounds(schema))


def _list_bounds(schema: Document) -> Iterator[str]:
    if "format" in schema:
        yield f" ({schema['format']})"
    for name, words in (
        ("minimum", "from"),
        ("maximum", "to"),
        ("minLength", "characters from"),
        ("maxLength", "characters up to"),
        ("maxItems", "entries up to"),
    ):
        if name in schema:
            yield f", {words} {schema[name]:,}"


def _is_success(status: str) -> bool:
    return status.startswith(("1", "2", "3"))


def _read_codes(text: str) -> tuple[str, ...]:
    """The codes of a refusal, as the gateway's document lists them."""
    listed = re.fullmatch(r"Refused: ([a-z_0-9, ]+)\.", text)
    return tuple(listed[1].split(", ")) if listed else ()


def _make_title(said: Document, method: str, path: str) -> str:
    """The first sentence of what is said, else the words of the operation's name."""
    text = str(said.get("description", ""))
    if text:
        first = re.split(r"(?<=[.;:]) ", text, maxsplit=1)[0].rstrip(".;:")
        # A name in the address says what a sentence without its subject does not.
        return f"{method.upper()} {path}" if len(first) > 80 else first.replace("`", "")
    words = re.findall(r"OpenAI|OpenAPI|[A-Z]?[a-z]+", str(said["operationId"]))
    return " ".join(words).capitalize().replace("openai", "OpenAI").replace("openapi", "OpenAPI")
