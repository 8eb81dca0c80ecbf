"""The platform's own pages: for admins alone, and each deed asked for, said beforehand, logged."""

from __future__ import annotations

import csv
import io
import re
from datetime import timedelta

import psycopg
import pytest
from django.core import mail
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client
from django.urls import get_resolver
from django.utils import timezone

from marketplace.core import flags as registry
from marketplace.core import limits
from marketplace.core.errors import ForbiddenError, InvalidInputError, NotFoundError
from marketplace.models import (
    Account,
    AIModel,
    Announcement,
    APIKey,
    AuditEvent,
    FlagSetting,
    Incident,
    IncidentUpdate,
    ModelVersion,
    Report,
    Review,
    Takedown,
    User,
    Vital,
)
from marketplace.selectors import flag as flag_selectors
from marketplace.selectors.access import Actor
from marketplace.selectors.flag import get_flag, is_on
from marketplace.selectors.key import find_valid_key
from marketplace.selectors.review import compare, compare_cards, find_previous
from marketplace.selectors.vital import WORKER_QUIET_AFTER
from marketplace.services import account as accounts
from marketplace.services import audit, review, vital
from marketplace.services.announcement import announce
from marketplace.services.flag import set_flag
from marketplace.services.notice import mail_notices
from marketplace.services.person import set_blocked
from marketplace.views import platform as platform_views
from tests.factories import (
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    ModelVersionFactory,
    UserFactory,
)


@pytest.fixture
def places(account: Account, owner: User, platform_admin: User) -> dict[str, str]:
    """An address of each of the platform's pages, by its name."""
    model = AIModelFactory(account=account, name="digits", card="# Digits")
    version = ModelVersionFactory(model=model, state="in_review")
    takedown = Takedown.objects.create(
        model=model, kind="warning", reason="Say more.", decided_by=platform_admin
    )
    report = Report.objects.create(model=model, reporter=owner, cause="harm", text="Look.")
    now = timezone.now()
    announcement = Announcement.objects.create(
        text="Work tonight.",
        starts_at=now - timedelta(hours=1),
        ends_at=now + timedelta(hours=1),
        created_by=platform_admin,
    )
    incident = Incident.objects.create(
        title="Trouble", impact="minor", state="monitoring", created_at=now, updated_at=now
    )
    return {
        "platform": "/platform",
        "waiting-panel": "/platform/panels/waiting",
        "reviews": "/platform/reviews",
        "review": f"/platform/reviews/{version.pk}",
        "accounts": "/platform/accounts?q=acm",
        "platform-account": "/platform/accounts/acme",
        "account-suspend": "/platform/accounts/acme/suspend",
        "account-restore": "/platform/accounts/acme/restore",
        "deletion-stop": "/platform/accounts/acme/keep",
        "person-block": f"/platform/people/{owner.pk}/block",
        "see-as": f"/platform/people/{owner.pk}/see-as",
        "see-as-stop": "/platform/see-as/stop",
        "reports": "/platform/reports",
        "platform-report": f"/platform/reports/{report.pk}",
        "appeal-answer": f"/platform/appeals/{takedown.pk}",
        "model-suspend": "/platform/models/acme/digits/suspend",
        "model-reinstate": "/platform/models/acme/digits/reinstate",
        "flags": "/platform/flags",
        "flag": "/platform/flags/sign-up",
        "announcements": "/platform/announcements",
        "announcement-end": f"/platform/announcements/{announcement.pk}/end",
        "incidents": "/platform/incidents",
        "platform-incident": f"/platform/incidents/{incident.pk}",
        "audit": "/platform/audit",
        "audit-export": "/platform/audit/export",
        "audit-check": "/platform/audit/check",
    }


POST_ONLY = {"see-as-stop", "announcement-end", "audit-check"}
DEED = {"reason": "because", "decision": "approve", "mode": "off", "confirmed": "yes"}


def state() -> tuple[object, ...]:
    return (
        list(Account.objects.values_list("slug", "suspended_at").order_by("slug")),
        list(AIModel.objects.values_list("name", "suspended_at").order_by("name")),
        list(User.objects.values_list("email", "is_active").order_by("email")),
        list(ModelVersion.objects.values_list("state", flat=True)),
        list(Report.objects.values_list("state", flat=True)),
        list(Announcement.objects.values_list("ends_at", flat=True)),
        FlagSetting.objects.count(),
        Incident.objects.count(),
        IncidentUpdate.objects.count(),
        AuditEvent.objects.count(),
    )


