"""Run a prediction from the site's try-it form, through the gateway like everybody else.

The web has no way to Triton and none to the wallet. It signs a token that stands for the
person's account for a minute; the gateway checks, holds, runs and charges as for any key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote

import httpx
from django.conf import settings

from inference.errors import GatewayUnavailableError
from marketplace.models import Account, AIModel, User
from strongroom.sealing.canonical import canonicalize

PREFIX = "sp_"
# Half of what the gateway allows, so that clocks may differ by the other half.
TOKEN_LIFETIME_S = 60
# The form's request holds a worker of the site; what takes longer is for the API.
TIMEOUT = httpx.Timeout(30.0, connect=2.0)
# More than the largest output that is worth looking at in a browser.
ANSWER_BYTES_MAX = 2 * 1024 * 1024


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
    owner, name = quote(model.account.slug, safe=""), quote(model.name, safe="")
    url = f"{settings.GATEWAY_URL}/v1/models/{owner}/{name}/predictions"
    headers = {"Authorization": f"Bearer {make_token(account=account, user=user)}"}
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
