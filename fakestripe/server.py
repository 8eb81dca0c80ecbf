"""One stand-in: its state, its contract, and how a request of the API goes through.

The order is Stripe's: fault (ours), key of the account, its rate, version, address, parameters,
idempotency key, work, answer. Everything the work writes is one transaction, and no answer
leaves that breaks Stripe's description.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fakestripe import due, errors, faults, idempotency, routes, thin, views, webhooks
from fakestripe.config import Config
from fakestripe.context import BrokenContractError, Context, new_id, stripe_now
from fakestripe.contract import Contract, Operation
from fakestripe.idempotency import Answer
from fakestripe.rate import Limiter
from fakestripe.store import Store

Json = dict[str, Any]

BODY_SIZE_BYTES_MAX = 1 << 20
SWEEP_EVERY_S = 1

_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[a-z_]+)?")

logger = logging.getLogger("fakestripe")


class Server:
    """State and behaviour of one stand-in; the web application calls it."""

    def __init__(self, config: Config, contract: Contract) -> None:
        self.config = config
        self.contract = contract
        self.store = Store(config.state)
        self.deliverer = webhooks.Deliverer(self.store, config, self._show_event)
        self.limiter = Limiter(config.rate_per_s)
        self._keys_in_use: set[str] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver webhooks and expire sessions in the background while inside."""
        tasks = [asyncio.create_task(self._sweep())]
        if self.config.webhook_url:
            tasks.append(asyncio.create_task(self.deliverer.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.store.close()

    def context(self, request_id: str | None = None, key: str | None = None) -> Context:
        """What handlers work with, at Stripe's present time."""
        now = stripe_now(self.store)
        return Context(self.store, self.contract, self.config, now, request_id, key)

    @contextlib.contextmanager
    def work(self) -> Iterator[Context]:
        """A transaction outside the API: the payment page and the control plane."""
        with self.store.transaction():
            yield self.context()
        self.deliverer.wake()

    def sweep(self) -> None:
        """Do what has become due by now."""
        if self.store.has_due_task(stripe_now(self.store)):
            with self.work() as context:
                due.run(context)

    async def answer_api(self, request: Request) -> Response:
        """Answer one request of Stripe's API, or cut its connection."""
        request_id = new_id("req", 14)
        fault = faults.take(self.store, request.method, request.url.path)
        if fault.get("kind") == "reset":
            return _cut(request, reset=True)
        try:
            answer = await self._answer(request, request_id, fault)
        except errors.ApiError as error:
            answer = Answer(error.status, error.body, error.headers)
        except BrokenContractError:
            logger.exception("%s: an object of ours breaks the contract", request_id)
            failure = errors.internal(should_retry=False)
            answer = Answer(failure.status, failure.body, failure.headers)
        self.deliverer.wake()
        logger.info("%s %s: %d %s", request.method, request.url.path, answer.status, request_id)
        if fault.get("kind") == "drop_after_effect":
            return _cut(request, reset=False)
        return self._respond(request, request_id, answer)

    async def _answer(self, request: Request, request_id: str, fault: Json) -> Answer:
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        refusal = faults.refusal(fault.get("kind", ""), key)
        if refusal is not None:
            raise refusal
        account_key = self._authenticate(request)
        if not self.limiter.allows(account_key, request.url.path):
            raise errors.rate_limited()
        _check_version(request)
        operation, ids = self._find(request)
        text = (
            (await _read_body(request, operation.media))
            if request.method == "POST"
            else request.url.query
        )
        params = self.contract.parse_input(operation, text)
        idempotency.check_key(key)
        with self._claim(key):
            if fault.get("kind") == "delay":
                await asyncio.sleep(fault["delay_s"])
            context = self.context(request_id, key)
            return self._execute(context, request, operation, ids, params, fault)

    def _execute(
        self,
        context: Context,
        request: Request,
        operation: Operation,
        ids: tuple[str, ...],
        params: Json,
        fault: Json,
    ) -> Answer:
        """Do the work once per key and keep the answer with it."""
        endpoint = f"{request.method} {request.url.path}"
        self.sweep()
        with self.store.transaction():
            stored = idempotency.find_answer(context, endpoint, params)
            if stored is not None:
                return stored
        try:
            with self.store.transaction():
                answer = self._attempt(context, operation, ids, params)
                if fault.get("kind") == "error_after_effect":
                    failure = errors.internal(should_retry=False)
                    answer = Answer(failure.status, failure.body, failure.headers)
                idempotency.store_answer(context, endpoint, params, answer)
        except errors.ApiError as error:
            # The work had begun, so this refusal is what the key stands for from now on.
            answer = Answer(error.status, error.body, error.headers)
            with self.store.transaction():
                idempotency.store_answer(context, endpoint, params, answer)
        return answer

    def _attempt(
        self, context: Context, operation: Operation, ids: tuple[str, ...], params: Json
    ) -> Answer:
        """The work, or the refusal that is itself an outcome and is committed like one."""
        try:
            return self._work(context, operation, ids, params)
        except errors.EffectiveError as error:
            return Answer(error.status, error.body, error.headers)

    def _work(
        self, context: Context, operation: Operation, ids: tuple[str, ...], params: Json
    ) -> Answer:
        handler = routes.HANDLERS[operation.method, operation.path]
        rest = {name: value for name, value in params.items() if name != "expand"}
        body = views.show(context, handler(context, rest, *ids))
        body = views.expand(context, body, params.get("expand", []))
        found = self.contract.answer_faults(operation, 200, body)
        if found:
            raise BrokenContractError(f"{operation.path}: {'; '.join(found[:5])}")
        return Answer(200, body)

    def _find(self, request: Request) -> tuple[Operation, tuple[str, ...]]:
        method, path = request.method, request.url.path
        found = self.contract.find(method, path)
        if found is None:
            raise errors.invalid_request(
                f"Unrecognized request URL ({method}: {path}). Please see "
                "https://stripe.com/docs or we can help at https://support.stripe.com/.",
                status=404,
            )
        if (method, found[0].path) not in routes.HANDLERS:
            raise errors.not_stood_in(f"{method} {found[0].path}")
        if method == "POST" and request.url.query:
            raise errors.invalid_request("Parameters of a POST belong into its body.")
        return found

    def _authenticate(self, request: Request) -> str:
        key = _account_key(request)
        if key is None or not hmac.compare_digest(key.encode(), self.config.secret_key.encode()):
            raise errors.unauthenticated(key)
        return key

    @contextlib.contextmanager
    def _claim(self, key: str | None) -> Iterator[None]:
        """Hold a key while its request runs; a second one meanwhile is a conflict."""
        if key is None:
            yield
            return
        if key in self._keys_in_use:
            raise errors.key_in_use(key)
        self._keys_in_use.add(key)
        try:
            yield
        finally:
            self._keys_in_use.discard(key)

    def _respond(self, request: Request, request_id: str, answer: Answer) -> Response:
        if answer.status >= 400:
            found = self.contract.object_faults("error", answer.body)
            assert not found, found
        headers = {"Request-Id": request_id, "Cache-Control": "no-cache, no-store"}
        headers["Stripe-Version"] = request.headers.get("stripe-version", self.contract.api_version)
        key = request.headers.get("idempotency-key")
        if key is not None and request.method == "POST":
            headers["Idempotency-Key"] = key
        return Response(
            json.dumps(answer.body, indent=2).encode(),
            answer.status,
            headers | answer.headers,
            media_type="application/json",
        )

    def _show_event(self, event: Json) -> Json:
        if event["object"] == thin.KIND:
            return thin.notification(event)
        return views.show(self.context(), event)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.sweep()


def _cut(request: Request, *, reset: bool) -> Response:
    if request.client is not None:
        # granian hands the port on as a text.
        faults.cut_connection(int(request.client.port), reset=reset)
    return Response(status_code=500)  # Reaches nobody.


async def _read_body(request: Request, wanted: str) -> str:
    media = request.headers.get("content-type", "").partition(";")[0].strip()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_SIZE_BYTES_MAX:
            raise errors.invalid_request("Request body too large.", status=413)
    if body and media != (wanted or media):
        raise errors.invalid_request(f"Invalid content type {media[:60]} for this address.")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise errors.invalid_request("Invalid UTF-8 in the request body.") from error


def _account_key(request: Request) -> str | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            return base64.b64decode(value, validate=True).decode().partition(":")[0] or None
    return None


def _check_version(request: Request) -> None:
    version = request.headers.get("stripe-version")
    if version is not None and not _VERSION.fullmatch(version):
        raise errors.invalid_request(f"Invalid Stripe API version: {version[:40]}")
