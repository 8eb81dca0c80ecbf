"""Watch models by rules, and tell those who asked for it.

A rule is either quiet or firing. What is told is written in the transaction of the change that
it tells of, once for each channel, and leaves afterwards; so a run that is repeated tells
nothing twice, and one that is cut loses nothing.
"""

from __future__ import annotations

import base64
import json
import logging
from datetime import datetime, timedelta
from smtplib import SMTPException
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import F, Sum
from django.template.loader import render_to_string
from django.urls import reverse

from inference.core import webhook_signature
from inference.models import (
    AlertChannel,
    AlertDelivery,
    AlertEvent,
    AlertRule,
    Deployment,
    MetricCursor,
    Replica,
)
from inference.selectors import alert as selectors
from inference.selectors import slo as slos
from inference.selectors.drift import measure_drift
from inference.selectors.metric import LATE_AFTER, read_point
from inference.services import outgoing
from inference.tasks import alert as alert_tasks
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError, LimitExceededError
from marketplace.models import AIModel, Notification
from marketplace.selectors.access import Actor, require_right
from marketplace.services import audit
from marketplace.services.notification import notify
from marketplace.services.validation import check_row

logger = logging.getLogger(__name__)

Kind = AlertRule.Kind
What = AlertDelivery.What
State = AlertDelivery.State

# Each rule is measured every minute, and each channel is told of each event.
RULES_PER_MODEL_MAX = 20
CHANNELS_PER_MODEL_MAX = 10
RULES_PER_RUN_MAX = 1_000
DELIVERIES_PER_RUN_MAX = 100
# What one account's alerts may send by mail in an hour, tests among them: an inbox that is
# full of them is read by nobody, and the platform's mail is not to be taken for spam.
MAILS_PER_HOUR_MAX = 10
TESTS_PER_HOUR_MAX = 5
# After a failure the next try comes so many seconds later; then it is given up.
RETRY_S = (60, 300, 1_800)
SNOOZE_CHOICES_S = (3_600, 14_400, 86_400, 604_800)
COOL_DOWN_MAX_S = 86_400
COUNT_MIN_MAX = 1_000_000
# For each kind, the thresholds that make sense, in its unit.
THRESHOLDS = {
    Kind.ERROR_RATE: (1, 10_000),
    Kind.P95: (1, 600_000),
    Kind.NO_TRAFFIC: (1, 1),
    Kind.REVENUE_DROP: (100, 10_000),
    Kind.REPLICA_LOST: (1, 100),
    Kind.BUDGET_BURN: (10, 100_000),
    Kind.DRIFT: (10, 1_000),
}
# A day before, for what is compared with it; minutes are kept for two.
DAY = timedelta(days=1)
# What drift says of less than a day is the time of day.
DRIFT_WINDOW_S = 86_400
HISTORY_KEPT = timedelta(days=90)


# --- Rules and channels -----------------------------------------------------------


@transaction.atomic
def add_rule(
    *,
    actor: Actor,
    model: AIModel,
    kind: str,
    threshold: int,
    window_s: int,
    count_min: int = 1,
    cool_down_s: int = 900,
) -> AlertRule:
    """Watch a model.

    Raises:
        InvalidInputError: A number is out of its range, or there is such a rule already.
        LimitExceededError: The model has enough of them.
    """
    require_right(actor, model.account, "push")
    _lock(model)
    if model.alert_rules.count() >= RULES_PER_MODEL_MAX:
        raise LimitExceededError(f"A model has at most {RULES_PER_MODEL_MAX} rules.")
    rule = AlertRule(
        model=model,
        kind=kind,
        threshold=threshold,
        window_s=window_s,
        count_min=count_min,
        cool_down_s=cool_down_s,
    )
    _check_rule(rule)
    check_row(rule)
    rule.save()
    payload = {"model": str(model), "kind": kind, "threshold": threshold, "window_s": window_s}
    audit.record(actor.label, "alert.add", rule, account_id=model.account_id, payload=payload)
    return rule


