"""Talk to a Strongroom platform.

Predictions go through the gateway, everything else through the management API.

A call is repeated only where that cannot do harm: the connection was never made, or the
call is idempotent and the answer was a 5xx, a 429 or a cut. Predictions carry an
idempotency key, so that a repeated one is neither run nor charged twice.
"""

from __future__ import annotations

import ipaddress
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from strongroom.errors import Fault, StrongroomError

CONNECT_TIMEOUT_S = 5.0
# Management calls answer at once; the slowest stores a part of 64 MiB.
REQUEST_TIMEOUT_S = 60.0
PREDICTION_TIMEOUT_S = 120.0
# What survives is sealed anew before the answer comes.
SHRED_TIMEOUT_S = 90.0
MAX_ATTEMPTS = 5
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 8.0
# A server may ask for more; then the caller decides.
RETRY_AFTER_MAX_S = 30.0
POLL_INTERVAL_S = 0.5
POLL_INTERVAL_MAX_S, POLL_GROWTH = 5.0, 1.2
# As long as a job has by default.
JOB_TIMEOUT_S = 3_600.0
USER_AGENT = "strongroom-python/0.1.0"

# As the gateway has it; a header could not carry everything else.
_TAG_FORM = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_FINAL_STATES = frozenset({"succeeded", "failed", "canceled"})


class ApiError(StrongroomError):
    """The platform refused. `code` is stable; `status` is the HTTP status, 0 if none."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int = 0,
        errors: Iterable[Fault] = (),
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.status = status
        self.errors = list(errors)
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class UnreachableError(ApiError):
    """The platform did not answer."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreachable", detail)