def test_the_table_names_every_page_of_the_platform(places):
    resolver = next(
        one for one in get_resolver().url_patterns if getattr(one, "app_name", "") == "marketplace"
    )
    names = {p.name for p in resolver.url_patterns if str(p.pattern).startswith("platform")}

    assert names == set(places)


@pytest.mark.parametrize("who", ["owner_client", "teammate_client", "outsider_client"])
def test_for_others_there_are_no_such_pages(request, places, who):
    client = request.getfixturevalue(who)
    before = state()

    for name, url in places.items():
        for answer in (client.get(url), client.post(url, DEED)):
            assert answer.status_code in ((404, 405) if name in POST_ONLY else (404,)), url
    assert state() == before


def test_who_is_not_signed_in_is_sent_to_sign_in(client, places):
    before = state()

    for name, url in places.items():
        if name != "see-as-stop":
            assert client.post(url, DEED).url.startswith("/login?next=/"), url
    assert state() == before


def test_without_the_guard_others_would_find_them(owner_client, places, monkeypatch):
    # The control: the guard is what keeps the pages, so without it they are there.
    class Admin(Actor):
        is_admin = True

    monkeypatch.setattr(platform_views, "actor_of", lambda request: Admin(user=request.user))

    assert owner_client.get(places["accounts"]).status_code == 200
    assert owner_client.get(places["audit"]).status_code == 200


def test_an_admin_finds_each(admin_client, places):
    for name, url in places.items():
        if name not in POST_ONLY:
            assert admin_client.get(url).status_code == 200, url


def test_lists_ask_as_often_for_many_as_for_one(
    admin_client, places, django_assert_num_queries, django_assert_max_num_queries
):
    urls = ["/platform/reviews", "/platform/accounts", "/platform/reports", "/platform/audit"]
    counts = {}
    for url in urls:
        with django_assert_max_num_queries(16) as asked:
            admin_client.get(url)
        counts[url] = len(asked.captured_queries)
    for _ in range(5):
        version = ModelVersionFactory(state="in_review")
        Report.objects.create(model=version.model, reporter=UserFactory(), cause="harm", text="x")
        APIKeyFactory(account=version.model.account)
    for url in urls:
        with django_assert_num_queries(counts[url]):
            admin_client.get(url)


# --- Reviews ---


@pytest.fixture
def versions(account, platform_admin) -> tuple[ModelVersion, ModelVersion]:
    """One that was approved, and a later one in review that differs."""
    model = AIModelFactory(
        account=account, name="digits", licence="MIT", card="# Digits\nOne line.\nThe end."
    )
    first = ModelVersionFactory(model=model, state="in_review")
    review.approve_version(version=first, reviewer=platform_admin, reason="Fine.")
    model.card = "# Digits\nAnother line.\nThe end."
    model.licence = "Apache-2.0"
    model.save()
    interface = {
        "inputs": [{"name": "x", "kind": "number", "minimum": 0}, {"name": "z", "kind": "text"}],
        "outputs": [{"name": "y", "kind": "number"}],
        "batch": {"max_size": 8, "leading_axis": True},
    }
    second = ModelVersionFactory(model=model, number=2, state="in_review", interface=interface)
    return first, second


def test_a_version_stands_beside_the_one_approved_before(versions):
    first, second = versions

    assert find_previous(second) == first
    changed = {
        (section.title, row.label, row.before, row.after)
        for section in compare(second, first)
        for row in section.rows
        if row.is_changed
    }
    assert changed == {
        ("Version", "Number", "1", "2"),
        ("Inputs", "x", "number", "number · at least 0"),
        ("Inputs", "z", "", "text"),
        ("Listing", "Licence", "MIT", "Apache-2.0"),
    }
    card = [(row.before, row.after) for row in compare_cards(second, first) if row.is_changed]
    assert card == [("One line.", "Another line.")]


def test_a_version_that_was_refused_is_not_compared_with(versions, platform_admin):
    first, second = versions
    review.refuse_version(version=second, reviewer=platform_admin, reason="No.")
    third = ModelVersionFactory(model=second.model, number=3, state="in_review")

    assert find_previous(third) == first
    assert find_previous(first) is None


