"""What belongs to no page: the theme, the search over everything, the living style guide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.views.decorators.http import require_POST, require_safe

from marketplace.context import THEME_COOKIE, THEMES, actor_of, current_account
from marketplace.core import limits
from marketplace.core.errors import InvalidInputError
from marketplace.middleware import referring_path
from marketplace.selectors.access import has_right
from marketplace.selectors.docs import search_docs
from marketplace.selectors.palette import find_models, list_own_slugs
from marketplace.views.styleguide import sample_context

# As many places of the documentation as fit beside models, pages and actions.
DOCS_SHOWN_MAX = 5
THEME_MAX_AGE_S = 400 * 86_400  # As long as browsers keep a cookie.

# What the palette offers besides models: address, title, further words to find it by, icon.
# Addresses of other packages are named, as in templates; one that is missing is left out.
OPEN_PAGES = (
    ("marketplace:catalogue", "Catalogue", "models explore home", "globe"),
    ("inference:sealing", "How models are sealed", "security encryption", "lock"),
    ("marketplace:docs", "Documentation", "docs guides help api reference", "book-open"),
    ("marketplace:status", "Status", "uptime incidents maintenance outage", "activity"),
)
VISITOR_PAGES = (
    ("marketplace:login", "Sign in", "log in", "key"),
    ("marketplace:sign-up", "Sign up", "register account", "users"),
)
OWN_PAGES = (
    ("marketplace:dashboard", "Creator dashboard", "overview", "layout-dashboard"),
    ("marketplace:models", "My models", "versions creator", "box"),
    ("billing:earnings", "Earnings", "revenue creator", "chart-line"),
    ("billing:payouts", "Payouts", "bank stripe creator", "wallet"),
    ("inference:signing-keys", "Signing keys", "seal creator", "shield-check"),
    ("marketplace:console", "Console", "overview consumer", "terminal"),
    ("marketplace:keys", "API keys", "tokens consumer", "key"),
    ("billing:wallet", "Wallet", "credit balance consumer", "wallet"),
    ("billing:usage", "Usage", "predictions cost consumer", "activity"),
    ("inference:predictions", "Predictions", "log requests history consumer", "activity"),
    ("inference:queue", "Queue", "waiting running jobs async consumer", "clock"),
    ("billing:invoices", "Invoices", "bills consumer", "receipt"),
    ("billing:receipts", "Receipts", "verify proof signature consumer", "receipt"),
    ("inference:batches", "Batches", "jsonl bulk file jobs consumer", "box"),
    ("inference:webhooks", "Webhooks", "events endpoints deliveries consumer", "bolt"),
    ("inference:runs", "Shared runs", "links consumer playground", "terminal"),
    ("marketplace:notifications", "Notifications", "inbox bell unread news", "bell"),
    (
        "marketplace:notification-preferences",
        "Notification preferences",
        "mail inbox settings",
        "bell",
    ),
    ("marketplace:profile", "Profile and password", "me person", "users"),
    (
        "marketplace:security",
        "Sign-in and security",
        "passkey second factor sessions",
        "shield-check",
    ),
)
# Of the platform's admins.
PLATFORM_PAGES = (
    ("marketplace:platform", "Platform", "admin overview", "layout-dashboard"),
    ("marketplace:reviews", "Reviews", "admin approve refuse versions", "shield-check"),
    ("marketplace:accounts", "Accounts", "admin suspend people", "users"),
    ("marketplace:incidents", "Incidents", "admin status maintenance outage", "alert"),
    ("inference:fleet", "Fleet", "admin nodes replicas", "activity"),
    ("inference:platform-queue", "Queue", "admin jobs leases waiting", "clock"),
    ("inference:dead-jobs", "Dead predictions", "admin dead letters jobs replay", "alert"),
    ("billing:reconciliation", "Reconciliation", "admin stripe money", "wallet"),
    ("marketplace:audit", "Audit log", "admin search history", "receipt"),
)
# The same with the right that they need on the account.
ACTIONS = (
    ("marketplace:key-new", "Make an API key", "new token", "plus", "keys"),
    ("billing:wallet", "Top up the wallet", "buy credit money", "wallet", "billing"),
    ("inference:push", "Push a model from this browser", "upload new version", "upload", "push"),
    ("marketplace:model-new", "New model", "create offer", "plus", "push"),
)


@dataclass(frozen=True)
class Item:
    """One thing to go to; `words` are further ones that it is found by."""

    title: str
    url: str
    icon: str
    text: str = ""
    words: str = ""


@dataclass
class Group:
    """Things of one kind."""

    label: str
    items: list[Item] = field(default_factory=list)


@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Remember the theme in a cookie, for whoever has no scripts."""
    chosen = request.POST.get("theme", "")
    if chosen not in (*THEMES, "system"):
        raise InvalidInputError("The theme is system, light or dark.")
    response = HttpResponseRedirect(referring_path(request))
    if chosen == "system":
        response.delete_cookie(THEME_COOKIE, samesite="Lax")
    else:
        response.set_cookie(
            THEME_COOKIE,
            chosen,
            max_age=THEME_MAX_AGE_S,
            samesite="Lax",
            secure=settings.SESSION_COOKIE_SECURE,
        )
    return response


