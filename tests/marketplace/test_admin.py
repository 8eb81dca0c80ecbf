from __future__ import annotations

import pytest
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone

from marketplace.core import limits
from marketplace.models import AuditEvent, Incident, IncidentUpdate, ModelVersion, Review
from tests.factories import (
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ModelVersionFactory,
    UserFactory,
)

VERSIONS = "/admin/marketplace/modelversion/"
ACCOUNTS = "/admin/marketplace/account/"


def act(client, url: str, action: str, rows: list, **form: str):
    return client.post(
        url, {"action": action, "_selected_action": [str(row.pk) for row in rows], **form}
    )


@pytest.mark.parametrize("who", ["owner_client", "outsider_client"])
def test_the_console_does_not_exist_for_others(request, account, who):
    client = request.getfixturevalue(who)
    for url in ("/admin/", VERSIONS, ACCOUNTS):
        response = client.get(url)
        assert response.status_code in (302, 404)
        if response.status_code == 302:
            assert client.get(response.url).status_code == 404


def test_who_is_not_signed_in_is_sent_to_our_own_page(client, db):
    response = client.get("/admin/")

    assert response.url == "/admin/login/?next=/admin/"
    assert client.get(response.url).url == "/login?next=/admin/"


def test_every_table_has_its_pages(admin_client, account, owner, platform_admin):
    version = ModelVersionFactory(state="in_review")
    APIKeyFactory(account=account)
    Review.objects.create(
        version=version, reviewer=platform_admin, decision="approved", reason="Fine."
    )
    incident = Incident.objects.create(
        title="Acme is slow",
        impact="minor",
        state="investigating",
        created_at=timezone.now(),
        updated_at=timezone.now(),
    )
    IncidentUpdate.objects.create(
        incident=incident,
        number=1,
        state="investigating",
        text="We look.",
        author=platform_admin,
        created_at=timezone.now(),
    )
    own = [model for model in admin.site._registry if model._meta.app_label == "marketplace"]
    assert len(own) == 10

    for model in own:
        name = f"admin:marketplace_{model._meta.model_name}"
        assert admin_client.get(reverse(f"{name}_changelist")).status_code == 200
        assert admin_client.get(reverse(f"{name}_changelist") + "?q=acme").status_code == 200
        row = model.objects.first()
        if row is not None:
            page = admin_client.get(reverse(f"{name}_change", args=[row.pk]))
            assert page.status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        *("user", "account", "aimodel", "modelversion", "apikey", "auditevent", "review"),
        *("incident", "incidentupdate"),
    ],
)
def test_rows_cannot_be_edited_added_or_deleted_by_hand(admin_client, account, name):
    rows = {"user": account.members.get(), "account": account, "apikey": APIKeyFactory()}
    rows |= {"modelversion": ModelVersionFactory(), "aimodel": AIModelFactory()}
    row = rows.get(name)

    assert admin_client.post(f"/admin/marketplace/{name}/add/", {}).status_code == 403
    if row is not None:
        base = f"/admin/marketplace/{name}/{row.pk}"
        assert admin_client.post(f"{base}/change/", {"name": "x"}).status_code == 403
        assert admin_client.post(f"{base}/delete/", {"post": "yes"}).status_code == 403
        row.refresh_from_db()
    page = admin_client.get(f"/admin/marketplace/{name}/").content.decode()
    assert "delete_selected" not in page


def test_no_page_shows_a_digest_or_a_password(admin_client, account, owner):
    api_key = APIKeyFactory(account=account)
    pages = [
        f"/admin/marketplace/apikey/{api_key.pk}/change/",
        "/admin/marketplace/apikey/",
        f"/admin/marketplace/user/{owner.pk}/change/",
    ]

    text = "".join(admin_client.get(page).content.decode() for page in pages)

    assert api_key.hint in text
    assert api_key.text not in text
    assert bytes(api_key.digest).hex() not in text
    assert owner.password not in text


def test_the_first_page_says_what_waits(admin_client, db):
    assert "No version waits for review" in admin_client.get("/admin/").content.decode()
    ModelVersionFactory(state="in_review")

    text = admin_client.get("/admin/").content.decode()
    assert "1 version waits for review" in text
    assert f"{VERSIONS}?state__exact=in_review" in text


