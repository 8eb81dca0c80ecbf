"""Bring webhooks to their receivers: at least once each, whatever dies in between.

An event is written in the transaction of what it tells of. From it one delivery for each receiver
is made, which is unique, so that doing it twice does it once. A delivery is leased, sent without
holding anything in the database, and then written down; who is killed in between leaves a lease
that ends, and the next one sends it again under the same id.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F, Window
from django.db.models.functions import RowNumber
from django.urls import reverse

from inference.core import webhook_signature
from inference.models import (
    EventType,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from inference.models.webhook import HISTORY_KEPT
from inference.selectors import webhook as selectors
from inference.services import outgoing, webhook_secret
from inference.services.outgoing import OutgoingError, Reply
from inference.services.webhook import turn_off
from inference.services.webhook_secret import SecretLostError
from marketplace.core.clock import utc_now
from marketplace.core.ids import lowest_id
from marketplace.core.spans import find_spans
from marketplace.models import Account, Notification
from marketplace.services.notice import owe_notice

logger = logging.getLogger(__name__)

State = WebhookDelivery.State
Reason = WebhookEndpoint.Reason

# After each failure so many seconds: 75 hours in all, a weekend and a morning.
# Source: Standard Webhooks 1.0.0, "Deliverability and reliability".
RETRY_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
# Up to so much of a wait is added by chance: what failed together does not come back together.
JITTER = 0.1
# Connecting, sending and the answer together; a receiver stores it and works later.
CALL_LIMIT_S = 15.0
# After which a delivery that nobody has written down is sent again. Far above the call's limit,
# so that no worker that lives is overtaken.
LEASE = timedelta(seconds=120)
# Calls at once in one run, and of them for one account: a slow receiver holds up nobody else.
CALLS_MAX = 16
CALLS_PER_ACCOUNT_MAX = 4
# A run begins nothing new after so long, so that a worker's other tasks get their turn.
RUN_S = 10.0
# Between two messages about the output, or the logs, of one prediction; the newest wins.
GAP = timedelta(milliseconds=500)
THROTTLED = frozenset({EventType.OUTPUT, EventType.LOGS})
# As Replicate's clients call them in the filter of a prediction's own webhook.
SHORT_NAMES = {
    EventType.STARTED: "start",
    EventType.OUTPUT: "output",
    EventType.LOGS: "logs",
    EventType.COMPLETED: "completed",
}
# What fails for so long without a success is turned off: as long as one message is tried.
DISABLE_AFTER = timedelta(days=3)
# Common frameworks take 100 kB; what is larger is fetched by its address.
BODY_BYTES_MAX = 64 * 1024
EVENTS_PER_STEP = 500
FORGET_BATCH = 5_000
# A number of our own for the one who spreads: two would not see each other's distances.
_SPREAD_LOCK_ID = 0x5352_5745_4248_4B53
_USER_AGENT = "Strongroom-Webhooks/1"


# --- From events to deliveries ----------------------------------------------------


def spread_events() -> int:
    """Make the deliveries of new events; returns of how many events.

    One runs at a time; another one that begins meanwhile leaves it to the first.
    """
    count = 0
    while True:
        done = _spread_some()
        count += done
        if done < EVENTS_PER_STEP:
            return count


@transaction.atomic
def _spread_some() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_SPREAD_LOCK_ID])
        (is_mine,) = cursor.fetchone()
    if not is_mine:
        return 0
    now = utc_now()
    events = list(WebhookEvent.objects.filter(spread_at=None).order_by("id")[:EVENTS_PER_STEP])
    account_ids = {one.account_id for one in events}
    accounts = set(Account.objects.filter(pk__in=account_ids).values_list("pk", flat=True))
    endpoints: defaultdict[UUID, list[WebhookEndpoint]] = defaultdict(list)
    for one in WebhookEndpoint.objects.filter(account__in=accounts, is_enabled=True):
        endpoints[one.account_id].append(one)
    deliveries = [
        delivery
        for event in events
        if event.account_id in accounts and event.type in EventType.values
        for delivery in _make_deliveries(event, endpoints[event.account_id], now)
    ]
    plain = [one for one in deliveries if one.type not in THROTTLED]
    WebhookDelivery.objects.bulk_create(
        [*plain, *_space_out(deliveries, now)], ignore_conflicts=True
    )
    WebhookEvent.objects.filter(pk__in=[one.pk for one in events]).update(spread_at=now)
    return len(events)


def _make_deliveries(
    event: WebhookEvent, endpoints: Iterable[WebhookEndpoint], now: datetime
) -> list[WebhookDelivery]:
    receivers: list[WebhookEndpoint | None] = [
        one for one in endpoints if not one.events or event.type in one.events
    ]
    names = (event.type, SHORT_NAMES.get(EventType(event.type)))
    if event.url and (not event.events or any(one in event.events for one in names)):
        receivers.append(None)
    return [
        WebhookDelivery(
            account_id=event.account_id,
            event=event,
            endpoint=one,
            type=event.type,
            prediction_id=event.prediction_id,
            due_at=now,
            next_at=now,
        )
        for one in receivers
    ]


def _space_out(deliveries: Iterable[WebhookDelivery], now: datetime) -> list[WebhookDelivery]:
    """Of what comes too often: the newest one for each receiver, at its distance."""
    newest: dict[tuple[Any, ...], WebhookDelivery] = {}
    for one in deliveries:
        if one.type in THROTTLED:
            newest[(one.prediction_id, one.type, one.endpoint_id)] = one
    for one in newest.values():
        one.due_at = one.next_at = _find_place(one, now)
    return list(newest.values())


def _find_place(delivery: WebhookDelivery, now: datetime) -> datetime:
    """When it may leave: in the place of one that still waits for its first try, or after it."""
    same = WebhookDelivery.objects.filter(
        prediction_id=delivery.prediction_id, type=delivery.type, endpoint=delivery.endpoint
    )
    last = same.order_by("-due_at").first()
    if last is None:
        return now
    overtaken = same.filter(pk=last.pk, state=State.WAITING, tries=0)
    if overtaken.update(state=State.SKIPPED, ended_at=now):
        return last.due_at
    return max(now, last.due_at + GAP)


# --- Sending ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent, and by which try."""

    delivery_id: UUID
    tries: int
    url: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    at: datetime
    duration_ms: int
    reply: Reply | None
    error: str

    @property
    def is_good(self) -> bool:
        """Whether the receiver has it."""
        return not self.error