def _check_rule(rule: AlertRule) -> None:
    ranges = {
        "threshold": THRESHOLDS.get(Kind(rule.kind), (0, 0)) if rule.kind in Kind.values else None,
        "count_min": (1, COUNT_MIN_MAX),
        "cool_down_s": (0, COOL_DOWN_MAX_S),
    }
    faults = [
        {"pointer": f"/{name}", "detail": f"Must be from {found[0]:,} to {found[1]:,}."}
        for name, found in ranges.items()
        if found and not found[0] <= getattr(rule, name) <= found[1]
    ]
    if rule.window_s not in selectors.WINDOWS:
        faults.append({"pointer": "/window_s", "detail": "There is no such window."})
    elif rule.kind == Kind.DRIFT and rule.window_s != DRIFT_WINDOW_S:
        faults.append({"pointer": "/window_s", "detail": "Drift is measured over 24 hours."})
    if faults:
        raise InvalidInputError(errors=faults)  # type: ignore[arg-type]


@transaction.atomic
def remove_rule(*, actor: Actor, rule: AlertRule) -> None:
    """Watch it no more; its history goes with it."""
    model = rule.model
    require_right(actor, model.account, "push")
    payload = {"model": str(model), "kind": rule.kind, "threshold": rule.threshold}
    audit.record(actor.label, "alert.remove", rule, account_id=model.account_id, payload=payload)
    rule.delete()


def snooze_rule(*, actor: Actor, rule: AlertRule, seconds: int) -> None:
    """Tell nothing of it for a while; 0 ends that. It is measured all the same.

    Raises:
        InvalidInputError: Not one of the choices.
    """
    require_right(actor, rule.model.account, "push")
    if seconds not in (0, *SNOOZE_CHOICES_S):
        detail = "There is no such choice."
        raise InvalidInputError(errors=[{"pointer": "/seconds", "detail": detail}])
    until = utc_now() + timedelta(seconds=seconds) if seconds else None
    AlertRule.objects.filter(pk=rule.pk).update(snoozed_until=until)


def acknowledge(*, actor: Actor, event: AlertEvent) -> None:
    """Say that somebody looks after it; the first one who says so stays."""
    require_right(actor, event.rule.model.account, "push")
    AlertEvent.objects.filter(pk=event.pk, acknowledged_at=None).update(
        acknowledged_at=utc_now(), acknowledged_by=actor.user
    )


@transaction.atomic
def add_channel(*, actor: Actor, model: AIModel, kind: str, target: str) -> AlertChannel:
    """Tell of a model's alerts here as well.

    Raises:
        InvalidInputError: It is no address that may be told, or it is told already.
        LimitExceededError: The model has enough of them.
    """
    require_right(actor, model.account, "push")
    _lock(model)
    if model.alert_channels.count() >= CHANNELS_PER_MODEL_MAX:
        raise LimitExceededError(f"A model has at most {CHANNELS_PER_MODEL_MAX} channels.")
    channel = AlertChannel(model=model, kind=kind, target=target.strip())
    check_row(channel)
    if kind == AlertChannel.Kind.MAIL:
        if channel.target not in selectors.list_addresses(model.account):
            detail = "Mail goes to members of the account only."
            raise InvalidInputError(errors=[{"pointer": "/target", "detail": detail}])
    else:
        outgoing.check_url(channel.target)
    channel.save()
    payload = {"model": str(model), "kind": kind, "target": selectors.name_target(channel)}
    audit.record(
        actor.label, "alert_channel.add", channel, account_id=model.account_id, payload=payload
    )
    return channel


@transaction.atomic
def remove_channel(*, actor: Actor, channel: AlertChannel) -> None:
    """Tell nothing there any more."""
    model = channel.model
    require_right(actor, model.account, "push")
    payload = {"model": str(model), "kind": channel.kind}
    audit.record(
        actor.label, "alert_channel.remove", channel, account_id=model.account_id, payload=payload
    )
    channel.delete()