@require_safe
def search(request: HttpRequest) -> HttpResponse:
    """The palette as a page."""
    query = _query(request)
    context = {"query": query, "groups": _find(request, query)}
    return render(request, "marketplace/search.html", context)


@require_safe
def search_results(request: HttpRequest) -> JsonResponse:
    """What the palette shows for `?q=`."""
    groups = [asdict(group) for group in _find(request, _query(request))]
    response = JsonResponse({"groups": groups})
    # What one may see is nobody else's to keep.
    response["Cache-Control"] = "no-store, private"
    return response


@require_safe
def styleguide(request: HttpRequest) -> HttpResponse:
    """Every component in its states; only where the product is developed."""
    if not settings.DEVELOPMENT:
        raise Http404
    return render(request, "styleguide/index.html", sample_context())


@require_safe
def styleguide_panel(request: HttpRequest) -> HttpResponse:
    """What the style guide's panel fetches."""
    if not settings.DEVELOPMENT:
        raise Http404
    return render(request, "styleguide/panel.html")


def _query(request: HttpRequest) -> str:
    return request.GET.get("q", "").strip()[: limits.SEARCH_LENGTH_MAX]


def _find(request: HttpRequest, query: str) -> list[Group]:
    words = query.lower().split()

    def fits(item: Item) -> bool:
        text = f"{item.title} {item.words}".lower()
        return all(word in text for word in words)

    groups = [
        Group("Models", list(_models(request, query))),
        Group("Pages", [item for item in _pages(request) if fits(item)]),
        Group("Actions", [item for item in _actions(request) if fits(item)]),
        Group("Documentation", list(_docs(query))),
    ]
    return [group for group in groups if group.items]


def _models(request: HttpRequest, query: str) -> Iterator[Item]:
    actor = actor_of(request)
    found = find_models(actor, query)
    own = list_own_slugs(actor) if found else frozenset()
    for model in found:
        place = [model.account.slug, model.name]
        yield Item(model.title, reverse("marketplace:model", args=place), "box", str(model))
        if model.account.slug in own:
            url = reverse("marketplace:model-versions", args=place)
            yield Item(f"{model.title}: versions and channels", url, "settings", str(model))


def _docs(query: str) -> Iterator[Item]:
    for found in search_docs(query)[:DOCS_SHOWN_MAX]:
        one = found.passage
        yield Item(one.title, one.url, "book-open", one.page if one.page != one.title else "")


def _pages(request: HttpRequest) -> Iterator[Item]:
    pages = OPEN_PAGES + (OWN_PAGES if request.user.is_authenticated else VISITOR_PAGES)
    if actor_of(request).is_admin:
        pages += PLATFORM_PAGES
    for name, title, words, icon in pages:
        if url := _address(name):
            yield Item(title, url, icon, words=words)
    if (account := current_account(request)) is not None:
        for name, title in (("account", "Account settings"), ("members", "Members")):
            url = reverse(f"marketplace:{name}", args=[account.slug])
            yield Item(title, url, "settings", account.slug)


def _actions(request: HttpRequest) -> Iterator[Item]:
    account = current_account(request)
    if account is None:
        return
    actor = actor_of(request)
    for name, title, words, icon, right in ACTIONS:
        url = _address(name)
        if url and has_right(actor, account, right):
            yield Item(title, f"{url}?account={account.slug}", icon, account.slug, words)


def _address(name: str) -> str:
    try:
        return reverse(name)
    except NoReverseMatch:
        return ""
