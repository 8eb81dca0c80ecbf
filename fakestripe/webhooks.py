"""Tell the product what happened: signed, asynchronous, again until it answers 2xx.

Like Stripe's, deliveries promise nothing but "at least once": they run side by side, so the
order is not kept, and a crash between the answer and its record sends an event twice. The
retry schedule of three days is pressed into half an hour. Rules of the control plane can
double, delay, withhold or falsify a delivery.

Signatures carry the real time even when Stripe's clock is shifted: the receiver compares
them with its own.

Source: docs.stripe.com, "Receive Stripe events in your webhook endpoint".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import json
import logging
import random
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import httpx

from fakestripe.config import Config
from fakestripe.store import Store

Json = dict[str, Any]

RETRY_AFTER_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 900)
TIMEOUT_S = 10
PARALLEL_MAX = 8

# What a rule can make of the signature, each of which a careful receiver must notice
# (all but the last, which is how a rotated secret looks and must be accepted).
DEFECTS = ("wrong_secret", "old_timestamp", "future_timestamp", "two_signatures")
BEHAVIOURS = ("duplicate", "delay", "never", *DEFECTS)

_SHIFT_S = {"old_timestamp": -3_600, "future_timestamp": 86_400}

logger = logging.getLogger("fakestripe.webhooks")


def enqueue(store: Store, event: Json) -> None:
    """Queue the deliveries of a new event, bent by the first rule that names its type."""
    rule: Json = {}
    for seq, _remaining, candidate in store.list_rules("webhook"):
        if fnmatchcase(event["type"], candidate["type"]):
            store.use_rule(seq)
            rule = candidate
            break
    behaviour = rule.get("behaviour", "")
    for _ in range(rule["copies"] if behaviour == "duplicate" else 1):
        store.insert_delivery(
            event["id"],
            due_at=time.time() + (rule["delay_s"] if behaviour == "delay" else 0),
            state="withheld" if behaviour == "never" else "pending",
            defect=behaviour if behaviour in DEFECTS else "",
            defect_attempts=1 if behaviour in DEFECTS else 0,
        )


def sign(payload: str, secret: str, timestamp: int) -> str:
    """The value of `Stripe-Signature` with one v1 signature."""
    return f"t={timestamp},v1={_digest(payload, secret, timestamp)}"


def _digest(payload: str, secret: str, timestamp: int) -> str:
    signed = f"{timestamp}.{payload}".encode()
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _signature_header(payload: str, secret: str, defect: str) -> str:
    timestamp = int(time.time()) + _SHIFT_S.get(defect, 0)
    if defect == "wrong_secret":
        return sign(payload, f"{secret}-other", timestamp)
    if defect == "two_signatures":
        other = _digest(payload, f"{secret}-other", timestamp)
        return f"t={timestamp},v1={other},v1={_digest(payload, secret, timestamp)}"
    return sign(payload, secret, timestamp)


class Deliverer:
    """The background task that sends what is due.

    Args:
        store: Where the deliveries are queued.
        config: Target and secret.
        show: Turns a stored event into the one to send.
    """

    def __init__(self, store: Store, config: Config, show: Callable[[Json], Json]) -> None:
        self._store = store
        self._config = config
        self._show = show
        self._awake = asyncio.Event()
        self._running: dict[int, asyncio.Task[Json]] = {}

    @property
    def is_held(self) -> bool:
        return self._store.get_setting("webhooks_held") == "1"

    def wake(self) -> None:
        """Look again now: something may have become due."""
        self._awake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        async with _client() as client:
            try:
                while True:
                    self._awake.clear()
                    if not self.is_held:
                        self._start_due(client)
                    # Not wait_for: up to Python 3.11 it can swallow a cancellation, and then
                    # the process would never end.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._wait_s()):
                            await self._awake.wait()
            finally:
                for task in self._running.values():
                    task.cancel()

    async def release(self, seed: int | None) -> list[Json]:
        """Send all that is pending one by one, shuffled by a seed, and let go of the hold.

        Returns:
            What was sent in this order: event id, type and the receiver's status.
        """
        pending = self._store.list_deliveries(state="pending")
        if seed is not None:
            random.Random(seed).shuffle(pending)  # noqa: S311 - a repeatable order, no secret
        async with _client() as client:
            sent = [await self._deliver(client, delivery) for delivery in pending]
        self._store.set_setting("webhooks_held", "0")
        self.wake()
        return sent

    def _start_due(self, client: httpx.AsyncClient) -> None:
        for delivery in self._store.list_deliveries(state="pending", due_at=time.time()):
            seq = delivery["seq"]
            if seq in self._running:
                continue
            if len(self._running) >= PARALLEL_MAX:
                return
            task = asyncio.create_task(self._deliver(client, delivery))
            self._running[seq] = task
            task.add_done_callback(functools.partial(self._finished, seq))

    def _finished(self, seq: int, _task: asyncio.Task[Json]) -> None:
        self._running.pop(seq, None)
        self.wake()

    def _wait_s(self) -> float:
        due_at = self._store.next_delivery_at()
        if self._running:
            return 0.2  # What runs still counts as due; its end wakes us anyway.
        if due_at is None or self.is_held:
            return 1.0
        return min(max(due_at - time.time(), 0.0), 1.0)

    async def _deliver(self, client: httpx.AsyncClient, delivery: Json) -> Json:
        event = self._store.find(delivery["event_id"])
        if event is None:  # The state was reset meanwhile.
            return {}
        defect = delivery["defect"] if delivery["defect_attempts"] > 0 else ""
        payload = json.dumps(self._show(event), indent=2, ensure_ascii=False)
        header = _signature_header(payload, self._config.webhook_secret, defect)
        status, error = await self._post(client, payload, header)
        self._record(delivery, status, error)
        logger.info("%s %s: %s", event["type"], event["id"], status or error)
        return {"event": event["id"], "type": event["type"], "status": status}

    async def _post(
        self, client: httpx.AsyncClient, payload: str, header: str
    ) -> tuple[int | None, str | None]:
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": header,
            "User-Agent": "Stripe/1.0 (fakestripe)",
        }
        try:
            answer = await client.post(
                self._config.webhook_url or "", content=payload.encode(), headers=headers
            )
        except httpx.HTTPError as error:
            return None, type(error).__name__
        return answer.status_code, None

    def _record(self, delivery: Json, status: int | None, error: str | None) -> None:
        attempt = delivery["attempts"]
        if status is not None and 200 <= status < 300:
            state, due_at = "delivered", delivery["due_at"]
        elif attempt < len(RETRY_AFTER_S):
            state, due_at = "pending", time.time() + RETRY_AFTER_S[attempt]
        else:
            state, due_at = "failed", delivery["due_at"]
        self._store.record_attempt(
            delivery["seq"], state=state, due_at=due_at, status=status, error=error
        )


def _client() -> httpx.AsyncClient:
    # No proxy from the environment: the product runs beside us.
    return httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
