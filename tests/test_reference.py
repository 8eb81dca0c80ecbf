"""The documents that the documentation shows are those that the code makes today."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re

import jsonschema
import pytest
from django.core.management import call_command
from django.urls import get_resolver
from rest_framework.serializers import Serializer

import billing.api
import inference.api
import marketplace.api
from inference.gateway import openapi
from inference.management.commands import write_reference
from inference.management.commands.write_reference import list_errors, make_reference
from inference.selectors.remedies import REMEDIES
from marketplace.core.errors import MarketplaceError
from marketplace.selectors.docs import REFERENCE, load_docs
from tests.test_docs import list_error_codes

NAMES = ("gateway", "management", "errors", "reasons")


def read(name):
    return json.loads((REFERENCE / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def made():
    return json.loads(json.dumps(make_reference()))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_what_the_code_makes(name, made):
    """Where this fails: `manage.py write_reference`, and look at what it changed."""
    assert read(name) == made[name]


def test_control_a_new_error_is_noticed():
    class NewError(MarketplaceError):
        code = "quite_new"

    # As if it were of the product.
    NewError.__module__ = "marketplace.errors"
    try:
        assert "quite_new" in {one["code"] for one in list_errors()}
        assert read("errors") != list_errors()
    finally:
        NewError.__module__ = __name__
    assert "quite_new" not in {one["code"] for one in list_errors()}


def test_the_command_writes_what_is_kept(tmp_path):
    call_command("write_reference", folder=tmp_path, verbosity=0)

    for name in NAMES:
        assert (tmp_path / f"{name}.json").read_text() == (REFERENCE / f"{name}.json").read_text()


def test_the_errors_are_the_projects_complete_list():
    codes = [one["code"] for one in read("errors")]

    assert len(codes) == len(set(codes))
    assert set(codes) == list_error_codes() | {MarketplaceError.code}
    assert {one.code for one in openapi.ERRORS} <= set(codes)
    assert read("reasons") == dict(REMEDIES)


@pytest.mark.parametrize(
    ("page", "name"), [("consumers/errors", "errors"), ("creators/onboarding", "reasons")]
)
def test_the_page_shows_every_code(page, name):
    html = next(one for one in load_docs().pages if one.url == f"/docs/{page}").guide.html
    shown = re.findall(r"<tr>\s*<td><code>([a-z_0-9]+)</code>", html)

    listed = read(name)
    wanted = [one["code"] for one in listed] if name == "errors" else list(listed)
    assert [one for one in shown if one in set(wanted)][-len(wanted) :] == wanted


# --- The management API


def list_api_paths():
    """Every address below /api that is not for nodes, as the document writes it."""
    found = set()
    for resolver in get_resolver().url_patterns:
        if not str(resolver.pattern).startswith("api/"):
            continue
        for pattern in resolver.url_patterns:
            path = "/api/" + re.sub(r"<\w+:(\w+)>", r"{\1}", str(pattern.pattern))
            if not path.startswith(("/api/node/", "/api/gateway/")):
                found.add((path, pattern.callback.view_class))
    return found


def test_every_address_and_method_is_described():
    paths = read("management")["paths"]
    wanted = {
        (path, method)
        for path, view in list_api_paths()
        for method in ("get", "post", "put", "patch", "delete")
        if hasattr(view, method)
    }

    assert {(path, method) for path, item in paths.items() for method in item} == wanted
    assert len(wanted) > 80


def list_serializers():
    """Names of all that reads a body, but for those of nodes."""
    found = set()
    for package in (marketplace.api, inference.api, billing.api):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.name == "inference.api.node":
                continue
            for one in vars(importlib.import_module(module.name)).values():
                if isinstance(one, type) and issubclass(one, Serializer) and one is not Serializer:
                    found.add(one)
    return found


def test_every_serializer_is_that_of_an_operation():
    schemas = read("management")["components"]["schemas"]
    bases = {base for one in list_serializers() for base in one.__mro__[1:]}
    leaves = {one.__name__.removesuffix("Serializer") for one in list_serializers() - bases}

    # Reads the query.
    assert (
        leaves
        - {"DeliveryQuery", "EarningsInput"}
        - {name.removeprefix("Patched") for name in schemas}
        == set()
    )


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "statuses"),
    [
        ("get", "/api/models", {"owner", "page"}, set(), {"200"}),
        ("put", "/api/models/{owner}/{name}", set(), {"title", "card"}, {"200", "201"}),
        ("get", "/api/earnings", {"account", "since", "until", "by"}, set(), {"200"}),
        ("get", "/api/usage", {"account", "cursor", "tag"}, set(), {"200"}),
        ("post", "/api/refunds", set(), {"account", "amount_cents"}, {"201"}),
        ("post", "/api/cards", set(), {"account"}, {"201"}),
        ("put", "/api/tax-details", {"account"}, {"line1", "country"}, {"200"}),
        ("delete", "/api/keys/{key_id}", set(), set(), {"204"}),
        ("post", "/api/uploads/{upload_id}/complete", set(), {"manifest"}, {"202"}),
    ],
)
def test_an_operation_takes_and_answers_what_its_view_does(method, path, query, body, statuses):
    document = read("management")
    said = document["paths"][path][method]
    schema = next(iter(said.get("requestBody", {"content": {"": {}}})["content"].values()))
    schema = schema.get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]

    queried = {one["name"] for one in said.get("parameters", []) if one["in"] == "query"}
    assert query <= queried if query else queried == set()
    assert body <= set(schema.get("properties", {}))
    assert bool(body) == bool(schema)
    assert set(said["responses"]) == statuses | {"default"}


def test_a_part_is_sent_as_it_is_with_its_checksum():
    said = read("management")["paths"]["/api/uploads/{upload_id}/files/{file_index}/parts/{part}"][
        "put"
    ]

    assert set(said["requestBody"]["content"]) == {"application/octet-stream"}
    assert {"X-Part-SHA256"} == {one["name"] for one in said["parameters"] if one["in"] == "header"}


@pytest.mark.parametrize("name", ["gateway", "management"])
def test_a_document_is_one_and_its_references_lead_somewhere(name):
    document = read(name)
    text = json.dumps(document)

    assert document["openapi"].startswith("3.1")
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', text):
        place = document
        for step in reference.split("/"):
            place = place[step]
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    names = re.findall(r'"operationId": "([^"]+)"', text)
    assert len(names) == len(set(names))


def test_control_a_view_that_is_not_described_is_noticed(monkeypatch):
    monkeypatch.setattr(write_reference, "REFERENCE", REFERENCE)
    document = read("management")
    del document["paths"]["/api/wallet"]
    monkeypatch.setitem(globals(), "read", lambda _: document)

    with pytest.raises(AssertionError):
        test_every_address_and_method_is_described()