@transaction.atomic
def test_channel(*, actor: Actor, channel: AlertChannel) -> AlertDelivery:
    """Send a message that says it is a test.

    Raises:
        LimitExceededError: That was done often enough.
    """
    require_right(actor, channel.model.account, "push")
    channel = AlertChannel.objects.select_for_update(of=("self",)).get(pk=channel.pk)
    since = utc_now() - timedelta(hours=1)
    tests = channel.deliveries.filter(what=What.TEST, created_at__gt=since)
    if tests.count() >= TESTS_PER_HOUR_MAX:
        detail = f"A channel is tested at most {TESTS_PER_HOUR_MAX} times an hour."
        raise LimitExceededError(detail, retry_after_s=3_600)
    delivery = AlertDelivery.objects.create(channel=channel, what=What.TEST, next_at=utc_now())
    # Without Redis, beat asks for it in a minute.
    transaction.on_commit(_enqueue, robust=True)
    return delivery


# Tests of pytest are called so as well; this is none.
test_channel.__test__ = False  # type: ignore[attr-defined]


def _enqueue() -> None:
    alert_tasks.send_alerts.delay()


def _lock(model: AIModel) -> None:
    """Two who add at once must not pass the limit together."""
    AIModel.objects.select_for_update(no_key=True).get(pk=model.pk)


# --- Evaluation -------------------------------------------------------------------


def evaluate_rules() -> int:
    """Measure the rules that were measured longest ago; returns how many.

    While the roll-up is behind, nothing is known of the last minutes, so nothing is said.
    """
    now = utc_now()
    cursor = MetricCursor.objects.filter(name="fresh").first()
    if cursor is None or now - cursor.reached_at > LATE_AFTER:
        return 0
    due = AlertRule.objects.order_by(F("evaluated_at").asc(nulls_first=True), "pk")
    rule_ids = list(due.values_list("pk", flat=True)[:RULES_PER_RUN_MAX])
    count = sum(_evaluate(rule_id, now) for rule_id in rule_ids)
    _forget(now)
    return count


@transaction.atomic
def _evaluate(rule_id: UUID, now: datetime) -> bool:
    rules = AlertRule.objects.select_for_update(skip_locked=True, of=("self",))
    rule = rules.select_related("model__account").filter(pk=rule_id).first()
    if rule is None:
        return False
    measured = measure(rule, now)
    AlertRule.objects.filter(pk=rule.pk).update(evaluated_at=now, measured=measured)
    if measured is not None:
        _apply(rule, measured, now)
    return True


def _apply(rule: AlertRule, measured: int, now: datetime) -> None:
    """Move between quiet and firing, and write down what is to be told."""
    event = rule.events.filter(resolved_at=None).first()
    is_snoozed = rule.snoozed_until is not None and rule.snoozed_until > now
    if measured < rule.threshold:
        if event is not None:
            event.resolved_at = now
            event.save(update_fields=["resolved_at"])
            # Who was not told that it began is not told that it ended.
            if event.notified_at is not None and not is_snoozed:
                _tell(event, What.RESOLVED, now)
        return
    if event is None:
        event = AlertEvent.objects.create(rule=rule, fired_at=now, measured=measured)
    elif measured > event.measured:
        # The worst that was seen.
        event.measured = measured
        event.save(update_fields=["measured"])
    if event.notified_at is None and not is_snoozed and not _is_cooling_down(rule, now):
        event.notified_at = now
        event.save(update_fields=["notified_at"])
        _tell(event, What.FIRING, now)


def _is_cooling_down(rule: AlertRule, now: datetime) -> bool:
    """Whether one that was told of ended a moment ago: one that flaps is told of once."""
    since = now - timedelta(seconds=rule.cool_down_s)
    return rule.events.filter(notified_at__isnull=False, resolved_at__gt=since).exists()


def _tell(event: AlertEvent, what: str, now: datetime) -> None:
    AlertDelivery.objects.bulk_create(
        [
            AlertDelivery(channel=channel, event=event, what=what, next_at=now)
            for channel in event.rule.model.alert_channels.all()
        ],
        ignore_conflicts=True,
    )
    model = event.rule.model
    word = "firing" if what == What.FIRING else "over"
    notify(
        Notification.Kind.ALERT,
        model.account,
        key=f"alert:{event.pk}:{what}",
        title=f"{event.rule.get_kind_display()} of {model}: {word}",
        text=selectors.describe_event(event, model)["text"],
        path=reverse("inference:alerts", args=[model.account.slug, model.name]),
    )


