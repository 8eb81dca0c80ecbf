"""Webhooks in the console: endpoints, their secrets, deliveries and replays."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from inference.errors import TooManyWebhooksError
from inference.forms.webhook import DeliveryForm, ReplayForm, WebhookForm
from inference.models import SigningSecret, WebhookDelivery, WebhookEndpoint
from inference.models.webhook import HISTORY_KEPT
from inference.selectors import webhook as selectors
from inference.services import webhook as services
from inference.services.webhook_secret import ROTATION
from marketplace.context import actor_of, requested_account
from marketplace.core.clock import utc_now
from marketplace.core.errors import (
    ConflictError,
    InvalidInputError,
    LimitExceededError,
    MarketplaceError,
)
from marketplace.forms.problem import add_problem
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.views.confirm import needs_confirmation
from marketplace.views.once import sent_once


@login_required
@require_safe
def webhooks(request: HttpRequest) -> HttpResponse:
    """An account's endpoints with their health, and what signs the webhooks of predictions."""
    account = requested_account(request, selectors.RIGHT)
    context = {
        "account": account,
        "endpoints": [_health(one) for one in selectors.list_endpoints(account)],
        "endpoints_max": services.ENDPOINTS_PER_ACCOUNT_MAX,
        "history_days": HISTORY_KEPT.days,
    }
    return render(request, "inference/webhooks.html", context)


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
@needs_confirmation()
@sent_once
def new(request: HttpRequest) -> HttpResponse:
    """Add an endpoint. The answer to the POST shows its secret: it is in no URL or session."""
    account = requested_account(request, selectors.RIGHT)
    form = WebhookForm(request.POST or None)
    if form.is_valid():
        try:
            endpoint, secret = services.add_endpoint(
                actor=actor_of(request), account=account, **form.cleaned_data
            )
        except (InvalidInputError, ConflictError, TooManyWebhooksError) as error:
            add_problem(form, error)
        else:
            return _show_secret(request, account, secret, endpoint=endpoint, status=201)
    context = {"account": account, "form": form}
    status = 422 if form.is_bound else 200
    return render(request, "inference/webhook_form.html", context, status=status)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, endpoint_id: UUID) -> HttpResponse:
    """Change where an endpoint is, and of what it is told."""
    actor = actor_of(request)
    endpoint = selectors.access_endpoint(actor, endpoint_id)
    initial = {
        "url": endpoint.url,
        "events": endpoint.events,
        "description": endpoint.description,
    }
    form = WebhookForm(request.POST if request.method == "POST" else None, initial=initial)
    if form.is_valid():
        try:
            services.change_endpoint(actor=actor, endpoint=endpoint, changes=form.cleaned_data)
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            messages.success(request, "Saved. It counts for what happens from now on.")
            return redirect("inference:webhook", endpoint.pk)
    context = {"account": endpoint.account, "form": form, "endpoint": endpoint}
    status = 422 if form.is_bound else 200
    return render(request, "inference/webhook_form.html", context, status=status)


