from __future__ import annotations

import pytest

from marketplace.core import limits
from marketplace.core.errors import ForbiddenError, InvalidInputError, NotFoundError
from marketplace.core.reserved import RESERVED_SLUGS
from marketplace.errors import (
    CountLimitError,
    LastOwnerError,
    MemberExistsError,
    NameReservedError,
    NameTakenError,
)
from marketplace.models import Account, APIKey, AuditEvent, Membership
from marketplace.selectors.access import ROLES_BY_RIGHT, Actor, access_account, has_right
from marketplace.services import account as accounts
from tests.factories import AccountFactory, APIKeyFactory, MembershipFactory, UserFactory

Role = Membership.Role


@pytest.fixture
def actor(owner, account):
    return Actor(user=owner)


def roles(account: Account) -> dict[str, str]:
    return dict(account.memberships.values_list("user__email", "role"))


# --- the table of rights ---

MAY = {
    Role.OWNER: {"read", "predict", "push", "publish", "keys", "billing", "members", "account"},
    Role.ADMIN: {"read", "predict", "push", "publish", "keys", "billing", "members"},
    Role.DEVELOPER: {"read", "predict", "push", "keys"},
    Role.BILLING: {"read", "billing"},
    Role.VIEWER: {"read"},
}


@pytest.mark.parametrize("right", sorted(ROLES_BY_RIGHT))
@pytest.mark.parametrize("role", list(Role))
def test_what_each_role_may_do(account, role, right):
    user = UserFactory()
    MembershipFactory(account=account, user=user, role=role)

    assert has_right(Actor(user=user), account, right) == (right in MAY[role])


@pytest.mark.parametrize("right", sorted(ROLES_BY_RIGHT))
def test_an_outsider_does_not_find_the_account(account, outsider, platform_admin, right):
    for user in (outsider, platform_admin):
        assert not has_right(Actor(user=user), account, right)
        with pytest.raises(NotFoundError):
            access_account(Actor(user=user), "acme", right)


@pytest.mark.parametrize("right", sorted(ROLES_BY_RIGHT))
def test_a_suspended_account_can_only_be_read(actor, account, platform_admin, right):
    accounts.suspend_account(actor=Actor(user=platform_admin), account=account, reason="Fraud.")

    assert has_right(actor, account, right) == (right == "read")


@pytest.mark.parametrize("right", sorted(set(ROLES_BY_RIGHT) - {"members"}))
def test_a_token_can_do_no_more_than_its_person_today(account, teammate, right):
    token = APIKeyFactory(account=account, created_by=teammate, mode="token")
    actor = Actor(user=teammate, api_key=token)

    for role in Role:
        Membership.objects.filter(user=teammate).update(role=role)
        assert has_right(actor, account, right) == (right in token.scopes and right in MAY[role])


# --- organisations ---


def test_an_organisation_belongs_to_who_makes_it(owner):
    made = accounts.create_account(user=owner, slug="labs", name=" Labs ")

    assert (made.kind, made.name, roles(made)) == (
        "organisation",
        "Labs",
        {"owner@example.com": "owner"},
    )
    event = AuditEvent.objects.get()
    assert (event.action, event.account_id) == ("account.create", made.pk)


@pytest.mark.parametrize(
    ("slug", "error"),
    [
        ("acme", NameTakenError),
        ("admin", NameReservedError),
        ("Labs", InvalidInputError),
        ("", InvalidInputError),
        ("a" * 40, InvalidInputError),
        ("a_b", InvalidInputError),
        ("a\n", None),
    ],
)
def test_a_name_that_is_not_free_makes_nothing(owner, account, slug, error):
    if error is None:
        # Space around a name is a slip of the finger.
        assert accounts.create_account(user=owner, slug=slug, name="x").slug == "a"
        return
    with pytest.raises(error):
        accounts.create_account(user=owner, slug=slug, name="x")

    assert Account.objects.count() == 1
    assert AuditEvent.objects.count() == 0


def test_a_person_belongs_to_a_limited_number_of_accounts(owner, monkeypatch):
    monkeypatch.setattr(limits, "ACCOUNTS_PER_PERSON_MAX", 2)
    accounts.create_account(user=owner, slug="one", name="1")
    accounts.create_account(user=owner, slug="two", name="2")

    with pytest.raises(CountLimitError):
        accounts.create_account(user=owner, slug="three", name="3")


def test_no_slug_hides_a_page():
    from django.urls import get_resolver

    def first_parts(patterns, prefix="") -> set[str]:
        found = set()
        for pattern in patterns:
            route = prefix + str(pattern.pattern)
            if hasattr(pattern, "url_patterns"):
                found |= first_parts(pattern.url_patterns, route)
            else:
                found.add(route.split("/")[0])
        return found

    parts = first_parts(get_resolver().url_patterns)
    # No account's name has a dot in it.
    static = {part for part in parts if part and not set(part) & set("<(.")}

    assert len(static) > 10
    assert static - RESERVED_SLUGS == set()
    assert {"static", "v1", "v2", "openai", "favicon"} <= RESERVED_SLUGS


