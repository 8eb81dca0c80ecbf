"""The management API as an OpenAPI document, read from the code of its views.

The views parse what they need by hand, so the framework cannot know what they take. Each is
read here: the serializer that it gives `request.data` or the query to, the members that it
takes from either, the statuses and members that it answers. `manage.py write_reference` makes
the document; nothing of this runs while the site serves.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from django.forms import BaseForm
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework.permissions import AllowAny
from rest_framework.serializers import BaseSerializer, CharField

from marketplace.core.problem import CONTENT_TYPE as PROBLEM

# By module: the area that its addresses belong to; others are areas of their own.
AREAS = {
    "marketplace.api.session": "sign-in",
    "marketplace.api.model": "models",
    "marketplace.api.key": "keys",
    "billing.api.budget": "keys",
    "inference.api.version": "versions",
    "inference.api.upload": "uploads",
    "inference.api.artifact": "artifacts",
    "inference.api.budget": "input-budgets",
    "inference.api.webhook": "webhooks",
    "inference.api.file": "files",
    "inference.api.retention": "retention",
    "billing.api.price": "prices",
    "billing.api.prepaid": "wallet",
    "billing.api.wallet": "wallet",
    "billing.api.usage": "usage",
    "billing.api.receipt": "receipts",
    "billing.api.invoice": "invoices",
    "billing.api.payout": "payouts",
    "billing.api.royalty": "royalties",
}
# What only nodes call, with a certificate, and only gateways.
_INNER = ("/api/node/", "/api/gateway/")
_VERBS = {"get": "read", "put": "put", "post": "create", "patch": "change", "delete": "delete"}

Schema = dict[str, Any]
Endpoint = tuple[str, str, str, Callable[..., Any]]


class CodeSchema(AutoSchema):
    """An operation as its view's code tells it."""

    def get_tags(self) -> list[str]:
        """The area of the operation."""
        module = type(self.view).__module__
        return [AREAS.get(module, module.rpartition(".")[2])]

    def get_operation_id(self) -> str:
        """The verb and the address's words; unlike for every address and method."""
        words = [one.strip("{}") for one in self.path.removeprefix("/api/").split("/")]
        named = "_".join(words).replace("-", "_")
        return f"{_VERBS[self.method.lower()]}_{named}"

    def get_auth(self) -> list[dict[str, list[str]]]:
        """A token; some addresses answer without one, too."""
        is_open = any(isinstance(one, AllowAny) for one in self.view.get_permissions())
        return [{"token": []}, {}] if is_open else [{"token": []}]

    def get_override_parameters(self) -> list[Any]:
        """What the view reads of the query and of headers of its own."""
        reading = _read(self.view, self.method)
        query = [OpenApiParameter(one, str, "query") for one in sorted(reading.query)]
        return query + [OpenApiParameter(one, str, "header") for one in sorted(reading.headers)]

    def get_request_serializer(self) -> Any:
        """The serializer of the body, or what the view reads of it."""
        reading = _read(self.view, self.method)
        members: Schema
        if reading.is_form:
            part = {"type": "string", "format": "binary"}
            members = {name: {"type": "string"} for name in sorted(reading.body_members)}
            members["content"] = part
            return {"multipart/form-data": {"type": "object", "properties": members}}
        if reading.is_stream:
            return {"application/octet-stream": {"type": "string", "format": "binary"}}
        if reading.body:
            return _extend(reading.body, frozenset(reading.body_members))
        if not reading.body_members:
            return None
        members = {name: {} for name in sorted(reading.body_members)}
        return {"application/json": {"type": "object", "properties": members}}

    def get_response_serializers(self) -> Any:
        """The statuses of success, each with the members that its answer begins with."""
        reading = _read(self.view, self.method)
        schema: Schema = {"type": "object"}
        if reading.answer_members:
            schema["properties"] = {name: {} for name in reading.answer_members}
        empty = OpenApiResponse(description="Done; there is nothing to say.")
        told = OpenApiResponse(response=schema, description="As asked for.")
        return {status: empty if status == 204 else told for status in sorted(reading.statuses)}


