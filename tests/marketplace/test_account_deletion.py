"""The end of an account: asked for, thought over, settled, and done in steps that survive kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.core import mail
from django.db import connection, transaction
from django.utils import timezone

from billing.models import (
    Dispute,
    Hold,
    Invoice,
    LedgerAccount,
    PayoutItem,
    PayoutRun,
    SavedCard,
    TaxDetails,
    Topup,
    Transfer,
)
from billing.selectors.ledger import check_invariants
from billing.services import closing as billing_closing
from billing.services import ledger
from billing.services.topup import require_buyer
from inference.models import (
    AlertChannel,
    Deployment,
    File,
    Job,
    JobInput,
    Prediction,
    SharedRun,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookSecret,
)
from marketplace.core import limits
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import new_id
from marketplace.errors import (
    AccountClosingError,
    DeletionBlockedError,
    DeletionStateError,
    NameTakenError,
)
from marketplace.models import (
    Account,
    AccountDeletion,
    AIModel,
    APIKey,
    AuditEvent,
    Membership,
    Notice,
    RetiredName,
    User,
    UserSession,
)
from marketplace.selectors.access import Actor
from marketplace.services import account_deletion, closing, erasure
from marketplace.services import audit as audit_log
from marketplace.services.account import create_account
from marketplace.services.catalog import put_model
from marketplace.services.key import issue_key
from marketplace.services.notice import mail_notices
from marketplace.services.own_closing import pseudonym_of
from marketplace.services.row_lock import hold_row
from tests.factories import MembershipFactory, UserFactory
from tests.marketplace.archives import Tenant

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]
CREDIT_NANOS = 5_000_000_000


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    artifacts = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(tmp_path / "objects"), "file_permissions_mode": 0o600},
    }
    settings.STORAGES = settings.STORAGES | {"artifacts": artifacts}


@pytest.fixture
def actor(owner, account) -> Actor:
    return Actor(user=owner)


def ask(account: Account, actor: Actor, **changes) -> AccountDeletion:
    wish = {"confirm": account.slug, "credit": "forfeit"} | changes
    return account_deletion.request_deletion(actor=actor, account=account, **wish)


def fill(account: Account, nanos: int = CREDIT_NANOS) -> None:
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    goodwill_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key=f"test:{account.pk}",
        amounts_nanos={goodwill_id: -nanos, wallet_id: nanos},
    )


def let_time_pass() -> None:
    AccountDeletion.objects.update(execute_at=timezone.now())
    mail_notices()


def run(deletion: AccountDeletion) -> AccountDeletion:
    """A worker comes by until nothing moves."""
    let_time_pass()
    for _ in range(3):
        account_deletion.advance(deletion_id=deletion.pk)
        mail_notices()
    deletion.refresh_from_db()
    return deletion


def broken() -> set[str]:
    """The invariants that do not hold; the credit of these tests came from nowhere."""
    with transaction.atomic(durable=True):
        findings = {one.invariant.name for one in check_invariants() if one.count}
    return findings - {"usage-equals-answers", "charges-are-sealed"}


# --- asking for it, and thinking again ---


def test_it_waits_for_fourteen_days_and_owners_are_told(account, actor):
    second = UserFactory(email="second@example.com")
    MembershipFactory(account=account, user=second, role=Membership.Role.OWNER)
    before = timezone.now()

    deletion = ask(account, actor)

    account.refresh_from_db()
    assert deletion.execute_at == account.closes_at
    assert timedelta(days=14) <= deletion.execute_at - before < timedelta(days=14, minutes=5)
    mail_notices()
    [sent] = mail.outbox
    assert sorted(sent.to) == ["owner@example.com", "second@example.com"]
    assert "owner@example.com asked to delete the account acme" in sent.body
    # A moment before, nothing happens; from then on, it does.
    AccountDeletion.objects.update(execute_at=timezone.now() + timedelta(minutes=1))
    assert account_deletion.sweep() == 0
    account_deletion.advance(deletion_id=deletion.pk)
    deletion.refresh_from_db()
    assert deletion.state == "pending"
    let_time_pass()
    assert account_deletion.sweep() == 1


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"confirm": "Acme"}, "/confirm"),
        ({"confirm": ""}, "/confirm"),
        ({"credit": "x"}, "/credit"),
    ],
)
def test_it_must_be_meant(account, actor, change, place):
    with pytest.raises(InvalidInputError) as refusal:
        ask(account, actor, **change)

    assert [one["pointer"] for one in refusal.value.errors] == [place]
    account.refresh_from_db()
    assert account.closes_at is None
    assert not AccountDeletion.objects.exists()


def test_meanwhile_all_goes_on_but_nothing_new_begins(account, actor):
    put_model(actor=actor, account=account, name="old", fields={"title": "Old"})
    key, _ = issue_key(actor=actor, account=account, name="old", mode="test")
    ask(account, actor)

    with pytest.raises(AccountClosingError):
        issue_key(actor=actor, account=account, name="new", mode="test")
    with pytest.raises(AccountClosingError):
        put_model(actor=actor, account=account, name="new", fields={"title": "New"})
    with pytest.raises(AccountClosingError):
        require_buyer(account)
    # What is there can be changed and used.
    put_model(actor=actor, account=account, name="old", fields={"title": "Changed"})
    key.refresh_from_db()
    assert key.revoked_at is None

    account_deletion.cancel_deletion(actor=actor, account=account)

    issue_key(actor=actor, account=account, name="new", mode="test")
    require_buyer(account)


def test_it_can_be_cancelled_until_it_begins(account, actor):
    deletion = ask(account, actor)
    account_deletion.cancel_deletion(actor=actor, account=account)

    deletion.refresh_from_db()
    account.refresh_from_db()
    assert (deletion.state, account.closes_at) == ("canceled", None)
    with pytest.raises(DeletionStateError):
        account_deletion.cancel_deletion(actor=actor, account=account)
    assert run(deletion).state == "canceled"
    assert account.memberships.exists()
    # And asked for again.
    again = ask(account, actor)
    assert run(again).state == "done"
    with pytest.raises(DeletionStateError):
        account_deletion.cancel_deletion(actor=actor, account=account)


@pytest.mark.django_db(transaction=True)
def test_of_two_owners_at_once_one_asks(account, actor):
    second = UserFactory()
    MembershipFactory(account=account, user=second, role=Membership.Role.OWNER)
    gate, outcomes = threading.Barrier(2), []

    def wish(user: User) -> None:
        gate.wait()
        try:
            ask(Account.objects.get(pk=account.pk), Actor(user=user))
            outcomes.append("asked")
        except AccountClosingError:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=wish, args=[user]) for user in (actor.user, second)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert sorted(outcomes) == ["asked", "refused"]
    assert AccountDeletion.objects.count() == 1
    assert Notice.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_cancelling_and_beginning_one_comes_first(account, actor):
    deletion = ask(account, actor)
    let_time_pass()
    gate, outcomes = threading.Barrier(2), []

    def begin() -> None:
        gate.wait()
        outcomes.append(account_deletion._begin(deletion.pk))
        connection.close()

    def cancel() -> None:
        gate.wait()
        try:
            account_deletion.cancel_deletion(actor=actor, account=account)
            outcomes.append(True)
        except DeletionStateError:
            outcomes.append(False)
        connection.close()

    threads = [threading.Thread(target=one) for one in (begin, cancel)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert sorted(outcomes) == [False, True]


# --- what stands in the way ---


def make_dispute(account):
    topup = Topup.objects.create(account=account, amount_cents=500)
    Dispute.objects.create(
        dispute_id="dp",
        account=account,
        topup=topup,
        amount_cents=1,
        status="x",
        created_at=timezone.now(),
    )


def make_invoice(account):
    now = timezone.now()
    Invoice.objects.create(
        account=account,
        stripe_id="in",
        subscription_id="s",
        state="open",
        currency="usd",
        subtotal_cents=1,
        tax_cents=0,
        total_cents=1,
        period_start=now,
        period_end=now,
        created_at=now,
    )


def make_payout(account):
    PayoutItem.objects.create(
        run=PayoutRun.objects.create(), creator=account, amount_cents=1, destination="acct"
    )


def freeze(account):
    Account.objects.filter(pk=account.pk).update(frozen_at=timezone.now())


def suspend(account):
    Account.objects.filter(pk=account.pk).update(suspended_at=timezone.now())


OBSTACLES = {
    "dispute_open": make_dispute,
    "invoice_unpaid": make_invoice,
    "payout_open": make_payout,
    "payments_examined": freeze,
    "suspended": suspend,
}


@pytest.mark.parametrize("code", list(OBSTACLES))
def test_what_is_not_settled_is_in_the_way(account, actor, code):
    OBSTACLES[code](account)

    with pytest.raises(DeletionBlockedError) as refusal:
        ask(account, actor)

    assert refusal.value.params["obstacles"] == [code]
    assert not AccountDeletion.objects.exists()


@pytest.mark.parametrize("code", list(OBSTACLES))
def test_what_comes_up_meanwhile_is_waited_for_and_told_once(account, actor, code):
    deletion = ask(account, actor)
    mail_notices()
    mail.outbox.clear()
    OBSTACLES[code](account)

    assert run(deletion).state == "pending"
    assert len(deletion.waiting_for) == 1
    assert [one.subject for one in mail.outbox] == ["The deletion of acme waits"]
    assert account.memberships.exists()
    # It goes on by itself.
    Dispute.objects.update(state="won")
    Invoice.objects.update(state="void")
    PayoutItem.objects.update(state="refused")
    Account.objects.update(frozen_at=None, suspended_at=None)
    assert run(deletion).state == "done"


def test_nothing_in_the_way_is_a_control(account, actor):
    assert closing.list_obstacles(account) == []
    assert ask(account, actor).state == "pending"


# --- what it does ---


@pytest.fixture
def tenant(platform_admin) -> Tenant:
    """An account with a row of everything that a deletion touches."""
    tenant = Tenant("mine", platform_admin)
    fill(tenant.account)
    TaxDetails.objects.create(
        account=tenant.account,
        name=tenant.mark,
        line1=tenant.mark,
        city="x",
        postal_code="1",
        country="DE",
    )
    SavedCard.objects.create(
        account=tenant.account,
        payment_method_id="pm",
        brand="visa",
        last4="4242",
        exp_month=1,
        exp_year=2030,
        fingerprint=tenant.mark,
        removed_at=timezone.now(),
    )
    return tenant


def test_every_step_is_somebody_s(db):
    assert closing.list_known_steps() == set(closing.STEPS)


def test_what_will_happen_is_said_with_counts(tenant):
    told = "\n".join(closing.list_facts(tenant.account))

    assert "1 key and all that uses it stops working" in told
    assert "1 model leaves the catalogue for good" in told
    assert "1 person loses access, and is signed out." in told
    assert "1 deployment is stopped" in told
    assert "1 shared run is deleted" in told
    assert "The wallet holds $5.00." in told


def test_everything_personal_is_gone_and_the_books_stay(tenant):
    account, owner = tenant.account, tenant.owner
    deletion = ask(account, Actor(user=owner), erases_requester=True)
    transfers = list(Transfer.objects.values_list("pk", flat=True))
    events = list(AuditEvent.objects.order_by("seq").values_list("hash", flat=True))

    assert run(deletion).state == "done"

    account.refresh_from_db()
    owner.refresh_from_db()
    assert account.slug == pseudonym_of(account)
    assert (account.name, account.bio) == ("Deleted account", "")
    assert account.memberships.count() == 0
    assert not APIKey.objects.filter(account=account, revoked_at=None).exists()
    model = AIModel.objects.get(account=account)
    assert (model.visibility, model.card, model.title) == ("private", "", "Deleted model")
    assert model.versions.get().state == "withdrawn"
    assert model.channels.count() == 0
    assert not Deployment.objects.filter(stopped_at=None).exists()
    assert not Prediction.objects.filter(input__isnull=False).exists()
    assert not JobInput.objects.exists()
    assert not Job.objects.exclude(webhook_url="").exists()
    assert not SharedRun.objects.exists()
    assert not File.objects.exists()
    assert not AlertChannel.objects.exists()
    for hooks in (WebhookEndpoint, WebhookDelivery, WebhookEvent, WebhookSecret):
        assert not hooks.objects.exists()
    assert not TaxDetails.objects.exists()
    assert not UserSession.objects.exists()
    card = SavedCard.objects.get()
    assert (card.brand, card.last4, card.fingerprint) == ("", "", "")
    assert (owner.email, owner.name) == (f"{owner.pk.hex}@deleted.invalid", "")
    assert not owner.is_active
    assert not owner.has_usable_password()
    # The books: everything that was there is, and one transfer more.
    assert set(transfers) < set(Transfer.objects.values_list("pk", flat=True))
    wallet = LedgerAccount.objects.get(holder=account, kind="wallet")
    assert wallet.posted_nanos == 0
    hashes = AuditEvent.objects.order_by("seq").values_list("hash", flat=True)
    assert list(hashes[: len(events)]) == events
    assert audit_log.find_first_break() is None
    assert AuditEvent.objects.filter(account_id=account.pk).last().action == "account.delete_end"


# Where the mark of a deleted account may still stand, and why; see docs/privacy.md.
KEPT = {
    # What was done, bound in a chain that an erasure would break.
    "marketplace_auditevent",
    # An address of a model has a name that the creator chose; it stands in receipts.
    "marketplace_aimodel",
    # Why somebody was approved or warned.
    "marketplace_review",
    "marketplace_takedown",
    # The public halves of keys, without which no manifest can be checked.
    "inference_signingkey",
}


def tables_with(mark: str) -> set[str]:
    """Every table of the product in which a text bears the mark."""
    found = set()
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'
               AND table_name ~ '^(marketplace|inference|billing|django_session)'"""
        )
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT count(*) FROM "{table}" t WHERE t::text LIKE %s', [f"%{mark}%"])
            if cursor.fetchone()[0]:
                found.add(table)
    return found