def measure(rule: AlertRule, now: datetime) -> int | None:
    """What a rule watches, in its unit; None where there is too little to say anything."""
    since = now - timedelta(seconds=rule.window_s)
    match rule.kind:
        case Kind.REPLICA_LOST:
            return _measure_missing(rule, since)
        case Kind.BUDGET_BURN:
            return _measure_burn(rule, now)
        case Kind.NO_TRAFFIC:
            return _measure_silence(rule, since, now)
        case Kind.REVENUE_DROP:
            return _measure_drop(rule, since, now)
        case Kind.DRIFT:
            return measure_drift(rule.model_id, now, count_min=rule.count_min)
    point = read_point(rule.model_id, since=since, until=now)
    ended = point.succeeded + point.failed
    if rule.kind == Kind.ERROR_RATE:
        return point.failed * 10_000 // ended if ended >= rule.count_min else None
    p95 = point.quantile_ms("latency", 0.95)
    return None if p95 is None or point.succeeded < rule.count_min else round(p95)


def _measure_silence(rule: AlertRule, since: datetime, now: datetime) -> int | None:
    """1 if nobody asks who did before; a model that nobody uses is not silent."""
    if read_point(rule.model_id, since=since, until=now).predictions:
        return 0
    before = read_point(rule.model_id, since=since - DAY, until=since)
    return 1 if before.predictions >= rule.count_min else None