def leave_out_nodes(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Hook of the generator: what people and their programs may call."""
    return [one for one in endpoints if not one[0].startswith(_INNER)]


def finish(result: Schema, **_: Any) -> Schema:
    """Hook of the generator: who may call, and how everything is refused."""
    components = result.setdefault("components", {})
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    components.setdefault("schemas", {})["Problem"] = _describe_problem()
    refused = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for item in result["paths"].values():
        for method in _VERBS:
            if method in item:
                item[method]["responses"]["default"] = {
                    "description": "A refusal, with its status and its code.",
                    "content": refused,
                }
    return result


def _describe_problem() -> Schema:
    text, number = {"type": "string"}, {"type": "integer"}
    members: Schema = dict.fromkeys(("type", "title", "code", "detail", "request_id"), text)
    fault = {"type": "object", "properties": {"pointer": text, "detail": text}}
    members |= {"status": number, "retry_after_s": number}
    members["errors"] = {"type": "array", "items": fault}
    required = ["type", "title", "status", "code", "detail", "request_id"]
    return {"type": "object", "properties": members, "required": required}


class _Reading:
    """What a method and the functions of its module that it calls say."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        # A class of serializers.
        self.body: Any = None
        self.body_members: set[str] = set()
        self.query: set[str] = set()
        self.headers: set[str] = set()
        # The view hands the body on as it comes.
        self.is_stream = False
        # The body is a form with a file.
        self.is_form = False
        self.statuses: set[int] = set()
        self.answer_members: list[str] = []
        self._seen: set[str] = set()

    def read(self, function: Callable[..., Any]) -> None:
        """Follow a function of the module."""
        if function.__qualname__ in self._seen:
            return
        self._seen.add(function.__qualname__)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                self._read_call(node)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                self._note(ast.unparse(node.value), str(node.slice.value))

    def _read_call(self, call: ast.Call) -> None:
        name = ast.unparse(call.func)
        target = getattr(self.module, name, None)
        for source in _list_sources(call):
            self._read_parser(target, source)
        self.is_stream |= any(
            one.arg == "stream" and ast.unparse(one.value) == "request._request"
            for one in call.keywords
        )
        if name == "fields.get" and call.args and isinstance(call.args[0], ast.Constant):
            self.is_form = True
            self.body_members.add(str(call.args[0].value))
        if name.startswith("request.") and name.endswith(".get"):
            place = call.args[0] if call.args else None
            if isinstance(place, ast.Constant):
                self._note(name.removesuffix(".get"), str(place.value))
        if name == "Response":
            self._read_answer(call)
        elif inspect.isfunction(target) and target.__module__ == self.module.__name__:
            self.read(target)

    def _read_parser(self, target: Any, source: str) -> None:
        """A serializer or a form that is given the body or the query."""
        if not isinstance(target, type):
            return
        if issubclass(target, BaseSerializer):
            if source == "request.data":
                self.body = target
            elif source == "request.query_params":
                self.query |= set(getattr(target(), "fields", ()))
        elif issubclass(target, BaseForm):
            for name in getattr(target, "base_fields", ()):
                self._note(source, name)

    def _note(self, source: str, member: str) -> None:
        if source == "request.query_params":
            self.query.add(member)
        elif source == "request.data":
            self.body_members.add(member)
        elif source == "request.headers":
            self.headers.add(member)

    def _read_answer(self, call: ast.Call) -> None:
        statuses = [one.value for one in call.keywords if one.arg == "status"]
        self.statuses |= {
            one.value
            for status in statuses
            for one in ast.walk(status)
            if isinstance(one, ast.Constant) and isinstance(one.value, int)
        } or {200}
        if call.args:
            for member in _list_members(call.args[0], self.module):
                if member not in self.answer_members:
                    self.answer_members.append(member)


@functools.cache
def _extend(body: Any, members: frozenset[str]) -> Any:
    """The serializer with the members that the view reads beside it."""
    further = sorted(members - set(body().fields))
    if not further:
        return body
    return type(body)(body.__name__, (body,), {name: CharField() for name in further})


def _list_sources(call: ast.Call) -> Iterator[str]:
    """What a parser is given: its first argument, or `data`."""
    yield from (ast.unparse(one) for one in call.args[:1])
    yield from (ast.unparse(one.value) for one in call.keywords if one.arg == "data")


def _list_members(node: ast.expr, module: ModuleType) -> list[str]:
    """The names that an answer has at its top, as far as they stand in the code."""
    if isinstance(node, ast.Dict):
        return [str(one.value) for one in node.keys if isinstance(one, ast.Constant)]
    if isinstance(node, ast.BinOp):
        return _list_members(node.left, module) + _list_members(node.right, module)
    if not isinstance(node, ast.Call):
        return []
    target = getattr(module, ast.unparse(node.func), None)
    if not inspect.isfunction(target):
        return []
    tree = ast.parse(textwrap.dedent(inspect.getsource(target)))
    home = inspect.getmodule(target) or module
    returned = [one.value for one in ast.walk(tree) if isinstance(one, ast.Return) and one.value]
    return [member for value in returned for member in _list_members(value, home)]


def _read(view: Any, method: str) -> _Reading:
    module = inspect.getmodule(type(view))
    assert module is not None
    reading = _Reading(module)
    reading.read(getattr(type(view), method.lower()))
    reading.statuses = reading.statuses or {200}
    return reading