def send_webhooks() -> int:
    """Make deliveries of what is new, and send what is due; returns how much has arrived."""
    spread_events()
    began_s = time.monotonic()
    count = 0
    while time.monotonic() - began_s < RUN_S:
        claimed = _claim()
        if not claimed:
            break
        count += _send_all(claimed)
        spread_events()
    return count


def _send_all(claimed: list[WebhookDelivery]) -> int:
    count = 0
    with ThreadPoolExecutor(CALLS_MAX) as pool:
        calls = {}
        for delivery in claimed:
            try:
                message = make_message(delivery)
            except SecretLostError:
                error = "The signing secret cannot be read any more. Change it."
                _record(delivery, Outcome(utc_now(), 0, None, error))
                continue
            # The database stays with this thread.
            calls[pool.submit(_call, message)] = delivery
        for call in as_completed(calls):
            outcome = call.result()
            _record(calls[call], outcome)
            count += outcome.is_good
    return count


@transaction.atomic
def _claim() -> list[WebhookDelivery]:
    """Lease some deliveries that are due, from as many accounts as there are."""
    now = utc_now()
    due = WebhookDelivery.objects.filter(state=State.WAITING, next_at__lte=now)
    place = Window(RowNumber(), partition_by=F("account_id"), order_by=[F("next_at"), F("id")])
    fair = due.annotate(place=place).filter(place__lte=CALLS_PER_ACCOUNT_MAX)
    ids = list(fair.order_by("place", "next_at").values_list("pk", flat=True)[:CALLS_MAX])
    rows = due.select_for_update(skip_locked=True, of=("self",), no_key=True).filter(pk__in=ids)
    claimed = list(rows.select_related("event", "endpoint", "account").order_by("next_at", "id"))
    for one in claimed:
        if one.tries == 0:
            one.due_at = now
        one.tries += 1
        one.next_at = one.leased_until = now + LEASE
    WebhookDelivery.objects.bulk_update(claimed, ["due_at", "tries", "next_at", "leased_until"])
    return claimed


def make_message(delivery: WebhookDelivery) -> Message:
    """What is sent for a delivery now, with its signatures.

    Raises:
        SecretLostError: There is nothing to sign it with.
    """
    now = utc_now()
    body = render_body(selectors.describe_message(delivery))
    signer = delivery.endpoint or webhook_secret.find_default(delivery.account)
    headers = webhook_signature.sign(
        webhook_secret.list_keys(signer, now),
        message_id=selectors.name_message(delivery.event),
        now=now,
        body=body,
    )
    headers["User-Agent"] = _USER_AGENT
    url = selectors.find_url(delivery)
    return Message(delivery.pk, delivery.tries, url, body, headers)


def render_body(document: Any) -> bytes:
    """As JSON. What is too large leaves without what went in and came out."""
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    if len(body) <= BODY_BYTES_MAX:
        return body
    is_wrapped = "data" in document and "urls" not in document
    prediction = (document["data"] if is_wrapped else document) | {"input": None, "output": None}
    # An error is a sentence; one that is not is cut.
    prediction["error"] = prediction["error"] and prediction["error"][:1_000]
    document = document | {"data": prediction} if is_wrapped else prediction
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _call(message: Message) -> Outcome:
    ids = {"delivery_id": message.delivery_id, "tries": message.tries}
    with find_spans("strongroom-worker").span("webhook.delivery", **ids):
        return _send(message)


