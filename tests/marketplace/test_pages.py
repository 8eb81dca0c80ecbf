"""Every page, for everybody who may ask for it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import URLPattern, get_resolver, reverse
from django.utils import timezone

from marketplace.core import limits
from marketplace.models import (
    Account,
    AccountDeletion,
    AIModel,
    APIKey,
    AuditEvent,
    CardRevision,
    Channel,
    Collection,
    CollectionEntry,
    DataExport,
    Membership,
    ModelVersion,
)
from marketplace.selectors import access
from marketplace.selectors import key as key_selectors
from marketplace.services import data_export, export_file
from tests.factories import (
    PASSWORD,
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    ModelVersionFactory,
)

# (URL, method, right that is needed). `{key}` and `{member}` stand for the owner's.
OWNED = [
    ("/accounts/acme/settings", "GET", "read"),
    ("/accounts/acme/settings", "POST", "members"),
    ("/accounts/acme/members", "GET", "read"),
    ("/accounts/acme/members", "POST", "members"),
    ("/accounts/acme/members/{member}/role", "POST", "members"),
    ("/accounts/acme/members/{member}/remove", "POST", "members"),
    ("/accounts/acme/activity", "GET", "read"),
    ("/notifications?account=acme", "GET", "read"),
    ("/notifications/mark?account=acme", "POST", "read"),
    ("/notifications/preferences?account=acme", "GET", "read"),
    ("/notifications/preferences?account=acme", "POST", "read"),
    ("/accounts/acme/data", "GET", "read"),
    ("/accounts/acme/data", "POST", "members"),
    ("/accounts/acme/data/{export}/download", "POST", "members"),
    ("/panels/accounts/acme/data", "GET", "members"),
    ("/accounts/acme/delete", "GET", "account"),
    ("/accounts/acme/delete", "POST", "account"),
    ("/accounts/acme/delete/cancel", "POST", "account"),
    ("/console?account=acme", "GET", "read"),
    ("/console/keys?account=acme", "GET", "keys"),
    ("/console/keys/new?account=acme", "GET", "keys"),
    ("/console/keys/new?account=acme", "POST", "keys"),
    ("/console/keys/{key}", "GET", "keys"),
    ("/console/keys/{key}/edit", "GET", "keys"),
    ("/console/keys/{key}/edit", "POST", "keys"),
    ("/console/keys/{key}/revoke", "GET", "keys"),
    ("/console/keys/{key}/revoke", "POST", "keys"),
    ("/dashboard?account=acme", "GET", "read"),
    ("/dashboard/models?account=acme", "GET", "read"),
    ("/dashboard/models/new?account=acme", "GET", "push"),
    ("/dashboard/models/new?account=acme", "POST", "push"),
    ("/dashboard/collections?account=acme", "GET", "read"),
    ("/dashboard/collections/new?account=acme", "GET", "push"),
    ("/dashboard/collections/new?account=acme", "POST", "push"),
    ("/dashboard/collections/acme/best", "GET", "push"),
    ("/dashboard/collections/acme/best", "POST", "push"),
    ("/dashboard/collections/acme/best/models", "POST", "push"),
    ("/dashboard/collections/acme/best/delete", "GET", "push"),
    ("/dashboard/collections/acme/best/delete", "POST", "push"),
    ("/dashboard/first-push?account=acme", "GET", "push"),
    ("/dashboard/first-push?account=acme", "POST", "push"),
    ("/dashboard/first-push/hide?account=acme", "POST", "read"),
    ("/dashboard/models/acme/digits", "GET", "read"),
    ("/dashboard/models/acme/digits/edit", "GET", "push"),
    ("/dashboard/models/acme/digits/edit", "POST", "push"),
    ("/dashboard/models/acme/digits/card", "GET", "push"),
    ("/dashboard/models/acme/digits/card", "POST", "push"),
    ("/dashboard/models/acme/digits/card/history", "GET", "read"),
    ("/dashboard/models/acme/digits/card/history/1", "GET", "read"),
    ("/dashboard/models/acme/digits/card/history/1/restore", "POST", "push"),
    ("/dashboard/models/acme/digits/publish", "POST", "publish"),
    ("/dashboard/models/acme/digits/versions/1/withdraw", "GET", "publish"),
    ("/dashboard/models/acme/digits/versions/1/withdraw", "POST", "publish"),
    ("/dashboard/models/acme/digits/appeal", "GET", "publish"),
]
# Pages that belong to whoever asks, or to everybody.
OPEN = {
    *("catalogue", "home", "sign-up", "login", "log-out", "reset", "reset-sent", "reset-confirm"),
    *("theme", "search", "search-results", "styleguide", "styleguide-panel"),
    *("profile", "switch-account", "account-new", "withdraw-choice", "owner", "model"),
    *("docs", "docs-guide", "docs-reference", "docs-area", "docs-openapi", "docs-search"),
    # Of whoever asks, and nobody's without a session: see test_notification.py.
    "bell",
    # What everybody may say and put away; see test_report.py and test_announcement.py.
    *("report", "dismiss"),
    # What everybody reads of the platform; see test_status.py and test_incident.py.
    *("status", "status-json", "status-feed", "incident"),
    # What whoever runs the platform asks of a process; see test_health.py.
    *("health", "health-live", "health-ready"),
    # About the person itself; another's passkey or session is tried in test_session.py.
    *("second-factor", "passkey-login", "passkey-login-options", "confirm", "confirm-options"),
    *("email-change", "email-resend", "email-confirm", "security", "recovery-codes"),
    *("authenticator-new", "authenticator", "authenticator-remove"),
    *("passkey-add", "passkey-options", "passkey-rename", "passkey-remove"),
    *("sessions-end", "session-end", "person-delete"),
    *(
        "compare",
        "industries",
        "industry",
        "collections",
        "collection",
        # Pictures of what everybody sees; see test_social_card.py.
        "site-card",
        "social-card",
        # Of accounts; see test_collection.py.
        "account-collection",
        "sitemap",
        "robots",
        "llms",
    ),
}
MAY = {
    "developer": {"read", "push", "keys"},
    "viewer": {"read"},
    "billing": {"read"},
    "admin": {"read", "push", "publish", "keys", "members"},
}
FORM = {
    "name": "new-name",
    "title": "Changed",
    "mode": "live",
    "visibility": "public",
    "email": "outsider@example.com",
    "role": "viewer",
    "channel": "prod",
    "version": "1",
    "to": "read",
    "confirm": "acme",
    "credit": "refund",
    "text": "Another card",
    "base": "1",
    "do": "add",
    "model": "acme/digits",
}


@pytest.fixture
def shop(account, owner) -> dict[str, object]:
    model = AIModelFactory(account=account, name="digits", title="Digits")
    ModelVersionFactory(model=model)
    CardRevision.objects.create(model=model, number=1, text="# Before")
    Collection.objects.create(account=account, slug="best", title="Best")
    return {
        "key": APIKeyFactory(account=account, created_by=owner).pk,
        "member": account.memberships.get(user=owner).pk,
        "export": make_export(account).pk,
    }


def make_export(account: Account) -> DataExport:
    """A small archive that can be downloaded."""
    export = DataExport(account=account, state=DataExport.State.READY)
    export.sealed_key = export_file.seal_key(export.pk)
    key = export_file.open_key(export.pk, export.sealed_key)
    stored = export_file.store(export.pk, key, data_export.ARCHIVE, [b"zip"])
    export.storage_name, export.size_bytes = stored.name, stored.size_bytes
    export.expires_at = timezone.now() + timedelta(days=1)
    export.save()
    return export


def state() -> tuple[object, ...]:
    """All that the pages could change."""
    return (
        list(AIModel.objects.values_list("name", "title", "visibility").order_by("name")),
        list(ModelVersion.objects.values_list("number", "state").order_by("number")),
        Channel.objects.count(),
        list(APIKey.objects.values_list("name", "revoked_at").order_by("name")),
        list(
            Membership.objects.values_list("user__email", "role", "first_push_hidden_at").order_by(
                "pk"
            )
        ),
        CardRevision.objects.count(),
        list(Collection.objects.values_list("slug", "title").order_by("slug")),
        CollectionEntry.objects.count(),
        AuditEvent.objects.count(),
        list(DataExport.objects.values_list("state", flat=True)),
        list(AccountDeletion.objects.values_list("state", flat=True)),
    )


def ask(client: Client, url: str, method: str, shop: dict[str, object]):
    return client.generic(
        method,
        url.format(**shop),
        "&".join(f"{key}={value}" for key, value in FORM.items()) if method == "POST" else "",
        content_type="application/x-www-form-urlencoded",
    )


def test_the_table_names_every_owned_address():
    patterns = next(
        resolver.url_patterns
        for resolver in get_resolver().url_patterns
        if getattr(resolver, "app_name", "") == "marketplace"
    )
    listed = {url.split("?")[0] for url, _, _ in OWNED}
    for pattern in patterns:
        assert isinstance(pattern, URLPattern)
        # Platform admins' own: see test_platform_pages.py.
        if pattern.name in OPEN or str(pattern.pattern).startswith("platform"):
            continue
        regex = re.sub(r"<\w+:\w+>|<\w+>", "[^/]+", str(pattern.pattern))
        assert any(re.fullmatch(regex, url[1:]) for url in listed), pattern.name


@pytest.mark.parametrize(("url", "method", "right"), OWNED)
def test_outsiders_find_nothing(outsider_client, shop, url, method, right):
    before = state()

    assert ask(outsider_client, url, method, shop).status_code == 404
    assert state() == before


def test_without_the_access_rules_outsiders_would_find_everything(
    outsider_client, shop, monkeypatch
):
    # The control: the tests above fail as soon as the one place that keeps tenants apart does.
    monkeypatch.setattr(access, "list_accounts", lambda actor: Account.objects.all())
    monkeypatch.setattr(access, "has_right", lambda actor, account, right: True)
    monkeypatch.setattr(key_selectors, "list_accounts", lambda actor: Account.objects.all())

    found = [ask(outsider_client, url, method, shop).status_code for url, method, _ in OWNED]

    # 403 where the service itself asks for an owner once more.
    assert 404 not in found[:3]
    assert found.count(404) == 0


@pytest.mark.parametrize(("url", "method", "right"), OWNED)
def test_a_platform_admin_is_no_member(admin_client, shop, url, method, right):
    before = state()

    assert ask(admin_client, url, method, shop).status_code == 404
    assert state() == before


@pytest.mark.parametrize(("url", "method", "right"), OWNED)
def test_who_is_not_signed_in_is_sent_to_sign_in(client, shop, url, method, right):
    before = state()
    response = ask(client, url, method, shop)

    assert response.status_code == 302
    assert response.url.startswith("/login?next=/")
    assert state() == before


@pytest.mark.parametrize(("url", "method", "right"), OWNED)
@pytest.mark.parametrize("role", list(MAY))
def test_members_do_what_their_role_allows(
    teammate_client, teammate, account, outsider, shop, role, url, method, right
):
    account.memberships.filter(user=teammate).update(role=role)
    before = state()

    response = ask(teammate_client, url, method, shop)

    if right not in MAY[role]:
        assert response.status_code == 403
        assert state() == before
    elif "member}" in url:
        # Only owners touch owners.
        assert response.status_code == 403
    else:
        assert response.status_code in (200, 201, 302)


@pytest.mark.parametrize(("url", "method", "right"), OWNED)
def test_the_owner_may_do_it_all(owner_client, outsider, shop, url, method, right):
    assert ask(owner_client, url, method, shop).status_code in (200, 201, 302)


@pytest.mark.parametrize("url", [url for url, method, _ in OWNED if method == "POST"])
def test_forms_need_the_token_against_forgery(owner, account, shop, url):
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner)
    before = state()
    response = ask(client, url, "POST", shop)

    assert response.status_code == 403
    assert "This form is out of date" in response.content.decode()
    assert state() == before


@pytest.mark.parametrize("path", ["/login", "/sign-up", "/log-out", "/password-reset"])
def test_open_forms_need_it_too(db, path):
    client = Client(enforce_csrf_checks=True)

    assert client.post(path, {"email": "a@example.com", "password": PASSWORD}).status_code == 403


# --- the catalogue ---


def test_the_catalogue_shows_what_is_on_sale(client, account):
    ChannelFactory(version__model__account=account, version__model__title="Sold")
    AIModelFactory(account=account, title="Not yet")

    text = client.get("/").content.decode()

    assert "Sold" in text
    assert "Not yet" not in text


def test_the_catalogue_is_searched_and_filtered(client, account):
    for name, task in (("alpha", "ocr"), ("beta", "speech")):
        model = AIModelFactory(account=account, name=name, title=name.title(), task=task)
        ChannelFactory(version__model=model)

    assert "Alpha" in client.get("/?q=alp").content.decode()
    assert "Beta" not in client.get("/?q=alp").content.decode()
    assert "Alpha" not in client.get("/?task=speech").content.decode()
    assert "No model fits" in client.get("/?q=zebra").content.decode()


@pytest.mark.parametrize("query", ["a" * 5_000, "%27%22%3Cscript%3E", "%25%5F"])
def test_odd_searches_are_answered(client, db, query):
    response = client.get(f"/?q={query}&task={query}&page=zzz")

    assert response.status_code == 200
    assert "<script>'" not in response.content.decode()


@pytest.mark.parametrize(
    "address", ["/?q=%00", "/demo/%00", "/api/models?owner=%00", "/console/wallet?account=a%00"]
)
def test_an_address_with_a_nul_is_refused(client, db, address):
    response = client.get(address)

    assert response.status_code == 400
    assert "NUL" in response.content.decode()


def test_an_empty_catalogue_says_so(client, db):
    assert "Nothing is on sale yet" in client.get("/").content.decode()


def test_the_catalogue_comes_in_pages(client, account, monkeypatch):
    for number in range(limits.PAGE_SIZE + 1):
        ChannelFactory(
            version__model__account=account,
            version__model__name=f"m{number:03}",
            version__model__task="ocr",
        )

    first = client.get("/?task=ocr").content.decode()
    last = client.get("/?task=ocr&page=2").content.decode()

    assert "acme/m000" in first
    assert f"acme/m{limits.PAGE_SIZE:03}" not in first
    assert "?task=ocr&amp;page=2" in first
    assert f"acme/m{limits.PAGE_SIZE:03}" in last


def test_an_owners_page_shows_models_on_sale_or_nothing(client, owner_client, account):
    assert client.get("/acme").status_code == 404
    assert owner_client.get("/acme").status_code == 200
    assert client.get("/nobody").status_code == 404

    ChannelFactory(version__model__account=account, version__model__title="Sold")
    assert "Sold" in client.get("/acme").content.decode()

    account.suspended_at = account.created_at
    account.save()
    assert client.get("/acme").status_code == 404


# --- a model's page ---

CARD = "---\nlicense: mit\nlanguage: de\n---\n# Hi\n<script>alert(1)</script>\n\n**bold**"


def test_a_models_page(client, account):
    model = AIModelFactory(
        account=account, name="digits", title="<b>Digits</b>", card=CARD, licence="Apache-2.0"
    )
    ChannelFactory(version__model=model)
    ModelVersionFactory(model=model, number=2, state="in_review")

    response = client.get("/acme/digits")
    text = response.content.decode()

    assert "&lt;b&gt;Digits&lt;/b&gt;" in text
    assert "<strong>bold</strong>" in text
    assert "alert(1)" not in text
    assert "<dt>Language</dt><dd>de</dd>" in text
    assert text.count("<dt>Licence</dt>") == 1
    assert [line.version.number for line in response.context["history"]] == [1]
    # The programs that call it are in the panel that knows the form.
    for panel in ("price", "estimate", "try", "evidence"):
        assert f'hx-get="/panels/{panel}/acme/digits"' in text


def test_a_models_page_says_what_of_an_answer_leaves(client, account):
    version = ModelVersionFactory(model__account=account, model__name="digits")
    ChannelFactory(version=version)
    sentence = "Answers show the 5 most likely classes, rounded to 3 decimals."

    assert "Answers show" not in client.get("/acme/digits").content.decode()
    version.output_policy = {"y": {"as": "probabilities", "top_k": 5, "decimals": 3}}
    version.save()
    assert sentence in client.get("/acme/digits").content.decode()


def test_a_private_model_is_for_members(client, owner_client, outsider_client, account):
    AIModelFactory(account=account, name="secret", visibility="private")

    assert owner_client.get("/acme/secret").status_code == 200
    assert client.get("/acme/secret").status_code == 404
    assert outsider_client.get("/acme/secret").status_code == 404


def test_the_card_is_kept_rendered(client, account, monkeypatch):
    from marketplace.views import catalog

    AIModelFactory(account=account, name="digits", card="# One")
    client.get("/acme/digits")
    monkeypatch.setattr(catalog, "render_card", lambda text: 1 / 0)

    assert "<h2>One</h2>" in client.get("/acme/digits").content.decode()


def test_pages_allow_no_script_but_ours(client, account):
    AIModelFactory(account=account, name="digits")
    for url in ("/", "/login", "/acme/digits", "/nowhere/at-all"):
        response = client.get(url)
        policy = response["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        text = response.content.decode()
        assert " style=" not in text
        assert "<style" not in text
        # A block of data is no script: browsers do not run it.
        block = r' type="application/ld\+json">'
        assert re.findall(rf"<script(?![^>]* src=)(?!{block})", text) == []
        assert re.findall(r"\son\w+=", text) == []


# --- the creator's pages ---


def test_a_model_is_made_and_edited_by_hand(owner_client, account):
    form = {"name": "digits", "title": "Digits", "visibility": "private", "card": "# A"}
    assert owner_client.post("/dashboard/models/new", form).url == "/dashboard/models/acme/digits"
    assert owner_client.post("/dashboard/models/new", form).status_code == 422

    form |= {"title": "Better", "task": "ocr", "visibility": "public"}
    assert owner_client.post("/dashboard/models/acme/digits/edit", form).url == "/acme/digits"
    model = AIModel.objects.get()
    assert (model.title, model.task, model.visibility, model.card) == (
        "Better",
        "ocr",
        "public",
        "# A",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "Digits"), ("name", "a/b"), ("title", ""), ("task", "A b"), ("licence", "<x>")],
)
def test_a_bad_form_is_shown_again(owner_client, account, field, value):
    form = {"name": "digits", "title": "Digits", "visibility": "public"} | {field: value}
    page = owner_client.post("/dashboard/models/new", form)

    assert page.status_code == 422
    assert list(page.context["form"].errors) == [field]
    assert AIModel.objects.count() == 0


def test_a_channel_is_moved_and_a_version_withdrawn(owner_client, account):
    model = AIModelFactory(account=account, name="digits")
    ModelVersionFactory(model=model, number=1)
    ModelVersionFactory(model=model, number=2, state="in_review")
    base = "/dashboard/models/acme/digits"

    assert owner_client.post(f"{base}/publish", {"channel": "prod", "version": 1}).url == base
    assert Channel.objects.get().version.number == 1
    page = owner_client.post(f"{base}/publish", {"channel": "dev", "version": 2}, follow=True)
    assert "digits:2 is in review" in page.content.decode()
    for bad in ({"channel": "prod"}, {"channel": "x", "version": 1}):
        assert owner_client.post(f"{base}/publish", bad).status_code == 422
    assert owner_client.post(f"{base}/publish", {"channel": "dev", "version": 9}).status_code == 404

    page = owner_client.get(f"{base}/withdraw?version=1", follow=True)
    assert "prod will name no version" in page.content.decode()
    assert owner_client.get(f"{base}/withdraw?version=x").status_code == 404
    assert owner_client.post(f"{base}/versions/1/withdraw").url == base
    assert (model.versions.get(number=1).state, Channel.objects.count()) == ("withdrawn", 0)
    assert "nothing to withdraw" in owner_client.get(f"{base}/versions/1/withdraw").content.decode()


def test_a_refused_version_is_not_withdrawn(owner_client, account):
    ModelVersionFactory(model__account=account, model__name="digits", state="refused")
    page = owner_client.post("/dashboard/models/acme/digits/versions/1/withdraw", follow=True)

    assert "it cannot become withdrawn" in page.content.decode()
    assert ModelVersion.objects.get().state == "refused"


def test_lists_ask_as_often_for_many_as_for_one(
    owner_client, account, django_assert_num_queries, django_assert_max_num_queries
):
    def fill(numbers: range) -> None:
        for number in numbers:
            model = AIModelFactory(account=account, name=f"m{number}")
            ChannelFactory(version__model=model)
            ModelVersionFactory(model=model, number=2, state="in_review")

    pages = ["/", "/acme", "/acme/m0", "/dashboard", "/dashboard/models"]
    pages += ["/dashboard/models/acme/m0", "/accounts/acme/members", "/accounts/acme/activity"]
    fill(range(1))
    counts = {}
    for page in pages:
        owner_client.get(page)
        # One of them is the bell's, one is for incidents.
        with django_assert_max_num_queries(16) as asked:
            assert owner_client.get(page).status_code == 200
        counts[page] = len(asked.captured_queries)
    fill(range(1, 8))
    for page in pages:
        with django_assert_num_queries(counts[page]):
            owner_client.get(page)


def test_people_land_where_they_work(owner_client, account):
    assert owner_client.get("/home").url == "/console"
    AIModelFactory(account=account)
    assert owner_client.get("/home").url == "/dashboard"


def test_a_person_without_an_account_is_led_to_make_one(admin_client):
    assert admin_client.get("/home").url == "/"
    for page in ("/console", "/dashboard"):
        assert admin_client.get(page).url == "/accounts/new"
    assert admin_client.get("/console/keys").status_code == 404
    assert admin_client.get("/").status_code == 200


def test_who_is_signed_in_needs_no_sign_in(owner_client, account):
    assert owner_client.get("/login").url == "/home"
    assert owner_client.get("/login?next=/console").url == "/console"
    assert owner_client.get("/sign-up").url == "/home"


# --- errors ---


def test_an_unknown_address_is_a_page_for_people_and_a_problem_for_programs(client, db):
    page = client.get("/nobody/nothing")
    assert page.status_code == 404
    assert "There is no such thing" in page.content.decode()
    assert page["X-Request-Id"] in page.content.decode()

    answer = client.get("/api/nothing-here")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")
    assert answer.json()["request_id"] == answer["X-Request-Id"]


def test_a_mistake_of_ours_tells_its_number_and_nothing_else(client, account, monkeypatch):
    from marketplace.api import model as api
    from marketplace.selectors import catalog

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("canary-detail")

    monkeypatch.setattr(catalog, "sort_models", fail)
    monkeypatch.setattr(api, "list_visible_models", fail)
    client.raise_request_exception = False

    page, answer = client.get("/"), client.get("/api/models")

    assert (page.status_code, answer.status_code) == (500, 500)
    assert answer.json()["code"] == "internal"
    for response in (page, answer):
        text = response.content.decode()
        assert "canary-detail" not in text
        assert response["X-Request-Id"] in text


def test_a_request_id_of_a_client_is_not_taken_over(client, db):
    response = client.get("/", headers={"X-Request-Id": "forged"})

    assert re.fullmatch(r"[a-z2-7]{26}", response["X-Request-Id"])


def test_the_address_of_a_form_that_is_loaded_again_tells_what_is_wrong(owner_client):
    """A browser asks for it with GET, and would show nothing at all."""
    for answer in (owner_client.get("/profile/email"), owner_client.post("/console")):
        assert answer.status_code == 405
        assert "This address does not answer to that method." in answer.content.decode()
    assert owner_client.get("/profile/email")["Allow"] == "POST"


def test_a_wrong_method_is_a_problem_for_programs(token_api, account):
    answer = token_api.post("/api/models/acme/digits", {}, format="json")

    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


def test_addresses_have_names():
    assert reverse("marketplace:model", args=["acme", "digits"]) == "/acme/digits"