@pytest.mark.parametrize(("decision", "after"), [("approve", "approved"), ("refuse", "refused")])
def test_a_version_is_decided_on_its_page(admin_client, versions, decision, after):
    first, second = versions
    ModelVersion.objects.filter(pk=second.pk).update(publish_channel="prod")
    ChannelFactory(version=first, model=first.model)
    url = f"/platform/reviews/{second.pk}"
    page = admin_client.get(url).content.decode()
    assert "The channel prod moves from version 1 to 2." in page
    assert "<del>MIT</del>" in page
    assert admin_client.post(url, {"decision": decision, "reason": " "}).status_code == 422
    assert admin_client.post(url, {"decision": "odd", "reason": "x"}).status_code == 422
    second.refresh_from_db()
    assert second.state == "in_review"

    assert admin_client.post(url, {"decision": decision, "reason": "Looked."}).status_code == 302

    second.refresh_from_db()
    assert second.state == after
    assert Review.objects.order_by("created_at").last().reason == "Looked."


def test_a_template_is_the_reason_of_who_has_no_scripts(admin_client, versions):
    _, second = versions
    template = "The model is made for something that the terms of the platform do not allow. "
    page = admin_client.get(f"/platform/reviews/{second.pk}").context["refusal"]
    text = next(value for value, _ in page.fields["template"].choices if template in value)
    form = {"decision": "refuse", "template": text, "reason": ""}

    assert admin_client.post(f"/platform/reviews/{second.pk}", form).status_code == 302
    assert Review.objects.order_by("created_at").last().reason == text.strip()


def test_who_decides_second_is_told_who_was_quicker(admin_client, versions):
    _, second = versions
    quicker = UserFactory(email="quicker@example.com", is_staff=True)
    review.approve_version(version=second, reviewer=quicker, reason="Fine.")

    late = admin_client.post(
        f"/platform/reviews/{second.pk}", {"decision": "refuse", "reason": "No."}
    )

    assert late.status_code == 409
    assert "quicker@example.com approved acme/digits:2" in late.content.decode()
    second.refresh_from_db()
    assert (second.state, second.reviews.count()) == ("approved", 1)


# --- Accounts ---


@pytest.mark.parametrize("query", ["acm", "ACME", "owner@exa", "{hint}", "{id}"])
def test_an_account_is_found_by_what_is_known_of_it(admin_client, account, outsider, query):
    key = APIKeyFactory(account=account)
    query = query.format(hint=key.hint, id=account.pk)

    page = admin_client.get("/platform/accounts", {"q": query}).context["page"]

    assert [one.slug for one in page] == ["acme"]


@pytest.mark.parametrize("query", ["nobody", "%", "x" * limits.SEARCH_LENGTH_MAX])
def test_a_search_for_nobody_finds_nobody(admin_client, account, query):
    response = admin_client.get("/platform/accounts", {"q": query})

    assert (response.status_code, list(response.context["page"])) == (200, [])
    assert admin_client.get("/platform/accounts", {"q": query + "x" * 200}).status_code == 422


def test_a_suspension_is_said_beforehand_done_mailed_and_undone(
    admin_client, owner_client, owner, account
):
    APIKeyFactory.create_batch(2, account=account)
    key = APIKeyFactory(account=account, revoked_at=timezone.now())
    AIModelFactory(account=account)
    url = "/platform/accounts/acme/suspend"
    page = admin_client.get(url).content.decode()
    assert "2 keys stop working within seconds." in page
    assert "1 model vanishes from the catalogue." in page
    assert admin_client.post(url, {"reason": ""}).status_code == 422
    account.refresh_from_db()
    assert account.suspended_at is None

    done = admin_client.post(url, {"reason": "Stolen cards."}, follow=True)

    assert 'href="/platform/accounts/acme/restore">Undo' in done.content.decode()
    account.refresh_from_db()
    assert account.suspended_at is not None
    assert owner_client.get("/console/keys/new").status_code == 403
    restore = "/platform/accounts/acme/restore"
    assert admin_client.post(restore, {"reason": "An error."}).status_code == 302
    assert owner_client.get("/console/keys/new").status_code == 200
    mail_notices()
    assert [one.subject for one in mail.outbox] == [
        "acme is suspended",
        "acme is not suspended any more",
    ]
    assert all(one.to == [owner.email] for one in mail.outbox)
    assert "Stolen cards." in mail.outbox[0].body
    assert key.revoked_at is not None


@pytest.mark.django_db(transaction=True)
def test_gateways_are_told_of_a_suspension_at_once(database_urls):
    account = AccountFactory()
    admin = Actor(user=UserFactory(is_staff=True))
    with psycopg.connect(database_urls["gateway"], autocommit=True) as gateway:
        gateway.execute("LISTEN strongroom_changes")
        accounts.suspend_account(actor=admin, account=account, reason="Fraud.")
        told = [one.payload for one in gateway.notifies(timeout=5, stop_after=1)]

    assert len(told) == 1
    assert str(account.pk) in told[0]
    assert "marketplace_account" in told[0]


