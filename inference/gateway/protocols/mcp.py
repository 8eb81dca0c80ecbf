"""`/mcp`: models as tools of a language model, by the Model Context Protocol over HTTP.

Each request is one message and stands by itself: there are no sessions, nothing is asked of
clients, and no stream is open but that of an answer. So any gateway answers any message, and a
`notifications/cancelled`, which names a request of the client's own numbering, cancels nothing:
who closes the connection is gone, as on every other protocol.

What fails within a tool is the tool's answer (`isError`), with our code, so that the model can
read it. What fails before that is an error of JSON-RPC.

Source: Model Context Protocol, "Streamable HTTP", "Tools".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from inference.gateway import listing
from inference.gateway.auth import PREDICT, READ, Caller
from inference.gateway.catalog import parse_reference, require_price
from inference.gateway.config import CARD_LENGTH_MAX
from inference.gateway.deadline import read_deadline
from inference.gateway.http import Answer, Request, json_answer
from inference.gateway.protocols import mcp_message as rpc
from inference.gateway.protocols import mcp_run, mcp_tools, native_price, schema
from inference.gateway.protocols.keyed import take_body
from inference.gateway.protocols.mcp_arguments import Arguments, render_cursor
from inference.gateway.protocols.mcp_content import (
    ToolAnswer,
    describe_error,
    render_failure,
    to_dollars,
)
from inference.gateway.protocols.mcp_message import Message, RPCError
from inference.gateway.protocols.mcp_reply import SERVER, refusal, reply
from inference.gateway.protocols.native import read_prediction_id
from inference.gateway.tag import read_tag
from marketplace.core.errors import (
    ForbiddenError,
    MarketplaceError,
    MethodNotAllowedError,
    NotFoundError,
)

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

# The tools change with the platform only.
_LIST_TTL_MS = 300_000
_CACHED = {"ttlMs": _LIST_TTL_MS, "cacheScope": "public"}
_CAPABILITIES = {"tools": {"listChanged": False}}
_ORIGIN = "origin"
_KEPT = (
    "Nothing of inputs and outputs. Only a call with an idempotency_key keeps them, for 24 hours,"
    " so that a retry gets the same answer."
)
_WATCHED = " A few inputs to this model are kept for 30 days as embeddings, to notice copying."
_COUNTED = (
    " How many inputs and outputs fall into coarse classes is counted; no value and no account is"
    " kept of that."
)
_SEEN = (
    "By the gateway and by the closed process that serves the model, in memory. The creator sees"
    " how often a model is called, by pseudonyms, and never with what."
)
_RECORDED = "Time, model, rows, duration and cost, for invoice and receipts."


class MCPProtocol:
    """Answers the messages at /mcp."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.config = gateway.config
        addresses = (self.config.gateway_url, self.config.web_url)
        # Of pages that may call: our own. A page elsewhere could have been lured here by a name
        # that leads to this machine.
        self._origins = {_origin_of(one) for one in addresses}

    async def answer(self, request: Request) -> Answer:
        """Read the message and answer it.

        Raises:
            MarketplaceError: What is wrong with the request, or with us.
        """
        self._check_origin(request)
        caller = await self.gateway.authenticator.authenticate(request, allow_basic=False)
        request.caller = caller
        if len(request.segments) > 1:
            raise NotFoundError
        if request.method != "POST":
            raise MethodNotAllowedError
        request.deadline_s = read_deadline(request.headers, request.deadline_s)
        request.tag = read_tag(request.headers)
        body = await take_body(self.gateway, request, caller, Request.read_body)
        message = request.message = rpc.read_message(body)
        rpc.check_version(request.headers, message)
        if message.is_notification:
            self.gateway.limits.admit_read(caller)
            return Answer(202, b"")
        if message.is_tool_call:
            return await self._call(request, caller, message)
        self.gateway.limits.admit_read(caller)
        return json_answer(reply(message, _answer_method(message)))

    def render_error(self, request: Request, error: MarketplaceError) -> Answer:
        """A tool's answer where one was called, and else an error of JSON-RPC."""
        message = request.message
        if isinstance(error, RPCError):
            document = refusal(message, error.rpc_code, error.detail, error.data)
            answer = json_answer(document, status=error.status)
            answer.outcome_status = error.http_status
        elif message is not None and message.is_tool_call:
            answer = json_answer(reply(message, render_failure(request, error)))
            answer.outcome_status = error.http_status
        else:
            is_ours = error.http_status >= 500
            document = refusal(
                message,
                rpc.INTERNAL_ERROR if is_ours else rpc.REFUSED,
                error.detail,
                describe_error(request, error),
            )
            answer = json_answer(document, status=error.http_status)
        if isinstance(error, MethodNotAllowedError):
            answer.headers.append(("allow", "POST"))
        return answer

    async def _call(self, request: Request, caller: Caller, message: Message) -> Answer:
        name, given = message.params.get("name"), message.params.get("arguments")
        given = {} if given is None else given
        if not isinstance(name, str) or name not in mcp_tools.TOOLS:
            # Not in the request's own words, which may be anything.
            raise RPCError(rpc.INVALID_PARAMS, "There is no such tool.", status=_status(message))
        if not isinstance(given, dict):
            raise RPCError(rpc.INVALID_PARAMS, "arguments is an object.", status=_status(message))
        arguments = Arguments(name, given)
        if name == mcp_tools.RUN:
            return await mcp_run.run(self.gateway, request, caller, message, arguments)
        caller.require(PREDICT, READ)
        self.gateway.limits.admit_read(caller)
        return mcp_run.render(message, await self._read(name, request, caller, arguments))

    async def _read(
        self, name: str, request: Request, caller: Caller, arguments: Arguments
    ) -> ToolAnswer:
        match name:
            case mcp_tools.SEARCH:
                return await self._search(caller, arguments)
            case mcp_tools.MODEL:
                return await self._tell(request, caller, arguments)
            case mcp_tools.PRICE:
                return await self._estimate(request, caller, arguments)
        return await self._show(request, caller, arguments)

    async def _search(self, caller: Caller, arguments: Arguments) -> ToolAnswer:
        facets = {name: arguments.text(name) for name in ("query", "task", "industry", "licence")}
        wanted = listing.Search(
            **facets, limit=arguments.count("limit"), offset=arguments.offset("cursor")
        )
        rows, after = await listing.search(self.gateway.database, caller, wanted)
        models = [
            {
                **{
                    name: row[name]
                    for name in ("model", "title", "summary", "task", "industry", "licence")
                },
                "visibility": row["visibility"],
                "price_nano_usd": row["price_nanos"],
                "is_metered": not row["price_is_plain"],
                "latency_p50_ms": row["p50_ms"],
                "predictions_30d": row["predictions_30d"],
                "url": f"{self.config.web_url}/{row['model']}",
            }
            for row in rows
        ]
        return ToolAnswer({"models": models, "next_cursor": render_cursor(after)})

    async def _tell(self, request: Request, caller: Caller, arguments: Arguments) -> ToolAnswer:
        reference = parse_reference(arguments.text("model"))
        offer = await self.gateway.catalog.find(reference, caller)
        request.offer = offer
        row = await listing.tell(
            self.gateway.database, offer.version_id, card_length_max=CARD_LENGTH_MAX
        )
        if row is None:
            raise NotFoundError
        price = None
        if offer.price is not None:
            price = native_price.describe_price(require_price(offer, caller))
        described = schema.render_schema(offer.interface)["components"]["schemas"]
        kept = _KEPT + (_WATCHED if row["samples_queries"] else "")
        kept += _COUNTED if offer.watches_drift else ""
        document = {
            "model": offer.model,
            "version": offer.wire_version,
            "version_number": offer.number,
            **{
                name: row[name]
                for name in ("title", "summary", "task", "industry", "licence", "visibility")
            },
            "card": row["card"],
            "is_card_cut": row["is_card_cut"],
            "input_schema": described["Input"],
            "output_schema": described["Output"],
            "is_streaming": offer.interface.streamed_output is not None,
            "price": price,
            "certificate": row["certificate"],
            "data_statement": {"kept": kept, "seen": _SEEN, "recorded": _RECORDED},
            "url": f"{self.config.web_url}/{offer.model}",
        }
        return ToolAnswer(document)

    async def _estimate(self, request: Request, caller: Caller, arguments: Arguments) -> ToolAnswer:
        asked = {"version": arguments.text("model"), **arguments.pick("input", "units")}
        document = await self.gateway.native.estimate(request, caller, asked)
        for name in ("maximum", "estimate"):
            document[f"{name}_usd"] = to_dollars(document[f"{name}_nano_usd"])
        return ToolAnswer(document)

    async def _show(self, request: Request, caller: Caller, arguments: Arguments) -> ToolAnswer:
        prediction_id = read_prediction_id(arguments.text("prediction_id"))
        row = await self.gateway.native.find_row(caller, prediction_id)
        request.prediction_id = row["id"]
        answer = mcp_run.describe_row(self.gateway, row, row["output"])
        known = self.gateway.native.render_row(row)
        answer.document |= {
            "error_message": known["error"],
            "created_at": known["created_at"],
            "completed_at": known["completed_at"],
            "is_data_removed": known["data_removed"],
        }
        return answer

    def _check_origin(self, request: Request) -> None:
        """Refuse a page of somebody else's; programs that are no browsers name no origin."""
        if _ORIGIN in request.headers and request.headers.get(_ORIGIN) not in self._origins:
            raise ForbiddenError("Pages of other origins may not call this address.")


