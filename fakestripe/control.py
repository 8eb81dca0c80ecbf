"""The control plane below `/_test/`: what tests may order the stand-in to do.

| address | body | effect |
|---|---|---|
| POST /_test/faults | kind, method, path, times, delay_s | bend the next matching requests |
| POST /_test/rate | per_s | so many requests a second for each key; 0 is any number |
| POST /_test/webhooks | type, behaviour, times, copies, delay_s | bend the next deliveries |
| POST /_test/webhooks/hold | | queue deliveries without sending |
| POST /_test/webhooks/release | seed | send the queue one by one, shuffled by the seed |
| POST /_test/events/{id}/send | | send an event once more |
| GET /_test/clock | | Stripe's time and its distance from ours |
| POST /_test/clock | offset_s or advance_s | shift Stripe's clock, or let time pass |
| POST /_test/... | | what people, banks and Stripe do to objects: see `orders` |
| GET /_test/state | | everything stored |
| DELETE /_test/faults, /_test/webhooks, /_test/state | | forget rules, or everything |

Bodies are JSON, so that no page of another site can send one unasked; members that are not
known are refused, because a mistyped fault would make a test pass for no reason.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fakestripe import errors, faults, thin, webhooks
from fakestripe.context import stripe_now
from fakestripe.orders import ORDERS, Order, OrderError, one_of, read
from fakestripe.rate import PER_S_MAX
from fakestripe.resources import accounts
from fakestripe.server import Server
from fakestripe.store import Query

Json = dict[str, Any]
Endpoint = Callable[[Request], Awaitable[Response]]

BODY_SIZE_BYTES_MAX = 65_536
EVENTS = ("event", thin.KIND)


def build_routes(server: Server) -> list[Route]:
    """The routes of the control plane of one stand-in."""
    plane = _ControlPlane(server)
    table: list[tuple[str, str, Callable[[Request, Json], Awaitable[Json]]]] = [
        ("POST", "/_test/faults", plane.add_fault),
        ("DELETE", "/_test/faults", plane.clear_faults),
        ("POST", "/_test/rate", plane.set_rate),
        ("POST", "/_test/webhooks", plane.add_webhook_rule),
        ("DELETE", "/_test/webhooks", plane.clear_webhook_rules),
        ("POST", "/_test/webhooks/hold", plane.hold),
        ("POST", "/_test/webhooks/release", plane.release),
        ("POST", "/_test/events/{event_id}/send", plane.send_again),
        ("GET", "/_test/clock", plane.read_clock),
        ("POST", "/_test/clock", plane.set_clock),
        *[("POST", path, plane.carry_out(order)) for path, order in ORDERS.items()],
        ("GET", "/_test/state", plane.dump),
        ("DELETE", "/_test/state", plane.reset),
    ]
    return [Route(path, _endpoint(do), methods=[method]) for method, path, do in table]


def _endpoint(do: Callable[[Request, Json], Awaitable[Json]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            body = await _read_json(request) if request.method == "POST" else {}
            return JSONResponse(await do(request, body))
        except OrderError as error:
            return JSONResponse({"error": str(error)}, 400)
        except errors.ApiError as error:
            return JSONResponse(error.body, error.status)

    return endpoint


class _ControlPlane:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._store = server.store

    async def add_fault(self, _request: Request, body: Json) -> Json:
        fault = read(body, kind=str, method="*", path="*", times=1, delay_s=1.0)
        one_of(fault, "kind", faults.KINDS)
        with self._store.transaction():
            self._store.insert_rule("fault", fault, fault["times"])
        return fault

    async def clear_faults(self, _request: Request, _body: Json) -> Json:
        with self._store.transaction():
            self._store.delete_rules("fault")
        return {}

    async def set_rate(self, _request: Request, body: Json) -> Json:
        wanted = read(body, per_s=int)
        if not 0 <= wanted["per_s"] <= PER_S_MAX:
            raise OrderError(f"per_s must be from 0 to {PER_S_MAX}")
        self._server.limiter.set_rate(wanted["per_s"])
        return wanted

    async def add_webhook_rule(self, _request: Request, body: Json) -> Json:
        rule = read(body, behaviour=str, type="*", times=1, copies=2, delay_s=1.0)
        one_of(rule, "behaviour", webhooks.BEHAVIOURS)
        with self._store.transaction():
            self._store.insert_rule("webhook", rule, rule["times"])
        return rule

    async def clear_webhook_rules(self, _request: Request, _body: Json) -> Json:
        with self._store.transaction():
            self._store.delete_rules("webhook")
            self._store.set_setting("webhooks_held", "0")
        self._server.deliverer.wake()
        return {}

    async def hold(self, _request: Request, body: Json) -> Json:
        read(body)
        self._store.set_setting("webhooks_held", "1")
        return {}

    async def release(self, _request: Request, body: Json) -> Json:
        order = read(body, seed=-1)
        if not self._server.deliverer.is_held:
            raise OrderError("webhooks are not held")
        seed = None if order["seed"] < 0 else order["seed"]
        return {"sent": await self._server.deliverer.release(seed)}

    async def send_again(self, request: Request, body: Json) -> Json:
        read(body)
        event = self._store.find(request.path_params["event_id"])
        if event is None or event["object"] not in EVENTS or not self._server.config.webhook_url:
            raise OrderError("no such event, or nobody to send it to")
        with self._server.work():
            webhooks.enqueue(self._store, event)
        return {"event": event["id"]}

    async def read_clock(self, _request: Request, _body: Json) -> Json:
        offset_s = int(self._store.get_setting("clock_offset_s", "0"))
        return {"now": stripe_now(self._store), "offset_s": offset_s}

    async def set_clock(self, request: Request, body: Json) -> Json:
        """Shift the clock, or let time pass; what becomes due on the way happens in order."""
        before = int(self._store.get_setting("clock_offset_s", "0"))
        if "advance_s" in body:
            after = before + read(body, advance_s=int)["advance_s"]
        else:
            after = read(body, offset_s=int)["offset_s"]
        with self._store.transaction():
            self._store.set_setting("clock_offset_s", str(after))
            if after > before:
                self._store.pull_deliveries(after - before)
        self._server.sweep()
        self._server.deliverer.wake()
        return await self.read_clock(request, {})

    def carry_out(self, order: Order) -> Callable[[Request, Json], Awaitable[Json]]:
        """Something that happens to objects, inside one transaction."""

        async def do(request: Request, body: Json) -> Json:
            self._server.sweep()
            with self._server.work() as context:
                return order(context, body, **request.path_params)

        return do

    async def dump(self, _request: Request, _body: Json) -> Json:
        kinds = self._store.count_by_kind()
        return {
            "now": stripe_now(self._store),
            "real_now": int(time.time()),
            "counts": kinds,
            "objects": {kind: self._store.list_all(Query(kind)) for kind in kinds},
            "connected_balances_cents": {
                account["id"]: accounts.balance_cents(self._server.context(), account["id"])
                for account in self._store.list_all(Query(accounts.KIND))
            },
            "deliveries": self._store.list_deliveries(),
            "faults": [rule for _seq, _left, rule in self._store.list_rules("fault")],
            "webhooks": [rule for _seq, _left, rule in self._store.list_rules("webhook")],
        }

    async def reset(self, _request: Request, _body: Json) -> Json:
        with self._store.transaction():
            self._store.delete_everything()
        self._server.limiter.set_rate(self._server.config.rate_per_s)
        return {}


async def _read_json(request: Request) -> Json:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise OrderError("the body must be application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_SIZE_BYTES_MAX:
            raise OrderError("the body is too large")
    try:
        document = json.loads(bytes(body) or b"{}")
    except ValueError as error:
        raise OrderError("the body is no JSON") from error
    if not isinstance(document, dict):
        raise OrderError("the body must be an object")
    return document