def test_a_blocked_person_is_out_with_the_next_request(
    admin_client, owner_client, owner, account, api_client_of
):
    token = APIKeyFactory(account=account, created_by=owner, mode=APIKey.Mode.TOKEN)
    assert api_client_of(token).get("/api/keys?account=acme").status_code == 200
    url = f"/platform/people/{owner.pk}/block"
    assert "All sessions end" in admin_client.get(url).content.decode()

    assert admin_client.post(url, {"reason": "Taken over."}).status_code == 302

    assert owner_client.get("/console").url.startswith("/login")
    assert api_client_of(token).get("/api/keys?account=acme").status_code == 401
    assert find_valid_key(token.text) is not None
    assert admin_client.post(url, {"reason": "Cleared."}).status_code == 302
    assert owner_client.get("/console").status_code == 200
    mail_notices()
    assert [one.to for one in mail.outbox] == [[owner.email]] * 2


@pytest.fixture
def api_client_of():
    def make(token) -> Client:
        return Client(headers={"Authorization": f"Bearer {token.text}"})

    return make


def test_platform_admins_are_not_blocked(admin_client, platform_admin, owner):
    other = UserFactory(is_staff=True)

    url = f"/platform/people/{other.pk}/block"
    assert admin_client.post(url, {"reason": "x"}).status_code == 403
    with pytest.raises(ForbiddenError):
        set_blocked(actor=Actor(user=owner), person=owner, is_blocked=True, reason="x")
    other.refresh_from_db()
    assert other.is_active


# --- Switches ---


def test_only_switches_of_the_registry_exist(admin_client, db):
    assert admin_client.get("/platform/flags/nothing").status_code == 404
    assert admin_client.post("/platform/flags/nothing", DEED).status_code == 404
    with pytest.raises(NotFoundError):
        get_flag("nothing")
    with pytest.raises(AssertionError):
        is_on(registry.Flag("nothing", "", default=True, is_per_account=False))


def test_a_switch_is_turned_with_a_reason_and_counts(admin_client, client, platform_admin):
    assert client.get("/sign-up").status_code == 200
    url = "/platform/flags/sign-up"
    assert admin_client.post(url, {"mode": "off", "reason": ""}).status_code == 422
    assert admin_client.post(url, {"mode": "some", "reason": "x"}).status_code == 422
    assert not FlagSetting.objects.exists()

    assert admin_client.post(url, {"mode": "off", "reason": "Robots."}).status_code == 302

    off = client.get("/sign-up")
    assert (off.status_code, "feature_off" in off.content.decode()) == (503, True)
    event = AuditEvent.objects.get(action="flag.set")
    assert (event.payload["from"], event.payload["to"]) == ("default (on)", "off")
    assert admin_client.post(url, {"mode": "on", "reason": "Gone."}).status_code == 302
    assert client.get("/sign-up").status_code == 200


def test_a_switch_is_on_for_some_accounts(outsider_client, outsider, platform_admin):
    model = AIModelFactory()
    url = f"/{model}/report"
    actor = Actor(user=platform_admin)
    setting = {"actor": actor, "flag": registry.MODEL_REPORTS, "mode": "some", "reason": "Slowly."}
    set_flag(**setting)
    assert outsider_client.get(url).status_code == 503
    set_flag(**setting, accounts=["elsewhere"])
    assert outsider_client.get(url).status_code == 200
    set_flag(**setting, percentage=100)
    assert outsider_client.get(url).status_code == 200


def test_a_share_is_always_the_same_accounts(platform_admin, db):
    found = AccountFactory.create_batch(60)
    actor = Actor(user=platform_admin)
    before: set[str] = set()
    for percentage in (0, 30, 60, 100):
        set_flag(
            actor=actor,
            flag=registry.MODEL_REPORTS,
            mode="some",
            percentage=percentage,
            reason="More.",
        )
        flag_selectors.forget_flags()
        now = {one.slug for one in found if is_on(registry.MODEL_REPORTS, one)}
        assert before <= now
        assert len(now) == pytest.approx(percentage * 60 / 100, abs=18)
        before = now
    assert len(before) == 60