def test_the_name_stands_nowhere_but_where_it_is_said(tenant):
    before = tables_with(tenant.mark)
    deletion = ask(tenant.account, Actor(user=tenant.owner), erases_requester=True)

    assert run(deletion).state == "done"

    # The control: it stood in many places.
    assert before >= KEPT | {"marketplace_user", "marketplace_account", "billing_taxdetails"}
    assert before >= {
        f"marketplace_{one}" for one in ("notification", "cardrevision", "collection")
    }
    assert tables_with(tenant.mark) == KEPT


@pytest.mark.django_db(transaction=True)
def test_the_invariants_of_the_ledger_hold(account, actor):
    fill(account)
    before = broken()
    deletion = ask(account, actor)
    assert run(deletion).state == "done"

    assert broken() == before
    # A control: what no deletion asked for is seen.
    AccountDeletion.objects.update(state="canceled")
    assert broken() - before == {"given-up-credit-was-deleted"}


def test_its_name_is_given_to_nobody_again(account, actor):
    deletion = ask(account, actor)
    assert run(deletion).state == "done"

    for slug in ("acme", "acrne"):
        with pytest.raises(NameTakenError):
            create_account(user=UserFactory(), slug=slug, name="Mine")
    assert RetiredName.objects.count() == 1
    assert "acme" not in RetiredName.objects.get().digest
    # A control: another name is free.
    assert create_account(user=UserFactory(), slug="other", name="Mine").slug == "other"