def _send(message: Message) -> Outcome:
    at, began_s = utc_now(), time.monotonic()
    reply, error = None, ""
    try:
        reply = outgoing.send(
            message.url, body=message.body, headers=message.headers, limit_s=CALL_LIMIT_S
        )
        if 300 <= reply.status < 400:
            error = f"It answered {reply.status}: redirects are not followed."
        elif not 200 <= reply.status < 300:
            error = f"It answered {reply.status}."
    except OutgoingError as failure:
        error = str(failure)
    return Outcome(at, round((time.monotonic() - began_s) * 1_000), reply, error)


@transaction.atomic
def _record(claimed: WebhookDelivery, outcome: Outcome) -> None:
    """Write down what came of a try, and what follows from it.

    The endpoint is locked before its delivery, as everywhere.
    """
    endpoint = None
    if claimed.endpoint_id is not None:
        endpoints = WebhookEndpoint.objects.select_for_update(of=("self",), no_key=True)
        endpoint = endpoints.select_related("account").filter(pk=claimed.endpoint_id).first()
    rows = WebhookDelivery.objects.select_for_update(of=("self",), no_key=True)
    delivery = rows.filter(pk=claimed.pk).first()
    if delivery is None:
        # It was deleted meanwhile, with its endpoint.
        return
    WebhookAttempt.objects.create(
        delivery=delivery,
        at=outcome.at,
        duration_ms=outcome.duration_ms,
        status=outcome.reply.status if outcome.reply else None,
        error=outcome.error,
        answer=outcome.reply.text if outcome.reply else "",
    )
    delivery.attempts += 1
    delivery.last_error = outcome.error
    if outcome.is_good:
        _finish(delivery, State.SUCCEEDED)
    elif delivery.state == State.WAITING and delivery.tries == claimed.tries:
        _put_off(delivery, outcome.reply)
    # Else somebody else has taken it since, or it has ended: its state is not ours to say.
    delivery.save()
    if endpoint is not None:
        _judge(endpoint, delivery, outcome)


def _finish(delivery: WebhookDelivery, state: str) -> None:
    delivery.state, delivery.ended_at, delivery.leased_until = state, utc_now(), None


def _put_off(delivery: WebhookDelivery, reply: Reply | None) -> None:
    is_gone = reply is not None and reply.status == 410
    if is_gone or delivery.type == EventType.PING or delivery.tries > len(RETRY_S):
        _finish(delivery, State.FAILED)
        return
    wait_s = RETRY_S[delivery.tries - 1] * (1 + JITTER * random.random())  # noqa: S311
    if reply is not None and reply.status in (429, 503):
        wait_s = max(wait_s, reply.retry_after_s or 0)
    delivery.next_at, delivery.leased_until = utc_now() + timedelta(seconds=wait_s), None


def _judge(endpoint: WebhookEndpoint, delivery: WebhookDelivery, outcome: Outcome) -> None:
    """Remember how an endpoint is, and turn it off where nothing arrives there any more."""
    now = utc_now()
    if outcome.is_good:
        endpoint.last_success_at, endpoint.failing_since = now, None
        endpoint.save(update_fields=["last_success_at", "failing_since"])
        return
    if outcome.reply is not None and outcome.reply.status == 410:
        _turn_off(endpoint, Reason.GONE)
        return
    # A test of what is being built says nothing.
    if delivery.type == EventType.PING:
        return
    if endpoint.failing_since is None:
        endpoint.failing_since = now
        endpoint.save(update_fields=["failing_since"])
    elif now - endpoint.failing_since >= DISABLE_AFTER:
        _turn_off(endpoint, Reason.FAILING)


def _turn_off(endpoint: WebhookEndpoint, reason: str) -> None:
    """And tell its owners; what is off already was told of."""
    if not endpoint.is_enabled:
        return
    turn_off(endpoint, reason)
    path = reverse("inference:webhook", args=[endpoint.pk])
    context = {
        "account": endpoint.account,
        "address": selectors.name_url(endpoint.url),
        "reason": endpoint.get_disabled_reason_display(),
        "path": path,
    }
    owe_notice(
        "webhook_disabled",
        context,
        kind=Notification.Kind.ACCOUNT,
        path=path,
        account=endpoint.account,
    )
    logger.info("the webhook endpoint %s was turned off: %s", endpoint.pk, reason)


# --- Forgetting -------------------------------------------------------------------


def forget_webhooks() -> int:
    """Delete events older than `HISTORY_KEPT`, with their deliveries; returns how many.

    What still waits for a try is younger: it was replayed, and keeps its event until it ends.
    """
    # Ids begin with the time.
    old = WebhookEvent.objects.filter(pk__lt=lowest_id(utc_now() - HISTORY_KEPT))
    old = old.exclude(deliveries__state=State.WAITING)
    count = 0
    while ids := list(old.order_by("pk").values_list("pk", flat=True)[:FORGET_BATCH]):
        count += (
            WebhookEvent.objects.filter(pk__in=ids).delete()[1].get(WebhookEvent._meta.label, 0)
        )
    return count