@pytest.mark.parametrize(
    "bad",
    [
        {"percentage": 101},
        {"accounts": ["nobody"]},
        {"accounts": [f"a{n}" for n in range(limits.ALLOWED_ENTRIES_MAX + 1)]},
        {"mode": "odd"},
        {"reason": "x" * (limits.REASON_LENGTH_MAX + 1)},
    ],
)
def test_a_wrong_setting_changes_nothing(platform_admin, bad):
    fields = {"mode": "some", "reason": "x"} | bad

    with pytest.raises(InvalidInputError):
        set_flag(actor=Actor(user=platform_admin), flag=registry.MODEL_REPORTS, **fields)
    assert not FlagSetting.objects.exists()


def test_settings_are_kept_for_a_while(db, platform_admin, settings, django_assert_num_queries):
    settings.PLATFORM_CACHE_S = 60
    flag_selectors.forget_flags()
    assert is_on(registry.SIGN_UP)
    with django_assert_num_queries(0):
        assert is_on(registry.SIGN_UP)
    flag_selectors.forget_flags()


# --- Announcements ---


def announce_now(platform_admin: User, **fields: object) -> Announcement:
    now = timezone.now()
    base = {"text": "Work tonight.", "starts_at": now, "ends_at": now + timedelta(hours=1)}
    return announce(actor=Actor(user=platform_admin), fields=base | fields)


@pytest.mark.parametrize(
    ("audience", "seen_by"),
    [
        ("everybody", {"client", "outsider_client", "owner_client", "admin_client"}),
        ("signed_in", {"outsider_client", "owner_client", "admin_client"}),
        ("creators", {"owner_client"}),
        ("staff", {"admin_client"}),
    ],
)
def test_an_announcement_is_for_its_audience(request, platform_admin, account, audience, seen_by):
    AIModelFactory(account=account)
    announce_now(platform_admin, audience=audience)

    found = {
        name
        for name in ("client", "outsider_client", "owner_client", "admin_client")
        if "Work tonight." in request.getfixturevalue(name).get("/").content.decode()
    }
    assert found == seen_by


def test_an_announcement_has_its_time(client, admin_client, platform_admin):
    now = timezone.now()
    for starts, ends in ((1, 2), (-2, -1)):
        Announcement.objects.create(
            text="Not now.",
            starts_at=now + timedelta(hours=starts),
            ends_at=now + timedelta(hours=ends),
            created_by=platform_admin,
        )
    assert "Not now." not in client.get("/").content.decode()
    row = announce_now(platform_admin)
    assert "Work tonight." in client.get("/").content.decode()
    assert admin_client.post(f"/platform/announcements/{row.pk}/end").status_code == 302
    assert "Work tonight." not in client.get("/").content.decode()


def test_an_announcement_is_put_away_in_one_browser(client, platform_admin):
    row = announce_now(platform_admin, text="<b>News</b>", link="/sealing", link_text="More")
    page = client.get("/").content.decode()
    assert "&lt;b&gt;News&lt;/b&gt;" in page
    assert '<a href="/sealing">More</a>' in page
    url = f"/panels/announcements/{row.pk}/dismiss"

    assert client.post(url, {"next": "https://evil.example/"}).url == "/"
    assert "News" not in client.get("/").content.decode()
    assert "News" in Client().get("/").content.decode()
    client.cookies["dismissed"] = "odd.." + "x" * 3_000
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "bad",
    [
        {"text": ""},
        {"text": "x" * (limits.ANNOUNCEMENT_LENGTH_MAX + 1)},
        {"link": "javascript:alert(1)", "link_text": "x"},
        {"link": "//evil.example", "link_text": "x"},
        {"link": "http://plain.example", "link_text": "x"},
        {"link": "/sealing"},
        {"link_text": "x"},
        {"audience": "odd"},
        {"ends_at": timezone.now() - timedelta(days=1)},
        {"ends_at": timezone.now() + limits.ANNOUNCEMENT_LIFETIME_MAX + timedelta(hours=1)},
    ],
)
def test_a_wrong_announcement_is_refused(platform_admin, bad):
    with pytest.raises(InvalidInputError):
        announce_now(platform_admin, **bad)
    assert not Announcement.objects.exists()
    assert announce_now(platform_admin, text="x" * limits.ANNOUNCEMENT_LENGTH_MAX)


# --- Audit log ---


