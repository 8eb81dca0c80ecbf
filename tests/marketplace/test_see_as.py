"""An admin sees the site as somebody else: all is shown, nothing is changed, and it is told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import InternalError
from django.test import Client
from django.utils import timezone

from marketplace import see_as
from marketplace.core import limits
from marketplace.models import Account, AuditEvent, Impersonation, User
from marketplace.services import account as accounts
from marketplace.views import account as account_views
from tests.factories import UserFactory

REASON = {"reason": "A question of the owner about its keys."}
CONFIRMED = REASON | {"confirmed": "yes"}
CHANGES = ("POST", "PUT", "PATCH", "DELETE")


def begin_url(person: User) -> str:
    return f"/platform/people/{person.pk}/see-as"


@pytest.fixture
def seeing(admin_client: Client, owner: User, account: Account) -> Client:
    response = admin_client.post(begin_url(owner), CONFIRMED)
    assert response.url == "/home"
    return admin_client


def actions() -> list[str]:
    events = AuditEvent.objects.filter(action__startswith="impersonation.").order_by("seq")
    return list(events.values_list("action", flat=True))


def test_it_is_asked_for_twice_and_with_a_reason(admin_client, owner, account):
    url = begin_url(owner)
    assert "Each page that you look at" in admin_client.get(url).content.decode()
    assert admin_client.post(url, {"reason": " "}).status_code == 422
    first = admin_client.post(url, REASON)

    assert "Yes, see as this person" in first.content.decode()
    assert not Impersonation.objects.exists()
    assert admin_client.get("/platform").status_code == 200


@pytest.mark.parametrize(("length", "status"), [(0, 302), (1, 422)])
def test_a_reason_has_a_limit(admin_client, owner, account, length, status):
    reason = "x" * (limits.REASON_LENGTH_MAX + length)
    form = {"reason": reason, "confirmed": "yes"}

    assert admin_client.post(begin_url(owner), form).status_code == status
    assert Impersonation.objects.count() == (status == 302)


def test_pages_are_the_persons_with_a_banner_and_a_way_out(seeing, owner, platform_admin):
    page = seeing.get("/accounts/acme/members")

    assert page.status_code == 200
    assert page.wsgi_request.user == owner
    text = page.content.decode()
    assert f"You see the site as {owner.email}." in text
    assert 'action="/platform/see-as/stop"' in text
    # The console of the platform is not the person's.
    assert seeing.get("/platform").status_code == 404
    stopped = seeing.post("/platform/see-as/stop")
    assert stopped.url == "/platform/accounts/acme"
    again = seeing.get("/platform")
    assert (again.status_code, again.wsgi_request.user) == (200, platform_admin)
    assert "You see the site as" not in again.content.decode()
    assert Impersonation.objects.get().end == Impersonation.End.STOPPED


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize("url", ["/accounts/acme/settings", "/console/keys/new", "/log-out"])
def test_nothing_can_be_changed(seeing, account, method, url):
    response = seeing.generic(
        method, url, "name=Taken&mode=live", content_type="application/x-www-form-urlencoded"
    )

    assert response.status_code == 403
    assert "read_only_view" in response.content.decode()
    account.refresh_from_db()
    assert (account.name, account.api_keys.count()) == ("Acme", 0)


def test_programs_are_told_the_code(seeing):
    body = '{"account": "acme", "name": "x", "mode": "live"}'
    response = seeing.post("/api/keys", body, content_type="application/json")

    assert (response.status_code, response.json()["code"]) == (403, "read_only_view")


def test_without_the_refusal_it_could_be_changed(seeing, account, monkeypatch):
    # The control: the test above fails as soon as changes are passed on.
    monkeypatch.setattr(see_as, "READS", frozenset({"GET", "POST"}))
    monkeypatch.setattr(
        see_as.SeeAsMiddleware, "_read", lambda self, request: self.get_response(request)
    )

    assert seeing.post("/accounts/acme/settings", {"name": "Taken"}).status_code == 302
    account.refresh_from_db()
    assert account.name == "Taken"


def write_while_reading(monkeypatch, owner: User) -> None:
    """A view that changes something though it is only asked for."""
    kept = account_views.list_members

    def list_and_write(account: Account):
        accounts.rename_person(user=User.objects.get(pk=owner.pk), name="Changed")
        return kept(account)

    monkeypatch.setattr(account_views, "list_members", list_and_write)


@pytest.mark.django_db(transaction=True)
def test_a_page_that_writes_meets_a_database_that_refuses(seeing, owner, monkeypatch):
    write_while_reading(monkeypatch, owner)

    response = seeing.get("/accounts/acme/members")

    assert response.status_code == 403
    assert "read_only_view" in response.content.decode()
    owner.refresh_from_db()
    assert owner.name == "Olive Owner"
    # Behind it, the connection writes again.
    assert seeing.post("/platform/see-as/stop").status_code == 302
    assert Impersonation.objects.get().ended_at is not None


def test_without_the_read_only_transaction_the_page_would_write(seeing, owner, monkeypatch):
    write_while_reading(monkeypatch, owner)
    monkeypatch.setattr(
        see_as.SeeAsMiddleware, "_read", lambda self, request: self.get_response(request)
    )

    assert seeing.get("/accounts/acme/members").status_code == 200
    owner.refresh_from_db()
    assert owner.name == "Changed"


def test_other_faults_of_the_database_stay_faults():
    middleware = see_as.SeeAsMiddleware(lambda request: None)

    assert middleware.process_exception(None, InternalError("another")) is None
    assert middleware.process_exception(None, ValueError()) is None


def test_begin_end_and_each_page_are_in_the_log_and_the_owner_sees_it(
    seeing, owner_client, platform_admin, owner
):
    seeing.get("/console/keys?account=acme")
    for _ in range(3):
        seeing.get("/panels/wallet?account=acme", HTTP_HX_REQUEST="true")
    seeing.post("/platform/see-as/stop")

    assert actions() == [
        "impersonation.begin",
        "impersonation.view",
        # Of a part that looks again by itself, once.
        "impersonation.view",
        "impersonation.end",
    ]
    events = AuditEvent.objects.filter(action__startswith="impersonation.").order_by("seq")
    assert {event.actor for event in events} == {f"user:{platform_admin.email}"}
    assert events[1].payload == {"person": owner.email, "page": "/console/keys?account=acme"}
    activity = owner_client.get("/accounts/acme/activity").content.decode()
    assert "impersonation.begin" in activity
    assert REASON["reason"] in activity
    # Who of the platform it was is its own business.
    assert platform_admin.email not in activity


@pytest.mark.parametrize("late", [False, True])
def test_it_ends_by_itself(seeing, late):
    running = Impersonation.objects.get()
    assert running.expires_at - running.created_at == pytest.approx(
        limits.IMPERSONATION_LIFETIME, abs=timedelta(seconds=5)
    )
    left = timedelta(seconds=-1 if late else 30)
    Impersonation.objects.update(expires_at=timezone.now() + left)

    response = seeing.get("/console")

    if late:
        assert response.url == "/platform/accounts"
        assert Impersonation.objects.get().end == Impersonation.End.TIME
        assert actions()[-1] == "impersonation.end"
        assert seeing.get("/platform").status_code == 200
    else:
        assert response.status_code == 200


@pytest.mark.parametrize("fields", [{"is_staff": True}, {"is_active": False}])
def test_it_ends_when_the_person_may_not_be_seen_as_any_more(seeing, owner, fields):
    User.objects.filter(pk=owner.pk).update(**fields)

    assert seeing.get("/console").url == "/platform/accounts"
    assert Impersonation.objects.get().end == Impersonation.End.NOT_ALLOWED


def test_it_ends_with_the_admins_right(seeing, platform_admin):
    User.objects.filter(pk=platform_admin.pk).update(is_staff=False)

    seeing.get("/console")

    assert Impersonation.objects.get().ended_at is not None
    assert seeing.get("/accounts/acme/settings").status_code == 404


@pytest.mark.parametrize("fields", [{"is_staff": True}, {"is_superuser": True}])
def test_nobody_is_seen_as_a_platform_admin(admin_client, fields):
    other = UserFactory(**fields)

    assert admin_client.get(begin_url(other)).status_code == 404
    assert admin_client.post(begin_url(other), CONFIRMED).status_code == 404
    assert not Impersonation.objects.exists()


def test_another_session_has_no_part_in_it(seeing, platform_admin, owner, outsider_client):
    fresh = Client()
    fresh.force_login(platform_admin)
    assert fresh.get("/platform").status_code == 200
    # A session that names somebody else's look sees nothing of it.
    session = outsider_client.session
    session[see_as.SESSION_KEY] = str(Impersonation.objects.get().pk)
    session.save()
    page = outsider_client.get("/accounts/acme/settings")
    assert page.status_code == 404
    assert page.wsgi_request.user != owner
    assert outsider_client.post("/platform/see-as/stop").status_code == 404


def test_a_second_one_ends_the_first(seeing, platform_admin, outsider):
    fresh = Client()
    fresh.force_login(platform_admin)
    fresh.post(begin_url(outsider), CONFIRMED)

    assert Impersonation.objects.filter(ended_at=None).get().person == outsider
    assert seeing.get("/platform").status_code == 200
