"""The description of the gateway against its code: every route, every error, nothing else."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import jsonschema
import pytest

from inference.gateway import app, openapi
from inference.gateway.errors import NotOfferedError
from inference.gateway.http import _PROTOCOLS
from inference.gateway.protocols.openai import _CODES
from inference.gateway.protocols.pull import SlotBusyError
from inference.gateway.route_name import _ROUTES
from inference.triton import media, tensors
from marketplace.core.errors import MarketplaceError

DOCUMENT = openapi.describe("https://gateway.example")
METHODS = ("get", "post", "put", "patch", "delete")
# Raised through a variable, or only where all other errors end.
INDIRECT = {"concurrency_limited", "internal", "receipt_pending"}


def list_operations(document):
    """Each as (method, path, what is said of it)."""
    return [
        (method.upper(), path, item[method])
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]


OPERATIONS = list_operations(DOCUMENT)


def test_every_route_is_described():
    described = {re.sub(r"\{[a-z]+\}", "*", path) for path in DOCUMENT["paths"]}

    # What is called by gRPC is described by its .proto.
    # What nodes call is no business of consumers.
    others = ("grpc", "pull")
    by_http = [route for route in _ROUTES if _PROTOCOLS.get(route[0]) not in others]
    assert described == {"/" + "/".join(route) for route in by_http}


def list_raised_codes():
    """Of all errors that the modules of the gateway make, by their names in the source."""

    def subclasses(base):
        for one in base.__subclasses__():
            yield one
            yield from subclasses(one)

    classes = {one.__name__: one for one in subclasses(MarketplaceError)}
    folder = Path(inspect.getfile(app)).parent
    codes = set()
    for path in [*folder.rglob("*.py"), *map(Path, map(inspect.getfile, (tensors, media)))]:
        for node in ast.walk(ast.parse(path.read_text())):
            made = node.exc if isinstance(node, ast.Raise) else getattr(node, "func", None)
            if isinstance(made, ast.Name) and made.id in classes:
                codes.add(classes[made.id].code)
    return codes


def test_every_error_is_described():
    # A busy slot is told to nodes alone.
    by_http = list_raised_codes() - {NotOfferedError.code, SlotBusyError.code}
    assert {one.code for one in openapi.ERRORS} == by_http | INDIRECT
    schemas = DOCUMENT["components"]["schemas"]
    codes = schemas["Problem"]["properties"]["code"]["enum"]
    assert set(codes) == {one.code for one in openapi.ERRORS}
    openai = schemas["OpenAIError"]["properties"]["error"]["properties"]["code"]["enum"]
    assert set(openai) == set(codes) | set(_CODES.values())


def test_what_predicts_can_be_refused_with_every_status():
    statuses = {str(one.http_status) for one in openapi.ERRORS}
    posts = [one for method, path, one in OPERATIONS if method == "POST" and "cancel" not in path]

    assert len(posts) == 14
    for one in posts:
        assert {status for status in one["responses"] if status >= "400"} == statuses


def test_description_is_openapi_and_its_references_lead_somewhere():
    names = [one["operationId"] for _, _, one in OPERATIONS]
    assert len(set(names)) == len(names)
    for reference in re.findall(r'"\$ref":"#/([^"]+)"', openapi.render("https://x").decode()):
        place = DOCUMENT
        for step in reference.split("/"):
            place = place[step]
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_path_parameters_are_those_of_the_path():
    for path, item in DOCUMENT["paths"].items():
        named = {one["name"] for one in item.get("parameters", []) if one["in"] == "path"}
        assert named == set(re.findall(r"\{([a-z]+)\}", path)), path


@pytest.mark.django_db(transaction=True)
def test_description_is_served_to_everybody(shop):
    response = shop.client("").get("/openapi.json")

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == DOCUMENT


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("_method", "_path", "_described"), OPERATIONS)
def test_every_described_address_is_there_and_asks_for_a_key(shop, _method, _path, _described):
    """What is there asks for a key first; only what needs none answers without."""
    path = re.sub(r"\{[a-z]+\}", "a", _path)

    with_none = shop.client("").request(_method, path)
    with_key = shop.client().request(_method, path)

    needs_key = _described.get("security", [{}]) not in ([], [{"operator": []}, {}])
    assert (with_none.status_code == 401) == needs_key
    assert str(with_key.status_code) in _described["responses"]
    assert with_key.status_code != 405
    # Every other method is none: 405, or 404 where nothing is answered.
    for other in {"GET", "POST", "DELETE"} - {_method.upper()}:
        if other.lower() not in DOCUMENT["paths"][_path]:
            assert shop.client().request(other, path).status_code in (404, 405), other


def test_description_that_lies_is_noticed(monkeypatch):
    monkeypatch.setattr(openapi, "ERRORS", openapi.ERRORS[:-1])
    with pytest.raises(AssertionError):
        test_every_error_is_described()
    monkeypatch.delitem(DOCUMENT["paths"], "/v2")
    with pytest.raises(AssertionError):
        test_every_route_is_described()