def test_a_person_with_another_account_stays(tenant):
    other = create_account(user=tenant.owner, slug="second", name="Second")
    deletion = ask(tenant.account, Actor(user=tenant.owner), erases_requester=True)

    assert run(deletion).state == "done"

    tenant.owner.refresh_from_db()
    assert tenant.owner.is_active
    assert other.memberships.get().user == tenant.owner


def test_held_credit_is_waited_for(account, actor):
    fill(account)
    wallet = LedgerAccount.objects.get(holder=account, kind="wallet")
    Hold.objects.create(
        id=new_id(),
        ledger_account=wallet,
        amount_nanos=0,
        created_at=timezone.now(),
        expires_at=timezone.now() + timedelta(minutes=1),
    )
    deletion = ask(account, actor)

    assert run(deletion).state == "running"
    assert deletion.waiting_for == ["Credit is still reserved for predictions."]
    Hold.objects.update(state="voided")
    assert run(deletion).state == "done"


def test_earnings_in_reserve_are_waited_for_and_the_owner_keeps_access(account, actor, owner):
    reserve_id = ledger.get_ledger_account_id(
        LedgerAccount.Kind.CREATOR_RESERVE, holder_id=account.pk
    )
    payable_id = ledger.get_ledger_account_id(
        LedgerAccount.Kind.CREATOR_PAYABLE, holder_id=account.pk
    )
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)

    def move(source, target, key):
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=Transfer.Kind.RELEASE,
            idempotency_key=key,
            amounts_nanos={source: -7_000, target: 7_000},
        )

    move(clearing_id, reserve_id, "test:earned")
    deletion = ask(account, actor)

    assert run(deletion).state == "running"
    assert deletion.waiting_for == ["Earnings are in reserve for some more days."]
    assert account.memberships.get().user == owner
    move(reserve_id, payable_id, "test:released")
    assert run(deletion).state == "done"
    # Too little to pay out: it stays owed.
    assert LedgerAccount.objects.get(pk=payable_id).posted_nanos == 7_000


