"""Read the rules that watch a model, where they tell of it, and what happened."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Prefetch, QuerySet

from inference.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule
from marketplace.models import Account, AIModel
from marketplace.selectors.found import get_one

Kind = AlertRule.Kind

HISTORY_SHOWN = 50
# What a rule may look at: never more than the minutes that are kept for a comparison with
# the day before.
WINDOWS = {
    300: "5 minutes",
    900: "15 minutes",
    3_600: "1 hour",
    21_600: "6 hours",
    86_400: "24 hours",
}


def list_rules(model: AIModel) -> QuerySet[AlertRule]:
    """All rules of a model, each with its open event in `open_events`."""
    open_events = AlertEvent.objects.filter(resolved_at=None)
    return (
        AlertRule.objects.filter(model=model)
        .prefetch_related(Prefetch("events", queryset=open_events, to_attr="open_events"))
        .order_by("created_at", "pk")
    )


def list_channels(model: AIModel) -> QuerySet[AlertChannel]:
    """Where alerts of a model go."""
    return AlertChannel.objects.filter(model=model).order_by("created_at", "pk")


def list_events(model: AIModel) -> list[AlertEvent]:
    """What happened, the newest first."""
    deliveries = AlertDelivery.objects.select_related("channel").order_by("created_at")
    events = AlertEvent.objects.filter(rule__model=model).select_related("rule", "acknowledged_by")
    with_deliveries = events.prefetch_related(Prefetch("deliveries", queryset=deliveries))
    return list(with_deliveries.order_by("-fired_at", "-pk")[:HISTORY_SHOWN])


def list_open_events(model: AIModel) -> list[AlertEvent]:
    """What is broken now, the newest first."""
    events = AlertEvent.objects.filter(rule__model=model, resolved_at=None)
    return list(events.select_related("rule").order_by("-fired_at")[:HISTORY_SHOWN])


def get_rule(model: AIModel, rule_id: UUID) -> AlertRule:
    """A rule of a model that its caller may change.

    Raises:
        NotFoundError: The model has none of that id.
    """
    return get_one(AlertRule.objects.filter(model=model, pk=rule_id), "No such rule.")


def get_channel(model: AIModel, channel_id: UUID) -> AlertChannel:
    """A channel of a model that its caller may change.

    Raises:
        NotFoundError: The model has none of that id.
    """
    return get_one(AlertChannel.objects.filter(model=model, pk=channel_id), "No such channel.")


def get_event(model: AIModel, event_id: UUID) -> AlertEvent:
    """An event of a model that its caller may acknowledge.

    Raises:
        NotFoundError: The model has none of that id.
    """
    return get_one(AlertEvent.objects.filter(rule__model=model, pk=event_id), "No such event.")


def list_addresses(account: Account) -> list[str]:
    """To whom mail about an account may go: nobody else asked for it."""
    members = account.memberships.filter(user__is_active=True)
    return list(members.order_by("user__email").values_list("user__email", flat=True))


def find_secret(channel: AlertChannel) -> str:
    """With what its messages are signed, as Standard Webhooks writes it.

    Made from the platform's secret and the channel's id, so that no table holds it.
    """
    key = hashlib.sha256(f"alert-channel {settings.SECRET_KEY}".encode()).digest()
    return "whsec_" + base64.b64encode(hmac.digest(key, channel.pk.bytes, "sha256")).decode()


def name_target(channel: AlertChannel) -> str:
    """The target for people; the path of an address may be a secret, and stays away."""
    if channel.kind == AlertChannel.Kind.MAIL:
        return channel.target
    scheme, _, rest = channel.target.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/…"


def describe_rule(rule: AlertRule) -> str:
    """When it fires, in a sentence."""
    window = WINDOWS.get(rule.window_s, f"{rule.window_s} s")
    limit = describe_value(rule.kind, rule.threshold)
    match rule.kind:
        case Kind.ERROR_RATE:
            return f"{limit} or more of the predictions fail over {window}"
        case Kind.P95:
            return f"p95 latency is {limit} or more over {window}"
        case Kind.NO_TRAFFIC:
            return f"no prediction in {window}, after a day with some"
        case Kind.REVENUE_DROP:
            return f"revenue over {window} is {limit} or more below that of a day before"
        case Kind.REPLICA_LOST:
            return f"{limit} or more missing, of deployments older than {window}"
        case Kind.DRIFT:
            return f"what goes in or comes out is {limit} or more from its baseline over {window}"
        case _:
            return f"the error budget burns at {limit} or more over {window} and a twelfth of it"


def describe_value(kind: str, value: int | None) -> str:
    """A measured value or a threshold, in the unit of its kind."""
    if value is None:
        return "—"
    match kind:
        case Kind.ERROR_RATE | Kind.REVENUE_DROP:
            return f"{value / 100:g} %"
        case Kind.P95:
            return f"{value:,} ms"
        case Kind.NO_TRAFFIC:
            return "silent" if value else "traffic"
        case Kind.REPLICA_LOST:
            return f"{value} {'copy' if value == 1 else 'copies'}"
        case Kind.DRIFT:
            return f"{value / 100:.2f}"
        case _:
            return f"{value / 100:g}x"


def describe_event(event: AlertEvent | None, model: AIModel) -> dict[str, Any]:
    """An event as a webhook tells it; without one, what a test says."""
    if event is None:
        return {"model": str(model), "text": "This is a test. Nothing is wrong."}
    rule = event.rule
    return {
        "model": str(model),
        "rule": {
            "id": str(rule.pk),
            "kind": rule.kind,
            "threshold": rule.threshold,
            "window_s": rule.window_s,
        },
        "measured": event.measured,
        "fired_at": event.fired_at.isoformat(),
        "resolved_at": event.resolved_at.isoformat() if event.resolved_at else None,
        "text": f"{rule.get_kind_display()}: {describe_rule(rule)}"
        f" (measured: {describe_value(rule.kind, event.measured)}).",
    }