@login_required
@require_safe
def webhook(request: HttpRequest, endpoint_id: UUID) -> HttpResponse:
    """One endpoint: its health, what was sent to it, and all that may be done with it."""
    endpoint = selectors.access_endpoint(actor_of(request), endpoint_id)
    context = {
        "account": endpoint.account,
        "endpoint": endpoint,
        "health": _health(endpoint),
        "has_old_secret": _has_old_secret(endpoint),
        "replay_form": ReplayForm(initial={"since": utc_now().date()}),
        "rotation_hours": int(ROTATION.total_seconds() // 3_600),
        **_list_deliveries(request, endpoint.account, endpoint.pk),
    }
    return render(request, "inference/webhook.html", context)


@login_required
@require_POST
@sent_once
def do(request: HttpRequest, endpoint_id: UUID) -> HttpResponse:
    """Do what `do` names: test, replay, on, off, end_secret or remove."""
    actor = actor_of(request)
    endpoint = selectors.access_endpoint(actor, endpoint_id)
    wanted = request.POST.get("do", "")
    if wanted == "remove":
        services.remove_endpoint(actor=actor, endpoint=endpoint)
        messages.success(request, "The endpoint is deleted, with its deliveries.")
        return redirect(f"{reverse('inference:webhooks')}?account={endpoint.account.slug}")
    try:
        messages.success(request, _do(request, actor, endpoint, wanted))
    except (ConflictError, InvalidInputError, LimitExceededError) as error:
        messages.error(request, _say(error))
    return redirect("inference:webhook", endpoint.pk)


def _do(request: HttpRequest, actor: Actor, endpoint: WebhookEndpoint, wanted: str) -> str:
    match wanted:
        case "test":
            services.send_test(actor=actor, endpoint=endpoint)
            return "A test is on its way. How it went shows here in a moment."
        case "on" | "off":
            changes = {"is_enabled": wanted == "on"}
            services.change_endpoint(actor=actor, endpoint=endpoint, changes=changes)
            if wanted == "on":
                return "Turned on. What it has missed can be sent once more."
            return "Turned off. Nothing is sent there."
        case "end_secret":
            services.end_old_secret(actor=actor, endpoint=endpoint)
            return "Only the new secret signs from now on."
        case "replay":
            form = ReplayForm(request.POST)
            if not form.is_valid():
                raise InvalidInputError("Say since which day.")
            count = services.replay_failed(actor=actor, endpoint=endpoint, since=form.moment())
            return f"{count} {'delivery is' if count == 1 else 'deliveries are'} sent once more."
    raise InvalidInputError("There is nothing of that name to be done.")


@login_required
@never_cache
@require_POST
@needs_confirmation()
@sent_once
def rotate(request: HttpRequest, endpoint_id: UUID) -> HttpResponse:
    """Change an endpoint's secret; the answer shows the new one."""
    actor = actor_of(request)
    endpoint = selectors.access_endpoint(actor, endpoint_id)
    try:
        endpoint, secret = services.rotate_secret(actor=actor, endpoint=endpoint)
    except ConflictError as error:
        messages.error(request, error.detail)
        return redirect("inference:webhook", endpoint.pk)
    return _show_secret(request, endpoint.account, secret, endpoint=endpoint, row=endpoint)


@login_required
@never_cache
@require_POST
@needs_confirmation()
def default_secret(request: HttpRequest) -> HttpResponse:
    """Show what signs the webhooks that predictions name themselves; with `rotate`, change it."""
    account = requested_account(request, selectors.RIGHT)
    change = "rotate" in request.POST
    serve = services.rotate_default_secret if change else services.show_default_secret
    try:
        row, secret = serve(actor=actor_of(request), account=account)
    except ConflictError as error:
        messages.error(request, error.detail)
        return redirect(f"{reverse('inference:webhooks')}?account={account.slug}")
    return _show_secret(request, account, secret, row=row)


@login_required
@require_safe
def deliveries(request: HttpRequest) -> HttpResponse:
    """All deliveries of an account, those of predictions' own webhooks among them."""
    account = requested_account(request, selectors.RIGHT)
    context = {"account": account, **_list_deliveries(request, account)}
    return render(request, "inference/webhook_deliveries.html", context)


@login_required
@require_safe
def delivery(request: HttpRequest, delivery_id: UUID) -> HttpResponse:
    """One delivery: what is sent, and each attempt with what was answered."""
    found = selectors.access_delivery(actor_of(request), delivery_id)
    message = selectors.describe_message(found)
    context = {
        "account": found.account,
        "delivery": found,
        "url": selectors.find_url(found),
        "webhook_id": selectors.name_message(found.event),
        "prediction": selectors.name_prediction(found),
        "attempts": selectors.list_attempts(found),
        "message": json.dumps(message, indent=2, ensure_ascii=False),
        "is_waiting": found.state == WebhookDelivery.State.WAITING,
        "can_replay": found.endpoint is None or found.endpoint.is_enabled,
    }
    return render(request, "inference/webhook_delivery.html", context)


@login_required
@require_POST
def replay(request: HttpRequest, delivery_id: UUID) -> HttpResponse:
    """Send a delivery once more."""
    actor = actor_of(request)
    found = selectors.access_delivery(actor, delivery_id)
    try:
        services.replay(actor=actor, delivery=found)
    except ConflictError as error:
        messages.error(request, error.detail)
    else:
        messages.success(request, "It is sent once more. How it went shows here in a moment.")
    return redirect("inference:webhook-delivery", found.pk)


def _list_deliveries(
    request: HttpRequest, account: Account, endpoint_id: UUID | None = None
) -> dict[str, Any]:
    form = DeliveryForm(request.GET)
    chosen = form.choice(endpoint_id)
    query = request.GET.copy()
    query.pop("before", None)
    page = selectors.get_deliveries(account, chosen, before=request.GET.get("before", ""))
    return {
        "form": form,
        "page": page,
        "lines": [
            {
                "row": one,
                "prediction": selectors.name_prediction(one),
                "host": selectors.name_url(selectors.find_url(one)),
            }
            for one in page.rows
        ],
        "is_chosen": bool(chosen.state or chosen.type),
        "query": query.urlencode(),
    }


def _health(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """How an endpoint is, in a word, and its counts of the last day."""
    counts = {
        name: getattr(endpoint, name, 0) for name in ("succeeded_24h", "failed_24h", "waiting")
    }
    if not endpoint.is_enabled:
        word, tone = "Off", ""
    elif endpoint.failing_since is not None:
        word, tone = "Failing", "bad"
    elif endpoint.last_success_at is None:
        word, tone = "Nothing sent yet", ""
    else:
        word, tone = "Healthy", "good"
    return {"row": endpoint, "word": word, "tone": tone, **counts}


def _has_old_secret(row: SigningSecret) -> bool:
    return row.old_secret_until is not None and row.old_secret_until > utc_now()


def _say(error: MarketplaceError) -> str:
    return error.errors[0]["detail"] if error.errors else error.detail


def _show_secret(
    request: HttpRequest,
    account: Account,
    secret: str,
    *,
    endpoint: WebhookEndpoint | None = None,
    row: SigningSecret | None = None,
    status: int = 200,
) -> HttpResponse:
    context = {
        "account": account,
        "endpoint": endpoint,
        "secret": secret,
        "old_until": row.old_secret_until if row is not None and _has_old_secret(row) else None,
    }
    return render(request, "inference/webhook_secret.html", context, status=status)
