"""The platform's own pages about money: for admins, and for nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from django.test import Client
from django.urls import get_resolver
from django.utils import timezone

from billing.models import (
    Adjustment,
    ReconcileDifference,
    ReconcileRun,
    ReviewCase,
    ReviewSignal,
    Transfer,
    UsageReversal,
)
from billing.services import adjustment as adjustments
from billing.services import fraud
from billing.services.reversal import reverse_usage
from marketplace.core.ids import to_public
from marketplace.core.money import NANOS_PER_DOLLAR
from marketplace.models import Account, Membership, User
from marketplace.selectors.access import Actor
from marketplace.views import platform
from tests.billing.conftest import Shop, balances, hold, query, settle
from tests.billing.test_ledger import record_answer
from tests.factories import MembershipFactory, UserFactory

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]
LARGE = "100.000000001"


@pytest.fixture
def second(db: None) -> User:
    return UserFactory(email="second@example.com", is_staff=True)


@pytest.fixture
def second_client(second: User) -> Client:
    client = Client()
    client.force_login(second)
    return client


@pytest.fixture
def prediction_id(shop: Shop, fund: Fund) -> UUID:
    fund(5_000)
    found = hold(shop)
    record_answer(shop, found)
    settle(shop.item(found))
    return found


@pytest.fixture
def pending(shop: Shop, platform_admin: User) -> Adjustment:
    return adjustments.propose_credit(
        Actor(user=platform_admin),
        shop.consumer,
        amount_nanos=500 * NANOS_PER_DOLLAR,
        reason="A long night.",
    )


@pytest.fixture
def difference(db: None) -> ReconcileDifference:
    now = timezone.now()
    run = ReconcileRun.objects.create(
        since=now - timedelta(days=1),
        until=now,
        state="unexplained",
        counts={
            "topup": dict.fromkeys(("ours", "ours_nanos", "stripe", "stripe_nanos", "matched"), 1)
        },
    )
    return ReconcileDifference.objects.create(
        kind="movement",
        fault="missing_here",
        stripe_id="txn_1",
        stripe_nanos=500 * NANOS_PER_DOLLAR,
        happened_at=now,
        first_run=run,
        last_run=run,
    )


def addresses(pending: Adjustment, difference: ReconcileDifference) -> list[str]:
    return [
        "/platform/reconciliation",
        f"/platform/reconciliation/{difference.pk}",
        "/platform/adjustments",
        "/platform/adjustments/credit",
        "/platform/adjustments/new",
        f"/platform/adjustments/{pending.pk}",
        "/platform/give-back",
        "/platform/frozen",
        "/platform/panels/money",
    ]


def patterns() -> Iterator[str]:
    for resolver in get_resolver().url_patterns:
        # Those of the other packages have tests of their own.
        if getattr(resolver, "app_name", "") != "billing":
            continue
        for pattern in getattr(resolver, "url_patterns", []):
            if str(pattern.pattern).startswith("platform/"):
                yield str(pattern.pattern)


def test_admins_find_every_page(admin_client: Client, pending, difference) -> None:
    found = addresses(pending, difference)

    assert len(found) == len(list(patterns()))
    for url in found:
        assert admin_client.get(url).status_code == 200, url
    assert b"/platform/reconciliation" in admin_client.get("/admin/").content


@pytest.mark.parametrize("who", ["owner", "outsider", "nobody"])
def test_nobody_else_does(request, pending, difference, who: str) -> None:
    client = Client()
    if who != "nobody":
        client.force_login(request.getfixturevalue(who))
    runs = ReconcileRun.objects.count()

    for url in addresses(pending, difference):
        for answer in (client.get(url), client.post(url, {"decision": "approve", "reason": "x"})):
            if who == "nobody":
                assert answer.status_code == 302
                assert answer.url.startswith("/login"), answer.url
            else:
                assert answer.status_code == 404, url
    assert ReconcileRun.objects.count() == runs
    assert not Transfer.objects.exists()


def test_without_the_guard_they_would(
    owner_client: Client, pending, difference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(platform, "actor_of", lambda request: Actor(user=User(is_staff=True)))

    assert {owner_client.get(url).status_code for url in addresses(pending, difference)} == {200}


def test_a_small_credit_is_posted_at_once(shop: Shop, admin_client: Client) -> None:
    body = {"account": "consumer", "amount": "$12.50", "reason": "Sorry."}

    answer = admin_client.post("/platform/adjustments/credit", body, follow=True)

    assert b"Posted." in answer.content
    assert balances()["wallet"] == (12_500_000_000, 0)


def test_a_large_one_takes_two_people(
    shop: Shop, admin_client: Client, second_client: Client
) -> None:
    body = {"account": "consumer", "amount": LARGE, "reason": "Sorry."}

    answer = admin_client.post("/platform/adjustments/credit", body, follow=True)
    url = answer.redirect_chain[0][0]
    assert b"Another admin has to approve it" in answer.content
    assert b"Approve and post" not in answer.content
    answer = admin_client.post(url, {"decision": "approve"}, follow=True)
    assert b"Somebody else has to approve" in answer.content
    assert not Transfer.objects.exists()

    assert b"Approve and post" in second_client.get(url).content
    assert b"Posted." in second_client.post(url, {"decision": "approve"}, follow=True).content

    assert Transfer.objects.count() == 1


def test_a_proposal_can_be_withdrawn_or_refused(
    shop: Shop, admin_client: Client, second_client: Client
) -> None:
    body = {"account": "consumer", "amount": LARGE, "reason": "Sorry."}
    urls = [admin_client.post("/platform/adjustments/credit", body).url for _ in range(2)]

    assert second_client.post(urls[0], {"decision": "refuse"}).status_code == 422
    second_client.post(urls[0], {"decision": "refuse", "reason": "Not owed."})
    admin_client.post(urls[1], {"decision": "withdraw"})

    assert set(Adjustment.objects.values_list("state", flat=True)) == {"refused", "withdrawn"}
    assert b"Not owed." in admin_client.get(urls[0]).content


@pytest.mark.parametrize(
    "amount", ["", "0", "-1", "x", "0.0000000001", "1e30", "NaN", "1000000.01", "Infinity"]
)
def test_an_amount_that_is_none_is_said_so(shop: Shop, admin_client: Client, amount: str) -> None:
    for url, body in (
        ("/platform/adjustments/credit", {"account": "consumer"}),
        (
            "/platform/adjustments/new",
            {"source_kind": "goodwill", "target_kind": "platform_revenue"},
        ),
    ):
        answer = admin_client.post(url, body | {"amount": amount, "reason": "Sorry."})
        assert answer.status_code == 422
        assert b'aria-invalid="true"' in answer.content or b"errorlist" in answer.content
    assert not Adjustment.objects.exists()


def test_the_last_billionth_counts(shop: Shop, admin_client: Client) -> None:
    body = {"account": "consumer", "amount": "0.000000001", "reason": "Sorry."}

    admin_client.post("/platform/adjustments/credit", body)

    assert balances()["wallet"] == (1, 0)


@pytest.mark.parametrize(
    "sides",
    [
        {"source_kind": "wallet", "target_kind": "goodwill"},
        {"source_kind": "goodwill", "source_holder": "consumer", "target_kind": "goodwill"},
        {"source_kind": "goodwill", "target_kind": "wallet", "target_holder": "nobody-here"},
        {"source_kind": "stripe_clearing", "target_kind": "goodwill"},
        {"source_kind": "goodwill", "target_kind": "goodwill"},
    ],
)
def test_sides_that_do_not_fit_are_said_so(shop: Shop, admin_client: Client, sides) -> None:
    body = {"amount": "1", "reason": "Tidy up."}

    assert admin_client.post("/platform/adjustments/new", body | sides).status_code == 422
    assert not Adjustment.objects.exists()


def test_an_adjustment_moves_between_two(shop: Shop, fund: Fund, admin_client: Client) -> None:
    fund(10**9)
    body = {
        "source_kind": "wallet",
        "source_holder": "consumer",
        "target_kind": "creator_payable",
        "target_holder": "creator",
        "amount": "1",
        "reason": "Agreed between the two.",
    }

    assert admin_client.post("/platform/adjustments/new", body).status_code == 302
    assert balances()["creator_payable"] == (10**9, 0)
    # There is nothing left.
    answer = admin_client.post("/platform/adjustments/new", body)
    assert answer.status_code == 422
    assert b"does not hold enough" in answer.content


def test_the_list_can_be_chosen_from(admin_client: Client, pending: Adjustment) -> None:
    def listed(query: str) -> bool:
        answer = admin_client.get(f"/platform/adjustments?{query}")
        assert answer.status_code == 200
        return str(pending.pk).encode() in answer.content

    assert listed("")
    assert listed("state=pending&kind=credit&account=consumer")
    assert not listed("state=posted")
    assert not listed("account=creator")
    assert admin_client.get("/platform/adjustments?state=x").status_code == 422


def test_an_admin_gives_a_prediction_back(
    shop: Shop, admin_client: Client, prediction_id: UUID
) -> None:
    body = {"prediction": to_public(prediction_id), "amount": "", "reason": "Noise."}

    answer = admin_client.post("/platform/give-back", body, follow=True)
    again = admin_client.post("/platform/give-back", body)

    assert b"$0.000001001 went back." in answer.content
    assert again.status_code == 422
    assert b"given back before" in again.content
    assert UsageReversal.objects.count() == 1


def test_a_creator_gives_back_what_is_its_own(
    shop: Shop, prediction_id: UUID, owner_client: Client, owner: User, account: Account
) -> None:
    body = {"prediction": to_public(prediction_id), "amount": "0.000000001", "reason": "Noise."}

    answer = owner_client.post("/dashboard/give-back?account=acme", body)
    assert answer.status_code == 422
    assert b"No such prediction." in answer.content

    MembershipFactory(account=shop.creator, user=owner, role=Membership.Role.OWNER)
    # It is the creator's, not that of another account of the same person.
    assert owner_client.post("/dashboard/give-back?account=acme", body).status_code == 422
    assert owner_client.post("/dashboard/give-back?account=creator", body).status_code == 302
    assert UsageReversal.objects.get().gross_nanos == 1
    page = owner_client.get("/dashboard/give-back?account=creator").content.decode()
    assert to_public(prediction_id) in page


def test_what_was_given_back_is_shown_to_both(
    shop: Shop, prediction_id: UUID, owner_client: Client, owner: User, platform_admin: User
) -> None:
    for one in (shop.creator, shop.consumer):
        MembershipFactory(account=one, user=owner, role=Membership.Role.OWNER)
    public_id = to_public(prediction_id)
    pages = [
        "/console/usage?account=consumer",
        "/dashboard/earnings?account=creator",
        f"/panels/reversals/{public_id}",
    ]
    for url in pages:
        assert "Given back" not in owner_client.get(url).content.decode(), url

    reverse_usage(Actor(user=platform_admin), public_id, reason="It was noise.")

    for url in pages:
        assert "Given back" in owner_client.get(url).content.decode(), url
    usage = owner_client.get("/console/usage?account=consumer&model=creator/echo").content.decode()
    assert "$0.000001001 given back" in usage
    none = owner_client.get("/console/usage?account=consumer&until=2020-01-01").content.decode()
    assert "Given back" not in none
    assert "It was noise." in owner_client.get(pages[2]).content.decode()
    query("UPDATE inference_prediction SET cost_nanos = 1001 RETURNING 1")
    page = owner_client.get(f"/predictions/{public_id}").content.decode()
    assert pages[2] in page


def test_what_was_given_back_is_nobody_elses_business(
    shop: Shop, prediction_id: UUID, outsider_client: Client
) -> None:
    for public_id in (to_public(prediction_id), "x", "a" * 26):
        assert outsider_client.get(f"/panels/reversals/{public_id}").status_code == 404


def test_a_run_is_started_by_the_button(admin_client: Client, monkeypatch) -> None:
    started = []
    monkeypatch.setattr("billing.views.reconcile.carry_out_reconciliation.delay", started.append)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.db.transaction.on_commit", lambda do, *args, **kwargs: do())
        answer = admin_client.post("/platform/reconciliation", {"repair": "yes"}, follow=True)
    run = ReconcileRun.objects.get()

    assert b"Comparing." in answer.content
    assert (run.is_repairing, run.state) == (True, "running")
    assert started == [str(run.pk)]
    # One at a time.
    answer = admin_client.post("/platform/reconciliation", follow=True)
    assert b"is running" in answer.content
    assert ReconcileRun.objects.count() == 1
    # One that died does not stand in the way.
    ReconcileRun.objects.update(started_at=timezone.now() - timedelta(hours=2))
    admin_client.post("/platform/reconciliation")
    assert ReconcileRun.objects.count() == 2


def test_a_difference_is_explained_by_two(
    admin_client: Client, second_client: Client, difference: ReconcileDifference
) -> None:
    url = f"/platform/reconciliation/{difference.pk}"
    assert admin_client.post(url, {"decision": "mark", "reason": ""}).status_code == 422

    admin_client.post(url, {"decision": "mark", "reason": "My test charge."})
    assert b"Waits for a second person" in admin_client.get("/platform/reconciliation").content
    answer = admin_client.post(url, {"decision": "approve"}, follow=True)
    assert b"Somebody else has to approve" in answer.content
    second_client.post(url, {"decision": "approve"})

    difference.refresh_from_db()
    assert difference.explanation == "by_hand"
    page = admin_client.get(url).content.decode()
    assert "My test charge." in page
    assert "second@example.com" in page
    admin_client.post(url, {"decision": "withdraw"})
    difference.refresh_from_db()
    assert difference.explanation == ""


def test_an_account_is_stopped_and_goes_on(admin_client: Client, account: Account) -> None:
    body = {"account": "acme", "reason": "Stolen cards."}

    admin_client.post("/platform/frozen", body | {"decision": "stop"})
    account.refresh_from_db()
    assert account.suspended_at is not None
    page = admin_client.get("/platform/frozen").content.decode()
    assert "Stolen cards." in page
    assert "user:admin@example.com" in page

    admin_client.post("/platform/frozen", body | {"decision": "release"})
    account.refresh_from_db()
    assert account.suspended_at is None
    assert "No account is stopped" in admin_client.get("/platform/frozen").content.decode()


@pytest.mark.parametrize("body", [{"account": "nobody"}, {"account": "acme", "reason": ""}, {}])
def test_stopping_takes_an_account_and_a_reason(
    admin_client: Client, account: Account, body: dict[str, str]
) -> None:
    body = {"reason": "x", "decision": "stop"} | body

    assert admin_client.post("/platform/frozen", body).status_code == 422
    account.refresh_from_db()
    assert account.suspended_at is None


def test_accounts_that_are_frozen_are_listed_with_their_case(
    admin_client: Client, account: Account
) -> None:
    assert "No account is frozen" in admin_client.get("/platform/frozen").content.decode()

    fraud.raise_signal(account.pk, ReviewSignal.Kind.DISPUTE, "x", {}, freezes=True)

    page = admin_client.get("/platform/frozen").content.decode()
    assert "No account is frozen" not in page
    assert f"/review/cases/{ReviewCase.objects.get().pk}" in page
