"""The gateway's addresses as an OpenAPI 3.1 document, served at `/openapi.json`.

Written by hand where it says what a caller may send and gets; the refusals and their statuses
come from the error classes themselves. Tests hold it to the table of routes, to the errors that
the code raises, and to what the running gateway answers.

Source: OpenAPI Specification 3.1; RFC 9457; Open Inference Protocol, REST; OpenAI API reference.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from inference.broker.job import Priority
from inference.core.calling import URL_LENGTH_MAX
from inference.gateway import config, errors
from inference.gateway.database import DatabaseUnavailableError
from inference.gateway.protocols import mcp_message, mcp_tools, native_async
from inference.triton import errors as triton_errors
from marketplace.core import errors as core_errors
from marketplace.core.errors import MarketplaceError
from marketplace.core.problem import CONTENT_TYPE as PROBLEM
from marketplace.core.receipt import ReceiptPendingError
from marketplace.core.tag import TAG_CHARACTERS, TAG_LENGTH_MAX

Document = dict[str, Any]

_JSON, _OCTETS, _EVENTS = "application/json", "application/octet-stream", "text/event-stream"
# Everything that a request can be refused with; 500 `internal` stands for faults of ours.
ERRORS: Sequence[type[MarketplaceError]] = (
    MarketplaceError,
    DatabaseUnavailableError,
    errors.JobQueueFullError,
    core_errors.AccountFrozenError,
    core_errors.AuthenticationError,
    core_errors.BadRequestError,
    core_errors.DeadlineError,
    core_errors.ForbiddenError,
    core_errors.InsufficientCreditError,
    core_errors.InvalidInputError,
    core_errors.MethodNotAllowedError,
    core_errors.NetworkNotAllowedError,
    core_errors.NotFoundError,
    core_errors.PayloadTooLargeError,
    errors.AccountSuspendedError,
    errors.BookingUnknownError,
    errors.BudgetExceededError,
    errors.CanceledError,
    errors.CapacityError,
    errors.ClientGoneError,
    errors.ConcurrencyLimitedError,
    errors.DeadlineInvalidError,
    errors.FilesUnavailableError,
    errors.EventIdInvalidError,
    errors.IdempotencyInFlightError,
    errors.IdempotencyMismatchError,
    errors.InvoicePastDueError,
    errors.KeyModeForbiddenError,
    errors.MaximumCostError,
    errors.ModelNotAllowedError,
    errors.ModelWakingError,
    errors.NoNodeLargeEnoughError,
    errors.OutputRemovedError,
    errors.ParameterError,
    errors.PriceUnboundedError,
    errors.QueryBudgetExceededError,
    errors.QueryBudgetSpentError,
    errors.RateLimitedError,
    errors.RequestTimeoutError,
    errors.StreamBrokenError,
    errors.StreamKeyedError,
    errors.StreamLinkError,
    errors.StreamLinkExpiredError,
    errors.StreamRestartedError,
    errors.TagInvalidError,
    errors.UnitsExceedLimitError,
    errors.UnsupportedParameterError,
    errors.WakeQueueFullError,
    triton_errors.ModelExecutionError,
    triton_errors.ModelNotReadyError,
    triton_errors.OutputError,
    triton_errors.MediaTooLargeError,
    triton_errors.QueueFullError,
    triton_errors.TensorError,
    triton_errors.TritonUnavailableError,
    ReceiptPendingError,
)
# What a request that runs nothing can be refused with.
_READING = frozenset({400, 401, 403, 404, 405, 429, 500, 503})


@functools.cache
def render(gateway_url: str) -> bytes:
    """The document as it is served."""
    return orjson.dumps(describe(gateway_url))


def describe(gateway_url: str) -> Document:
    """The whole document.

    Args:
        gateway_url: Under which the gateway is reached from outside.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Strongroom gateway",
            "version": "1",
            "description": "Predictions of models whose weights stay sealed. See docs/api.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": gateway_url}],
        "security": [{"key": []}],
        "tags": [{"name": name} for name in ("native", "oip", "openai", "mcp", "operations")],
        "paths": {**_native(), **_oip(), **_openai(), **_mcp(), **_operations()},
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
                "operator": {"type": "http", "scheme": "bearer"},
            },
            "headers": _HEADERS_BY_NAME,
            "responses": _list_refusals(),
            "schemas": _schemas(),
        },
    }