def _measure_drop(rule: AlertRule, since: datetime, now: datetime) -> int | None:
    """How much less the creator earned than in the same window of the day before."""
    before = read_point(rule.model_id, since=since - DAY, until=now - DAY)
    if before.predictions < rule.count_min or not before.creator_nanos:
        return None
    earned = read_point(rule.model_id, since=since, until=now).creator_nanos
    return max(0, (before.creator_nanos - earned) * 10_000 // before.creator_nanos)


def _measure_missing(rule: AlertRule, since: datetime) -> int | None:
    """Copies that should run and do not, of deployments that had time to come up."""
    active = Deployment.objects.filter(
        version__model_id=rule.model_id,
        stopped_at=None,
        created_at__lte=since,
        # What sleeps, or slept until a moment ago, is not missed.
        slept_at=None,
        waking_since=None,
    )
    wanted = active.aggregate(count=Sum("replica_count"))["count"]
    if not wanted:
        return None
    ready = Replica.objects.filter(deployment__in=active, wanted=True, state=Replica.State.READY)
    return max(0, wanted - ready.count())


def _measure_burn(rule: AlertRule, now: datetime) -> int | None:
    """The smaller rate of the window and a twelfth of it, in hundredths."""
    slo = slos.find_slo(rule.model)
    if slo is None:
        return None
    rates = []
    for window_s in (rule.window_s, max(300, rule.window_s // 12)):
        point = read_point(rule.model_id, since=now - timedelta(seconds=window_s), until=now)
        count = slos.Count(good=point.good, bad=point.bad)
        rate = count.find_burn(slo.availability_target)
        if rate is None or (window_s == rule.window_s and count.total < rule.count_min):
            return None
        rates.append(rate)
    return int(min(rates) * 100)


def _forget(now: datetime) -> None:
    old = now - HISTORY_KEPT
    AlertEvent.objects.filter(resolved_at__lt=old).delete()
    AlertDelivery.objects.filter(event=None, created_at__lt=old).delete()


# --- Delivery ---------------------------------------------------------------------


def send_alerts() -> int:
    """Send what waits; returns how much of it left."""
    due = AlertDelivery.objects.filter(state=State.WAITING, next_at__lte=utc_now())
    ids = list(due.order_by("next_at", "created_at").values_list("pk", flat=True))
    return sum(_send(delivery_id) for delivery_id in ids[:DELIVERIES_PER_RUN_MAX])


@transaction.atomic
def _send(delivery_id: UUID) -> bool:
    rows = AlertDelivery.objects.select_for_update(skip_locked=True, of=("self",))
    delivery = (
        rows.select_related("channel__model__account", "event__rule")
        .filter(pk=delivery_id, state=State.WAITING)
        .first()
    )
    if delivery is None:
        return False
    channel = delivery.channel
    is_mail = channel.kind == AlertChannel.Kind.MAIL
    if is_mail and _count_mails(channel.model) >= MAILS_PER_HOUR_MAX:
        error = f"More than {MAILS_PER_HOUR_MAX} mails in an hour: held back."
        _finish(delivery, State.HELD_BACK, error)
        return False
    delivery.attempts += 1
    try:
        _send_mail(delivery) if is_mail else _call(delivery)
    except (outgoing.OutgoingError, OSError, SMTPException) as error:
        text = str(error) if isinstance(error, outgoing.OutgoingError) else "Mail was not taken."
        _put_off(delivery, text)
        return False
    delivery.sent_at = utc_now()
    _finish(delivery, State.SENT, "")
    return True


def _count_mails(model: AIModel) -> int:
    # Those that send for one account take turns, so that two do not both take the last place.
    AIModel.objects.select_for_update(no_key=True).filter(account=model.account).order_by(
        "pk"
    ).first()
    return AlertDelivery.objects.filter(
        channel__model__account=model.account,
        channel__kind=AlertChannel.Kind.MAIL,
        state=State.SENT,
        sent_at__gt=utc_now() - timedelta(hours=1),
    ).count()


def _finish(delivery: AlertDelivery, state: str, error: str) -> None:
    delivery.state = state
    delivery.save(update_fields=["state", "attempts", "sent_at"])
    changes: dict[str, Any] = {"last_error": error}
    if state == State.SENT:
        changes["last_sent_at"] = delivery.sent_at
    AlertChannel.objects.filter(pk=delivery.channel_id).update(**changes)


def _put_off(delivery: AlertDelivery, error: str) -> None:
    if delivery.attempts > len(RETRY_S) or delivery.what == What.TEST:
        _finish(delivery, State.FAILED, error)
        return
    delivery.next_at = utc_now() + timedelta(seconds=RETRY_S[delivery.attempts - 1])
    delivery.save(update_fields=["attempts", "next_at"])
    AlertChannel.objects.filter(pk=delivery.channel_id).update(last_error=error)


def _send_mail(delivery: AlertDelivery) -> None:
    channel = delivery.channel
    address = channel.target
    # Who has left the account meanwhile is told nothing of it.
    if address not in selectors.list_addresses(channel.model.account):
        raise outgoing.OutgoingError("Who was to be told does not belong to the account any more.")
    context = _describe(delivery)
    subject = render_to_string("emails/alert_subject.txt", context)
    text = render_to_string("emails/alert.txt", context)
    send_mail(" ".join(subject.split()), text, None, [address])


def _call(delivery: AlertDelivery) -> None:
    channel = delivery.channel
    told = _describe(delivery)
    if channel.kind == AlertChannel.Kind.SLACK:
        text = f"{told['heading']}\n{told['data']['text']}\n{told['url']}"
        outgoing.post(channel.target, body=json.dumps({"text": text}).encode(), headers={})
        return
    now = utc_now()
    document = {
        "type": f"alert.{delivery.what}",
        "timestamp": now.isoformat(),
        "data": told["data"] | {"url": told["url"]},
    }
    body = json.dumps(document, separators=(",", ":")).encode()
    headers = sign(channel, message_id=f"msg_{delivery.pk.hex}", now=now, body=body)
    outgoing.post(channel.target, body=body, headers=headers)


def sign(channel: AlertChannel, *, message_id: str, now: datetime, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks."""
    key = base64.b64decode(selectors.find_secret(channel).removeprefix(webhook_signature.PREFIX))
    return webhook_signature.sign([key], message_id=message_id, now=now, body=body)


def _describe(delivery: AlertDelivery) -> dict[str, Any]:
    model = delivery.channel.model
    path = reverse("inference:alerts", args=[model.account.slug, model.name])
    event = delivery.event
    kind = event.rule.get_kind_display() if event else "Test"
    word = {What.FIRING: "firing", What.RESOLVED: "resolved"}.get(What(delivery.what), "test")
    return {
        "heading": f"[{word}] {model}: {kind}",
        "data": selectors.describe_event(event, model),
        "what": delivery.what,
        "model": model,
        "event": event,
        "url": f"{settings.WEB_URL}{path}",
    }
