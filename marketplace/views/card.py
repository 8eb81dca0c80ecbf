"""The editor of a model's card: source and preview, what is wrong or missing, and its history."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from marketplace.context import actor_of
from marketplace.core import limits
from marketplace.core.card import render_card
from marketplace.core.card_check import KEYS, check_card
from marketplace.core.errors import InvalidInputError
from marketplace.core.line_diff import compare_lines
from marketplace.errors import CardChangedError
from marketplace.forms.card import CardForm, RestoreForm
from marketplace.models import AIModel
from marketplace.selectors import card as selectors
from marketplace.selectors.access import access_account, access_model, has_right
from marketplace.services import card as services
from marketplace.toast import add_undoable


@login_required
@require_http_methods(["GET", "POST"])
def card_edit(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Edit the card; with `preview` it is only shown, and to htmx nothing but the preview."""
    model = _own_model(request, owner, name, "push")
    if request.method == "GET":
        number = selectors.current_number(model)
        return _page(request, model, CardForm(initial={"text": model.card, "base": number}))
    form = CardForm(request.POST)
    is_fragment = request.htmx  # type: ignore[attr-defined]
    if "preview" in request.POST:
        form.is_valid()
        text = str(form.cleaned_data.get("text", request.POST.get("text", "")))
        if is_fragment:
            return render(request, "marketplace/_card_preview.html", _preview(model, text))
        return _page(request, model, form, text=text)
    if not form.is_valid():
        return _page(request, model, form, status=422)
    return _save(request, model, form)


def _save(request: HttpRequest, model: AIModel, form: CardForm) -> HttpResponse:
    text, base = form.cleaned_data["text"], form.cleaned_data["base"]
    try:
        number = services.save_card(actor=actor_of(request), model=model, text=text, base=base)
    except CardChangedError as error:
        model.refresh_from_db(fields=["card"])
        return _page(request, model, form, text=text, status=409, theirs=error.params["number"])
    except InvalidInputError:
        # The preview lists the faults at their lines.
        return _page(request, model, form, text=text, status=422)
    if number == base:
        messages.info(request, "Nothing has changed.")
    else:
        _tell(request, model, "The card is saved.", before=base, number=number)
    return redirect("marketplace:card-edit", model.account.slug, model.name)


@login_required
@require_safe
def card_history(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The states of the card that are kept."""
    model = _own_model(request, owner, name)
    context = {
        "model": model,
        "revisions": list(selectors.list_revisions(model)),
        "kept": limits.CARD_REVISIONS_MAX,
        "can_push": has_right(actor_of(request), model.account, "push"),
    }
    return render(request, "marketplace/card_history.html", context)


@login_required
@require_safe
def card_revision(request: HttpRequest, owner: str, name: str, number: int) -> HttpResponse:
    """One state of the card: what it changed, and what differs from it today."""
    model = _own_model(request, owner, name)
    revision = selectors.get_revision(model, number)
    before = selectors.find_before(revision)
    current = selectors.current_number(model)
    context = {
        "model": model,
        "revision": revision,
        "before": before,
        "current": current,
        "changes": compare_lines(before.text if before else "", revision.text),
        "since": compare_lines(revision.text, model.card),
        "preview": render_card(revision.text),
        "can_push": has_right(actor_of(request), model.account, "push"),
    }
    return render(request, "marketplace/card_revision.html", context)


@login_required
@require_POST
def card_restore(request: HttpRequest, owner: str, name: str, number: int) -> HttpResponse:
    """Bring an older state back; the next page offers to undo that."""
    model = _own_model(request, owner, name, "push")
    revision = selectors.get_revision(model, number)
    form = RestoreForm(request.POST)
    if not form.is_valid():
        raise InvalidInputError("It is not said which state of the card you have seen.")
    base = form.cleaned_data["base"]
    try:
        now = services.restore_card(
            actor=actor_of(request), model=model, revision=revision, base=base
        )
    except CardChangedError as error:
        messages.error(request, error.detail)
        return redirect("marketplace:card-history", owner, name)
    if now == base:
        messages.info(request, "The card says that already.")
    else:
        _tell(request, model, f"State {number} of the card is back.", before=base, number=now)
    return redirect("marketplace:card-edit", owner, name)


def _tell(request: HttpRequest, model: AIModel, text: str, *, before: int, number: int) -> None:
    """Say what was done; what stood there before can be brought back where it is kept."""
    earlier = model.card_revisions.filter(number=before or number - 1).first()
    if earlier is None:
        messages.success(request, text)
        return
    place = [model.account.slug, model.name, earlier.number]
    url = reverse("marketplace:card-restore", args=place)
    add_undoable(request, text, url=url, fields={"base": number})


def _page(
    request: HttpRequest,
    model: AIModel,
    form: CardForm,
    *,
    text: str | None = None,
    status: int = 200,
    theirs: int | None = None,
) -> HttpResponse:
    """The editor around a form.

    Args:
        request: Of the person who edits.
        model: Whose card it is, as it is stored.
        form: What was sent, or what the card says.
        text: What the preview shows; what the form holds without it.
        status: Of the answer.
        theirs: The state that somebody else has saved meanwhile.
    """
    shown = text if text is not None else str(form["text"].value() or "")
    context = _preview(model, shown) | {
        "form": form,
        "keys": KEYS,
        "length_max": limits.CARD_LENGTH_MAX,
        "theirs": theirs,
        # From theirs to what would be saved over it.
        "differences": compare_lines(model.card, shown) if theirs is not None else [],
    }
    return render(request, "marketplace/card_edit.html", context, status=status)


def _preview(model: AIModel, text: str) -> dict[str, Any]:
    # A text that is too long is not rendered: its length is what bounds the work.
    is_short = len(text) <= limits.CARD_LENGTH_MAX
    return {
        "model": model,
        "preview": render_card(text) if is_short else None,
        "check": check_card(text, licence=model.licence),
        "length": len(text),
        "length_max": limits.CARD_LENGTH_MAX,
    }


def _own_model(request: HttpRequest, owner: str, name: str, right: str = "read") -> AIModel:
    # Others' models do not exist here, public or not.
    actor = actor_of(request)
    access_account(actor, owner, right)
    return access_model(actor, owner, name)