def test_a_version_links_to_its_onboarding(admin_client, db):
    version = ModelVersionFactory(state="in_review")

    assert f"/panels/onboarding/{version.pk}" in admin_client.get(VERSIONS).content.decode()


@pytest.mark.parametrize(
    ("action", "state", "decision"),
    [("approve", "approved", "approved"), ("refuse", "refused", "refused")],
)
def test_a_version_is_decided_with_a_reason(admin_client, platform_admin, action, state, decision):
    version = ModelVersionFactory(state="in_review")

    question = act(admin_client, VERSIONS, action, [version])
    assert question.status_code == 200
    assert str(version) in question.content.decode()
    empty = act(admin_client, VERSIONS, action, [version], confirmed="yes", reason=" ")
    assert empty.status_code == 422
    long = "x" * (limits.REASON_LENGTH_MAX + 1)
    assert act(admin_client, VERSIONS, action, [version], confirmed="yes", reason=long)
    assert (ModelVersion.objects.get().state, Review.objects.count()) == ("in_review", 0)

    act(admin_client, VERSIONS, action, [version], confirmed="yes", reason="Looked at it.")

    assert ModelVersion.objects.get().state == state
    stored = Review.objects.get()
    assert (stored.decision, stored.reason, stored.reviewer) == (
        decision,
        "Looked at it.",
        platform_admin,
    )
    assert AuditEvent.objects.get().action == f"version.{action}"


def test_what_cannot_be_decided_is_told_row_by_row(admin_client, db):
    waiting = ModelVersionFactory(state="in_review")
    done = ModelVersionFactory(state="failed")

    page = act(admin_client, VERSIONS, "approve", [waiting, done], confirmed="yes", reason="Fine.")
    told = {str(message) for message in admin_client.get(page.url).context["messages"]}

    assert told == {f"{waiting}: done.", f"{done} is failed; it cannot become approved."}
    assert set(ModelVersion.objects.values_list("state", flat=True)) == {"approved", "failed"}


def test_an_account_is_suspended_and_released(admin_client, owner_client, account):
    question = act(admin_client, ACCOUNTS, "suspend", [account])
    assert "stop working at once" in question.content.decode()
    account.refresh_from_db()
    assert account.suspended_at is None

    act(admin_client, ACCOUNTS, "suspend", [account], confirmed="yes", reason="Fraud.")
    account.refresh_from_db()
    assert account.suspended_at is not None
    page = owner_client.get("/accounts/acme/settings").content.decode()
    assert "This account is suspended" in page
    form = {"name": "x", "mode": "live"}
    assert owner_client.post("/console/keys/new", form).status_code == 403

    act(admin_client, ACCOUNTS, "unsuspend", [account], confirmed="yes", reason="Cleared.")
    account.refresh_from_db()
    assert account.suspended_at is None


def test_staff_alone_does_not_open_every_table(client, account):
    clerk = UserFactory(is_staff=True)
    client.force_login(clerk)

    assert client.get("/admin/").status_code == 200
    assert client.get(ACCOUNTS).status_code == 403
    assert (
        act(client, ACCOUNTS, "suspend", [account], confirmed="yes", reason="x").status_code == 403
    )


def test_lists_ask_as_often_for_many_as_for_one(admin_client, django_assert_num_queries, db):
    pages = [VERSIONS, ACCOUNTS, "/admin/marketplace/apikey/", "/admin/marketplace/aimodel/"]

    def fill() -> None:
        ModelVersionFactory(state="in_review")
        APIKeyFactory()
        AccountFactory()

    fill()
    counts = {}
    for page in pages:
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        with CaptureQueriesContext(connection) as asked:
            admin_client.get(page)
        counts[page] = len(asked)
    for _ in range(5):
        fill()
    for page in pages:
        with django_assert_num_queries(counts[page]):
            admin_client.get(page)


def test_the_password_is_changed_on_the_sites_own_page(admin_client):
    assert admin_client.get("/admin/password_change/").url == "/profile"