# --- members ---


def test_a_member_is_added_changed_and_removed(actor, account, outsider):
    accounts.add_member(actor=actor, account=account, email="Outsider@example.com", role="viewer")
    assert roles(account)["outsider@example.com"] == "viewer"

    accounts.change_role(actor=actor, account=account, user=outsider, role="billing")
    accounts.change_role(actor=actor, account=account, user=outsider, role="billing")
    assert roles(account)["outsider@example.com"] == "billing"

    accounts.remove_member(actor=actor, account=account, user=outsider)
    assert roles(account) == {"owner@example.com": "owner"}
    events = AuditEvent.objects.order_by("seq").values_list("action", "payload")
    assert list(events) == [
        ("member.add", {"member": "outsider@example.com", "role": "viewer"}),
        ("member.role", {"member": "outsider@example.com", "from": "viewer", "to": "billing"}),
        ("member.remove", {"member": "outsider@example.com", "tokens_revoked": 0}),
    ]


@pytest.mark.parametrize(
    ("email", "role", "error"),
    [
        ("nobody@example.com", "viewer", InvalidInputError),
        ("outsider@example.com", "king", InvalidInputError),
        ("teammate@example.com", "viewer", MemberExistsError),
    ],
)
def test_who_cannot_be_added(actor, account, teammate, outsider, email, role, error):
    with pytest.raises(error):
        accounts.add_member(actor=actor, account=account, email=email, role=role)

    assert account.memberships.count() == 2
    assert AuditEvent.objects.count() == 0


def test_an_account_has_a_limited_number_of_members(actor, account, outsider, monkeypatch):
    monkeypatch.setattr(limits, "MEMBERS_PER_ACCOUNT_MAX", 1)
    with pytest.raises(CountLimitError):
        accounts.add_member(actor=actor, account=account, email=outsider.email, role="viewer")


def test_the_last_owner_stays(actor, account, owner):
    with pytest.raises(LastOwnerError):
        accounts.remove_member(actor=actor, account=account, user=owner)
    with pytest.raises(LastOwnerError):
        accounts.change_role(actor=actor, account=account, user=owner, role="admin")

    assert roles(account) == {"owner@example.com": "owner"}

    accounts.add_member(
        actor=actor, account=account, email=UserFactory(email="b@example.com").email, role="owner"
    )
    accounts.remove_member(actor=actor, account=account, user=owner)
    assert roles(account) == {"b@example.com": "owner"}


def test_only_owners_touch_owners(account, owner, teammate, outsider):
    Membership.objects.filter(user=teammate).update(role=Role.ADMIN)
    second = UserFactory()
    MembershipFactory(account=account, user=second, role=Role.OWNER)
    admin = Actor(user=teammate)

    with pytest.raises(ForbiddenError):
        accounts.add_member(actor=admin, account=account, email=outsider.email, role="owner")
    with pytest.raises(ForbiddenError):
        accounts.change_role(actor=admin, account=account, user=teammate, role="owner")
    with pytest.raises(ForbiddenError):
        accounts.change_role(actor=admin, account=account, user=owner, role="viewer")
    with pytest.raises(ForbiddenError):
        accounts.remove_member(actor=admin, account=account, user=owner)

    assert AuditEvent.objects.count() == 0
    assert roles(account)["owner@example.com"] == "owner"


def test_who_leaves_takes_tokens_along_but_not_the_services_keys(actor, account, teammate):
    token = APIKeyFactory(account=account, created_by=teammate, mode="token")
    live = APIKeyFactory(account=account, created_by=teammate, mode="live")
    others = APIKeyFactory(account=account, created_by=actor.user, mode="token")

    accounts.remove_member(actor=actor, account=account, user=teammate)

    revoked = dict(APIKey.objects.values_list("pk", "revoked_at"))
    assert revoked[token.pk] is not None
    assert (revoked[live.pk], revoked[others.pk]) == (None, None)


def test_who_is_no_member_cannot_be_changed(actor, account, outsider):
    for change in (
        lambda: accounts.remove_member(actor=actor, account=account, user=outsider),
        lambda: accounts.change_role(actor=actor, account=account, user=outsider, role="viewer"),
    ):
        with pytest.raises(NotFoundError):
            change()


# --- suspension ---


def test_a_suspension_needs_an_admin_and_a_reason(actor, account, platform_admin):
    admin = Actor(user=platform_admin)
    with pytest.raises(ForbiddenError):
        accounts.suspend_account(actor=actor, account=account, reason="I say so.")
    with pytest.raises(InvalidInputError):
        accounts.suspend_account(actor=admin, account=account, reason="  ")
    account.refresh_from_db()
    assert account.suspended_at is None

    accounts.suspend_account(actor=admin, account=account, reason="Fraud.")
    accounts.suspend_account(actor=admin, account=account, reason="Fraud again.")
    account.refresh_from_db()
    assert account.suspended_at is not None

    accounts.unsuspend_account(actor=admin, account=account, reason="Cleared.")
    account.refresh_from_db()
    assert account.suspended_at is None
    events = AuditEvent.objects.order_by("seq").values_list("action", "payload__reason")
    assert list(events) == [("account.suspend", "Fraud."), ("account.unsuspend", "Cleared.")]


