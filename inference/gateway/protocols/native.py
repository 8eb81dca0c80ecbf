"""`/v1`: predictions with named inputs, in the shape that Replicate's clients know.

Source: Replicate HTTP API; replicate-python 1.0, `prediction.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID

import numpy as np
import orjson

from inference.core.prediction_wire import PREDICTION_SQL, Renderer
from inference.gateway.auth import PREDICT, READ, Caller
from inference.gateway.catalog import Offer, Reference, list_allowed, parse_reference
from inference.gateway.changes import CHANNEL
from inference.gateway.config import CANCEL_WAITS_S, PAGE_SIZE
from inference.gateway.database import Row
from inference.gateway.deadline import is_async_preferred, read_wait
from inference.gateway.errors import CanceledError, ModelWakingError
from inference.gateway.http import Answer, Request, json_answer, parse_json
from inference.gateway.input_files import fetch_named
from inference.gateway.prediction import Prediction
from inference.gateway.protocols import (
    native_async,
    native_price,
    native_stream,
    native_watch,
    schema,
)
from inference.gateway.protocols.keyed import REPLAYED, read_keyed_body
from inference.gateway.running import CANCELLATION
from inference.triton import tensors
from inference.triton.errors import OutputError
from marketplace.core.clock import to_wire, utc_now
from marketplace.core.errors import (
    BadRequestError,
    FieldError,
    InvalidInputError,
    MarketplaceError,
    MethodNotAllowedError,
    NotFoundError,
)
from marketplace.core.ids import from_public, to_public
from marketplace.core.problem import CONTENT_TYPE, problem
from marketplace.core.receipt import RECEIPT_SQL, assemble
from strongroom.errors import Fault, InputError
from strongroom.interface import Interface

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

PROTOCOL = "native"
_MEMBERS = frozenset({"version", "input", "stream", *native_async.MEMBERS})
_TERMINAL = frozenset({"succeeded", "failed", "canceled"})


class NativeProtocol:
    """Answers the routes below /v1."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.config = gateway.config
        self.renderer = Renderer(
            self.config.gateway_url,
            self.config.web_url,
            self.config.deadline_s,
            self.config.playground_secret,
        )

    async def answer(self, request: Request) -> Answer:
        """Find the route and answer.

        Raises:
            MarketplaceError: What is wrong with the request, or with us.
        """
        segments = request.segments[1:]
        if segments[:1] == ["v1"]:
            # Half of the client libraries put /v1 behind a base URL that has it already.
            segments = segments[1:]
        link = self.gateway.files.find_link(request, segments)
        if link is not None:
            return link
        caller = await self._find_caller(request, segments)
        request.caller = caller
        if segments[:1] == ["files"]:
            self.gateway.limits.admit_read(caller)
            return await self.gateway.files.answer(request, caller, segments)
        match request.method:
            case "POST":
                return await self._answer_post(request, caller, segments)
            case "GET":
                return await self._answer_get(request, caller, segments)
        raise MethodNotAllowedError

    async def _find_caller(self, request: Request, segments: list[str]) -> Caller:
        match request.method, segments:
            case "GET", ["predictions", public_id, "stream"] if "signature" in request.query:
                return await native_watch.open_link(
                    request, read_prediction_id(public_id), self.gateway
                )
        return await self.gateway.authenticator.authenticate(request, allow_basic=False)

    async def _answer_post(self, request: Request, caller: Caller, segments: list[str]) -> Answer:
        match segments:
            case ["predictions"]:
                return await self._create(request, caller, None)
            case ["price"]:
                return await self._show_price(request, caller)
            case ["models", owner, name, "predictions"]:
                return await self._create(request, caller, parse_reference(f"{owner}/{name}"))
            case ["predictions", public_id, "cancel"]:
                return await self._cancel(request, caller, public_id)
        raise NotFoundError

    async def _answer_get(self, request: Request, caller: Caller, segments: list[str]) -> Answer:
        self.gateway.limits.admit_read(caller)
        match segments:
            case ["predictions"]:
                return await self._list(request, caller)
            case ["predictions", public_id]:
                return await self._show(request, caller, public_id)
            case ["predictions", public_id, "stream"]:
                return await self._watch(request, caller, public_id)
            case ["predictions", public_id, "receipt"]:
                return await self._show_receipt(request, caller, public_id)
            case ["models", owner, name]:
                return await self._show_model(caller, owner, name)
            case ["models", owner, name, "versions"]:
                return await self._list_versions(caller, owner, name)
            case ["models", owner, name, "versions", version]:
                return await self._show_version(caller, owner, name, version)
            case ["hardware"]:
                return self._list_hardware(caller)
            case ["account"]:
                return await self._show_account(caller)
        raise NotFoundError

    def render_error(self, request: Request, error: MarketplaceError) -> Answer:
        """The error as problem+json."""
        document = problem(error, request_id=request.request_id)
        answer = json_answer(document | {"instance": request.path}, status=error.http_status)
        answer.content_type = CONTENT_TYPE
        return answer

    async def _create(
        self, request: Request, caller: Caller, reference: Reference | None
    ) -> Answer:
        request.prediction_id = request.id
        headers = []
        wait = read_wait(request.headers)
        if wait is not None:
            preference, wait_s = wait
            request.deadline_s = min(request.deadline_s, wait_s)
            headers.append(("preference-applied", preference))
        keyed = await read_keyed_body(self.gateway, request, caller)
        if keyed.earlier is not None:
            return await self._replay(caller, keyed.earlier, parse_json(keyed.body), headers)
        document = _read_document(keyed.body)
        if reference is None:
            reference = _read_version(document)
        elif "version" in document:
            raise _invalid("/version", "The address names the model already.")
        offer = await self.gateway.catalog.find(reference, caller)
        request.offer = offer
        checked = _check_input(offer.interface, document)
        named = await fetch_named(self.gateway.files, caller.account_id, offer.interface, checked)
        predictor = self.gateway.predictor
        prediction = predictor.begin(
            request, caller, offer, protocol=PROTOCOL, rows=1, claim=keyed.claim
        )
        if is_async_preferred(request.headers):
            await self._submit(request, prediction, document, checked, named)
            preferences = ["respond-async"]
            if wait is not None:
                preferences.append(wait[0])
                await self.gateway.jobs.wait_until_over(prediction.id, wait[1])
            return await self._answer_accepted(caller, prediction.id, ", ".join(preferences))
        native_async.refuse_members(document)
        if native_stream.is_wanted(request, document):
            return await native_stream.answer(request, predictor, prediction, named)
        try:
            return await self._run(request, prediction, document, named, headers)
        except ModelWakingError:
            if wait is None:
                raise
        # Who said how long it waits comes back for the answer, as with Replicate.
        await self._submit(request, prediction, document, checked, named, was_admitted=True)
        return await self._answer_accepted(caller, prediction.id, wait[0])

    async def _run(
        self,
        request: Request,
        prediction: Prediction,
        document: Mapping[str, Any],
        named: Mapping[str, Any],
        headers: list[tuple[str, str]],
    ) -> Answer:
        """Run it now, while its caller waits."""
        interface = prediction.offer.interface

        def decode(outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
            rows = tensors.decode(interface, outputs, keep=prediction.keep)
            if len(rows) != 1:
                raise OutputError(f"the model answered {len(rows)} rows to one")
            return rows[0]

        try:
            output = await self.gateway.predictor.run(
                prediction, tensors.encode(interface, [named]), decode, request=request
            )
        except CanceledError:
            envelope = self._render_canceled(prediction, document["input"])
            return json_answer(envelope, status=201, headers=headers)
        envelope = self._render_prediction(prediction, document["input"], output)
        return json_answer(envelope, status=201, headers=headers, cost_nanos=prediction.gross_nanos)

    async def _submit(
        self,
        request: Request,
        prediction: Prediction,
        document: Mapping[str, Any],
        checked: Mapping[str, Any],
        named: Mapping[str, Any],
        *,
        was_admitted: bool = False,
    ) -> None:
        """Have it run later."""
        wish = native_async.read_wish(
            request.headers, document, is_development=self.config.is_development
        )
        inputs = tensors.encode(prediction.offer.interface, [named])
        await self.gateway.jobs.submit(prediction, inputs, checked, wish, was_admitted=was_admitted)

    async def _answer_accepted(
        self, caller: Caller, prediction_id: UUID, preferences: str
    ) -> Answer:
        """A prediction that runs later, as it is now."""
        row = await self.find_row(caller, prediction_id)
        headers = [("preference-applied", preferences)]
        document = await self._render_live(row)
        return json_answer(document, status=202, headers=headers, cost_nanos=row["cost_nanos"])

    async def _render_live(self, row: Row) -> dict[str, Any]:
        """A prediction of either kind; one that is on its way with where it is."""
        document = self.render_row(row)
        if row["state"] not in _TERMINAL:
            place = await self.gateway.jobs.describe_place(row["id"])
            if place is not None:
                document["progress"] = place
        return document

    async def _replay(
        self,
        caller: Caller,
        prediction_id: UUID,
        document: Any,
        headers: list[tuple[str, str]],
    ) -> Answer:
        row = await self.find_row(caller, prediction_id)
        envelope = await self._render_live(row) | {"input": document.get("input")}
        headers = [REPLAYED, *headers]
        return json_answer(envelope, headers=headers, cost_nanos=row["cost_nanos"])

    async def _show(self, request: Request, caller: Caller, public_id: str) -> Answer:
        caller.require(PREDICT, READ)
        row = await self.find_row(caller, read_prediction_id(public_id))
        request.prediction_id = row["id"]
        document = await self._render_live(row)
        if row["state"] in ("leased", "running"):
            document["output"] = await self.gateway.jobs.show_output(row["id"])
        return json_answer(document, cost_nanos=row["cost_nanos"])

    async def _watch(self, request: Request, caller: Caller, public_id: str) -> Answer:
        """All that happens to the prediction, to its end."""
        row = await self.find_row(caller, read_prediction_id(public_id))
        request.prediction_id = row["id"]
        return await native_watch.answer(
            request,
            caller,
            row,
            self.gateway.watches,
            find=lambda: self.find_row(caller, row["id"]),
            render=self._render_live,
        )

    async def _show_receipt(self, request: Request, caller: Caller, public_id: str) -> Answer:
        """Proof that the prediction was counted once, at its price."""
        caller.require(PREDICT, READ)
        found = await self.find_row(caller, read_prediction_id(public_id))
        request.prediction_id = found["id"]
        row = await self.gateway.database.fetch_one(RECEIPT_SQL, {"id": found["id"]})
        if row is None:
            raise NotFoundError("Nothing was booked for this prediction.")
        return json_answer(assemble(row, platform=self.config.web_url))

    async def _show_price(self, request: Request, caller: Caller) -> Answer:
        """What a prediction would cost now; nothing runs, and nothing is reserved."""
        caller.require(PREDICT, READ)
        self.gateway.limits.admit_read(caller)
        document = parse_json(await request.read_body())
        if not isinstance(document, dict) or not document.keys() <= native_price.MEMBERS:
            raise _invalid("", "The body must be an object with version, and input or units.")
        return json_answer(await self.estimate(request, caller, document))

    async def estimate(
        self, request: Request, caller: Caller, document: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The price of what a document with a version, and an input or units, would ask for."""
        offer = await self.gateway.catalog.find(_read_version(document), caller)
        request.offer = offer
        prediction = self.gateway.predictor.begin(
            request,
            caller,
            offer,
            protocol=PROTOCOL,
            rows=native_price.read_rows(document),
            claim=None,
        )
        batches = native_price.list_batches(offer, document)
        database = self.gateway.database
        return await native_price.describe(database, prediction, document, batches)

    async def _cancel(self, request: Request, caller: Caller, public_id: str) -> Answer:
        """Give up what still runs, in this process or another one, and show how it ended.

        What is over, or is being booked, cannot be canceled any more. A stream ends, and is
        shown as it was charged for what it had delivered.
        """
        caller.require(PREDICT)
        self.gateway.limits.admit_read(caller)
        prediction_id = read_prediction_id(public_id)
        stopped = self.gateway.running.cancel(caller.account_id, prediction_id)
        if stopped is not None and not stopped.has_delivered:
            request.prediction_id = prediction_id
            return json_answer(self._render_canceled(stopped, {}))
        try:
            found = await self.find_row(caller, prediction_id)
        except NotFoundError:
            await self._tell_canceled(caller, prediction_id)
        else:
            if found["state"] not in _TERMINAL:
                await self.gateway.jobs.cancel(caller.account_id, prediction_id)
            return await self._show(request, caller, public_id)
        for wait_s in CANCEL_WAITS_S:
            await asyncio.sleep(wait_s)
            with suppress(NotFoundError):
                return await self._show(request, caller, public_id)
        return await self._show(request, caller, public_id)

    async def _tell_canceled(self, caller: Caller, prediction_id: UUID) -> None:
        """Ask the gateway that runs it, whichever that is; it looks whose it is."""
        notice = {"table": CANCELLATION, "id": f"{caller.account_id}:{prediction_id}"}
        await self.gateway.database.write(
            "SELECT pg_notify(%s, %s)", [CHANNEL, orjson.dumps(notice).decode()]
        )

    async def _list(self, request: Request, caller: Caller) -> Answer:
        caller.require(PREDICT, READ)
        query = request.query
        parameters: dict[str, Any] = {"account_id": caller.account_id, "limit": PAGE_SIZE + 1}
        conditions = []
        if caller.allowed_models is not None:
            conditions.append(" AND a.slug || '/' || m.name = ANY(%(models)s::text[])")
            parameters["models"] = list_allowed(caller)
        for name, operator in (("created_after", ">="), ("created_before", "<")):
            if name in query:
                conditions.append(f" AND p.created_at {operator} %({name})s")
                parameters[name] = _read_time(name, query[name])
        is_backward, anchor = _read_cursor(query.get("cursor"))
        if anchor is not None:
            conditions.append(f" AND p.id {'>' if is_backward else '<'} %(anchor)s")
            parameters["anchor"] = anchor
        order = "ASC" if is_backward else "DESC"
        rows = await self.gateway.database.fetch_all(
            f"{PREDICTION_SQL}{''.join(conditions)} ORDER BY p.id {order} LIMIT %(limit)s",
            parameters,
        )
        has_more, rows = len(rows) > PAGE_SIZE, rows[:PAGE_SIZE]
        if is_backward:
            rows.reverse()
        has_next = bool(rows) and (has_more or is_backward)
        has_previous = bool(rows) and (has_more if is_backward else anchor is not None)
        document = {
            "next": self._link(query, f"n{to_public(rows[-1]['id'])}") if has_next else None,
            "previous": self._link(query, f"p{to_public(rows[0]['id'])}") if has_previous else None,
            "results": [self.render_row(row) for row in rows],
        }
        return json_answer(document)

    async def find_row(self, caller: Caller, prediction_id: UUID) -> Row:
        """The caller's own prediction.

        Raises:
            NotFoundError: There is none.
            ModelNotAllowedError: It ran a model that the caller's key is not made for.
        """
        row = await self.gateway.database.fetch_one(
            PREDICTION_SQL + " AND p.id = %(id)s",
            {"account_id": caller.account_id, "id": prediction_id},
        )
        if row is None:
            raise NotFoundError("There is no such prediction, or you may not see it.")
        caller.require_model(f"{row['owner']}/{row['name']}")
        return row

    async def _show_model(self, caller: Caller, owner: str, name: str) -> Answer:
        caller.require(PREDICT, READ)
        row = await self.gateway.catalog.describe_model(owner, name, caller)
        try:
            offer = await self.gateway.catalog.find(parse_reference(f"{owner}/{name}"), caller)
        except NotFoundError:
            latest = None
        else:
            latest = _render_offer(offer)
        return json_answer(
            {
                "url": f"{self.config.web_url}/{owner}/{name}",
                "owner": owner,
                "name": name,
                "title": row["title"],
                "description": row["summary"],
                "visibility": row["visibility"],
                "github_url": None,
                "paper_url": None,
                "license_url": None,
                "licence": row["licence"],
                "cover_image_url": None,
                "run_count": await self.gateway.catalog.count_runs(row["id"]),
                "created_at": to_wire(row["created_at"]),
                "default_example": None,
                "latest_version": latest,
            }
        )

    async def _list_versions(self, caller: Caller, owner: str, name: str) -> Answer:
        caller.require(PREDICT, READ)
        row = await self.gateway.catalog.describe_model(owner, name, caller)
        versions = await self.gateway.catalog.list_versions(row["id"], limit=PAGE_SIZE)
        results = [
            schema.render_version(
                one["manifest_sha256"] or str(one["number"]),
                one["created_at"],
                interface,
            )
            for one, interface in versions
        ]
        return json_answer({"next": None, "previous": None, "results": results})

    async def _show_version(self, caller: Caller, owner: str, name: str, version: str) -> Answer:
        caller.require(PREDICT, READ)
        reference = parse_reference(f"{owner}/{name}:{version}")
        offer = await self.gateway.catalog.find(reference, caller)
        return json_answer(_render_offer(offer))

    def _list_hardware(self, caller: Caller) -> Answer:
        """Nobody chooses where a model runs; clients that ask get the one kind there is."""
        caller.require(PREDICT, READ)
        return json_answer([{"name": "CPU", "sku": "cpu"}])

    async def _show_account(self, caller: Caller) -> Answer:
        caller.require(PREDICT, READ)
        row = await self.gateway.database.fetch_one(
            "SELECT name, kind FROM marketplace_account WHERE id = %s", [caller.account_id]
        )
        if row is None:
            raise NotFoundError
        return json_answer(
            {
                "type": "organization" if row["kind"] == "organisation" else "user",
                "username": caller.slug,
                "name": row["name"],
                "github_url": None,
                "avatar_url": None,
            }
        )

    def _render_prediction(
        self, prediction: Prediction, given: Mapping[str, Any], output: Any
    ) -> dict[str, Any]:
        assert prediction.completed_at is not None
        assert prediction.started_at is not None
        return self.renderer.make_envelope(
            prediction.id,
            deadline=_choose_deadline(prediction.created_at, prediction.allowed_s),
            model=prediction.offer.model,
            version=prediction.offer.wire_version,
            given=given,
            output=output,
            status="succeeded",
            error=None,
            source=prediction.caller.source,
            created_at=prediction.created_at,
            started_at=prediction.started_at,
            completed_at=prediction.completed_at,
            predict_time_s=prediction.predict_time_s,
            cost_nanos=prediction.gross_nanos,
        )

    def _render_canceled(self, prediction: Prediction, given: Mapping[str, Any]) -> dict[str, Any]:
        return self.renderer.make_envelope(
            prediction.id,
            deadline=_choose_deadline(prediction.created_at, prediction.allowed_s),
            model=prediction.offer.model,
            version=prediction.offer.wire_version,
            given=given,
            output=None,
            status="canceled",
            error=None,
            source=prediction.caller.source,
            created_at=prediction.created_at,
            started_at=prediction.started_at,
            completed_at=utc_now(),
            predict_time_s=0.0,
            cost_nanos=0,
        )

    def render_row(self, row: Row) -> dict[str, Any]:
        """A stored prediction. Of one that was waited for, the output is kept only for a retry."""
        return self.renderer.render_row(row)

    def _link(self, query: Mapping[str, str], cursor: str) -> str:
        kept = {name: query[name] for name in ("created_after", "created_before") if name in query}
        return f"{self.config.gateway_url}/v1/predictions?{urlencode(kept | {'cursor': cursor})}"


def _read_document(body: bytes) -> dict[str, Any]:
    document = parse_json(body)
    if not isinstance(document, dict):
        raise _invalid("", "The body must be an object with the member `input`.")
    faults = [
        FieldError(pointer=f"/{str(name)[:64]}", detail="This member is not known here.")
        for name in document
        if name not in _MEMBERS
    ][:16]
    if "input" not in document:
        faults.append(FieldError(pointer="/input", detail="Is required."))
    if faults:
        raise InvalidInputError(errors=faults)
    return document


def _check_input(interface: Interface, document: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return interface.check_input(document.get("input"))
    except InputError as error:
        raise refuse_input(error.errors) from error


def _read_version(document: Mapping[str, Any]) -> Reference:
    if "version" not in document:
        raise _invalid("/version", "Is required: owner/name, owner/name:version or its sha256.")
    if not isinstance(document["version"], str):
        raise _invalid("/version", "Must be a text.")
    return parse_reference(document["version"])


def refuse_input(faults: list[Fault]) -> InvalidInputError:
    """What is wrong with an input, as an error: the first fault in words, and all by place."""
    errors = [FieldError(pointer=one["pointer"], detail=one["detail"]) for one in faults]
    first = faults[0]
    return InvalidInputError(f"{first['pointer']}: {first['detail']}", errors=errors)


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(detail, errors=[FieldError(pointer=pointer, detail=detail)])


def _choose_deadline(created_at: datetime, allowed_s: float) -> datetime:
    return created_at + timedelta(seconds=allowed_s)


def read_prediction_id(public_id: str) -> UUID:
    """The id behind what a caller names.

    Raises:
        NotFoundError: Nothing can have that name.
    """
    try:
        return from_public(public_id)
    except ValueError:
        raise NotFoundError("There is no such prediction, or you may not see it.") from None


def _read_cursor(cursor: str | None) -> tuple[bool, UUID | None]:
    if cursor is None:
        return False, None
    try:
        if cursor[:1] not in ("n", "p"):
            raise ValueError
        return cursor[0] == "p", from_public(cursor[1:])
    except ValueError:
        raise BadRequestError("The cursor is not one of ours.") from None


def _read_time(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        # In UTC the first and the last day of the calendar may lie outside of it.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequestError(f"{name} must be a time in ISO 8601.") from None


def _render_offer(offer: Offer) -> dict[str, Any]:
    return schema.render_version(offer.wire_version, offer.created_at, offer.interface)