def _answer_method(message: Message) -> dict[str, Any]:
    """What needs neither a model nor money."""
    match message.method:
        case "tools/list":
            if message.params.get("cursor") is not None:
                detail = "All tools stand on one page: no cursor is ours."
                raise RPCError(rpc.INVALID_PARAMS, detail, status=_status(message))
            cached = _CACHED if message.is_modern else {}
            return {"tools": list(mcp_tools.TOOLS.values()), **cached}
        case "server/discover" if message.is_modern:
            return {
                "supportedVersions": list(rpc.VERSIONS),
                "capabilities": _CAPABILITIES,
                "instructions": mcp_tools.INSTRUCTIONS,
                **_CACHED,
            }
        case "initialize" if not message.is_modern:
            return {
                "protocolVersion": rpc.negotiate(message.params),
                "capabilities": _CAPABILITIES,
                "serverInfo": SERVER,
                "instructions": mcp_tools.INSTRUCTIONS,
            }
        case "ping" if not message.is_modern:
            return {}
    raise RPCError(
        rpc.METHOD_NOT_FOUND,
        "This method is not offered here.",
        status=_status(message, modern=404),
    )


def _status(message: Message, *, modern: int = 400) -> int:
    """Of HTTP. Clients of earlier revisions take all but 200 for a fault of the connection."""
    return modern if message.is_modern else 200


def _origin_of(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}".lower()
