"""The try-it form on a model's page."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_http_methods

from inference.errors import GatewayUnavailableError
from inference.forms.playground import PlaygroundForm
from inference.services import playground
from inference.services.playground import Attempt
from inference.views.panel import ask_to_sign_in, render_panel
from marketplace.context import actor_of, current_account
from marketplace.core.errors import NotFoundError
from marketplace.models import Account, AIModel, ModelVersion, User
from marketplace.selectors.access import access_model, has_right
from strongroom.interface import Interface, Output

# What a person can read; the API gives the whole.
SHOWN_CHARACTERS = 4000


@require_http_methods(["GET", "HEAD", "POST"])
def try_panel(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The form for the default version of a model; POST runs one paid prediction."""
    actor = actor_of(request)
    model = access_model(actor, owner, name)
    version = _find_default_version(model)
    account = current_account(request)
    context: dict[str, Any] = {
        "model": model,
        "version": version,
        "account": account,
        "can_try": account is not None and has_right(actor, account, "predict"),
    }
    if request.method == "POST" and not request.user.is_authenticated:
        return ask_to_sign_in(request)
    if version is None:
        if request.method == "POST":
            raise NotFoundError("This model is not published.")
        return render_panel(request, "try", context, title=f"Try {model}")
    interface = Interface.parse(version.interface)
    form = PlaygroundForm(interface, request.POST if request.method == "POST" else None)
    context["form"] = form
    status = 200
    if request.method == "POST" and context["can_try"]:
        assert account is not None
        assert isinstance(request.user, User)
        attempt = _try(form, model, account, request.user)
        if attempt is not None:
            context |= _describe_attempt(interface, attempt)
        status = 422 if form.errors else 200
    return render_panel(request, "try", context, title=f"Try {model}", status=status)


def _find_default_version(model: AIModel) -> ModelVersion | None:
    """What `owner/name` runs: the version that `prod` names."""
    return ModelVersion.objects.filter(
        channels__model=model, channels__name="prod", state=ModelVersion.State.APPROVED
    ).first()


def _try(form: PlaygroundForm, model: AIModel, account: Account, user: User) -> Attempt | None:
    """Run it if the inputs are right; faults that the gateway finds are shown at the inputs."""
    if not form.is_valid():
        return None
    try:
        attempt = playground.try_model(model=model, account=account, user=user, values=form.values)
    except GatewayUnavailableError as error:
        return Attempt(problem_code=error.code, problem_detail=error.detail)
    if attempt.faults:
        form.add_faults(attempt.faults)  # type: ignore[arg-type]
    return attempt


def _describe_attempt(interface: Interface, attempt: Attempt) -> dict[str, Any]:
    predict_s = attempt.predict_time_s
    return {
        "attempt": attempt,
        "outputs": list_outputs(interface, attempt),
        "predict_ms": predict_s * 1000 if predict_s is not None else None,
        "round_trip_ms": attempt.round_trip_s * 1000,
    }


def list_outputs(interface: Interface, attempt: Attempt) -> list[dict[str, Any]]:
    """The visible outputs with their values, fit to be shown."""
    if not attempt.is_answered or not isinstance(attempt.output, dict):
        return []
    return [
        _describe_output(one, attempt.output[one.name])
        for one in interface.visible_outputs
        if one.name in attempt.output
    ]


def _describe_output(one: Output, value: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": one.name, "kind": one.kind, "description": one.description}
    if one.kind == "label" and isinstance(value, dict):
        top = value.get("top")
        scores = top if isinstance(top, list) else [value]
        return shown | {"scores": [entry for entry in scores if isinstance(entry, dict)]}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown | {"text": text[:SHOWN_CHARACTERS], "is_cut": len(text) > SHOWN_CHARACTERS}
