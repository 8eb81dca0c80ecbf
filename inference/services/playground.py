"""Run a prediction from the site's try-it form, through the gateway like everybody else.

The web has no way to Triton and none to the wallet. It signs a token that stands for the
person's account for a minute; the gateway checks, holds, runs and charges as for any key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
from django.conf import settings

from inference.errors import GatewayUnavailableError, PlaygroundBusyError
from marketplace.models import Account, AIModel, User
from strongroom.sealing.canonical import canonicalize

PREFIX = "sp_"
# Half of what the gateway allows, so that clocks may differ by the other half.
TOKEN_LIFETIME_S = 60
# The form's request holds a worker of the site; what takes longer is for the API.
TIMEOUT = httpx.Timeout(30.0, connect=2.0)
# More than the largest output that is worth looking at in a browser.
ANSWER_BYTES_MAX = 2 * 1024 * 1024
# Each stream holds one of the site's threads; pages must still be answered beside them.
STREAMS_MAX = 4
STREAMS_PER_PERSON_MAX = 2
# Longer answers are for the API.
STREAM_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of trying a model: an output with its cost, or a problem."""

    output: Any = None
    prediction_id: str = ""
    cost_nanos: int | None = None
    predict_time_s: float | None = None
    # From the site's point of view: the gateway and the way to it included.
    round_trip_s: float = 0.0
    problem_code: str = ""
    problem_detail: str = ""
    # Set where a problem does not mean that nothing was charged.
    may_be_charged: bool = False
    # What of the answer was sent in pieces, as far as it came.
    streamed: str = ""
    faults: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        """Whether there is an output."""
        return not self.problem_code


def make_token(*, account: Account, user: User, now_s: float | None = None) -> str:
    """A token with which the gateway takes a call of this account for a minute."""
    expires_at_s = int(now_s if now_s is not None else time.time()) + TOKEN_LIFETIME_S
    claims = {"account": str(account.pk), "user": str(user.pk), "exp": expires_at_s}
    body = _encode(canonicalize(claims))
    key = settings.PLAYGROUND_SECRET.encode()
    return f"{PREFIX}{body}.{_encode(hmac.digest(key, body.encode(), hashlib.sha256))}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def try_model(*, model: AIModel, account: Account, user: User, values: dict[str, Any]) -> Attempt:
    """Run one prediction and wait for its output; the account pays for it.

    Args:
        model: Which model; its default version runs.
        account: Who pays; the caller has checked the right to predict.
        user: Who pressed the button.
        values: Input name to value, as the API takes them.

    Raises:
        GatewayUnavailableError: No answer, or none that can be read.
    """
    url, headers = _prediction_url(model), _authorize(account, user)
    started_s = time.perf_counter()
    try:
        response = _client().post(url, json={"input": values}, headers=headers)
        if len(response.content) > ANSWER_BYTES_MAX:
            return _describe_large(response, time.perf_counter() - started_s)
        document = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise GatewayUnavailableError(retry_after_s=5) from error
    if not isinstance(document, dict):
        raise GatewayUnavailableError(retry_after_s=5)
    return _read(response.status_code, document, time.perf_counter() - started_s)


def queue_model(*, model: AIModel, account: Account, user: User, values: dict[str, Any]) -> Attempt:
    """Hand in one prediction that runs when there is a place; as `try_model` else.

    Returns:
        Its id, or why it was not accepted. What it gives stands on its page.
    """
    url = _prediction_url(model)
    headers = _authorize(account, user) | {"Prefer": "respond-async"}
    started_s = time.perf_counter()
    try:
        response = _client().post(url, json={"input": values}, headers=headers)
        document = response.json()
    except (httpx.HTTPError, ValueError):
        document = None
    round_trip_s = time.perf_counter() - started_s
    if not isinstance(document, dict):
        # It may wait all the same: then it is listed in the queue.
        error = GatewayUnavailableError
        return Attempt(problem_code=error.code, problem_detail=error.title, may_be_charged=True)
    if response.status_code == httpx.codes.ACCEPTED:
        return Attempt(prediction_id=str(document.get("id", "")), round_trip_s=round_trip_s)
    return _read(response.status_code, document, round_trip_s)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a streamed answer's text, or at first only the id that it will have."""

    text: str = ""
    prediction_id: str = ""