# --- Addresses ---


def _native() -> Document:
    model, version = [_path("owner"), _path("name")], _path("version", _TEXT)
    one = _path("id", _PUBLIC_ID)
    query = [_query("created_after", _MOMENT), _query("created_before", _MOMENT)]
    wait = "wait(=[1-9][0-9]?)?"
    create: Document = {
        "parameters": [
            _header("Prefer", f"^({wait}|respond-async(, ?{wait})?)$"),
            _header("X-Strongroom-Retry", "^(always|never)$"),
            *_PREDICTING,
        ],
        "problem": _refusals("Problem"),
        "beside": _EVENTS,
    }
    get: Document = {"problem": _refusals("Problem", _READING)}
    made = {201: "Prediction", 202: "Prediction"}
    return {
        "/v1/predictions": {
            "get": _operation(
                "listPredictions",
                "native",
                {200: "PredictionPage"},
                parameters=[*query, _query("cursor", _TEXT)],
                **get,
            ),
            "post": _operation("createPrediction", "native", made, body="VersionedInput", **create),
        },
        "/v1/predictions/{id}": {
            "parameters": [one],
            "get": _operation("getPrediction", "native", {200: "Prediction"}, **get),
        },
        "/v1/predictions/{id}/cancel": {
            "parameters": [one],
            "post": _operation("cancelPrediction", "native", {200: "Prediction"}, **get),
        },
        "/v1/predictions/{id}/receipt": {
            "parameters": [one],
            "get": _operation(
                "getReceipt",
                "native",
                {200: "Receipt"},
                problem=_refusals("Problem", _READING | {ReceiptPendingError.http_status}),
            ),
        },
        "/v1/predictions/{id}/stream": {
            "parameters": [one],
            "get": _watch_only(
                _operation(
                    "watchPrediction",
                    "native",
                    {},
                    parameters=[
                        _query("events", {"enum": ["all", "output"]}),
                        # Of the address that the prediction names; with them it needs no key.
                        _query("expires", {"type": "string", "pattern": "^[0-9]{1,12}$"}),
                        _query("signature", {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"}),
                        _header(
                            "Last-Event-ID", r"^[a-z2-7]{26}(\.[0-9a-f]+){2}\.(end|[0-9a-f]{8})$"
                        ),
                    ],
                    problem=_refusals(
                        "Problem", _READING | {errors.OutputRemovedError.http_status}
                    ),
                )
            ),
        },
        "/v1/models/{owner}/{name}": {
            "parameters": model,
            "get": _operation("getModel", "native", {200: "Model"}, **get),
        },
        "/v1/models/{owner}/{name}/predictions": {
            "parameters": model,
            "post": _operation("createModelPrediction", "native", made, body="Input", **create),
        },
        "/v1/models/{owner}/{name}/versions": {
            "parameters": model,
            "get": _operation("listVersions", "native", {200: "VersionPage"}, **get),
        },
        "/v1/models/{owner}/{name}/versions/{version}": {
            "parameters": [*model, version],
            "get": _operation("getVersion", "native", {200: "Version"}, **get),
        },
        **_files(),
        "/v1/price": {
            "post": _operation(
                "getPrice",
                "native",
                {200: "PriceOfPrediction"},
                body="PriceQuestion",
                problem=_refusals("Problem"),
            )
        },
        "/v1/hardware": {"get": _operation("listHardware", "native", {200: "HardwareList"}, **get)},
        "/v1/account": {"get": _operation("getAccount", "native", {200: "Account"}, **get)},
    }


def _files() -> Document:
    """What the site keeps; it refuses with codes of its own, too."""
    every: Document = {"problem": _refusals("FileProblem")}
    put = _operation("createFile", "native", {201: "File"}, **every)
    fields = {
        **dict.fromkeys(("filename", "type", "expires_in"), _STRING),
        "content": {"type": "string", "format": "binary"},
    }
    put["requestBody"] = {
        "required": True,
        "content": {"multipart/form-data": {"schema": _object("content", **fields)}},
    }
    end = _operation("deleteFile", "native", {}, **every)
    end["responses"]["204"] = {"description": "It is gone.", "headers": _HEADERS}
    content = _operation("getFileContent", "native", {}, **every)
    content["responses"]["307"] = {
        "description": "It is at another address, which needs no key.",
        "headers": {**_HEADERS, "Location": {"required": True, "schema": _STRING}},
    }
    one = _path("id", {"type": "string", "pattern": "^file_[a-z2-7]{26}$"})
    return {
        "/v1/files": {
            "get": _operation(
                "listFiles",
                "native",
                {200: "FilePage"},
                parameters=[_query("before", _TEXT)],
                **every,
            ),
            "post": put,
        },
        "/v1/files/{id}": {
            "parameters": [one],
            "get": _operation("getFile", "native", {200: "File"}, **every),
            "delete": end,
        },
        "/v1/files/{id}/content": {"parameters": [one], "get": content},
    }


def _oip() -> Document:
    model, version = [_path("owner"), _path("name")], _path("version", _TEXT)
    binary = _header("Inference-Header-Content-Length", "^[0-9]{1,19}$")
    infer: Document = {
        "problem": _refusals("InferenceError"),
        "body": "InferRequest",
        "parameters": [binary, *_PREDICTING],
        "beside": _OCTETS,
    }
    generate: Document = {
        "problem": _refusals("InferenceError"),
        "body": "GenerateRequest",
        "parameters": _PREDICTING,
    }
    get: Document = {"problem": _refusals("InferenceError", _READING)}
    paths: Document = {
        "/v2": {"get": _public("getServer", "oip", {200: "Server"})},
        "/v2/health/live": {"get": _public("getServerLive", "oip", {200: "ServerLive"})},
        "/v2/health/ready": {
            "get": _public("getServerReady", "oip", {200: "ServerReady", 503: "ServerReady"})
        },
    }
    for suffix, place, more in (("", "", []), ("Version", "/versions/{version}", [version])):
        root, shared = f"/v2/models/{{owner}}/{{name}}{place}", [*model, *more]
        paths |= {
            root: {
                "parameters": shared,
                "get": _operation(f"getTensors{suffix}", "oip", {200: "ModelMetadata"}, **get),
            },
            f"{root}/ready": {
                "parameters": shared,
                "get": _operation(f"getReady{suffix}", "oip", {200: "ModelReady"}, **get),
            },
            f"{root}/infer": {
                "parameters": shared,
                "post": _operation(f"infer{suffix}", "oip", {200: "InferResponse"}, **infer),
            },
            f"{root}/generate": {
                "parameters": shared,
                "post": _operation(
                    f"generate{suffix}", "oip", {200: "GenerateResponse"}, **generate
                ),
            },
            f"{root}/generate_stream": {
                "parameters": shared,
                "post": _stream_only(_operation(f"generateStream{suffix}", "oip", {}, **generate)),
            },
        }
    return paths


def _openai() -> Document:
    get: Document = {"problem": _refusals("OpenAIError", _READING)}
    post: Document = {"problem": _refusals("OpenAIError"), "parameters": _PREDICTING}
    text: Document = {**post, "beside": _EVENTS}
    show = _operation("getOpenAIModel", "openai", {200: "OpenAIModel"}, **get)
    whole = show | {"operationId": "getOpenAIModelByReference"}
    return {
        "/openai/v1/models": {
            "get": _operation("listOpenAIModels", "openai", {200: "OpenAIModelList"}, **get)
        },
        # The slash of a reference may be written as %2F.
        "/openai/v1/models/{reference}": {"parameters": [_path("reference", _TEXT)], "get": whole},
        "/openai/v1/models/{owner}/{name}": {
            "parameters": [_path("owner"), _path("name", _TEXT)],
            "get": show,
        },
        "/openai/v1/embeddings": {
            "post": _operation(
                "createEmbeddings", "openai", {200: "Embeddings"}, body="EmbeddingsRequest", **post
            )
        },
        "/openai/v1/completions": {
            "post": _operation(
                "createCompletion", "openai", {200: "Completion"}, body="CompletionRequest", **text
            )
        },
        "/openai/v1/chat/completions": {
            "post": _operation(
                "createChatCompletion",
                "openai",
                {200: "ChatCompletion"},
                body="ChatRequest",
                **post,
            )
        },
    }


def _mcp() -> Document:
    """One address for all messages; tools and their schemas are told by `tools/list`."""
    told = [
        _header("MCP-Protocol-Version", f"^({'|'.join(mcp_message.HANDSHAKE_VERSIONS)})$"),
        *_PREDICTING[1:],
    ]
    operation = _operation(
        "sendMessage",
        "mcp",
        {200: "MCPReply"},
        body="MCPMessage",
        parameters=told,
        beside=_EVENTS,
        problem=_refusals("MCPReply"),
    )
    operation["responses"]["202"] = {
        "description": "A notification was read; nothing is said to it.",
        "headers": _HEADERS,
    }
    return {"/mcp": {"post": operation}}


def _operations() -> Document:
    readiness = {200: "Health", 503: "Health"}
    metrics = _public("getMetrics", "operations", {})
    metrics["security"] = [{"operator": []}, {}]
    metrics["responses"] = {
        "200": _response("The numbers of this process.", "text/plain", {"type": "string"}),
        **_refusals("Problem", {401}),
    }
    document = _public("getOpenAPI", "operations", {})
    document["responses"]["200"] = _response("This document.", _JSON, {"type": "object"})
    return {
        "/health": {"get": _public("getHealth", "operations", readiness)},
        "/health/live": {"get": _public("getLive", "operations", {200: "Live"})},
        "/health/ready": {"get": _public("getReadiness", "operations", readiness)},
        "/metrics": {"get": metrics},
        "/openapi.json": {"get": document},
    }


# --- Parts of an operation ---

_TEXT: Document = {"type": "string", "minLength": 1, "maxLength": config.REFERENCE_LENGTH_MAX}
_NAME: Document = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,61}[a-z0-9]$"}
_MOMENT: Document = {"type": "string", "format": "date-time"}


def _path(name: str, schema: Document | None = None) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": schema or _NAME}


def _query(name: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "schema": schema}


def _header(name: str, pattern: str) -> Document:
    return {"name": name, "in": "header", "schema": {"type": "string", "pattern": pattern}}


_PREDICTING: Sequence[Document] = [
    _header("Idempotency-Key", f"^[!-~]{{1,{config.IDEMPOTENCY_KEY_LENGTH_MAX}}}$"),
    _header("Cancel-After", "^([0-9]{1,3}h)?([0-9]{1,5}m)?([0-9]{1,6}s?)?$"),
    _header("X-Request-Timeout-Ms", "^[1-9][0-9]{0,8}$"),
    _header("Strongroom-Tag", f"^[{TAG_CHARACTERS}]{{1,{TAG_LENGTH_MAX}}}$"),
]


def _operation(
    name: str,
    tag: str,
    answers: Mapping[int, str],
    *,
    problem: Document,
    body: str = "",
    beside: str = "",
    parameters: Sequence[Document] = (),
) -> Document:
    responses = {
        str(status): _response("As asked for.", _JSON, _ref(schema), beside=beside)
        for status, schema in answers.items()
    }
    operation: Document = {"operationId": name, "tags": [tag], "responses": responses | problem}
    if parameters:
        operation["parameters"] = list(parameters)
    if body:
        content: Document = {_JSON: {"schema": _ref(body)}}
        if beside == _OCTETS:
            # The JSON, and the tensors' octets behind it.
            content[_OCTETS] = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": True, "content": content}
    if tag == "oip":
        operation["security"] = [{"key": []}, {"basic": []}]
    return operation


def _public(name: str, tag: str, answers: Mapping[int, str]) -> Document:
    """An operation that needs no key, and is refused nobody."""
    return _operation(name, tag, answers, problem={}) | {"security": []}


def _response(
    description: str, content_type: str, schema: Document, *, beside: str = ""
) -> Document:
    """An answer; `beside` is the type of its other form, octets or events."""
    content: Document = {content_type: {"schema": schema}}
    if beside:
        content[beside] = {"schema": _ref("Event") if beside == _EVENTS else {"type": "string"}}
    # What a stream costs is known at its end only, and said there.
    headers = {**_HEADERS, "X-Cost-Nano-USD": _COST_AT_END} if beside == _EVENTS else _HEADERS
    return {"description": description, "headers": headers, "content": content}


def _stream_only(operation: Document) -> Document:
    answer = _response("Pieces of the text, and then the rest.", _EVENTS, _ref("Event"))
    answer["headers"] = {**_HEADERS, "X-Cost-Nano-USD": _COST_AT_END}
    operation["responses"]["200"] = answer
    return operation


def _watch_only(operation: Document) -> Document:
    answer = _response("What happens to it, to its end.", _EVENTS, _ref("Event"))
    answer["headers"] = {**_HEADERS, "X-Cost-Nano-USD": _COST_AT_END}
    operation["security"] = [{"key": []}, {}]
    operation["responses"] |= {
        "200": answer,
        "204": {"description": "The end was told already.", "headers": _HEADERS},
    }
    return operation


_PUBLIC_ID: Document = {"type": "string", "pattern": "^[a-z2-7]{26}$"}
_HEADERS_BY_NAME: Document = {
    "X-Request-Id": {"required": True, "schema": _PUBLIC_ID},
    "Inference-Id": {"required": True, "schema": _PUBLIC_ID},
    "X-Cost-Nano-USD": {"required": True, "schema": {"type": "integer", "minimum": 0}},
}
_HEADERS: Document = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS_BY_NAME}
_COST_AT_END: Document = {"schema": {"type": "integer", "minimum": 0}}
# By schema, how a refusal is sent.
_ENVELOPES = {
    "Problem": PROBLEM,
    "FileProblem": PROBLEM,
    "InferenceError": _JSON,
    "OpenAIError": _JSON,
    "MCPReply": _JSON,
}