def test_the_last_mail_goes_out_before_the_addresses_do(account, actor):
    deletion = ask(account, actor)
    AccountDeletion.objects.update(execute_at=timezone.now())

    account_deletion.advance(deletion_id=deletion.pk)
    deletion.refresh_from_db()
    assert deletion.waiting_for == ["The last mail to the owners is on its way."]
    mail_notices()
    account_deletion.advance(deletion_id=deletion.pk)

    deletion.refresh_from_db()
    assert deletion.state == "done"
    assert mail.outbox[-1].subject == "acme is being deleted"


def test_a_mail_server_that_is_away_does_not_stop_it_for_ever(account, actor):
    deletion = ask(account, actor)
    AccountDeletion.objects.update(execute_at=timezone.now())
    account_deletion.advance(deletion_id=deletion.pk)
    Notice.objects.update(created_at=timezone.now() - limits.DELETION_MAIL_WAIT)

    account_deletion.advance(deletion_id=deletion.pk)

    deletion.refresh_from_db()
    assert deletion.state == "done"


# --- what dies on the way ---


def describe(account: Account) -> dict[str, object]:
    """What an account is in the end, without what differs between two of them."""
    account.refresh_from_db()
    events = AuditEvent.objects.filter(account_id=account.pk).order_by("seq")
    return {
        "name": account.name,
        "members": account.memberships.count(),
        "keys": APIKey.objects.filter(account=account, revoked_at=None).count(),
        "models": list(account.models.values_list("visibility", "card", "versions__state")),
        "deployments": Deployment.objects.filter(
            version__model__account=account, stopped_at=None
        ).count(),
        "contents": Prediction.objects.filter(account_id=account.pk, input__isnull=False).count(),
        "wallet": LedgerAccount.objects.get(holder=account, kind="wallet").posted_nanos,
        "transfers": Transfer.objects.filter(entries__ledger_account__holder=account).count(),
        "cards": list(SavedCard.objects.filter(account=account).values_list("last4", flat=True)),
        "actions": list(events.values_list("action", flat=True)),
    }