class _AgainError(Exception):
    """A refusal that may be over at the next attempt."""

    def __init__(self, refusal: ApiError) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class Transport:
    """HTTP with time-outs, careful repetition and typed errors.

    Args:
        base_url: Where the API is, http or https.
        token: Sent as a bearer token; never logged and never in an error.
        http: An own httpx client, for proxies, certificates or tests.
    """

    def __init__(self, base_url: str, token: str = "", *, http: httpx.Client | None = None) -> None:
        self.base_url = check_url(base_url)
        self._token = token
        self._http = http or httpx.Client(
            timeout=httpx.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        )
        self._sleep = time.sleep

    def __repr__(self) -> str:
        return f"Transport({self.base_url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: Callable[[], Iterable[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        is_idempotent: bool | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Any:
        """Send a request and decode the answer.

        Args:
            method: GET, PUT and DELETE count as idempotent.
            path: Below the base URL.
            json: The body, as decoded JSON.
            content: Makes the body afresh for each attempt.
            headers: Further headers.
            params: The query.
            is_idempotent: Overrules what the method says.
            timeout_s: For each wait of an attempt: to send, and to receive.

        Raises:
            ApiError: With the platform's code; `unreachable` if no answer came.
        """
        repeats = method in {"GET", "PUT", "DELETE"} if is_idempotent is None else is_idempotent
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                response = self._http.request(
                    method,
                    self.base_url + path,
                    json=json,
                    content=content() if content else None,
                    headers=self._headers(headers),
                    params=params,
                    timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
                )
            except httpx.HTTPError as error:
                is_safe = repeats or isinstance(error, _NEVER_SENT)
                if not is_safe or attempt == MAX_ATTEMPTS:
                    detail = f"{self.base_url} did not answer ({type(error).__name__})."
                    raise UnreachableError(detail) from None
                self._sleep(_backoff_s(attempt))
                continue
            if response.is_success:
                return _decode(response)
            refusal = _read_refusal(response)
            is_over = not repeats or response.status_code not in _RETRIED_STATUSES
            wait_s = refusal.retry_after_s
            if is_over or attempt == MAX_ATTEMPTS or (wait_s or 0) > RETRY_AFTER_MAX_S:
                raise refusal
            self._sleep(_backoff_s(attempt) if wait_s is None else wait_s)
        raise AssertionError("the last attempt returns or raises")

    def download(self, path: str, *, size_bytes: int) -> Iterator[bytes]:
        """The bytes of an answer in order, gone on with where a cut interrupted them.

        Args:
            path: Below the base URL; what lies there must never change.
            size_bytes: How many there are, to the byte.

        Raises:
            ApiError: With the platform's code; `unreachable` if nothing more came,
                `answer_invalid` if it is another size than promised.
        """
        received_bytes, failures = 0, 0
        while received_bytes < size_bytes:
            before_bytes = received_bytes
            try:
                with self._open_from(path, received_bytes) as response:
                    # As they come: what a cut would leave in a buffer is lost.
                    for chunk in response.iter_raw():
                        received_bytes += len(chunk)
                        if received_bytes > size_bytes:
                            raise _other_size()
                        yield chunk
                if received_bytes < size_bytes:
                    raise _other_size()
            except (httpx.HTTPError, _AgainError) as error:
                failures = 1 if received_bytes > before_bytes else failures + 1
                if failures == MAX_ATTEMPTS:
                    if isinstance(error, _AgainError):
                        raise error.refusal from None
                    detail = f"{self.base_url} did not answer ({type(error).__name__})."
                    raise UnreachableError(detail) from None
                wait_s = error.refusal.retry_after_s if isinstance(error, _AgainError) else None
                self._sleep(_backoff_s(failures) if wait_s is None else wait_s)

    def stream(self, path: str) -> Iterator[bytes]:
        """The bytes of an answer whose size is not known before; a cut is an error.

        Args:
            path: Below the base URL.

        Raises:
            ApiError: With the platform's code; `unreachable` if it broke off.
        """
        try:
            with self._open_from(path, 0) as response:
                yield from response.iter_bytes()
        except _AgainError as error:
            raise error.refusal from None
        except httpx.HTTPError as error:
            detail = f"{self.base_url} did not answer ({type(error).__name__})."
            raise UnreachableError(detail) from None

    @contextmanager
    def _open_from(self, path: str, first: int) -> Iterator[httpx.Response]:
        # Ciphertext is not compressible; an encoding would only hide its size.
        headers = {"Accept": "application/octet-stream, */*", "Accept-Encoding": "identity"}
        if first:
            headers["Range"] = f"bytes={first}-"
        timeout = httpx.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        with self._http.stream(
            "GET", self.base_url + path, headers=self._headers(headers), timeout=timeout
        ) as response:
            if not response.is_success:
                response.read()
                refusal = _read_refusal(response)
                is_over = response.status_code not in _RETRIED_STATUSES
                if is_over or (refusal.retry_after_s or 0) > RETRY_AFTER_MAX_S:
                    raise refusal
                raise _AgainError(refusal)
            if first and response.status_code != httpx.codes.PARTIAL_CONTENT:
                raise ApiError("answer_invalid", "The platform began a download from its start.")
            yield response

    def _headers(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        base = {"User-Agent": USER_AGENT, "Accept": "application/json"}
        if self._token:
            base["Authorization"] = f"Bearer {self._token}"
        return base | dict(headers or {})


class WebClient:
    """The management API, as far as the command line needs it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def get_platform(self) -> dict[str, Any]:
        """Name, addresses, key and limits of the platform."""
        return self.transport.call("GET", "/api/platform")

    def login(
        self, email: str, password: str, token_name: str, *, code: str | None = None
    ) -> dict[str, Any]:
        """Trade a password for a token, with the code of a second factor if there is one."""
        body = {"email": email, "password": password, "token_name": token_name}
        if code:
            body["code"] = code
        return self.transport.call("POST", "/api/login", json=body)

    def get_me(self) -> dict[str, Any]:
        """Who the token belongs to, and the accounts it may act for."""
        return self.transport.call("GET", "/api/me")

    def put_model(self, model: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Create or update a listing."""
        return self.transport.call("PUT", f"/api/models/{_path(model)}", json=dict(fields))

    def put_price(self, model: str, nanos_per_prediction: int) -> dict[str, Any]:
        """Set the price from now on."""
        body = {"nanos_per_prediction": nanos_per_prediction}
        return self.transport.call("PUT", f"/api/models/{_path(model)}/price", json=body)

    def post_signing_key(self, account: str, public_key: str) -> dict[str, Any]:
        """Make the creator's signing key known; the same key again changes nothing."""
        body = {"account": account, "public_key": public_key}
        return self.transport.call("POST", "/api/signing-keys", json=body, is_idempotent=True)

    def begin_upload(
        self, model: str, files: list[dict[str, Any]], signing_key: str
    ) -> dict[str, Any]:
        """Announce the files of a new version."""
        body = {"files": files, "signing_key": signing_key}
        return self.transport.call("POST", f"/api/models/{_path(model)}/uploads", json=body)

    def get_upload(self, upload_id: str) -> dict[str, Any]:
        """State and received parts of an upload."""
        return self.transport.call("GET", f"/api/uploads/{quote(upload_id, safe='')}")

    def abort_upload(self, upload_id: str) -> None:
        """Give an upload up."""
        self.transport.call("DELETE", f"/api/uploads/{quote(upload_id, safe='')}")

    def put_part(
        self,
        upload_id: str,
        file_index: int,
        part: int,
        *,
        content: Callable[[], Iterable[bytes]],
        size_bytes: int,
        sha256: str,
    ) -> dict[str, Any]:
        """Send one sealed part; files and parts are counted from 0."""
        return self.transport.call(
            "PUT",
            f"/api/uploads/{quote(upload_id, safe='')}/files/{file_index}/parts/{part}",
            content=content,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size_bytes),
                "X-Part-SHA256": sha256,
            },
        )

    def complete_upload(
        self, upload_id: str, manifest: str, signature: str, wrapped_keys: list[dict[str, str]]
    ) -> dict[str, Any]:
        """Hand in the signed manifest; the version then goes through onboarding."""
        body = {"manifest": manifest, "signature": signature, "wrapped_keys": wrapped_keys}
        path = f"/api/uploads/{quote(upload_id, safe='')}/complete"
        return self.transport.call("POST", path, json=body)

    def list_versions(self, model: str) -> list[dict[str, Any]]:
        """All versions of a model."""
        answer = self.transport.call("GET", f"/api/models/{_path(model)}/versions")
        return list(answer["results"])

    def get_version(self, version_id: str) -> dict[str, Any]:
        """One version with its onboarding steps."""
        return self.transport.call("GET", f"/api/versions/{quote(version_id, safe='')}")

    def get_release_log(self, version_id: str) -> dict[str, Any]:
        """Each time the key of a version was asked for, signed by the platform."""
        path = f"/api/versions/{quote(version_id, safe='')}/release-log"
        return self.transport.call("GET", path)

    def get_receipt(self, prediction: str) -> dict[str, Any]:
        """Proof that a prediction was counted, for who paid and for who is owed."""
        return self.transport.call("GET", f"/api/predictions/{quote(prediction, safe='')}/receipt")

    def stream_invoice_document(self, invoice_id: str) -> Iterator[bytes]:
        """What proves an invoice, as JSON lines."""
        return self.transport.stream(f"/api/invoices/{quote(invoice_id, safe='')}/document")

    def get_receipt_keys(self) -> dict[str, Any]:
        """The key that signs receipts, and how it followed from the first one."""
        return self.transport.call("GET", "/api/receipt-keys")

    def list_receipt_batches(self) -> Iterator[dict[str, Any]]:
        """All batches of receipts, in their order."""
        after: int | None = 0
        while after is not None:
            page = self.transport.call("GET", f"/api/receipt-batches?after={after}")
            yield from page["results"]
            after = page["next_after"]

    def list_payouts(self, account: str) -> dict[str, Any]:
        """The latest payouts of an account, and what stands in the way of the next."""
        return self.transport.call("GET", "/api/payouts", params={"account": account})

    def read_payout_document(self, payout_id: str) -> Iterator[bytes]:
        """What a payout was made of, in pieces of any size."""
        return self.transport.stream(f"/api/payouts/{quote(payout_id, safe='')}/document")

    def get_artifact(self, model: str, version: int) -> dict[str, Any]:
        """The signed manifest of an own version, and the data key sealed to its creator."""
        return self.transport.call("GET", f"/api/models/{_path(model)}/versions/{version}/artifact")

    def read_part(
        self, model: str, version: int, file_index: int, part: int, *, size_bytes: int
    ) -> Iterator[bytes]:
        """The ciphertext of one part of an own version, in pieces of any size."""
        path = f"/api/models/{_path(model)}/versions/{version}/artifact"
        return self.transport.download(
            f"{path}/files/{file_index}/parts/{part}", size_bytes=size_bytes
        )

    def list_signing_keys(self, account: str) -> list[dict[str, Any]]:
        """The keys that sign an account's manifests, with the last version of each."""
        answer = self.transport.call("GET", "/api/signing-keys", params={"account": account})
        return list(answer["results"])

    def revoke_signing_key(self, key_id: str) -> dict[str, Any]:
        """Refuse whatever else is signed with this key."""
        return self.transport.call("DELETE", f"/api/signing-keys/{quote(key_id, safe='')}")

    def put_channel(self, model: str, channel: str, version: int) -> dict[str, Any]:
        """Move a channel to a version."""
        path = f"/api/models/{_path(model)}/channels/{quote(channel, safe='')}"
        return self.transport.call("PUT", path, json={"version": version})

    def withdraw_version(self, model: str, version: int) -> dict[str, Any]:
        """Take a version out of service for good."""
        path = f"/api/models/{_path(model)}/versions/{version}/withdraw"
        return self.transport.call("POST", path, json={}, is_idempotent=True)

    def shred(self, model: str, version: int | None, reason: str) -> dict[str, Any]:
        """Have the key of a version destroyed, or all keys of a model; returns the proof."""
        name = model if version is None else f"{model}:{version}"
        place = "" if version is None else f"/versions/{version}"
        return self.transport.call(
            "POST",
            f"/api/models/{_path(model)}{place}/shred",
            json={"confirm": name, "reason": reason},
            is_idempotent=True,
            timeout_s=SHRED_TIMEOUT_S,
        )

    def list_keys(self, account: str) -> list[dict[str, Any]]:
        """The API keys of an account, without their secrets."""
        answer = self.transport.call("GET", "/api/keys", params={"account": account})
        return list(answer["results"] if isinstance(answer, dict) else answer)

    def create_key(
        self,
        account: str,
        name: str,
        mode: str,
        *,
        scopes: Sequence[str] = (),
        expires_at: str | None = None,
        key_limits: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make an API key; its secret is in this answer and never again.

        Args:
            account: For whom it will act.
            name: What it is for.
            mode: "live" or "test".
            scopes: What it may do; all that its mode may if none is named.
            expires_at: When it ends by itself, in ISO 8601.
            key_limits: As for `change_key`.
        """
        body: dict[str, Any] = {"account": account, "name": name, "mode": mode}
        body |= key_limits or {}
        if scopes:
            body["scopes"] = list(scopes)
        if expires_at is not None:
            body["expires_at"] = expires_at
        return self.transport.call("POST", "/api/keys", json=body)

    def get_key(self, key_id: str) -> dict[str, Any]:
        """An API key with its limits, without its secret."""
        return self.transport.call("GET", f"/api/keys/{quote(key_id, safe='')}")

    def get_key_spend(self, key_id: str) -> list[dict[str, Any]]:
        """Each budget of an API key in the period that runs now, and what is spent of it."""
        answer = self.transport.call("GET", f"/api/keys/{quote(key_id, safe='')}/spend")
        return list(answer["results"])

    def change_key(self, key_id: str, key_limits: Mapping[str, Any]) -> dict[str, Any]:
        """Limit an API key otherwise.

        Args:
            key_id: The key.
            key_limits: Some of `requests_per_minute`, `units_per_minute`, `concurrency_max`,
                `budget_day_nanos`, `budget_month_nanos`, `budget_total_nanos` (None for no
                limit), `allowed_models`, `allowed_networks` (empty for all). Others stay.
        """
        path = f"/api/keys/{quote(key_id, safe='')}"
        return self.transport.call("PATCH", path, json=dict(key_limits), is_idempotent=True)

    def revoke_key(self, key_id: str) -> None:
        """Revoke an API key at once."""
        self.transport.call("DELETE", f"/api/keys/{quote(key_id, safe='')}")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A finished prediction.

    Attributes:
        id: Public id; `GET /v1/predictions/{id}` answers the same.
        model: `owner/name`.
        status: "succeeded".
        output: Output name to value.
        cost_nanos: What it cost, in nano-dollars; None if the gateway did not say.
        raw: The whole envelope.
    """

    id: str
    model: str
    status: str
    output: Any
    cost_nanos: int | None
    raw: Mapping[str, Any] = field(repr=False)


class Client:
    """Buy predictions.

    Example:
        client = strongroom.Client("https://gateway.example.com", "sk_live_…")
        prediction = client.predict("acme/digits", {"image": pixels})
        print(prediction.output["digit"]["label"])

    Args:
        base_url: The gateway.
        api_key: A key of the account that pays.
        http: An own httpx client, for proxies, certificates or tests.
    """

    def __init__(self, base_url: str, api_key: str, *, http: httpx.Client | None = None) -> None:
        self._transport = Transport(base_url, api_key, http=http)

    def __repr__(self) -> str:
        return f"Client({self._transport.base_url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def predict(
        self,
        model: str,
        input: Mapping[str, Any],  # noqa: A002 - the word of the API
        *,
        timeout_s: float = PREDICTION_TIMEOUT_S,
        idempotency_key: str | None = None,
        tag: str = "",
    ) -> Prediction:
        """Run one prediction and wait for its output.

        Args:
            model: `owner/name`, `owner/name:3` or `owner/name@channel`.
            input: Input name to value; tensors as nested lists.
            timeout_s: How long to wait for the answer.
            idempotency_key: The same key and input again give the first prediction,
                charged once. Made up for each call if not given.
            tag: By which its usage is found and summed later: 1 to 64 letters, digits,
                and any of `. _ : -`; none if empty.

        Raises:
            StrongroomError: `tag_invalid`; nothing was sent.
            ApiError: For example `validation` (with `errors`), `insufficient_credit`,
                `model_not_ready`, `unauthenticated`; `prediction_failed` if the model
                gave no output. None of these is charged.
        """
        ends_at = time.monotonic() + timeout_s
        path, body = _address(model, input)
        envelope = self._transport.call(
            "POST",
            path,
            json=body,
            headers=_headers_of(idempotency_key, tag),
            is_idempotent=True,
            timeout_s=timeout_s,
        )
        return _finished(self._follow(envelope, ends_at))

    def submit(
        self,
        model: str,
        input: Mapping[str, Any],  # noqa: A002 - the word of the API
        *,
        priority: str = "normal",
        cancel_after_s: int | None = None,
        is_retried: bool = True,
        webhook: str = "",
        webhook_events: Sequence[str] = (),
        idempotency_key: str | None = None,
        tag: str = "",
    ) -> dict[str, Any]:
        """Put a prediction into the queue; its output is fetched later.

        Args:
            model: As for `predict`.
            input: As for `predict`.
            priority: high, normal or batch.
            cancel_after_s: Seconds until it has to be over, waiting included; an hour if None.
            is_retried: Whether it is run again, if a server fails under it.
            webhook: An address that is told of it.
            webhook_events: Of start, output, logs and completed, those that it is told; all if
                empty.
            idempotency_key: As for `predict`.
            tag: As for `predict`.

        Returns:
            The envelope: `id`, `status`, `progress`, `urls` and more.

        Raises:
            ApiError: For example `job_queue_full`; nothing was accepted then.
        """
        path, body = _address(model, input)
        body["priority"] = priority
        if webhook:
            body |= {"webhook": webhook, "webhook_events_filter": list(webhook_events)}
        headers = _headers_of(idempotency_key, tag) | {"Prefer": "respond-async"}
        if cancel_after_s is not None:
            headers["Cancel-After"] = f"{cancel_after_s}s"
        if not is_retried:
            headers["X-Strongroom-Retry"] = "never"
        return self._transport.call("POST", path, json=body, headers=headers, is_idempotent=True)

    def get_prediction(self, prediction_id: str) -> dict[str, Any]:
        """A prediction as it is now: `progress` says where one in the queue is."""
        return self._transport.call("GET", _prediction_path(prediction_id))

    def wait_for(
        self,
        prediction_id: str,
        *,
        timeout_s: float = JOB_TIMEOUT_S,
        on_look: Callable[[dict[str, Any]], None] | None = None,
    ) -> Prediction:
        """Wait until a prediction from the queue is over.

        Args:
            prediction_id: From `submit`.
            timeout_s: How long to wait; the prediction goes on after it.
            on_look: Called with the envelope each time that it was looked at.

        Raises:
            ApiError: `deadline` if it still runs; otherwise as for `predict`.
        """
        ends_at = time.monotonic() + timeout_s
        return _finished(self._follow(self.get_prediction(prediction_id), ends_at, on_look))

    def cancel_prediction(self, prediction_id: str) -> dict[str, Any]:
        """Give a prediction up: what waits costs nothing, what runs is told to stop."""
        path = f"{_prediction_path(prediction_id)}/cancel"
        return self._transport.call("POST", path, is_idempotent=True)

    def get_model(self, model: str) -> dict[str, Any]:
        """What the gateway tells about a model, its interface included."""
        return self._transport.call("GET", f"/v1/models/{_path(model)}")

    def _follow(
        self,
        envelope: dict[str, Any],
        ends_at: float,
        on_look: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        wait_s = POLL_INTERVAL_S
        while envelope.get("status") not in _FINAL_STATES:
            if on_look is not None:
                on_look(envelope)
            if time.monotonic() >= ends_at:
                detail = f"The prediction {envelope.get('id')} is still running."
                raise ApiError("deadline", detail)
            time.sleep(wait_s)
            # What takes long is asked for less and less often.
            wait_s = min(wait_s * POLL_GROWTH, POLL_INTERVAL_MAX_S)
            envelope = self.get_prediction(str(envelope["id"]))
        return envelope


def _address(model: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where a prediction of a model is asked for, and with which body."""
    if ":" in model or "@" in model:
        return "/v1/predictions", {"version": model, "input": dict(given)}
    return f"/v1/models/{_path(model)}/predictions", {"input": dict(given)}


def _headers_of(idempotency_key: str | None, tag: str) -> dict[str, str]:
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    if tag:
        headers["Strongroom-Tag"] = check_tag(tag)
    return headers


def _prediction_path(prediction_id: str) -> str:
    return f"/v1/predictions/{quote(prediction_id, safe='')}"


def check_url(url: str) -> str:
    """A base URL without its last slash.

    Raises:
        StrongroomError: `url_invalid`.
    """
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        is_usable = is_usable and (parts.port is None or parts.port > 0) and not parts.username
    except ValueError:
        is_usable = False
    if not is_usable or parts.query or parts.fragment:
        raise StrongroomError("url_invalid", f"{url[:200]!r} is not an http or https address.")
    return url.rstrip("/")


def check_tag(tag: str) -> str:
    """A tag that the gateway takes.

    Raises:
        StrongroomError: `tag_invalid`.
    """
    if not _TAG_FORM.fullmatch(tag):
        detail = "A tag has 1 to 64 characters: letters, digits, and any of . _ : -"
        raise StrongroomError("tag_invalid", detail)
    return tag


def is_private_path(url: str) -> bool:
    """True if nobody on the way can read along: https, or this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        is_own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_own = host == "localhost" or host.endswith(".localhost")
    return parts.scheme == "https" or is_own


def _path(model: str) -> str:
    owner, slash, name = model.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise StrongroomError("model_invalid", f"{model[:200]!r} is not of the form owner/name.")
    return f"{quote(owner, safe='')}/{quote(name, safe='')}"


def _backoff_s(attempt: int) -> float:
    # Half fixed, half random: many clients do not come back at the same moment.
    longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (attempt - 1))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret


def _decode(response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        detail = "The answer is not JSON: is this the address of a Strongroom platform?"
        raise ApiError("answer_invalid", detail, status=response.status_code) from None


def _read_refusal(response: httpx.Response) -> ApiError:
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {}
    detail = body.get("detail") or body.get("title") or f"HTTP status {response.status_code}."
    errors = body.get("errors")
    return ApiError(
        str(body.get("code") or f"http_{response.status_code}"),
        str(detail),
        status=response.status_code,
        errors=errors if isinstance(errors, list) else (),
        request_id=str(body.get("request_id") or response.headers.get("X-Request-Id", "")),
        retry_after_s=_read_retry_after(response),
    )


def _read_retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _other_size() -> ApiError:
    return ApiError("answer_invalid", "The platform's answer has another size than promised.")


def _finished(envelope: Mapping[str, Any]) -> Prediction:
    if envelope["status"] != "succeeded":
        detail = str(envelope.get("error") or f"The prediction {envelope['status']}.")
        raise ApiError("prediction_failed", detail)
    metrics = envelope.get("metrics")
    return Prediction(
        id=str(envelope["id"]),
        model=str(envelope.get("model", "")),
        status="succeeded",
        output=envelope.get("output"),
        cost_nanos=metrics.get("cost_nano_usd") if isinstance(metrics, dict) else None,
        raw=envelope,
    )