class Stream:
    """One streamed prediction: pieces as they come, then the attempt that they add up to.

    Made by `stream_model`. Holds a place among the streams of this process until it is closed,
    which whoever sends it does in any case, also when it was never read.
    """

    _places = threading.Lock()
    _open: Counter[UUID] = Counter()

    def __init__(self, user: User, url: str, headers: dict[str, str], body: Any) -> None:
        self._user_id = user.pk
        self._is_open = False
        self._take_place()
        self._parts = self._read(url, headers, body)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece | Attempt:
        return next(self._parts)

    def close(self) -> None:
        """Give the place back; the gateway sees that nobody reads any more."""
        try:
            self._parts.close()
        finally:
            self._give_place()

    def _take_place(self) -> None:
        with self._places:
            is_full = self._open.total() >= STREAMS_MAX
            if is_full or self._open[self._user_id] >= STREAMS_PER_PERSON_MAX:
                raise PlaygroundBusyError(retry_after_s=5)
            self._open[self._user_id] += 1
            self._is_open = True

    def _give_place(self) -> None:
        with self._places:
            if self._is_open:
                self._is_open = False
                self._open[self._user_id] -= 1
                self._open += Counter()  # Drops who has none.

    def _read(self, url: str, headers: dict[str, str], body: Any) -> Generator[Piece | Attempt]:
        started_s = time.perf_counter()
        prediction_id, texts = "", []
        try:
            with _client().stream("POST", url, json=body, headers=headers) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    yield _read_whole(response, started_s)
                    return
                prediction_id = response.headers.get("inference-id", "")
                yield Piece(prediction_id=prediction_id)
                for kind, data in _list_events(response.iter_lines()):
                    if kind == "output":
                        texts.append(data)
                        yield Piece(data)
                    elif kind in ("done", "error"):
                        yield _end(kind, data, texts, prediction_id, started_s)
                        return
                    if time.perf_counter() - started_s > STREAM_LIMIT_S:
                        break
        except (httpx.HTTPError, ValueError):
            pass
        yield _cut(texts, prediction_id, started_s)


def stream_model(*, model: AIModel, account: Account, user: User, values: dict[str, Any]) -> Stream:
    """Run one prediction of a model that streams; as `try_model` else.

    Raises:
        PlaygroundBusyError: As many streams run as may.
    """
    headers = _authorize(account, user) | {"Accept": "text/event-stream"}
    return Stream(user, _prediction_url(model), headers, {"input": values, "stream": True})


def cancel_prediction(*, account: Account, user: User, public_id: str) -> None:
    """Ask the gateway to end a prediction that runs; one that is over stays as it is."""
    url = f"{settings.GATEWAY_URL}/v1/predictions/{quote(public_id, safe='')}/cancel"
    try:
        response = _client().post(url, headers=_authorize(account, user))
    except httpx.HTTPError as error:
        raise GatewayUnavailableError(retry_after_s=5) from error
    if response.status_code >= 500:
        raise GatewayUnavailableError(retry_after_s=5)


def _authorize(account: Account, user: User) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(account=account, user=user)}"}


def _prediction_url(model: AIModel) -> str:
    owner, name = quote(model.account.slug, safe=""), quote(model.name, safe="")
    return f"{settings.GATEWAY_URL}/v1/models/{owner}/{name}/predictions"