def die(deletion: AccountDeletion, database_url: str, name: str, when: str) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "tests.marketplace.dying_deletion"),
            *(str(deletion.pk), name, when),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
            "STRONGROOM_DATABASE_URL": database_url,
        },
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2_000:]


@pytest.mark.timeout(900)
@pytest.mark.django_db(transaction=True)
def test_a_worker_killed_after_each_step_is_followed_by_another(platform_admin, database_urls):
    killed, whole = Tenant("killed", platform_admin), Tenant("whole", platform_admin)
    for one in (killed, whole):
        fill(one.account)
    ends = [ask(one.account, Actor(user=one.owner)) for one in (killed, whole)]
    run(ends[1])
    mail_notices()

    for name in closing.STEPS:
        if name == "people":
            mail_notices()
        die(ends[0], database_urls["app"], name, "after")
    mail_notices()
    account_deletion.advance(deletion_id=ends[0].pk)

    ends[0].refresh_from_db()
    assert (ends[0].state, ends[1].state) == ("done", "done")
    assert describe(killed.account) == describe(whole.account)
    assert "given-up-credit-was-deleted" not in broken()


def test_a_step_that_was_done_is_not_done_again(tenant, monkeypatch):
    # The control of the test above: a step that counts what it does would tell.
    counted = []
    kept = billing_closing._forfeit
    monkeypatch.setattr(
        billing_closing, "_forfeit", lambda deletion: counted.append(1) or kept(deletion)
    )
    deletion = ask(tenant.account, Actor(user=tenant.owner))
    run(deletion)
    first = Transfer.objects.count()

    closing.find_step("credit")(deletion)

    assert len(counted) == 2
    assert Transfer.objects.count() == first


def test_two_workers_do_not_work_at_once(account, actor, django_db_blocker):
    deletion = ask(account, actor)
    let_time_pass()
    with hold_row(account_deletion._LOCK_SPACE, deletion.pk) as is_ours:
        assert is_ours
        seen = []

        def other() -> None:
            with hold_row(account_deletion._LOCK_SPACE, deletion.pk) as found:
                seen.append(found)
            connection.close()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [False]


# --- pages ---


URL = "/accounts/acme/delete"
FORM = {"confirm": "acme", "credit": "refund"}


def test_the_page_says_what_and_asks_for_the_name(owner_client, account):
    page = owner_client.get(URL).content.decode()
    assert "Nobody gets the name acme again" in page

    assert owner_client.post(URL, FORM | {"confirm": "acne"}).status_code == 422
    assert not AccountDeletion.objects.exists()
    assert owner_client.post(URL, FORM).status_code == 302
    page = owner_client.get(URL).content.decode()
    assert "Keep the account" in page
    assert "acme will be deleted" in owner_client.get("/profile").content.decode()
    owner_client.post(f"{URL}/cancel")
    assert "acme will be deleted" not in owner_client.get("/profile").content.decode()


