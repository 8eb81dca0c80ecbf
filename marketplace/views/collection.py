"""An account's collections: make, fill, order, show."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from marketplace.context import actor_of, requested_account
from marketplace.core import limits
from marketplace.core.errors import (
    ConflictError,
    InvalidInputError,
    MarketplaceError,
    NotFoundError,
)
from marketplace.forms.collection import MOVES, CollectionForm, EntryForm
from marketplace.forms.problem import add_problem
from marketplace.models import AIModel, Collection
from marketplace.selectors import collection as selectors
from marketplace.selectors.access import access_model, has_right
from marketplace.selectors.catalog import list_models
from marketplace.services import collection as services
from marketplace.toast import add_undoable
from marketplace.views.meta import describe_page, item_list
from marketplace.views.paging import page_of

# Of the account's own models, as suggestions.
SUGGESTIONS_MAX = 100


@require_safe
def account_collection(request: HttpRequest, owner: str, slug: str) -> HttpResponse:
    """One collection of an account, in its order; of its models those that one may see."""
    actor = actor_of(request)
    found = selectors.access_account_collection(actor, owner, slug)
    assert found.account is not None
    models = selectors.list_collection_models(actor, found)
    page = page_of(request, models.select_related("entry").defer("card"))
    meta = describe_page(
        found.title,
        found.summary or f"A collection of {found.account.name} on Strongroom.",
        request.path,
        is_indexed=found.is_public,
        data={"@type": "CollectionPage", "name": found.title, "mainEntity": item_list(page)},
    )
    context = {
        "collection": found,
        "owner": found.account,
        "page": page,
        "meta": meta,
        "can_edit": has_right(actor, found.account, "push"),
    }
    return render(request, "marketplace/collection.html", context)


@login_required
@require_safe
def own_collections(request: HttpRequest) -> HttpResponse:
    """All collections of the account, for its members."""
    account = requested_account(request)
    actor = actor_of(request)
    context = {
        "account": account,
        "collections": list(selectors.list_account_collections(actor, account)),
        "most": limits.COLLECTIONS_PER_ACCOUNT_MAX,
        "can_push": has_right(actor, account, "push"),
    }
    return render(request, "marketplace/own_collections.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def collection_new(request: HttpRequest) -> HttpResponse:
    """Make one; it is filled on the next page."""
    account = requested_account(request, "push")
    form = CollectionForm(request.POST or None)
    if form.is_valid():
        try:
            made = services.create_collection(
                actor=actor_of(request), account=account, **form.cleaned_data
            )
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            messages.success(request, f"{made.title} is made. Put models into it.")
            return redirect("marketplace:collection-edit", account.slug, made.slug)
    status = 422 if form.is_bound else 200
    context = {"account": account, "form": form}
    return render(request, "marketplace/collection_edit.html", context, status=status)


@login_required
@require_http_methods(["GET", "POST"])
def collection_edit(request: HttpRequest, owner: str, slug: str) -> HttpResponse:
    """Change what it is called and who sees it; its models stand beside that."""
    actor = actor_of(request)
    collection = selectors.access_own_collection(actor, owner, slug)
    initial = {name: getattr(collection, name) for name in services.FIELDS}
    form = CollectionForm(request.POST or None, initial=initial)
    if form.is_valid():
        try:
            services.change_collection(actor=actor, collection=collection, **form.cleaned_data)
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("marketplace:collection-edit", owner, slug)
    return _page(request, collection, form, EntryForm(), 422 if form.is_bound else 200)


@login_required
@require_POST
def collection_models(request: HttpRequest, owner: str, slug: str) -> HttpResponse:
    """Put a model in, take it out, move it up or down."""
    actor = actor_of(request)
    collection = selectors.access_own_collection(actor, owner, slug)
    form = EntryForm(request.POST)
    back = redirect("marketplace:collection-edit", owner, slug)
    if not form.is_valid():
        messages.error(request, "Name a model by owner and name, such as demo/digits.")
        return back
    try:
        text, undo = _change_entries(request, collection, form)
    except MarketplaceError as error:
        messages.error(request, error.detail)
        return back
    if undo:
        add_undoable(request, text, url=request.path, fields=undo)
    elif text:
        messages.success(request, text)
    # The keyboard goes on where it was: at the model that moved.
    if form.cleaned_data["do"] in MOVES:
        back["Location"] += f"#{_anchor(form)}"
    return back


def _change_entries(
    request: HttpRequest, collection: Collection, form: EntryForm
) -> tuple[str, dict[str, object]]:
    """Do what the form says; what is to be told of it, and the fields of an undo."""
    actor = actor_of(request)
    owner, name = form.cleaned_data["model"]
    do, position = form.cleaned_data["do"], form.cleaned_data["position"]
    if do == "add":
        model = access_model(actor, owner, name)
        services.add_model(actor=actor, collection=collection, model=model, position=position)
        return f"{model} is in {collection.title}.", {}
    place, model = _get_entry(collection, owner, name)
    if do in MOVES:
        services.move_model(actor=actor, collection=collection, model=model, step=MOVES[do])
        return "", {}
    services.remove_model(actor=actor, collection=collection, model=model)
    return f"{model} is taken out.", {"do": "add", "model": str(model), "position": place}


def _get_entry(collection: Collection, owner: str, name: str) -> tuple[int, AIModel]:
    """A model of the collection with its place, also one that has become invisible since."""
    for place, entry in enumerate(selectors.list_entries(collection)):
        if (entry.model.account.slug, entry.model.name) == (owner, name):
            return place, entry.model
    raise NotFoundError("This model is not in the collection.")


def _anchor(form: EntryForm) -> str:
    return "model-" + "-".join(form.cleaned_data["model"])


@login_required
@require_http_methods(["GET", "POST"])
def collection_delete(request: HttpRequest, owner: str, slug: str) -> HttpResponse:
    """Ask once more, then take the collection away."""
    actor = actor_of(request)
    collection = selectors.access_own_collection(actor, owner, slug)
    if request.method == "POST":
        services.delete_collection(actor=actor, collection=collection)
        messages.success(request, f"{collection.title} is gone; its models are where they were.")
        return redirect(f"{reverse('marketplace:own-collections')}?account={owner}")
    context = {"account": collection.account, "collection": collection}
    return render(request, "marketplace/collection_delete.html", context)


def _page(
    request: HttpRequest,
    collection: Collection,
    form: CollectionForm,
    entry_form: EntryForm,
    status: int,
) -> HttpResponse:
    assert collection.account is not None
    context = {
        "account": collection.account,
        "collection": collection,
        "form": form,
        "entry_form": entry_form,
        "entries": list(selectors.list_entries(collection)),
        "most": limits.OWN_COLLECTION_MODELS_MAX,
        "own_models": list_models(collection.account)[:SUGGESTIONS_MAX],
    }
    return render(request, "marketplace/collection_edit.html", context, status=status)
