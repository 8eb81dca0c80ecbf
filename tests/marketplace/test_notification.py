"""The inbox: who is told of what, once, and who sees it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
import time_machine
from django.core import mail
from django.db import connection, transaction
from django.test import Client

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import lowest_id, new_id
from marketplace.models import (
    Account,
    Announcement,
    AuditEvent,
    Membership,
    Notification,
    NotificationPreference,
    User,
)
from marketplace.selectors import notification as selectors
from marketplace.selectors.access import Actor
from marketplace.selectors.notification import (
    POLICIES,
    Choice,
    Inbox,
    Mail,
    count_unread,
    get_page,
    list_mail_addresses,
    list_notifications,
)
from marketplace.services import account as accounts
from marketplace.services import notification as services
from marketplace.services.announcement import announce
from marketplace.services.notification import notify
from marketplace.services.review import refuse_version
from marketplace.services.takedown import impose
from marketplace.tasks import forget_notifications, mail_notices, tell_announcements
from tests.factories import AIModelFactory, MembershipFactory, ModelVersionFactory, UserFactory

Kind = Notification.Kind
PAGE = "/notifications?account=acme"
MARK = "/notifications/mark?account=acme"
PREFERENCES = "/notifications/preferences?account=acme"


def tell(to, kind=Kind.ALERT, key="alert:1", **fields) -> None:
    with transaction.atomic():
        notify(kind, to, key=key, **({"title": f"Told of {key}"} | fields))


def told(person: User) -> list[str]:
    return list(person.notifications.order_by("id").values_list("key", flat=True))


def inbox(person: User, account: Account | None = None) -> Inbox:
    found = account and account.memberships.select_related("account").filter(user=person).first()
    return Inbox(person, found)


def titles(client: Client, url: str = PAGE) -> list[str]:
    text = client.get(url).content.decode()
    return re.findall(r'class="title"[^>]*>([^<]+)<', text)


# --- telling ---


@pytest.mark.parametrize("kind", [kind for kind in Kind if POLICIES[kind].roles])
def test_those_with_the_role_are_told(account, kind):
    people = {
        role: MembershipFactory(account=account, role=role).user for role in Membership.Role.values
    }

    tell(account, kind)

    assert {role for role, user in people.items() if told(user)} == POLICIES[kind].roles


def test_every_kind_has_a_policy():
    assert set(POLICIES) == set(Kind)
    assert {kind for kind in Kind if POLICIES[kind].mail is Mail.OPTIONAL} == {
        Kind.LOW_BALANCE,
        Kind.BUDGET,
        Kind.PRICE,
        Kind.ABUSE,
        Kind.BATCH,
    }


def test_the_same_is_told_once_also_if_it_was_read(account, owner):
    tell(account)
    Notification.objects.update(read_at=utc_now())
    tell(account, title="Again")

    assert owner.notifications.get().title == "Told of alert:1"


def test_without_the_constraint_it_would_be_told_twice(account, owner):
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE marketplace_notification DROP CONSTRAINT marketplace_notification_once"
        )
    tell(account)
    tell(account)

    assert told(owner) == ["alert:1", "alert:1"]


def test_about_oneself_it_is_told_once_as_well(owner):
    tell(owner, Kind.SECURITY)
    tell(owner, Kind.SECURITY)

    assert told(owner) == ["alert:1"]


def test_what_is_undone_was_not_told(account, owner):
    with transaction.atomic():
        notify(Kind.ALERT, account, key="alert:1", title="x")
        assert told(owner) == ["alert:1"]
        transaction.set_rollback(True)

    assert told(owner) == []


@pytest.mark.django_db(transaction=True)
def test_it_is_written_with_the_deed_or_not_at_all(account):
    with pytest.raises(AssertionError, match="transaction"):
        notify(Kind.ALERT, account, key="alert:1", title="x")


@pytest.mark.parametrize(("kind", "is_account"), [(Kind.SECURITY, True), (Kind.ALERT, False)])
def test_a_kind_is_about_accounts_or_about_people(account, owner, kind, is_account):
    with pytest.raises(AssertionError):
        tell(account if is_account else owner, kind)


def test_titles_and_texts_are_one_line_each_and_cut(account, owner):
    tell(account, title="a\nb" + "c" * 300, text="d" * 501)

    row = owner.notifications.get()
    assert row.title.startswith("a bc")
    assert (len(row.title), len(row.text)) == (200, 500)
    assert row.text.endswith("…")


def test_what_just_fits_is_not_cut(account, owner):
    tell(account, title="c" * 200, text="d" * 500)

    row = owner.notifications.get()
    assert (row.title, row.text) == ("c" * 200, "d" * 500)


def test_a_person_who_was_blocked_is_told_nothing(account, owner):
    User.objects.filter(pk=owner.pk).update(is_active=False)
    tell(account)
    tell(owner, Kind.SECURITY)

    assert told(owner) == []


# --- who sees it ---


def test_a_member_sees_what_its_role_may_see(account, teammate, owner):
    tell(account, Kind.ALERT)
    Membership.objects.filter(user=teammate).update(role="billing")
    tell(account, Kind.INVOICE, key="invoice:1")

    money = list_notifications(inbox(teammate, account))
    assert [one.kind for one in money] == ["invoice"]
    Membership.objects.filter(user=teammate).update(role="developer")
    assert [one.kind for one in list_notifications(inbox(teammate, account))] == ["alert"]
    Membership.objects.filter(user=teammate).update(role="viewer")
    assert not list_notifications(inbox(teammate, account)).exists()


def test_who_was_removed_sees_nothing(account, teammate, teammate_client, owner):
    tell(account)
    assert titles(teammate_client) == ["Told of alert:1"]
    accounts.remove_member(actor=Actor(user=owner), account=account, user=teammate)

    assert teammate_client.get(PAGE).status_code == 404
    assert titles(teammate_client, "/notifications") == []
    assert 'class="bell-count"' not in teammate_client.get("/").content.decode()


def test_without_the_look_at_the_role_it_would_be_seen(
    account, teammate, teammate_client, monkeypatch
):
    # The control: a role that may see everything shows money to a developer.
    tell(account)
    Notification.objects.update(kind=Kind.INVOICE)
    assert titles(teammate_client) == []
    monkeypatch.setattr(Inbox, "kinds_of_account", property(lambda self: list(Kind)))

    assert titles(teammate_client) == ["Told of alert:1"]


def test_another_account_of_the_person_has_an_inbox_of_its_own(account, owner, owner_client):
    other = MembershipFactory(account__slug="other", user=owner, role="owner").account
    tell(account)
    tell(other, key="alert:2")
    tell(owner, Kind.SECURITY, key="s")

    assert titles(owner_client) == ["Told of s", "Told of alert:1"]
    assert titles(owner_client, "/notifications?account=other") == ["Told of s", "Told of alert:2"]


def test_a_person_without_an_account_has_one_too(client, db):
    person = UserFactory()
    client.force_login(person)
    tell(person, Kind.SECURITY)

    assert titles(client, "/notifications") == ["Told of alert:1"]
    assert client.get("/notifications/preferences").status_code == 200


def test_only_admins_see_what_is_for_admins(platform_admin, admin_client):
    tell(platform_admin, Kind.PLATFORM)
    assert titles(admin_client, "/notifications") == ["Told of alert:1"]
    User.objects.update(is_staff=False)

    assert titles(admin_client, "/notifications") == []


def test_what_was_told_is_plain_text(account, owner_client):
    tell(account, title="<b>x</b>", text="<script>1</script>", path='/x?"><i>')

    text = owner_client.get(PAGE).content.decode()
    assert "&lt;b&gt;x" in text
    assert "<script>1" not in text
    assert '"><i>' not in text


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "javascript:1"])
def test_a_line_leads_to_no_other_site(account, path):
    from django.db import IntegrityError

    with pytest.raises(IntegrityError, match="marketplace_notification_path"):
        tell(account, path=path)


# --- the page ---


def test_pages_follow_each_other_without_a_gap(account, owner, owner_client):
    for number in range(limits.NOTIFICATIONS_PER_PAGE * 2 + 1):
        tell(account, key=f"alert:{number}")
    expected = [f"Told of {key}" for key in reversed(told(owner))]
    found, url = [], PAGE

    while url:
        text = owner_client.get(url).content.decode()
        found.append(re.findall(r'class="title"[^>]*>([^<]+)<', text))
        following = re.search(r'rel="next" href="([^"]+)"', text)
        url = following[1].replace("&amp;", "&") if following else ""

    assert [len(page) for page in found] == [30, 30, 1]
    assert [one for page in found for one in page] == expected


def test_a_full_page_alone_has_no_next(account, owner):
    for number in range(limits.NOTIFICATIONS_PER_PAGE):
        tell(account, key=f"alert:{number}")

    page = get_page(inbox(owner, account), Choice())
    assert (len(page.rows), page.next_before) == (30, "")


@pytest.mark.parametrize(
    "query", ["before=x", "kind=nothing", "show=everything", "kind=announcement%27"]
)
def test_what_cannot_be_shown_is_refused(account, owner_client, query):
    assert owner_client.get(f"{PAGE}&{query}").status_code == 422


def test_unread_and_kinds_are_filtered(account, owner, owner_client):
    tell(account)
    tell(account, Kind.INVOICE, key="invoice:1")
    Notification.objects.filter(kind="alert").update(read_at=utc_now())

    assert titles(owner_client, f"{PAGE}&show=unread") == ["Told of invoice:1"]
    assert titles(owner_client, f"{PAGE}&kind=alert") == ["Told of alert:1"]
    assert "Nothing like this" in owner_client.get(f"{PAGE}&kind=abuse").content.decode()
    # Of a role that does not see it, it is no kind.
    Membership.objects.filter(user=owner).update(role="viewer")
    assert owner_client.get(f"{PAGE}&kind=invoice").status_code == 422


def test_the_list_costs_the_same_for_many(
    account, owner_client, django_assert_num_queries, django_assert_max_num_queries
):
    tell(account)
    owner_client.get(PAGE)
    with django_assert_max_num_queries(9) as asked:
        owner_client.get(PAGE)
    for number in range(50):
        tell(account, key=f"alert:n{number}")

    with django_assert_num_queries(len(asked.captured_queries)):
        owner_client.get(PAGE)


# --- the bell ---


@pytest.mark.parametrize(("count", "shown"), [(1, "1"), (99, "99"), (100, "99+"), (250, "99+")])
def test_the_bell_counts(account, owner, owner_client, count, shown):
    now = utc_now()
    Notification.objects.bulk_create(
        Notification(
            person=owner, account=account, kind="alert", key=str(n), title="x", created_at=now
        )
        for n in range(count)
    )

    for url in ("/console", "/notifications/bell"):
        text = owner_client.get(url).content.decode()
        assert re.findall(r'class="bell-count"[^>]*>([^<]+)<', text) == [shown]
        assert f"Notifications, {shown} unread" in text


def test_the_bell_of_who_has_read_all_has_no_count(account, owner_client):
    tell(account)
    Notification.objects.update(read_at=utc_now())

    assert "bell-count" not in owner_client.get("/console").content.decode()


def test_a_page_that_stands_open_without_a_session_is_left_alone(client, db):
    answer = client.get("/notifications/bell", headers={"HX-Request": "true"})

    assert (answer.status_code, answer.content) == (204, b"")
    assert 'id="bell"' not in client.get("/").content.decode()


# --- marking ---


def test_a_line_is_marked_and_unmarked(account, owner, owner_client, teammate):
    tell(account)
    row = owner.notifications.get()

    page = owner_client.post(MARK, {"id": row.pk, "to": "read"}, follow=True)
    row.refresh_from_db()
    assert row.read_at is not None
    assert "1 notification marked read." in page.content.decode()
    # What one has read is unread for the others.
    assert count_unread(inbox(teammate, account)) == 1

    owner_client.post(MARK, {"id": row.pk, "to": "unread"})
    row.refresh_from_db()
    assert row.read_at is None


def test_all_are_marked_and_the_undo_brings_back_those_and_no_others(account, owner, owner_client):
    for key in ("a", "b", "c"):
        tell(account, key=key)
    Notification.objects.filter(key="a").update(read_at=utc_now() - timedelta(hours=1))

    page = owner_client.post(MARK, {"to": "read"}, follow=True).content.decode()
    assert count_unread(inbox(owner, account)) == 0
    assert "2 notifications marked read." in page

    fields = dict(re.findall(r'name="(to|moment)" value="([^"]+)"', page.split("toast-undo")[1]))
    assert owner_client.post(MARK, fields).status_code == 302
    assert set(owner.notifications.filter(read_at=None).values_list("key", flat=True)) == {"b", "c"}


def test_all_of_a_kind_are_marked(account, owner, owner_client):
    tell(account)
    tell(account, Kind.INVOICE, key="invoice:1")

    owner_client.post(MARK, {"to": "read", "kind": "invoice"})

    assert [one.kind for one in owner.notifications.filter(read_at=None)] == ["alert"]


def test_anothers_line_is_not_marked(account, owner, teammate_client, outsider_client):
    tell(account, Kind.INVOICE)
    row = owner.notifications.get()

    teammate_client.post(MARK, {"id": row.pk, "to": "read"})
    outsider_client.post("/notifications/mark", {"id": row.pk, "to": "read"})
    assert outsider_client.post(MARK, {"to": "read"}).status_code == 404

    row.refresh_from_db()
    assert row.read_at is None


def test_a_line_that_was_followed_is_marked_without_a_message(account, owner, owner_client):
    tell(account)
    row = owner.notifications.get()

    answer = owner_client.post(MARK, {"id": row.pk, "to": "read", "quietly": "1"})

    assert answer.status_code == 204
    assert "marked read" not in owner_client.get(PAGE).content.decode()
    assert count_unread(inbox(owner, account)) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"to": "gone"},
        {"to": "read", "id": "x"},
        {"to": "unread"},
        {"to": "before"},
        {"to": "before", "moment": "yesterday"},
        {"to": "before", "moment": "2026-13-41T00:00:00Z"},
        {"to": "before", "moment": "2026-11-22T10:00:00"},
        {"to": "read", "kind": "nothing"},
    ],
)
def test_what_cannot_be_marked_is_refused(account, owner, owner_client, fields):
    tell(account)
    row = owner.notifications.get()

    assert owner_client.post(MARK, fields).status_code == 422
    assert (owner.notifications.get().read_at, row.read_at) == (None, None)


# --- preferences ---


def choose(client: Client, **off: bool) -> int:
    text = client.get(PREFERENCES).content.decode()
    names = re.findall(r'type="checkbox" name="([^"]+)"', text)
    return client.post(
        PREFERENCES, {"save": "1"} | {name: "on" for name in names if name not in off}
    ).status_code


def test_what_is_turned_off_stays_out_of_the_inbox(account, owner, owner_client, teammate):
    assert choose(owner_client, **{"alert-inbox": True}) == 302

    tell(account)

    assert (told(owner), told(teammate)) == ([], ["alert:1"])
    assert AuditEvent.objects.filter(action="notification.preferences").count() == 1
    # And on again; the same once more changes nothing.
    assert choose(owner_client) == 302
    assert choose(owner_client) == 302
    tell(account, key="alert:2")
    assert told(owner) == ["alert:2"]
    assert AuditEvent.objects.filter(action="notification.preferences").count() == 2


def test_an_optional_mail_is_turned_off_for_this_account_alone(account, owner, owner_client):
    other = MembershipFactory(account__slug="other", user=owner, role="owner").account
    choose(owner_client, **{"budget-mail": True})

    assert list_mail_addresses(account, Kind.BUDGET) == []
    assert list_mail_addresses(other, Kind.BUDGET) == [owner.email]
    assert list_mail_addresses(account, Kind.PRICE) == [owner.email]


@pytest.mark.parametrize(
    "kind", [kind for kind in Kind if POLICIES[kind].mail is not Mail.OPTIONAL]
)
def test_other_mails_cannot_be_turned_off(account, owner, owner_client, kind):
    User.objects.update(is_staff=True)
    owner.is_staff = True
    assert f'name="{kind}-mail"' not in owner_client.get(PREFERENCES).content.decode()

    with pytest.raises(InvalidInputError, match="cannot be turned off"):
        services.set_preferences(inbox(owner, account), {kind: (True, False)})

    assert not NotificationPreference.objects.exists()
    if POLICIES[kind].roles:
        # Nor by a row that somebody wrote all the same.
        NotificationPreference.objects.create(
            person=owner, account=account, kind=kind, by_mail=False
        )
        assert list_mail_addresses(account, kind) == [owner.email]


def test_without_the_policy_such_a_row_would_stop_the_mail(account, owner, monkeypatch):
    NotificationPreference.objects.create(
        person=owner, account=account, kind=Kind.SIGNING_KEY, by_mail=False
    )
    policy = selectors.Policy("", Mail.OPTIONAL, frozenset({"owner"}))
    monkeypatch.setitem(selectors.POLICIES, Kind.SIGNING_KEY, policy)

    assert list_mail_addresses(account, Kind.SIGNING_KEY) == []


def test_kinds_that_the_role_is_not_told_of_are_not_decided(account, teammate, teammate_client):
    assert "invoice-inbox" not in teammate_client.get(PREFERENCES).content.decode()

    with pytest.raises(InvalidInputError, match="not told"):
        services.set_preferences(inbox(teammate, account), {"invoice": (False, True)})


def test_what_is_about_oneself_is_decided_once(account, owner, owner_client):
    MembershipFactory(account__slug="other", user=owner, role="owner")
    choose(owner_client, **{"announcement-inbox": True})

    row = NotificationPreference.objects.get()
    assert (row.account, row.kind, row.in_inbox) == (None, "announcement", False)
    text = owner_client.get("/notifications/preferences?account=other").content.decode()
    assert re.search(r'name="announcement-inbox"[^>]*checked', text) is None


# --- where it comes from ---


def test_a_review_is_told_to_who_can_push(account, owner, teammate, platform_admin):
    version = ModelVersionFactory(model__account=account, state="in_review")

    refuse_version(version=version, reviewer=platform_admin, reason="Too little is said.")

    row = teammate.notifications.get()
    assert (row.kind, row.text) == ("review", "Too little is said.")
    assert row.title == f"{version} was refused"
    assert platform_admin.email not in row.title + row.text


def test_a_mail_that_is_owed_stands_in_the_inbox_as_well(account, owner, platform_admin):
    model = AIModelFactory(account=account, name="digits")

    impose(actor=Actor(user=platform_admin), model=model, kind="warning", reason="Read the terms.")

    row = owner.notifications.get()
    assert (row.kind, row.path) == ("moderation", "/dashboard/models/acme/digits")
    mail_notices()
    assert [one.to for one in mail.outbox] == [[owner.email]]
    assert mail.outbox[0].subject == row.title


def test_a_changed_password_is_told(owner):
    accounts.change_password(user=owner, password="another long password")

    row = owner.notifications.get()
    assert (row.kind, row.title) == ("security", "The password was changed")
    assert row.account is None


@pytest.mark.parametrize(
    ("audience", "who"),
    [
        ("everybody", {"owner", "outsider", "admin"}),
        ("signed_in", {"owner", "outsider", "admin"}),
        ("creators", {"owner"}),
        ("staff", {"admin"}),
    ],
)
def test_an_announcement_is_told_to_its_audience_once(
    account, owner, outsider, platform_admin, audience, who
):
    AIModelFactory(account=account)
    AIModelFactory(account=account)
    now = utc_now()
    fields = {"text": "We move on Sunday.", "audience": audience, "link": "", "link_text": ""}
    fields |= {"starts_at": now + timedelta(hours=1), "ends_at": now + timedelta(hours=3)}
    announce(actor=Actor(user=platform_admin), fields=fields)

    tell_announcements()
    assert not Notification.objects.exists()
    with time_machine.travel(now + timedelta(hours=2), tick=False):
        tell_announcements()
        tell_announcements()

    names = {owner: "owner", outsider: "outsider", platform_admin: "admin"}
    assert {names[one.person] for one in Notification.objects.all()} == who
    assert Notification.objects.count() == len(who)
    assert Announcement.objects.get().told_at is not None


# --- forgetting ---


def test_what_is_old_is_forgotten(account, owner):
    edge = utc_now() - limits.NOTIFICATION_MEMORY
    for key, moment in (
        ("old", edge - timedelta(minutes=1)),
        ("kept", edge + timedelta(minutes=1)),
    ):
        Notification.objects.create(
            id=lowest_id(moment),
            person=owner,
            account=account,
            kind="alert",
            key=key,
            title=key,
            created_at=moment,
        )

    forget_notifications()

    assert told(owner) == ["kept"]


def test_who_is_deleted_leaves_nothing(account, owner, teammate):
    tell(account)
    tell(owner, Kind.SECURITY, key="s")
    teammate.delete()
    assert set(Notification.objects.values_list("person", flat=True)) == {owner.pk}

    account.delete()

    assert told(owner) == ["s"]
    assert new_id() != owner.pk