def test_the_page_asks_who_sits_there(owner_client, account):
    session = owner_client.session
    session["confirmed_at"] = 0
    session.save()

    answer = owner_client.post(URL, FORM)

    assert answer.status_code == 422
    assert "confirm_password" in answer.content.decode()
    assert not AccountDeletion.objects.exists()


@pytest.mark.parametrize("role", ["admin", "developer", "billing", "viewer"])
def test_only_owners_delete(teammate_client, teammate, account, actor, role):
    account.memberships.filter(user=teammate).update(role=role)

    assert teammate_client.post(URL, FORM).status_code == 403
    ask(account, actor)
    assert teammate_client.post(f"{URL}/cancel").status_code == 403
    account.refresh_from_db()
    assert account.closes_at is not None


def test_strangers_find_no_page(outsider_client, account):
    for url in (URL, f"{URL}/cancel"):
        assert outsider_client.post(url, FORM).status_code == 404
    assert not AccountDeletion.objects.exists()


def test_the_page_shows_what_is_in_the_way(owner_client, account):
    make_dispute(account)

    page = owner_client.get(URL).content.decode()

    assert "A payment is disputed at the bank." in page
    assert "Delete the account in 14 days" not in page
    assert owner_client.post(URL, FORM).status_code == 409


def test_a_platform_admin_stops_it_with_a_reason(admin_client, owner_client, account, actor):
    deletion = ask(account, actor)
    assert "Stop it" in admin_client.get("/platform/accounts/acme").content.decode()
    stop = "/platform/accounts/acme/keep"

    assert owner_client.post(stop, {"reason": "mine"}).status_code == 404
    assert admin_client.post(stop, {"reason": " "}).status_code == 422
    assert admin_client.post(stop, {"reason": "A court asks."}).status_code == 302

    deletion.refresh_from_db()
    assert deletion.state == "canceled"
    mail_notices()
    assert "A court asks." in mail.outbox[-1].body
    assert "admin@example.com" not in mail.outbox[-1].body
    assert admin_client.post(stop, {"reason": "again"}).status_code == 409


# --- a person ---


PERSON = "/profile/delete"


def test_the_only_owner_settles_the_account_first(owner_client, owner, account):
    page = owner_client.get(PERSON).content.decode()
    assert "Nobody else owns the account acme." in page

    assert owner_client.post(PERSON, {"email": owner.email}).status_code == 409
    owner.refresh_from_db()
    assert owner.is_active
    second = UserFactory()
    MembershipFactory(account=account, user=second, role=Membership.Role.OWNER)
    assert owner_client.post(PERSON, {"email": "other@example.com"}).status_code == 422
    assert owner_client.post(PERSON, {"email": owner.email}).status_code == 302

    owner.refresh_from_db()
    assert owner.email.endswith("@deleted.invalid")
    assert account.memberships.get().user == second
    assert owner_client.get("/profile").status_code == 302
    # The address is free for who comes back.
    assert not User.objects.filter(email="owner@example.com").exists()


def test_an_admin_of_the_platform_is_no_person_to_delete(admin_client, platform_admin):
    assert admin_client.post(PERSON, {"email": platform_admin.email}).status_code == 409
    platform_admin.refresh_from_db()
    assert platform_admin.is_active


@pytest.mark.django_db(transaction=True)
def test_of_two_owners_who_leave_at_once_one_stays(account, owner):
    second = UserFactory()
    MembershipFactory(account=account, user=second, role=Membership.Role.OWNER)
    gate, outcomes = threading.Barrier(2), []

    def leave(user: User) -> None:
        gate.wait()
        try:
            erasure.erase_person(user=user)
            outcomes.append("left")
        except DeletionBlockedError:
            outcomes.append("stayed")
        connection.close()

    threads = [threading.Thread(target=leave, args=[user]) for user in (owner, second)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert sorted(outcomes) == ["left", "stayed"]
    assert account.memberships.filter(role="owner").count() == 1


def test_erasing_twice_is_erasing_once(outsider, account):
    Membership.objects.filter(user=outsider).delete()
    erasure.erase_person(user=outsider)
    outsider.refresh_from_db()
    erasure.erase_person(user=outsider)

    assert AuditEvent.objects.filter(action="user.erase").count() == 1
