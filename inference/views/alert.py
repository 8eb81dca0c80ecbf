"""Rules that watch a model, where they tell of it, and what happened."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from inference.forms.alert import AlertChannelForm, AlertRuleForm
from inference.models import AlertChannel
from inference.selectors import alert as selectors
from inference.selectors.onboarding import access_own_model
from inference.services import alert as services
from marketplace.context import actor_of
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError, LimitExceededError
from marketplace.forms.problem import add_problem
from marketplace.models import AIModel
from marketplace.selectors.access import access_model, has_right

SNOOZES = {3_600: "1 hour", 14_400: "4 hours", 86_400: "1 day", 604_800: "1 week"}


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def alerts(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The page of a model's alerts; POST adds a rule."""
    actor = actor_of(request)
    if request.method != "POST":
        return _render(request, access_own_model(actor, owner, name))
    model = access_model(actor, owner, name, "push")
    form = AlertRuleForm(request.POST)
    if form.is_valid():
        try:
            services.add_rule(actor=actor, model=model, **form.cleaned_data)
        except (InvalidInputError, LimitExceededError) as error:
            add_problem(form, error)
        else:
            messages.success(request, "Added. It is measured every minute from now on.")
            return redirect("inference:alerts", owner, name)
    return _render(request, model, rule_form=form)


@login_required
@require_POST
def add_channel(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Tell of the alerts in one more place."""
    actor = actor_of(request)
    model = access_model(actor, owner, name, "push")
    form = AlertChannelForm([], request.POST)
    if form.is_valid():
        try:
            services.add_channel(actor=actor, model=model, **form.cleaned_data)
        except (InvalidInputError, LimitExceededError) as error:
            add_problem(form, error)
        else:
            messages.success(request, "Added. Send a test to see that it arrives.")
            return redirect("inference:alerts", owner, name)
    return _render(request, model, channel_form=form)


@login_required
@require_POST
def channel(request: HttpRequest, owner: str, name: str, channel_id: UUID) -> HttpResponse:
    """Test a channel, or with `remove` take it away."""
    actor = actor_of(request)
    found = selectors.get_channel(access_model(actor, owner, name, "push"), channel_id)
    if "remove" in request.POST:
        services.remove_channel(actor=actor, channel=found)
        messages.success(request, "Removed. Nothing is told there any more.")
        return redirect("inference:alerts", owner, name)
    try:
        services.test_channel(actor=actor, channel=found)
    except LimitExceededError as error:
        messages.error(request, error.detail)
    else:
        messages.success(request, "A test is on its way. How it ended shows here in a minute.")
    return redirect("inference:alerts", owner, name)


@login_required
@require_POST
def rule(request: HttpRequest, owner: str, name: str, rule_id: UUID) -> HttpResponse:
    """Snooze a rule for `seconds`, or with `remove` take it away."""
    actor = actor_of(request)
    found = selectors.get_rule(access_model(actor, owner, name, "push"), rule_id)
    if "remove" in request.POST:
        services.remove_rule(actor=actor, rule=found)
        messages.success(request, "Removed, with its history.")
        return redirect("inference:alerts", owner, name)
    text = request.POST.get("seconds", "")
    seconds = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else -1
    services.snooze_rule(actor=actor, rule=found, seconds=seconds)
    told = "Nothing is told of it for a while." if seconds else "It is told of again."
    messages.success(request, told)
    return redirect("inference:alerts", owner, name)


@login_required
@require_POST
def event(request: HttpRequest, owner: str, name: str, event_id: UUID) -> HttpResponse:
    """Say that one looks after it."""
    actor = actor_of(request)
    found = selectors.get_event(access_model(actor, owner, name, "push"), event_id)
    services.acknowledge(actor=actor, event=found)
    messages.success(request, "Acknowledged: others see that you look after it.")
    return redirect("inference:alerts", owner, name)


def _render(
    request: HttpRequest,
    model: AIModel,
    *,
    rule_form: AlertRuleForm | None = None,
    channel_form: AlertChannelForm | None = None,
) -> HttpResponse:
    can_push = has_right(actor_of(request), model.account, "push")
    addresses = selectors.list_addresses(model.account) if can_push else []
    events = selectors.list_events(model)
    is_bound = rule_form is not None or channel_form is not None
    if channel_form is not None:
        channel_form.addresses = addresses
    context = {
        "model": model,
        "rules": [
            {
                "row": one,
                "text": selectors.describe_rule(one),
                "measured": selectors.describe_value(one.kind, one.measured),
                "is_snoozed": one.snoozed_until is not None and one.snoozed_until > utc_now(),
                "open": next(iter(one.open_events), None),  # type: ignore[attr-defined]
            }
            for one in selectors.list_rules(model)
        ],
        "channels": [
            {
                "row": one,
                "target": selectors.name_target(one),
                "secret": selectors.find_secret(one)
                if can_push and one.kind == AlertChannel.Kind.WEBHOOK
                else "",
            }
            for one in selectors.list_channels(model)
        ],
        "history_line": f"The latest {selectors.HISTORY_SHOWN} of 90 days."
        if len(events) == selectors.HISTORY_SHOWN
        else "Of 90 days.",
        "events": [
            {
                "row": one,
                "text": selectors.describe_rule(one.rule),
                "measured": selectors.describe_value(one.rule.kind, one.measured),
            }
            for one in events
        ],
        "rule_form": rule_form or AlertRuleForm(),
        "channel_form": channel_form or AlertChannelForm(addresses),
        "can_push": can_push,
        "snoozes": SNOOZES.items(),
        "mails_max": services.MAILS_PER_HOUR_MAX,
    }
    status = 422 if is_bound else 200
    return render(request, "inference/monitoring_alerts.html", context, status=status)