def test_a_detail_of_any_name_is_shown(admin_client, platform_admin):
    """Names are whatever was noted, also those that a template takes for a method."""
    payload = {"items": 3, "keys": 4, "values": 5}
    with transaction.atomic():
        audit.record(Actor(user=platform_admin).label, "test.note", platform_admin, payload=payload)

    page = admin_client.get("/platform/audit?action=test.note")

    assert page.status_code == 200
    for name, value in payload.items():
        assert re.search(rf"{name}</span> {value}<", page.content.decode())


def test_the_log_is_searched(admin_client, platform_admin, account, owner):
    accounts.suspend_account(actor=Actor(user=platform_admin), account=account, reason="Fraud.")
    accounts.rename_person(user=owner, name="Olga")
    today = timezone.now().date().isoformat()

    def found(**query: str) -> set[str]:
        page = admin_client.get("/platform/audit", query)
        assert page.status_code == 200
        return {event.action for event in page.context["page"]}

    assert found() == {"account.suspend", "user.rename"}
    assert found(actor=owner.email) == {"user.rename"}
    assert found(account="acme") == {"account.suspend"}
    assert found(account="nobody") == set()
    assert found(action="account.") == {"account.suspend"}
    assert found(object=str(owner.pk)) == {"user.rename"}
    assert found(object="marketplace.account") == {"account.suspend"}
    assert found(since=today, until=today) == {"account.suspend", "user.rename"}
    assert found(until="2020-01-01") == set()
    assert admin_client.get("/platform/audit?since=odd").status_code == 422


def export(client: Client, query: str = "") -> str:
    response = client.get(f"/platform/audit/export{query}")
    assert response["Content-Type"].startswith("text/csv")
    return b"".join(response.streaming_content).decode()


def check_file(tmp_path, text: str) -> None:
    path = tmp_path / "audit.csv"
    path.write_text(text, encoding="utf-8", newline="")
    call_command("audit_check", export=path)


def test_an_export_proves_itself(admin_client, platform_admin, account, owner, tmp_path, capsys):
    accounts.rename_person(user=owner, name='Ol"ga,\n')
    accounts.suspend_account(actor=Actor(user=platform_admin), account=account, reason="Fraud.")
    text = export(admin_client)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))

    assert [row["action"] for row in rows] == ["user.rename", "account.suspend", "audit.export"]
    check_file(tmp_path, text)
    assert "ok" in capsys.readouterr().out
    # What was altered, or taken out from between, is noticed.
    with pytest.raises(SystemExit):
        check_file(tmp_path, text.replace("Fraud.", "Thanks"))
    with pytest.raises(SystemExit):
        check_file(tmp_path, text.replace(rows[1]["prev_hash"], "00" * 32))
    with pytest.raises(CommandError):
        check_file(tmp_path, "seq,odd\r\n1,2\r\n")
    with pytest.raises(CommandError):
        check_file(tmp_path, text.replace(rows[0]["hash"], "odd"))
    # A part ends with the last event of the whole log all the same.
    part = list(csv.DictReader(io.StringIO(export(admin_client, "?action=user."), newline="")))
    assert [row["action"] for row in part] == ["user.rename", "audit.export"]


@pytest.mark.parametrize("rows_max", [1, 2])
def test_an_export_has_a_limit(admin_client, owner, monkeypatch, rows_max):
    monkeypatch.setattr(limits, "AUDIT_EXPORT_ROWS_MAX", rows_max)
    for name in ("One", "Two"):
        accounts.rename_person(user=owner, name=name)

    response = admin_client.get("/platform/audit/export?action=user.")

    assert response.status_code == (200 if rows_max == 2 else 422)
    assert AuditEvent.objects.filter(action="audit.export").exists() == (rows_max == 2)


def test_the_chains_state_is_shown(admin_client, owner):
    assert "Was never checked." in admin_client.get("/platform/audit").content.decode()
    accounts.rename_person(user=owner, name="Olga")
    assert vital.check_audit_log() is None
    assert "In order." in admin_client.get("/platform/audit").content.decode()
    Vital.objects.update(state="bad", detail="Event 1 does not fit the one before it.")
    assert "Event 1 does not fit" in admin_client.get("/platform/audit").content.decode()


@pytest.mark.parametrize(("late", "word"), [(False, "alive"), (True, "silent")])
def test_workers_are_seen(admin_client, late, word):
    url = "/platform/panels/waiting"
    assert "No worker was heard" in admin_client.get(url).content.decode()
    vital.note_worker()
    if late:
        Vital.objects.update(at=timezone.now() - WORKER_QUIET_AFTER - timedelta(seconds=1))

    assert f"<span>{word}</span>" in admin_client.get(url).content.decode()
