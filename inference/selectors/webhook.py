"""Read webhooks: endpoints with their health, deliveries with their attempts, and what is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from inference.core.prediction_wire import PREDICTION_SQL, Renderer
from inference.models import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from marketplace.core.clock import to_wire, utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import lowest_id, to_public
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts, require_right
from marketplace.selectors.found import get_one

State = WebhookDelivery.State

PAGE_SIZE = 50
# The attempts of one delivery that are shown; a person who goes on and on makes more.
ATTEMPTS_SHOWN = 50
HEALTH_OF = timedelta(hours=24)
RIGHT = "keys"
# A prediction that nobody gave a time: what the gateway gives a synchronous one.
DEADLINE_S = 60


@dataclass(frozen=True, slots=True)
class Choice:
    """A part of an account's deliveries."""

    endpoint_id: UUID | None = None
    state: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """One page of deliveries, and where the next one begins."""

    rows: list[WebhookDelivery]
    next_before: str


def list_endpoints(account: Account) -> QuerySet[WebhookEndpoint]:
    """Endpoints in the order they were made, each with how those of the last day went."""
    # Ids begin with the time, so that an index finds the day.
    made = WebhookDelivery.objects.filter(pk__gte=lowest_id(utc_now() - HEALTH_OF))
    return (
        WebhookEndpoint.objects.filter(account=account)
        .annotate(
            succeeded_24h=_count(made.filter(state=State.SUCCEEDED)),
            failed_24h=_count(made.filter(state=State.FAILED)),
            waiting=_count(WebhookDelivery.objects.filter(state=State.WAITING)),
        )
        .order_by("created_at", "pk")
    )


def _count(deliveries: QuerySet[WebhookDelivery]) -> Coalesce:
    own = deliveries.filter(endpoint=OuterRef("pk")).order_by().values("endpoint")
    return Coalesce(Subquery(own.annotate(count=Count("pk")).values("count")), 0)


def access_endpoint(actor: Actor, endpoint_id: UUID) -> WebhookEndpoint:
    """An endpoint of one of the actor's accounts, with its counts of the last day.

    Raises:
        NotFoundError: None of that id among the actor's accounts.
        ForbiddenError: The actor may not manage webhooks there.
    """
    rows = WebhookEndpoint.objects.filter(account__in=list_accounts(actor))
    found = get_one(rows.select_related("account").filter(pk=endpoint_id), "No such endpoint.")
    require_right(actor, found.account, RIGHT)
    return list_endpoints(found.account).select_related("account").get(pk=found.pk)


def access_delivery(actor: Actor, delivery_id: UUID) -> WebhookDelivery:
    """A delivery of one of the actor's accounts.

    Raises:
        NotFoundError: None of that id among the actor's accounts.
        ForbiddenError: The actor may not manage webhooks there.
    """
    rows = _list_all().filter(account__in=list_accounts(actor), pk=delivery_id)
    found = get_one(rows, "No such delivery.")
    require_right(actor, found.account, RIGHT)
    return found


def list_attempts(delivery: WebhookDelivery) -> list[WebhookAttempt]:
    """The latest attempts of a delivery, newest first."""
    return list(delivery.attempt_log.order_by("-id")[:ATTEMPTS_SHOWN])


def get_deliveries(account: Account, chosen: Choice, *, before: str = "") -> DeliveryPage:
    """A page of an account's deliveries, newest first.

    Args:
        account: Whose.
        chosen: Which part of them.
        before: The id that the page before ended with; empty for the first page.

    Raises:
        InvalidInputError: `before` is no id.
    """
    rows = _list_all().filter(account=account).order_by("-id")
    if chosen.endpoint_id is not None:
        rows = rows.filter(endpoint=chosen.endpoint_id)
    if chosen.state:
        rows = rows.filter(state=chosen.state)
    if chosen.type:
        rows = rows.filter(type=chosen.type)
    if before:
        try:
            rows = rows.filter(pk__lt=UUID(before))
        except ValueError:
            raise InvalidInputError("This is no id of a delivery.") from None
    # One more than shown tells whether there are more, without counting them all.
    found = list(rows[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    return DeliveryPage(shown, str(shown[-1].pk) if len(found) > len(shown) else "")


def _list_all() -> QuerySet[WebhookDelivery]:
    return WebhookDelivery.objects.select_related("event", "endpoint", "account")


def find_url(delivery: WebhookDelivery) -> str:
    """Where it goes."""
    return delivery.endpoint.url if delivery.endpoint is not None else delivery.event.url


def name_url(url: str) -> str:
    """An address for archives and logs: its path may be a secret, and stays away."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def name_message(event: WebhookEvent) -> str:
    """The id under which receivers know it, in each attempt and after each replay."""
    return f"msg_{event.pk.hex}"


def describe_prediction(event: WebhookEvent) -> dict[str, Any]:
    """The prediction of an event, as `/v1/predictions/{id}` shows it today.

    What is not kept of it is null: a message says no more than the platform still knows.
    """
    row = _find_row(event)
    if row is None:
        assert event.prediction_id is not None
        return {"id": to_public(event.prediction_id), "data_removed": True}
    envelope = Renderer(settings.GATEWAY_URL, settings.WEB_URL, DEADLINE_S).render_row(row)
    return envelope | {"input": row["input"]}


def describe_message(delivery: WebhookDelivery) -> Any:
    """What is sent: the bare prediction to the address that it names, an envelope to endpoints."""
    event = delivery.event
    data = event.payload if event.prediction_id is None else describe_prediction(event)
    if delivery.endpoint is None:
        return data
    return {"type": event.type, "timestamp": to_wire(event.created_at), "data": data or {}}


def _find_row(event: WebhookEvent) -> Mapping[str, Any] | None:
    parameters = {"account_id": event.account_id, "id": event.prediction_id}
    with connection.cursor() as cursor:
        cursor.execute(PREDICTION_SQL + " AND p.id = %(id)s", parameters)
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        row = cursor.fetchone()
    if row is None:
        return None
    found = dict(zip(names, row, strict=True))
    return found | {name: _read_json(found[name]) for name in ("input", "output")}


def _read_json(value: Any) -> Any:
    """Django's connections hand JSON over as text."""
    return json.loads(value) if isinstance(value, str) else value


def name_prediction(delivery: WebhookDelivery) -> str:
    """The public id of its prediction; empty where it has none."""
    return to_public(delivery.prediction_id) if delivery.prediction_id else ""
