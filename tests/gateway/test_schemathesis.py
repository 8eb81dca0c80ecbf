"""The running gateway against its own description: statuses, content types, headers, schemas.

Schemathesis makes requests from the description, right ones and wrong ones, and judges every
answer by it. To each address goes a request that succeeds as well, so that what is said of
successes is judged too.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from inference.gateway import openapi
from strongroom.sealing.canonical import encode_base64
from strongroom.sealing.signature import generate_signing_key
from tests.billing.sealing import seal_all
from tests.gateway.conftest import PRICE_NANOS, X, predict
from tests.gateway.hostile import fuzz

pytestmark = pytest.mark.django_db(transaction=True)

DOCUMENT = openapi.describe("https://gateway.example")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
TENSOR = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}
MESSAGE = {"role": "user", "content": "hello"}
# By path: a body that is answered with success.
RIGHT = {
    "/v1/price": {"version": "maker/echo", "input": {"x": X}},
    "/v1/predictions": {"version": "maker/echo", "input": {"x": X}},
    "/v1/models/{owner}/{name}/predictions": {"input": {"x": X}},
    "/v2/models/{owner}/{name}/infer": {"inputs": [TENSOR]},
    "/v2/models/{owner}/{name}/versions/{version}/infer": {"inputs": [TENSOR]},
    "/v2/models/{owner}/{name}/generate": {"text_input": "a text"},
    "/v2/models/{owner}/{name}/generate_stream": {"text_input": "a text"},
    "/v2/models/{owner}/{name}/versions/{version}/generate": {"text_input": "a text"},
    "/v2/models/{owner}/{name}/versions/{version}/generate_stream": {"text_input": "a text"},
    "/openai/v1/embeddings": {"model": "maker/vectors", "input": ["a text"]},
    "/openai/v1/completions": {"model": "maker/writer", "prompt": "a text"},
    "/openai/v1/chat/completions": {"model": "maker/writer", "messages": [MESSAGE]},
    "/mcp": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "run_model",
            "arguments": {"model": "maker/echo", "input": {"x": X}},
        },
    },
}
NAMES = {"owner": "maker", "name": "echo", "version": "1", "reference": "maker/echo"}
OPERATIONS = [
    (path, method)
    for path, item in DOCUMENT["paths"].items()
    for method in ("get", "post")
    # Files are answered by the site; see test_files.py.
    if method in item and not path.startswith("/v1/files")
]


@pytest.fixture
def market(language, teller, settings):
    """The shop with all its models."""
    settings.RECEIPT_KEY = encode_base64(generate_signing_key())
    return teller


@pytest.fixture
def session(shop):
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {shop.key.text}"
        yield session


def operation_of(document: dict[str, Any], path: str, method: str):
    return schemathesis.openapi.from_dict(document)[path][method]


def send(case, shop, session):
    """The request and the judgement of its answer."""
    response = case.call(base_url=shop.url, session=session)
    is_wanted = is_asked_for(case, response)
    case.validate_response(response, checks=CHECKS[1:] if is_wanted else CHECKS)
    return response


def is_asked_for(case, response) -> bool:
    """Whether the fault lies in the request, though the gateway cannot say so beforehand."""
    if response.status_code == 504:
        # Who gives a prediction a millisecond is told that it was not enough.
        return "X-Request-Timeout-Ms" in (case.headers or {})
    # The models of the tests say what they hear, and an answer with a NUL cannot be kept.
    is_nul = response.status_code == 500 and "a NUL character" in response.text
    return is_nul and "\\u0000" in json.dumps(case.body)


def ids_of(path: str, prediction_id: str) -> dict[str, str]:
    known = {**NAMES, "id": prediction_id}
    if "generate" in path:
        # The one that answers in pieces too.
        known["name"] = "teller"
    return {name: known[name] for name in re.findall(r"\{([a-z]+)\}", path)}


def succeed(document, path, method, shop, session):
    """A request that is right."""
    prediction_id = predict(shop.client()).json()["id"]
    if path.endswith("receipt"):
        seal_all()
    case = operation_of(document, path, method).Case(path_parameters=ids_of(path, prediction_id))
    if path in RIGHT and method == "post":
        case.body, case.media_type = RIGHT[path], "application/json"
    return send(case, shop, session)


@pytest.mark.parametrize(("_path", "_method"), OPERATIONS)
def test_success_is_as_described(market, session, _path, _method):
    assert succeed(DOCUMENT, _path, _method, market, session).status_code in (200, 201)


def can_be_wrong(path: str, method: str) -> bool:
    """Whether the request has any part; without one there is nothing to send but the request."""
    item = DOCUMENT["paths"][path]
    return "parameters" in item or not item[method].keys().isdisjoint({"parameters", "requestBody"})


MODES = [
    (path, method, mode)
    for path, method in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or can_be_wrong(path, method)
]


@pytest.mark.parametrize(("_path", "_method", "_mode"), MODES)
def test_every_answer_is_as_described(market, session, _path, _method, _mode):
    market.fund(1000 * PRICE_NANOS)
    operation = operation_of(DOCUMENT, _path, _method)

    # A cancellation of what nobody knows waits for the other gateways.
    @settings(fuzz, max_examples=2 if _path.endswith("cancel") else 15)
    @given(operation.as_strategy(generation_mode=_mode))
    def check(case):
        send(case, market, session)
        # Once more at a model that is there.
        case.path_parameters = {**case.path_parameters, **ids_of(_path, "a" * 26)}
        send(case, market, session)

    check()


def _forget_status(document):
    del document["paths"]["/v1/predictions/{id}"]["get"]["responses"]["404"]
    return "/v1/predictions/{id}", "get", False


def _require_a_member(document):
    document["components"]["schemas"]["Prediction"]["required"].append("more")
    return "/v1/models/{owner}/{name}/predictions", "post", True


def _change_type(document):
    document["components"]["schemas"]["ModelMetadata"]["properties"]["versions"] = {
        "type": "string"
    }
    return "/v2/models/{owner}/{name}", "get", True


def _change_content_type(document):
    answer = document["components"]["responses"]["Problem404"]
    answer["content"] = {"application/json": {"schema": {}}}
    return "/v1/predictions/{id}", "get", False


def _require_a_header(document):
    document["components"]["headers"]["X-Request-Id"]["schema"] = {"type": "integer"}
    return "/v1/account", "get", True


@pytest.mark.parametrize(
    "_lie",
    [_forget_status, _require_a_member, _change_type, _change_content_type, _require_a_header],
)
def test_description_that_lies_is_caught(market, session, _lie):
    document = copy.deepcopy(DOCUMENT)
    path, method, is_right = _lie(document)

    def judge():
        if is_right:
            return succeed(document, path, method, market, session)
        case = operation_of(document, path, method).Case(path_parameters={"id": "a" * 26})
        return send(case, market, session)

    with pytest.raises(FailureGroup):
        judge()
