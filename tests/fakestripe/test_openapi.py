from __future__ import annotations

import copy
import json

import pytest

from fakestripe import openapi, routes
from fakestripe.contract import Contract
from fakestripe.errors import ApiError


def test_the_description_is_the_file_that_stripe_published():
    document = openapi.load_official()

    assert openapi.git_blob_sha1(document) == "46a756853037a268164656fe0f939477e5fa35e7"
    assert document["info"]["version"] == "2026-05-27.dahlia"
    assert len(document["paths"]) == 437
    assert len(document["components"]["schemas"]) == 1_578


def test_a_changed_description_is_refused(monkeypatch):
    document = copy.copy(openapi.load_official())
    document["info"] = {**document["info"], "title": "Other"}

    class Module:
        sspec = document

    monkeypatch.setattr(openapi, "_load_source", lambda _path: Module)
    with pytest.raises(openapi.SpecificationError, match="not the file Stripe published"):
        openapi.load_official()


def test_the_converted_form_is_read_from_its_cache(tmp_path, monkeypatch):
    first = openapi.load_converted(tmp_path)

    def refuse():
        raise AssertionError("converted again")

    monkeypatch.setattr(openapi, "load_official", refuse)

    assert openapi.load_converted(tmp_path) == first
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_nullable_becomes_a_type_of_json_schema():
    convert = openapi._json_schema

    assert convert({"type": "string", "nullable": True}) == {"type": ["string", "null"]}
    assert convert({"type": "string", "enum": ["a"], "nullable": True}) == {
        "type": ["string", "null"],
        "enum": ["a", None],
    }
    assert convert({"$ref": "#/x", "nullable": True}) == {
        "anyOf": [{"$ref": "#/x"}, {"type": "null"}]
    }


def test_objects_that_list_their_properties_are_closed_at_every_depth():
    node = {"type": "object", "properties": {"description": {"properties": {"a": {}}}}}

    assert openapi._json_schema(node) == {
        "type": "object",
        "properties": {"description": {"properties": {"a": {}}, "additionalProperties": False}},
        "additionalProperties": False,
    }


def test_every_address_that_is_answered_is_one_of_stripes(contract: Contract):
    known = {(operation.method, operation.path) for operation in contract._operations}

    assert set(routes.HANDLERS) - known == set()


def test_account_links_of_the_later_version_pass_too(contract):
    operation, _ids = contract.find("POST", "/v2/core/account_links")
    onboarding = {"refresh_url": "https://a.example", "return_url": "https://a.example"}
    body = {
        "account": "acct_1",
        "use_case": {"type": "account_onboarding", "account_onboarding": onboarding},
    }
    assert contract.parse_input(operation, json.dumps(body)) == body

    onboarding["bogus"] = "1"

    with pytest.raises(ApiError, match=r"account_onboarding\]\[bogus\]"):
        contract.parse_input(operation, json.dumps(body))