def _list_events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Kind and data of each event of a stream.

    Raises:
        ValueError: More than a browser is shown.
    """
    kind, size = "", 0
    data: list[str] = []
    for line in lines:
        size += len(line)
        if size > ANSWER_BYTES_MAX:
            raise ValueError("too large")
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if kind:
                yield kind, "\n".join(data)
            kind, data = "", []
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)


def _read_whole(response: httpx.Response, started_s: float) -> Attempt:
    """An answer that came at once, though a stream was asked for: a refusal."""
    content = b""
    for block in response.iter_bytes():
        content += block
        if len(content) > ANSWER_BYTES_MAX:
            return _describe_large(response, time.perf_counter() - started_s)
    document = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return _read(response.status_code, document, time.perf_counter() - started_s)


def _end(kind: str, data: str, texts: list[str], prediction_id: str, started_s: float) -> Attempt:
    document = json.loads(data)
    round_trip_s = time.perf_counter() - started_s
    if not isinstance(document, dict):
        raise ValueError("not an object")
    text = "".join(texts)
    if kind == "error":
        return Attempt(
            prediction_id=prediction_id,
            round_trip_s=round_trip_s,
            problem_code=str(document.get("code") or "prediction_failed"),
            problem_detail=str(document.get("detail") or document.get("title") or "It failed."),
            may_be_charged=bool(text),
            streamed=text,
        )
    metrics = document.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    beside = document.get("output")
    return Attempt(
        output=beside if isinstance(beside, dict) else {},
        prediction_id=prediction_id,
        cost_nanos=_read_number(metrics.get("cost_nano_usd"), int),
        predict_time_s=_read_number(metrics.get("predict_time"), float),
        round_trip_s=round_trip_s,
        streamed=text,
    )


def _cut(texts: list[str], prediction_id: str, started_s: float) -> Attempt:
    """A stream that ended before its end: what it cost is on the prediction's page."""
    return Attempt(
        prediction_id=prediction_id,
        round_trip_s=time.perf_counter() - started_s,
        problem_code=GatewayUnavailableError.code,
        problem_detail="The answer broke off." if texts else GatewayUnavailableError.title,
        may_be_charged=bool(prediction_id),
        streamed="".join(texts),
    )


def _describe_large(response: httpx.Response, round_trip_s: float) -> Attempt:
    """An answer that is not read for its size: what its head tells."""
    return Attempt(
        prediction_id=response.headers.get("inference-id", ""),
        cost_nanos=_read_number(_parse_count(response.headers.get("x-cost-nano-usd")), int),
        round_trip_s=round_trip_s,
        problem_code="output_too_large",
        problem_detail="The output is too large to be shown here; use the API.",
        may_be_charged=True,
    )


def _parse_count(text: str | None) -> int | None:
    is_count = text is not None and text.isascii() and text.isdigit() and len(text) < 20
    return int(text) if is_count and text is not None else None


@cache
def _client() -> httpx.Client:
    return httpx.Client(timeout=TIMEOUT, trust_env=False)


def _read(status: int, document: dict[str, Any], round_trip_s: float) -> Attempt:
    if status >= 400:
        errors = document.get("errors")
        return Attempt(
            round_trip_s=round_trip_s,
            problem_code=str(document.get("code") or f"http_{status}"),
            problem_detail=str(document.get("detail") or "The gateway refused the request."),
            may_be_charged=document.get("code") == "booking_unknown",
            faults=[one for one in errors if isinstance(one, dict)]
            if isinstance(errors, list)
            else [],
        )
    if document.get("status") != "succeeded":
        return Attempt(
            round_trip_s=round_trip_s,
            prediction_id=str(document.get("id", "")),
            problem_code="prediction_failed",
            problem_detail=str(document.get("error") or "The prediction gave no output."),
        )
    metrics = document.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    return Attempt(
        output=document.get("output"),
        prediction_id=str(document.get("id", "")),
        cost_nanos=_read_number(metrics.get("cost_nano_usd"), int),
        predict_time_s=_read_number(metrics.get("predict_time"), float),
        round_trip_s=round_trip_s,
    )


def _read_number(value: Any, kind: type[int] | type[float]) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return kind(value) if is_number else None