def _refusals(envelope: str, statuses: Collection[int] = ()) -> Document:
    """A response for each of the statuses, or for all that there are."""
    known = sorted({one.http_status for one in ERRORS})
    return {
        str(status): {"$ref": f"#/components/responses/{envelope}{status}"}
        for status in known
        if not statuses or status in statuses
    }


def _list_refusals() -> Document:
    """By envelope and status, with the codes that it has."""
    codes: dict[int, set[str]] = {}
    for one in ERRORS:
        codes.setdefault(one.http_status, set()).add(one.code)
    return {
        f"{envelope}{status}": _response(
            f"Refused: {', '.join(sorted(codes[status]))}.", content_type, _ref(envelope)
        )
        for envelope, content_type in _ENVELOPES.items()
        for status in sorted(codes)
    }


# --- Schemas ---


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(*required: str, **properties: Any) -> Document:
    """An object; members beyond the named ones may come later."""
    document: Document = {"type": "object", "properties": properties}
    return document | {"required": list(required)} if required else document


def _all(**properties: Any) -> Document:
    """An object that has all of its members always."""
    return _object(*properties, **properties)


def _list(items: Document, **more: Any) -> Document:
    return {"type": "array", "items": items, **more}


def _or_null(schema: Document) -> Document:
    return {"anyOf": [schema, {"type": "null"}]}


