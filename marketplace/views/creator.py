"""The creator's pages: overview, models, a model's listing, its versions and channels."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from marketplace.context import actor_of, current_account, requested_account
from marketplace.core.errors import ConflictError, InvalidInputError, NotFoundError
from marketplace.errors import NameTakenError
from marketplace.forms.catalog import ChannelForm, ListingForm, NewModelForm
from marketplace.forms.problem import add_problem
from marketplace.models import AIModel, Channel, ModelVersion
from marketplace.selectors import catalog as selectors
from marketplace.selectors.access import access_account, access_model, has_right
from marketplace.services import catalog as services
from marketplace.toast import add_undoable
from marketplace.views.first_push import checklist
from marketplace.views.paging import page_of

# Of a version's number, as people type it.
NUMBER_LENGTH_MAX = 9

MODELS_SHOWN = 6
# The channel that consumers follow stands first.
CHANNELS_SHOWN = (Channel.Name.PROD, Channel.Name.STAGING, Channel.Name.DEV)
WITHDRAWABLE = [
    state
    for state, reachable in services.ARROWS.items()
    if ModelVersion.State.WITHDRAWN in reachable
]
# Longer choices are for the command line.
CHOICES_MAX = 100


@login_required
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """Where a creator starts: models, what is being onboarded, what came in."""
    if current_account(request) is None and "account" not in request.GET:
        return redirect("marketplace:account-new")
    account = requested_account(request)
    models = selectors.list_models(account)
    context = {
        "account": account,
        "models": list(models.order_by("-updated_at")[:MODELS_SHOWN]),
        "model_count": models.count(),
        "can_push": has_right(actor_of(request), account, "push"),
    }
    if context["can_push"]:
        context |= checklist(request, account)
    return render(request, "marketplace/dashboard.html", context)


@login_required
@require_safe
def models(request: HttpRequest) -> HttpResponse:
    """All models of the account."""
    account = requested_account(request)
    context = {
        "account": account,
        "page": page_of(request, selectors.list_models(account)),
        "can_push": has_right(actor_of(request), account, "push"),
    }
    return render(request, "marketplace/models.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def model_new(request: HttpRequest) -> HttpResponse:
    """Make a model by hand; `strongroom push` makes it as well."""
    account = requested_account(request, "push")
    form = NewModelForm(request.POST or None)
    if form.is_valid():
        fields = dict(form.cleaned_data)
        name = fields.pop("name")
        try:
            if account.models.filter(name=name).exists():
                raise NameTakenError(f"{account.slug}/{name} exists already.")
            services.put_model(actor=actor_of(request), account=account, name=name, fields=fields)
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            messages.success(request, f"{account.slug}/{name} is made. Push a version next.")
            return redirect("marketplace:model-versions", account.slug, name)
    context = {"account": account, "form": form}
    status = 422 if form.is_bound else 200
    return render(request, "marketplace/model_form.html", context, status=status)


@login_required
@require_http_methods(["GET", "POST"])
def model_edit(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Change what a model's page says."""
    model = _own_model(request, owner, name, "push")
    initial = {key: getattr(model, key) for key in services.MODEL_FIELDS - {"card"}}
    form = ListingForm(request.POST or None, initial=initial)
    if form.is_valid():
        try:
            services.put_model(
                actor=actor_of(request),
                account=model.account,
                name=model.name,
                fields=form.cleaned_data,
            )
        except InvalidInputError as error:
            add_problem(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("marketplace:model", owner, name)
    context = {"account": model.account, "model": model, "form": form}
    status = 422 if form.is_bound else 200
    return render(request, "marketplace/model_form.html", context, status=status)


@login_required
@require_safe
def versions(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """A model's channels, and its versions on their way through onboarding."""
    model = _own_model(request, owner, name)
    actor = actor_of(request)
    found = selectors.list_versions(model)
    page = request.GET.get("page", "")
    current = {channel.name: channel for channel in model.channels.select_related("version")}
    context = {
        "model": model,
        # Which page of the versions; their panel knows how many there are.
        "page_number": page if page.isdecimal() and len(page) <= NUMBER_LENGTH_MAX else "1",
        "channels": [(channel, current.get(channel)) for channel in CHANNELS_SHOWN],
        "approved": list(found.filter(state=ModelVersion.State.APPROVED)[:CHOICES_MAX]),
        "withdrawable": list(found.filter(state__in=WITHDRAWABLE)[:CHOICES_MAX]),
        "can_publish": has_right(actor, model.account, "publish"),
        "can_push": has_right(actor, model.account, "push"),
    }
    return render(request, "marketplace/versions.html", context)


@login_required
@require_POST
def publish(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Move a channel to a version; the next page offers to move it back."""
    model = _own_model(request, owner, name, "publish")
    form = ChannelForm(request.POST)
    if not form.is_valid():
        raise InvalidInputError("There is no such channel or version.")
    version = selectors.get_version(model, form.cleaned_data["version"])
    before = selectors.find_channel_version(model, form.cleaned_data["channel"])
    try:
        channel = services.publish_version(
            version=version,
            channel=form.cleaned_data["channel"],
            actor=actor_of(request),
            only_from=form.cleaned_data["only_from"],
        )
    except ConflictError as error:
        messages.error(request, error.detail)
    else:
        _tell_of_move(request, channel, version, before)
    return redirect("marketplace:model-versions", owner, name)


def _tell_of_move(
    request: HttpRequest, channel: Channel, version: ModelVersion, before: ModelVersion | None
) -> None:
    text = f"{channel.name} is version {version.number} now."
    # A channel that named nothing, or nothing that can be published, has no way back.
    if before is None or before.pk == version.pk or before.state != ModelVersion.State.APPROVED:
        messages.success(request, text)
        return
    fields = {
        "channel": channel.name,
        "version": before.number,
        "only_from": version.number,
    }
    add_undoable(request, text, url=request.path, fields=fields)


@login_required
@require_safe
def withdraw_choice(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """From the number that was chosen to the page that asks once more."""
    number = request.GET.get("version", "")
    if not number.isdecimal() or len(number) > NUMBER_LENGTH_MAX:
        raise NotFoundError("No such version.")
    return redirect("marketplace:withdraw", owner, name, int(number))


@login_required
@require_http_methods(["GET", "POST"])
def withdraw(request: HttpRequest, owner: str, name: str, number: int) -> HttpResponse:
    """Ask once more, then take a version out of service for good."""
    model = _own_model(request, owner, name, "publish")
    version = selectors.get_version(model, number)
    if request.method == "POST":
        try:
            services.withdraw(version=version, actor=actor_of(request))
        except ConflictError as error:
            messages.error(request, error.detail)
        else:
            messages.success(request, f"Version {number} is withdrawn.")
        return redirect("marketplace:model-versions", owner, name)
    context = {
        "model": model,
        "version": version,
        "channels": selectors.list_channel_names(version),
        "is_possible": ModelVersion.State.WITHDRAWN in services.ARROWS[version.state],
    }
    return render(request, "marketplace/withdraw.html", context)


def _own_model(request: HttpRequest, owner: str, name: str, right: str = "read") -> AIModel:
    # Others' models do not exist here, public or not.
    actor = actor_of(request)
    access_account(actor, owner, right)
    return access_model(actor, owner, name)
