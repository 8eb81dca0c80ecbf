"""Endpoints of webhooks, as people and their programs manage them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from inference.errors import TooManyWebhooksError
from inference.models import (
    EventType,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookSecret,
)
from inference.models.webhook import HISTORY_KEPT
from inference.selectors.webhook import RIGHT, name_url
from inference.services import outgoing, webhook_secret
from inference.services.webhook_secret import SigningSecret
from inference.tasks import webhook as tasks
from marketplace.core.clock import to_wire, utc_now
from marketplace.core.errors import ConflictError, InvalidInputError, LimitExceededError
from marketplace.models import Account
from marketplace.selectors.access import Actor, require_right
from marketplace.services import audit
from marketplace.services.validation import check_row

State = WebhookDelivery.State
Reason = WebhookEndpoint.Reason

# Each event is sent to each of them.
ENDPOINTS_PER_ACCOUNT_MAX = 20
# Who looks for a fault sends a few in a row; more is a way to have us call somebody else.
TESTS_PER_MINUTE_MAX = 5
# As many as one account's receivers take in some minutes; who has more asks again.
REPLAYS_AT_ONCE_MAX = 1_000
# What may be chosen: a test goes to its endpoint whatever it has chosen.
CHOICES = tuple(one for one in EventType if one is not EventType.PING)


# --- Endpoints --------------------------------------------------------------------


@transaction.atomic
def add_endpoint(
    *,
    actor: Actor,
    account: Account,
    url: str,
    events: Sequence[str] = (),
    description: str = "",
) -> tuple[WebhookEndpoint, str]:
    """Tell an address of an account's predictions from now on.

    Args:
        actor: Who asks for it.
        account: Whose predictions.
        url: Public, and over HTTPS.
        events: Which ones; none for all.
        description: For people.

    Returns:
        The endpoint, and its secret, which is shown this once.

    Raises:
        InvalidInputError: The address may not be called, or something else is wrong.
        ConflictError: The account has this address already.
        TooManyWebhooksError: It has `ENDPOINTS_PER_ACCOUNT_MAX`.
    """
    require_right(actor, account, RIGHT)
    endpoint = WebhookEndpoint(account=account, url=url.strip(), description=description.strip())
    endpoint.events = _read_events(events)
    endpoint.sealed_secret, secret = webhook_secret.make_secret(endpoint.pk)
    outgoing.check_target(endpoint.url, pointer="/url")
    # Two who add at once must not pass the limit together.
    Account.objects.select_for_update(no_key=True).get(pk=account.pk)
    _check_once(endpoint)
    if account.webhook_endpoints.count() >= ENDPOINTS_PER_ACCOUNT_MAX:
        raise TooManyWebhooksError(limit=ENDPOINTS_PER_ACCOUNT_MAX)
    check_row(endpoint)
    endpoint.save()
    _note(actor, "webhook.add", endpoint, events=endpoint.events)
    return endpoint, secret


@transaction.atomic
def change_endpoint(
    *, actor: Actor, endpoint: WebhookEndpoint, changes: dict[str, Any]
) -> WebhookEndpoint:
    """Change `url`, `events`, `description` or `is_enabled`; what is left out stays.

    Raises:
        InvalidInputError: As for `add_endpoint`.
        ConflictError: The account has this address already.
    """
    require_right(actor, endpoint.account, RIGHT)
    if "url" in changes and changes["url"].strip() != endpoint.url:
        outgoing.check_target(changes["url"].strip(), pointer="/url")
    row = _lock(endpoint)
    row.url = changes.get("url", row.url).strip()
    row.description = changes.get("description", row.description).strip()
    row.events = _read_events(changes.get("events", row.events))
    _check_once(row)
    check_row(row)
    row.save(update_fields=["url", "description", "events"])
    is_enabled = changes.get("is_enabled", row.is_enabled)
    if is_enabled and not row.is_enabled:
        row.is_enabled, row.disabled_reason, row.disabled_at = True, "", None
        row.failing_since = None
        row.save(update_fields=["is_enabled", "disabled_reason", "disabled_at", "failing_since"])
    elif row.is_enabled and not is_enabled:
        turn_off(row, Reason.PERSON)
    told = {name: changes[name] for name in ("events", "is_enabled") if name in changes}
    _note(actor, "webhook.change", row, **told)
    return row


def turn_off(endpoint: WebhookEndpoint, reason: str) -> None:
    """Send nothing more to a locked endpoint; what waits for it can be replayed later."""
    now = utc_now()
    endpoint.is_enabled, endpoint.disabled_reason, endpoint.disabled_at = False, reason, now
    endpoint.save(update_fields=["is_enabled", "disabled_reason", "disabled_at"])
    WebhookDelivery.objects.filter(endpoint=endpoint, state=State.WAITING).update(
        state=State.FAILED, ended_at=now, last_error="The endpoint was turned off."
    )


@transaction.atomic
def remove_endpoint(*, actor: Actor, endpoint: WebhookEndpoint) -> None:
    """Tell it nothing more; its deliveries go with it."""
    require_right(actor, endpoint.account, RIGHT)
    row = _lock(endpoint)
    _note(actor, "webhook.remove", row)
    row.delete()


def _lock(endpoint: WebhookEndpoint) -> WebhookEndpoint:
    rows = WebhookEndpoint.objects.select_for_update(of=("self",), no_key=True)
    return rows.select_related("account").get(pk=endpoint.pk)


def _check_once(endpoint: WebhookEndpoint) -> None:
    same = WebhookEndpoint.objects.filter(account=endpoint.account, url=endpoint.url)
    if same.exclude(pk=endpoint.pk).exists():
        raise ConflictError("The account has an endpoint with this address already.")


def _read_events(events: Sequence[str]) -> list[str]:
    known = [one for one in CHOICES if one in events]
    if unknown := [one for one in events if one not in CHOICES]:
        detail = f"There is no event {str(unknown[0])[:64]!r}."
        raise InvalidInputError(errors=[{"pointer": "/events", "detail": detail}])
    # All are the same as none: those that come to be later are among them.
    return [] if len(known) == len(CHOICES) else [str(one) for one in known]


def _note(actor: Actor, action: str, endpoint: WebhookEndpoint, **payload: Any) -> None:
    payload = {"url": name_url(endpoint.url), **payload}
    audit.record(actor.label, action, endpoint, account_id=endpoint.account_id, payload=payload)


# --- Secrets ----------------------------------------------------------------------


@transaction.atomic
def rotate_secret(*, actor: Actor, endpoint: WebhookEndpoint) -> tuple[WebhookEndpoint, str]:
    """A new secret, shown this once; the old one signs as well for a day.

    Raises:
        ConflictError: It was changed less than a day ago.
    """
    require_right(actor, endpoint.account, RIGHT)
    row = _lock(endpoint)
    text = webhook_secret.replace_secret(row)
    _save_secret(row)
    _note(actor, "webhook.rotate", row)
    return row, text


@transaction.atomic
def end_old_secret(*, actor: Actor, endpoint: WebhookEndpoint) -> WebhookEndpoint:
    """Sign with the newest secret alone from now on."""
    require_right(actor, endpoint.account, RIGHT)
    row = _lock(endpoint)
    webhook_secret.drop_old_secret(row)
    _save_secret(row)
    _note(actor, "webhook.end_old_secret", row)
    return row


@transaction.atomic
def show_default_secret(*, actor: Actor, account: Account) -> tuple[WebhookSecret, str]:
    """What signs webhooks that predictions name themselves; made when it is first asked for.

    Raises:
        ConflictError: It cannot be read any more.
    """
    require_right(actor, account, RIGHT)
    row = webhook_secret.find_default(account)
    text = webhook_secret.show_secret(row)
    audit.record(actor.label, "webhook_secret.show", row, account_id=account.pk)
    return row, text


@transaction.atomic
def rotate_default_secret(*, actor: Actor, account: Account) -> tuple[WebhookSecret, str]:
    """Another one in its place; the old one signs as well for a day.

    Raises:
        ConflictError: It was changed less than a day ago.
    """
    require_right(actor, account, RIGHT)
    webhook_secret.find_default(account)
    row = WebhookSecret.objects.select_for_update(no_key=True).get(pk=account.pk)
    text = webhook_secret.replace_secret(row)
    _save_secret(row)
    audit.record(actor.label, "webhook_secret.rotate", row, account_id=account.pk)
    return row, text


def _save_secret(row: SigningSecret) -> None:
    row.save(update_fields=["sealed_secret", "sealed_old_secret", "old_secret_until"])


# --- Tests and replays ------------------------------------------------------------


@transaction.atomic
def send_test(*, actor: Actor, endpoint: WebhookEndpoint) -> WebhookDelivery:
    """Send a message that says it is a test; once, whatever becomes of it.

    Raises:
        ConflictError: The endpoint is turned off.
        LimitExceededError: That was done often enough.
    """
    require_right(actor, endpoint.account, RIGHT)
    row = _lock(endpoint)
    _require_enabled(row)
    now = utc_now()
    tests = row.deliveries.filter(type=EventType.PING, created_at__gt=now - timedelta(minutes=1))
    if tests.count() >= TESTS_PER_MINUTE_MAX:
        detail = f"An endpoint is tested at most {TESTS_PER_MINUTE_MAX} times a minute."
        raise LimitExceededError(detail, retry_after_s=60)
    event = WebhookEvent.objects.create(
        account_id=row.account_id,
        type=EventType.PING,
        payload={"message": "This is a test.", "sent_at": to_wire(now)},
        created_at=now,
        spread_at=now,
    )
    delivery = WebhookDelivery.objects.create(
        account=row.account,
        event=event,
        endpoint=row,
        type=event.type,
        due_at=now,
        next_at=now,
    )
    _note(actor, "webhook.test", row)
    _send_soon()
    return delivery


# Tests of pytest are called so as well; this is none.
send_test.__test__ = False  # type: ignore[attr-defined]


@transaction.atomic
def replay(*, actor: Actor, delivery: WebhookDelivery) -> WebhookDelivery:
    """Send it once more, or now where it waits; the schedule of retries begins anew.

    Raises:
        ConflictError: It is being sent right now, or its endpoint is turned off.
    """
    require_right(actor, delivery.account, RIGHT)
    if delivery.endpoint is not None:
        _require_enabled(_lock(delivery.endpoint))
    now = utc_now()
    row = WebhookDelivery.objects.select_for_update(no_key=True).get(pk=delivery.pk)
    if row.state == State.WAITING and (row.tries == 0 or _is_leased(row, now)):
        raise ConflictError("It is on its way already.")
    _restart(WebhookDelivery.objects.filter(pk=row.pk), now)
    payload = {"type": row.type, "attempts": row.attempts}
    audit.record(actor.label, "webhook.replay", row, account_id=row.account_id, payload=payload)
    _send_soon()
    row.refresh_from_db()
    return row


@transaction.atomic
def replay_failed(*, actor: Actor, endpoint: WebhookEndpoint, since: datetime) -> int:
    """Send once more what has failed since a moment, the oldest first; returns how many.

    At most `REPLAYS_AT_ONCE_MAX`; asking again goes on with the rest.

    Raises:
        ConflictError: The endpoint is turned off.
        InvalidInputError: So old ones are not kept.
    """
    require_right(actor, endpoint.account, RIGHT)
    row = _lock(endpoint)
    _require_enabled(row)
    now = utc_now()
    if since < now - HISTORY_KEPT - timedelta(days=1):
        detail = f"Deliveries are kept for {HISTORY_KEPT.days} days."
        raise InvalidInputError(errors=[{"pointer": "/since", "detail": detail}])
    failed = WebhookDelivery.objects.filter(
        ~Q(type=EventType.PING), endpoint=row, state=State.FAILED, created_at__gte=since
    ).order_by("id")
    found = list(failed.values_list("pk", flat=True)[:REPLAYS_AT_ONCE_MAX])
    count = _restart(WebhookDelivery.objects.filter(pk__in=found, state=State.FAILED), now)
    _note(actor, "webhook.replay_failed", row, since=to_wire(since), count=count)
    _send_soon()
    return count


def _restart(rows: Any, now: datetime) -> int:
    count: int = rows.update(
        state=State.WAITING, tries=0, next_at=now, leased_until=None, ended_at=None
    )
    return count


def _is_leased(delivery: WebhookDelivery, now: datetime) -> bool:
    return delivery.leased_until is not None and delivery.leased_until > now


def _require_enabled(endpoint: WebhookEndpoint) -> None:
    if not endpoint.is_enabled:
        raise ConflictError("The endpoint is turned off. Turn it on first.")


def _send_soon() -> None:
    # Without Redis, beat asks for it in a moment.
    transaction.on_commit(_enqueue, robust=True)


def _enqueue() -> None:
    tasks.send_webhooks.delay()