_STRING: Document = {"type": "string"}
_INTEGER: Document = {"type": "integer"}
_COUNT: Document = {"type": "integer", "minimum": 0}
_NUMBER: Document = {"type": "number"}
_BOOLEAN: Document = {"type": "boolean"}
_ANY_OBJECT: Document = {"type": "object"}
_CODE: Document = {"type": "string", "enum": sorted({one.code for one in ERRORS})}


def _schemas() -> Document:
    return {
        **_native_schemas(),
        **_oip_schemas(),
        **_openai_schemas(),
        **_mcp_schemas(),
        **_operation_schemas(),
    }


def _native_schemas() -> Document:
    version = _all(id=_STRING, created_at=_MOMENT, cog_version=_STRING, openapi_schema=_ANY_OBJECT)
    page = {"next": _or_null(_STRING), "previous": _or_null(_STRING)}
    given = {
        "input": _ANY_OBJECT,
        "stream": {},
        # Of one that runs later, with the header `Prefer: respond-async`.
        "priority": {"enum": [one.name.lower() for one in Priority]},
        "webhook": _STRING | {"maxLength": URL_LENGTH_MAX},
        "webhook_events_filter": _list({"enum": list(native_async.EVENTS)}),
    }
    metrics = _object(
        *("cost_nano_usd", "predict_time"),
        cost_nano_usd=_COUNT,
        predict_time=_NUMBER,
        total_time=_NUMBER,
    )
    return {
        "Input": _object("input", **given) | {"additionalProperties": False},
        "VersionedInput": _object("version", "input", version=_TEXT, **given)
        | {"additionalProperties": False},
        "Prediction": _all(
            id=_PUBLIC_ID,
            model=_STRING,
            version=_STRING,
            status={"enum": ["starting", "processing", "succeeded", "failed", "canceled"]},
            source={"enum": ["api", "web"]},
            input=_ANY_OBJECT,
            output=_or_null(_ANY_OBJECT),
            logs=_STRING,
            error=_or_null(_STRING),
            data_removed=_BOOLEAN,
            created_at=_MOMENT,
            started_at=_or_null(_MOMENT),
            completed_at=_or_null(_MOMENT),
            deadline=_MOMENT,
            metrics=metrics,
            urls=_all(get=_STRING, cancel=_STRING, web=_STRING, stream=_STRING),
        ),
        "Receipt": _all(
            format=_STRING,
            platform=_STRING,
            model=_STRING,
            charge=_ANY_OBJECT,
            index=_COUNT,
            path=_list(_STRING),
            batch=_ANY_OBJECT,
            signature=_STRING,
            kid=_STRING,
        ),
        "PredictionPage": _all(**page, results=_list(_ref("Prediction"))),
        "Version": version,
        "VersionPage": _all(**page, results=_list(_ref("Version"))),
        "Model": _object(
            *("url", "owner", "name", "visibility", "run_count", "latest_version"),
            url=_STRING,
            owner=_STRING,
            name=_STRING,
            title=_STRING,
            description=_STRING,
            visibility={"enum": ["public", "private"]},
            licence=_STRING,
            run_count=_COUNT,
            created_at=_MOMENT,
            latest_version=_or_null(_ref("Version")),
        ),
        "File": _all(
            **dict.fromkeys(("id", "object", "name", "purpose", "content_type"), _STRING),
            size=_COUNT,
            etag=_STRING,
            checksums=_all(sha256=_STRING),
            metadata=_ANY_OBJECT,
            created_at=_MOMENT,
            expires_at=_MOMENT,
            urls=_all(get=_STRING, content=_STRING),
        ),
        "FilePage": _all(results=_list(_ref("File")), next=_or_null(_STRING)),
        "HardwareList": _list(_all(name=_STRING, sku=_STRING)),
        "PriceQuestion": _object(
            "version",
            version=_STRING,
            input={"type": "object"},
            units={"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
            batch={"type": "boolean"},
        ),
        "PriceOfPrediction": _object(
            *("model", "version", "price_id", "price", "rows", "lines", "maximum_nano_usd"),
            *("estimate_nano_usd", "month", "next_price"),
            model=_STRING,
            version=_STRING,
            price_id=_STRING,
            is_private={"type": "boolean"},
            mode={"enum": ["live", "test"]},
            price={"type": "object"},
            rows=_INTEGER,
            lines=_list(_all(kind=_STRING, units_max=_INTEGER, nano_usd_max=_INTEGER)),
            maximum_nano_usd=_INTEGER,
            estimate_nano_usd=_INTEGER,
            month={"type": ["object", "null"]},
            next_price={"type": ["object", "null"]},
        ),
        "Account": _object(
            *("type", "username"),
            type={"enum": ["user", "organization"]},
            username=_STRING,
            name=_STRING,
        ),
        "Problem": _object(
            *("type", "title", "status", "code", "detail", "request_id", "instance"),
            type=_STRING,
            title=_STRING,
            status=_INTEGER,
            code=_CODE,
            detail=_STRING,
            request_id=_STRING,
            instance=_STRING,
            errors=_list(_all(pointer=_STRING, detail=_STRING)),
            retry_after_s=_INTEGER,
        ),
        # Of the site, too: its codes are in the list of all errors.
        "FileProblem": _object(
            *("type", "title", "status", "code", "detail", "request_id"),
            **dict.fromkeys(("type", "title", "code", "detail", "request_id"), _STRING),
            status=_INTEGER,
            retry_after_s=_INTEGER,
        ),
    }


def _oip_schemas() -> Document:
    parameters = {
        "type": "object",
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    }
    shape = _list(_INTEGER)
    tensor = {"name": _STRING, "datatype": _STRING, "shape": shape}
    described = _all(**tensor)
    return {
        "Server": _all(name=_STRING, version=_STRING, extensions=_list(_STRING)),
        "ServerLive": _all(live=_BOOLEAN),
        "ServerReady": _all(ready=_BOOLEAN),
        "ModelMetadata": _all(
            name=_STRING,
            versions=_list(_STRING),
            platform=_STRING,
            inputs=_list(described),
            outputs=_list(described),
        ),
        "ModelReady": _all(name=_STRING, ready=_BOOLEAN),
        "InferRequest": _object(
            "inputs",
            id=_STRING,
            parameters=parameters,
            inputs=_list(
                _object(*tensor, **tensor, parameters=parameters, data={"type": "array"}),
                maxItems=config.TENSORS_MAX,
            ),
            outputs=_list(
                _object("name", name=_STRING, parameters=parameters), maxItems=config.TENSORS_MAX
            ),
        )
        | {"additionalProperties": False},
        "InferResponse": _object(
            *("model_name", "model_version", "outputs"),
            model_name=_STRING,
            model_version=_STRING,
            id=_STRING,
            outputs=_list(
                _object(*tensor, **tensor, data={"type": "array"}, parameters=parameters)
            ),
        ),
        # Further members are inputs of the model, as those of `parameters` are.
        "GenerateRequest": _object(
            "text_input", id=_STRING, text_input=_STRING, parameters=_ANY_OBJECT
        ),
        "GenerateResponse": _object(
            *("model_name", "model_version", "text_output"),
            id=_STRING,
            model_name=_STRING,
            model_version=_STRING,
            text_output=_STRING,
        ),
        "InferenceError": _all(error=_STRING),
    }


def _openai_schemas() -> Document:
    usage = _all(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
    reason = {"enum": ["stop", "length"]}
    head = {"id": _STRING, "created": _INTEGER, "model": _STRING, "usage": _or_null(usage)}
    message = _all(role={"const": "assistant"}, content=_STRING, refusal={"type": "null"})
    choice = {"index": _COUNT, "logprobs": {"type": "null"}, "finish_reason": reason}
    texts = _list(_STRING, minItems=1, maxItems=config.EMBEDDING_TEXTS_MAX)
    settings = {
        "model": _TEXT,
        "max_tokens": _INTEGER,
        "temperature": _NUMBER,
        "top_p": _NUMBER,
        "seed": _INTEGER,
        "stop": {"type": ["string", "array", "null"]},
        "stream": _BOOLEAN,
        "stream_options": _or_null(_object(include_usage=_BOOLEAN)),
        "n": {"const": 1},
        "user": {},
    }
    part = _all(type={"const": "text"}, text=_STRING)
    asked = _all(
        role={"enum": ["system", "developer", "user", "assistant"]},
        content={"anyOf": [_STRING, _list(part, minItems=1)]},
    )
    vector = {"anyOf": [_list(_NUMBER), {"type": "string", "contentEncoding": "base64"}]}
    embedding = _all(object={"const": "embedding"}, index=_COUNT, embedding=vector)
    # All refusals of a limit have OpenAI's one code.
    code = {"type": "string", "enum": sorted({*_CODE["enum"], "rate_limit_exceeded"})}
    model = _all(
        id=_STRING, object={"const": "model"}, created=_INTEGER, owned_by=_STRING, task=_STRING
    )
    return {
        "OpenAIModel": model,
        "OpenAIModelList": _all(object={"const": "list"}, data=_list(_ref("OpenAIModel"))),
        "EmbeddingsRequest": _object(
            *("model", "input"),
            model=_TEXT,
            input={"anyOf": [_STRING, texts]},
            encoding_format={"enum": ["float", "base64"]},
            dimensions=_COUNT,
            user={},
        ),
        "Embeddings": _all(
            object={"const": "list"},
            data=_list(embedding),
            model=_STRING,
            usage=_all(prompt_tokens=_COUNT, total_tokens=_COUNT),
        ),
        "CompletionRequest": _object("model", "prompt", prompt=_STRING, **settings),
        "Completion": _all(
            object={"const": "text_completion"}, choices=_list(_all(text=_STRING, **choice)), **head
        ),
        "ChatRequest": _object(
            *("model", "messages"),
            messages=_list(asked, minItems=1),
            max_completion_tokens=_INTEGER,
            **settings,
        ),
        "ChatCompletion": _all(
            object={"const": "chat.completion"},
            choices=_list(_all(message=message, **choice)),
            **head,
        ),
        "OpenAIError": _all(
            error=_all(message=_STRING, type=_STRING, param=_or_null(_STRING), code=code)
        ),
    }


def _mcp_schemas() -> Document:
    number = {"anyOf": [_STRING, _INTEGER]}
    called = _object(
        "name", name={"enum": list(mcp_tools.TOOLS)}, arguments=_ANY_OBJECT, _meta=_ANY_OBJECT
    )
    head = {"jsonrpc": {"const": "2.0"}}
    return {
        "MCPMessage": {
            "anyOf": [
                _object(
                    *("jsonrpc", "id", "method", "params"),
                    **head,
                    id=number,
                    method={"const": mcp_message.TOOL_CALL},
                    params=called,
                ),
                _object(
                    *("jsonrpc", "method"),
                    **head,
                    id=number,
                    method={"enum": ["initialize", "ping", "tools/list", "server/discover"]},
                    params=_ANY_OBJECT,
                ),
            ]
        },
        "MCPReply": _object(
            *("jsonrpc", "id"),
            **head,
            id=_or_null(number),
            result=_ANY_OBJECT,
            error=_object("code", "message", code=_INTEGER, message=_STRING, data=_ANY_OBJECT),
        )
        | {"oneOf": [{"required": ["result"]}, {"required": ["error"]}]},
    }


def _operation_schemas() -> Document:
    return {
        # Of every stream: each of its events, as the standard of server-sent events reads it.
        "Event": _object("data", event=_STRING, id=_STRING, data=_STRING),
        "Health": _object(
            *("status", "database"),
            status={"enum": ["ok", "unavailable"]},
            database=_BOOLEAN,
            limits=_STRING,
        ),
        "Live": _all(status={"const": "ok"}),
    }
