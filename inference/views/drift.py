"""What changed in the inputs and outputs of a model, without a look at any of them."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from inference.core.drift import MOVED_AT, SHIFTED_AT
from inference.forms.drift import BaselineForm
from inference.selectors import drift as selectors
from inference.selectors.drift import Report
from inference.selectors.onboarding import access_own_model
from inference.services import drift as services
from inference.views.table_file import answer_file, read_format
from marketplace.context import actor_of
from marketplace.core.errors import InvalidInputError, NotFoundError
from marketplace.forms.problem import add_problem
from marketplace.models import AIModel
from marketplace.selectors.access import Actor, access_model, has_right


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def page(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The Drift page of an own model; `watch`, `unwatch`, `pin` and `unpin` change it."""
    actor = actor_of(request)
    if request.method == "POST":
        return _change(request, actor, access_model(actor, owner, name, "push"))
    return _render(request, actor, access_own_model(actor, owner, name), BaselineForm())


@login_required
@require_safe
def export(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The numbers of the page, with `format=csv` or `json`."""
    model = access_own_model(actor_of(request), owner, name)
    kind = read_format(request)
    report = _read(request.GET, model)
    if report is None:
        raise NotFoundError("The model has no version yet.")
    sides = {"baseline": report.baseline, "current": report.current}
    return answer_file(
        kind,
        f"{owner}-{name}-{report.version.number}-drift-{report.window}",
        columns=selectors.EXPORT_COLUMNS,
        rows=selectors.list_export(report),
        about={
            "model": str(model),
            "version": report.version.number,
            "window": report.window,
            "time_zone": "UTC",
            **{
                key: one
                and {
                    "starts_at": one.starts_at.isoformat(),
                    "ends_at": one.ends_at.isoformat(),
                    "predictions": one.predictions,
                }
                for key, one in sides.items()
            },
        },
    )


def _read(query: QueryDict, model: AIModel) -> Report | None:
    window = selectors.find_window(query.get("window", ""))
    number = query.get("version")
    version = selectors.get_version(model, number) if number else selectors.find_version(model)
    return None if version is None else selectors.read_report(version, window)


def _change(request: HttpRequest, actor: Actor, model: AIModel) -> HttpResponse:
    data = request.POST
    if "unwatch" in data:
        services.unwatch(actor=actor, model=model)
        messages.success(request, "Nothing is counted any more, and what was counted is deleted.")
        return redirect("inference:drift", model.account.slug, model.name)
    if "watch" in data:
        services.watch(actor=actor, model=model)
        messages.success(request, "Predictions are counted from now on. The model's page says so.")
        return redirect("inference:drift", model.account.slug, model.name)
    version = selectors.get_version(model, data.get("version", ""))
    if "unpin" in data:
        services.unpin_baseline(actor=actor, version=version)
        messages.success(request, "The version is compared with its first days again.")
        return _back(model, version.number)
    form = BaselineForm(data)
    if form.is_valid():
        try:
            services.pin_baseline(actor=actor, version=version, **form.cleaned_data)
        except InvalidInputError as error:
            add_problem(form, error)
        else:
            messages.success(request, "The version is compared with these days now.")
            return _back(model, version.number)
    return _render(request, actor, model, form)


def _back(model: AIModel, number: int) -> HttpResponse:
    address = reverse("inference:drift", args=[model.account.slug, model.name])
    return redirect(f"{address}?version={number}")


def _render(request: HttpRequest, actor: Actor, model: AIModel, form: BaselineForm) -> HttpResponse:
    report = _read(request.POST if form.is_bound else request.GET, model)
    context = {
        "model": model,
        "report": report,
        "form": form,
        "is_watched": selectors.is_watched(model),
        "versions": [one.number for one in selectors.list_versions(model)],
        "windows": selectors.WINDOW_LABELS.items(),
        "can_push": has_right(actor, model.account, "push"),
        "predictions_min": services.PREDICTIONS_MIN,
        "accounts_min": services.ACCOUNTS_MIN,
        "first_days": selectors.FIRST_DAYS.days,
        "moved_at": MOVED_AT,
        "shifted_at": SHIFTED_AT,
    }
    return render(
        request, "inference/monitoring_drift.html", context, status=422 if form.is_bound else 200
    )