def test_a_token_of_a_platform_admin_suspends_nobody(account, platform_admin):
    token = APIKeyFactory(created_by=platform_admin, mode="token")
    with pytest.raises(ForbiddenError):
        accounts.suspend_account(
            actor=Actor(user=platform_admin, api_key=token), account=account, reason="x"
        )


# --- pages ---


def test_the_members_page_adds_changes_and_removes(owner_client, account, outsider):
    page = "/accounts/acme/members"
    form = {"email": outsider.email, "role": "viewer"}
    assert owner_client.post(page, form).status_code == 302
    member = account.memberships.get(user=outsider)

    assert owner_client.post(f"{page}/{member.pk}/role", {"role": "admin"}).status_code == 302
    member.refresh_from_db()
    assert member.role == "admin"
    assert owner_client.post(f"{page}/{member.pk}/role", {"role": "king"}).status_code == 422

    assert owner_client.post(f"{page}/{member.pk}/remove").status_code == 302
    assert account.memberships.count() == 1
    assert owner_client.post(f"{page}/{member.pk}/remove").status_code == 404


def test_a_member_that_cannot_be_added_is_told_in_the_form(owner_client, account):
    page = owner_client.post(
        "/accounts/acme/members", {"email": "nobody@example.com", "role": "viewer"}
    )

    assert page.status_code == 422
    assert "Ask the person to sign up first." in page.content.decode()


def test_the_last_owner_is_told_why_leaving_is_not_possible(owner_client, owner, account):
    member = account.memberships.get(user=owner)
    page = owner_client.post(f"/accounts/acme/members/{member.pk}/remove", follow=True)

    assert "keeps at least one owner" in page.content.decode()
    assert account.memberships.count() == 1


def test_a_member_may_leave_but_remove_nobody(teammate_client, teammate, owner, account):
    others = account.memberships.get(user=owner)
    own = account.memberships.get(user=teammate)
    assert teammate_client.post(f"/accounts/acme/members/{others.pk}/remove").status_code == 403
    assert account.memberships.count() == 2

    assert teammate_client.post(f"/accounts/acme/members/{own.pk}/remove").url == "/home"
    assert list(account.memberships.all()) == [others]


def test_a_member_of_another_account_is_not_found_here(owner_client, account, outsider):
    foreign = outsider.memberships.get()

    for what in ("role", "remove"):
        url = f"/accounts/acme/members/{foreign.pk}/{what}"
        assert owner_client.post(url, {"role": "viewer"}).status_code == 404
    assert outsider.memberships.get().role == "owner"


def test_the_display_name_is_changed(owner_client, account):
    assert owner_client.post("/accounts/acme/settings", {"name": "Acme Inc"}).status_code == 302
    assert owner_client.post("/accounts/acme/settings", {"name": ""}).status_code == 422

    account.refresh_from_db()
    assert account.name == "Acme Inc"


def test_the_menu_switches_between_accounts(owner_client, owner, account, outsider):
    AccountFactory(slug="second", owner=owner)
    assert (
        b"Keys, credit and usage of <strong>acme</strong>" in owner_client.get("/console").content
    )

    assert owner_client.post("/account/switch", {"account": "second"}).url == "/home"
    assert b"<strong>second</strong>" in owner_client.get("/console").content
    owner_client.get("/console?account=acme", headers={"HX-Request": "true"})
    assert b"<strong>second</strong>" in owner_client.get("/console").content
    owner_client.get("/console?account=acme")
    assert b"<strong>acme</strong>" in owner_client.get("/console").content

    assert owner_client.post("/account/switch", {"account": "elsewhere"}).status_code == 404
    assert owner_client.get("/console?account=elsewhere").status_code == 404
    assert b"<strong>acme</strong>" in owner_client.get("/console").content


def test_an_organisation_is_made_on_its_page(owner_client, account):
    form = {"slug": "labs", "name": "Labs"}
    assert owner_client.post("/accounts/new", form).url == "/accounts/labs/members"
    assert owner_client.post("/accounts/new", form).status_code == 422
    assert owner_client.post("/accounts/new", form | {"slug": "login"}).status_code == 422

    assert set(Account.objects.values_list("slug", flat=True)) == {"acme", "labs"}


def test_the_activity_page_says_what_happened_but_not_which_admin_did_it(
    owner_client, actor, account, platform_admin
):
    accounts.rename_account(actor=actor, account=account, name="Acme 2")
    accounts.suspend_account(actor=Actor(user=platform_admin), account=account, reason="Fraud.")

    text = owner_client.get("/accounts/acme/activity").content.decode()

    assert "account.rename" in text
    assert "Fraud." in text
    assert platform_admin.email not in text
