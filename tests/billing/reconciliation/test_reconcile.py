"""Our books and Stripe's, compared: what is wrong is found, what is right is left alone."""

from __future__ import annotations

import json
import random
from datetime import timedelta

import pytest
from django.core import mail
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from billing.errors import StripeUnavailableError
from billing.models import ReconcileDifference, ReconcileRun, StripeCustomer, Topup, Transfer
from billing.services import reconcile as service
from billing.services import topup
from billing.services.reconciliation import finding as findings
from billing.services.reconciliation.finding import Fact, pair
from billing.stripe import calls
from marketplace.core.errors import ConflictError, ForbiddenError, InvalidInputError
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account, AuditEvent, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import balances, query
from tests.billing.reconciliation.reconciling import (
    LONG_AGO_S,
    Spoiler,
    buy,
    compare,
    open_and_pay,
    spoil,
)
from tests.inboxes import list_told

pytestmark = pytest.mark.django_db

Explanation = ReconcileDifference.Explanation
State = ReconcileRun.State


def unexplained() -> list[tuple[str, str]]:
    rows = ReconcileDifference.objects.filter(explanation="", resolved_at=None)
    return sorted(rows.values_list("kind", "fault"))


# --- Clean ---


def test_what_agrees_is_counted_and_nothing_else_is_said(fake, account: Account) -> None:
    for cents in (500, 2_500, 100_000):
        buy(fake, account, cents)

    run = compare()

    assert run.unexplained_count == 0
    total = 103_000 * NANOS_PER_CENT
    wanted = {"ours": 3, "ours_nanos": total, "stripe": 3, "stripe_nanos": total, "matched": 3}
    assert run.counts["topup"] == wanted
    assert run.counts["movement"] == wanted


def test_nothing_at_all_is_clean(fake) -> None:
    assert compare().state == State.CLEAN


@pytest.mark.parametrize("seed", range(12))
def test_a_clean_history_raises_no_alarm(fake, account: Account, outsider: User, seed: int) -> None:
    """Pages left open, expired, declined and paid, some noticed late, in any order."""
    dice = random.Random(seed)
    accounts = [account, outsider.accounts.get()]
    for _ in range(dice.randint(1, 6)):
        buyer, cents = dice.choice(accounts), dice.randint(500, 90_000)
        row = topup.start_topup(Actor(), buyer, amount_cents=cents)
        match dice.choice(["paid", "paid", "left", "declined", "bank", "refused"]):
            case "paid":
                fake.order(f"checkout/{row.checkout_session_id}/pay")
            case "declined":
                fake.order(
                    f"checkout/{row.checkout_session_id}/pay", card_number="4000000000000002"
                )
            case "bank":
                fake.order(f"checkout/{row.checkout_session_id}/pay", delayed=True)
                fake.order(f"checkout/{row.checkout_session_id}/settle", succeeds=True)
            case "refused":
                fake.order(f"checkout/{row.checkout_session_id}/pay", delayed=True)
                fake.order(f"checkout/{row.checkout_session_id}/settle", succeeds=False)
        for _ in range(dice.randint(0, 2)):
            topup.settle_topup(row.pk)
    for row in Topup.objects.filter(state=Topup.State.OPEN):
        topup.settle_topup(row.pk)

    run = compare()

    assert run.unexplained_count == 0, list(ReconcileDifference.objects.values())
    for kind in ("topup", "movement"):
        assert run.counts[kind]["ours_nanos"] == run.counts[kind]["stripe_nanos"]


# --- Spoilt ---

ONE_TRANSFER = "(SELECT id FROM billing_transfer ORDER BY created_at LIMIT 1)"
ONE_TOPUP = "(SELECT id FROM billing_topup ORDER BY created_at LIMIT 1)"
OURS = {
    "a booking is gone": f"DELETE FROM billing_transferentry WHERE transfer_id = {ONE_TRANSFER}",
    "a booking has another amount": "UPDATE billing_transferentry SET amount_nanos ="
    f" amount_nanos * 2 WHERE transfer_id = {ONE_TRANSFER}",
    "a booking is a nano-dollar off": "UPDATE billing_transferentry SET amount_nanos ="
    f" amount_nanos + sign(amount_nanos) WHERE transfer_id = {ONE_TRANSFER}",
    "a booking is of another payment": "UPDATE billing_transfer SET idempotency_key ="
    f" 'topup:pi_other' WHERE id = {ONE_TRANSFER}",
    "a booking is of no payment": "UPDATE billing_transfer SET idempotency_key ="
    f" 'gift' WHERE id = {ONE_TRANSFER}",
    "a booking is there twice": "WITH t AS (INSERT INTO billing_transfer SELECT uuidv7(), kind,"
    " idempotency_key || ':2', reference, now(), NULL FROM billing_transfer"
    f" WHERE id = {ONE_TRANSFER} RETURNING id)"
    " INSERT INTO billing_transferentry (transfer_id, ledger_account_id, amount_nanos)"
    " SELECT t.id, e.ledger_account_id, e.amount_nanos FROM t, billing_transferentry e"
    f" WHERE e.transfer_id = {ONE_TRANSFER}",
    "its entry over Stripe is there twice": "INSERT INTO billing_transferentry (transfer_id,"
    " ledger_account_id, amount_nanos) SELECT transfer_id, ledger_account_id, amount_nanos FROM"
    f" billing_transferentry WHERE amount_nanos < 0 AND transfer_id = {ONE_TRANSFER}",
    "it came by another way": "UPDATE billing_transferentry SET ledger_account_id = (SELECT id"
    " FROM billing_ledgeraccount WHERE kind = 'goodwill') WHERE amount_nanos < 0"
    f" AND transfer_id = {ONE_TRANSFER}",
    "money came from nowhere": "WITH t AS (INSERT INTO billing_transfer VALUES (uuidv7(),"
    " 'top_up', 'topup:pi_nowhere', '', now(), NULL) RETURNING id)"
    " INSERT INTO billing_transferentry (transfer_id, ledger_account_id, amount_nanos)"
    " SELECT t.id, a.id, CASE a.kind WHEN 'wallet' THEN 5 ELSE -5 END FROM t,"
    " billing_ledgeraccount a WHERE a.kind IN ('wallet', 'stripe_clearing')",
    "a top-up is gone": f"DELETE FROM billing_topup WHERE id = {ONE_TOPUP}",
    "a top-up has another amount": "UPDATE billing_topup SET amount_cents = amount_cents + 1"
    f" WHERE id = {ONE_TOPUP}",
    "a top-up is of another payment": "UPDATE billing_topup SET payment_intent_id = 'pi_other'"
    f" WHERE id = {ONE_TOPUP}",
    "a top-up is of another account": "UPDATE billing_topup SET account_id = (SELECT id FROM"
    f" marketplace_account WHERE slug = 'elsewhere') WHERE id = {ONE_TOPUP}",
    "a top-up expired after all": "UPDATE billing_topup SET state = 'expired'"
    f" WHERE id = {ONE_TOPUP}",
    "a top-up was never paid": "INSERT INTO billing_topup SELECT (t).* FROM (SELECT"
    " jsonb_populate_record(b, jsonb_build_object('id', uuidv7(), 'payment_intent_id', 'pi_x',"
    " 'checkout_session_id', 'cs_x', 'charge_id', NULL)) AS t FROM billing_topup b"
    f" WHERE b.id = {ONE_TOPUP}) x",
}


@pytest.mark.parametrize("harm", OURS)
def test_what_is_spoilt_here_is_found(fake, account: Account, outsider: User, harm: str) -> None:
    for cents in (500, 700):
        buy(fake, account, cents)
    query("SELECT billing_account(NULL, 'goodwill')")
    assert compare().unexplained_count == 0

    spoil(OURS[harm])
    run = compare()

    assert run.state == State.UNEXPLAINED, unexplained()
    assert unexplained()


THEIRS = {
    "a payment is gone": lambda one: one.delete("payment_intent"),
    "a payment has another amount": lambda one: one.alter(
        "payment_intent", lambda body: body.update(amount_received=body["amount_received"] + 1)
    ),
    "a payment is of another customer": lambda one: one.alter(
        "payment_intent", lambda body: body.update(customer="cus_other")
    ),
    "a payment names another top-up": lambda one: one.alter(
        "payment_intent", lambda body: body["metadata"].update(topup_id="x")
    ),
    "a payment names none": lambda one: one.alter(
        "payment_intent", lambda body: body.update(metadata={})
    ),
    "a payment failed after all": lambda one: one.alter(
        "payment_intent", lambda body: body.update(status="canceled")
    ),
    "a payment is in other money": lambda one: one.alter(
        "payment_intent", lambda body: body.update(currency="eur")
    ),
    "a payment is there twice": lambda one: one.duplicate("payment_intent"),
    "a charge is gone": lambda one: one.delete("charge"),
    "a charge is of another payment": lambda one: one.alter(
        "charge", lambda body: body.update(payment_intent="pi_other")
    ),
    "a movement is gone": lambda one: one.delete("balance_transaction"),
    "a movement has another amount": lambda one: one.alter(
        "balance_transaction", lambda body: body.update(amount=body["amount"] - 1)
    ),
    "a movement went out": lambda one: one.alter(
        "balance_transaction", lambda body: body.update(amount=-body["amount"])
    ),
    "a movement is of something else": lambda one: one.alter(
        "balance_transaction", lambda body: body.update(source="ch_other")
    ),
    "a movement is in other money": lambda one: one.alter(
        "balance_transaction", lambda body: body.update(currency="eur")
    ),
    "a movement is there twice": lambda one: one.duplicate("balance_transaction"),
}


@pytest.mark.parametrize("harm", THEIRS)
def test_what_is_spoilt_at_stripe_is_found(fake, account: Account, harm: str) -> None:
    for cents in (500, 700):
        buy(fake, account, cents)
    assert compare().unexplained_count == 0

    THEIRS[harm](Spoiler(fake))
    run = compare()

    assert run.state == State.UNEXPLAINED
    assert unexplained()


# --- Explained, and repaired ---


def test_what_is_on_its_way_is_no_alarm(fake, account: Account) -> None:
    fake.order("clock", offset_s=0)
    open_and_pay(fake, account)

    run = compare(until=timezone.now())

    assert run.unexplained_count == 0
    kinds = dict(ReconcileDifference.objects.values_list("kind", "explanation"))
    assert kinds["topup"] == kinds["movement"] == Explanation.IN_FLIGHT


def test_without_any_webhook_payments_are_found_and_credited(fake, account: Account) -> None:
    rows = [open_and_pay(fake, account, cents) for cents in (500, 900)]

    run = compare()

    assert (run.state, run.unexplained_count) == (State.EXPLAINED, 0)
    found = ReconcileDifference.objects.filter(kind="topup")
    assert {one.explanation for one in found} == {Explanation.NOT_YET_APPLIED}
    assert not Transfer.objects.exists()

    run = compare(is_repairing=True)

    assert run.repaired_count == len(rows)
    assert balances()["wallet"] == (1_400 * NANOS_PER_CENT, 0)
    assert not found.filter(resolved_at=None).exists()


def restore(moment) -> None:
    """Everything of ours since a moment is gone, as after a restore."""
    spoil(
        """WITH t AS (DELETE FROM billing_transfer WHERE created_at > %s RETURNING id),
           e AS (DELETE FROM billing_transferentry USING billing_transfer t
                 WHERE t.id = transfer_id AND t.created_at > %s
                 RETURNING ledger_account_id, amount_nanos)
           UPDATE billing_ledgeraccount a SET posted_nanos = a.posted_nanos - d.nanos
           FROM (SELECT ledger_account_id, sum(amount_nanos) AS nanos FROM e GROUP BY 1) d
           WHERE a.id = d.ledger_account_id""",
        moment,
        moment,
    )
    for table, column in (
        ("billing_topup", "created_at"),
        ("billing_stripecall", "first_sent_at"),
        ("marketplace_auditevent", "at"),
    ):
        spoil(f"DELETE FROM {table} WHERE {column} > %s", moment)


def test_a_database_that_was_put_back_is_understood_and_repaired(fake, account: Account) -> None:
    buy(fake, account, 500)
    moment = timezone.now()
    lost = [buy(fake, account, cents) for cents in (700, 900)]
    restore(moment)
    assert balances()["wallet"] == (500 * NANOS_PER_CENT, 0)

    run = compare()

    assert (run.state, run.unexplained_count) == (State.EXPLAINED, 0), unexplained()
    found = ReconcileDifference.objects.filter(explanation=Explanation.RESTORED_DATABASE)
    for kind in ("topup", "movement"):
        assert found.filter(kind=kind).count() == len(lost)

    run = compare(is_repairing=True)

    assert run.repaired_count == len(lost)
    assert balances()["wallet"] == (2_100 * NANOS_PER_CENT, 0)
    assert not found.filter(resolved_at=None).exists()
    assert {row.pk for row in lost} <= set(Topup.objects.values_list("pk", flat=True))
    # Nobody is credited twice by doing it again.
    compare(is_repairing=True)
    assert balances()["wallet"] == (2_100 * NANOS_PER_CENT, 0)


@pytest.mark.parametrize("trace", ["billing_stripecall", "marketplace_auditevent"])
def test_what_was_removed_is_no_restore(fake, account: Account, trace: str) -> None:
    """Whoever takes a payment out of the books leaves a trace that a restore does not."""
    moment = timezone.now()
    buy(fake, account)
    kept = query(f"SELECT count(*) FROM {trace}")[0][0]
    assert kept
    others = {"billing_stripecall": "first_sent_at", "marketplace_auditevent": "at"}
    spoil("DELETE FROM billing_transferentry")
    spoil("DELETE FROM billing_transfer")
    spoil("DELETE FROM billing_topup")
    for table, column in others.items():
        if table != trace:
            spoil(f"DELETE FROM {table} WHERE {column} > %s", moment)

    run = compare()

    assert run.state == State.UNEXPLAINED
    assert ("topup", "missing_here") in unexplained()
    assert compare(is_repairing=True).repaired_count == 0


def test_of_a_customer_whom_nobody_knows_nothing_is_written(fake, account: Account) -> None:
    moment = timezone.now()
    buy(fake, account)
    restore(moment)
    StripeCustomer.objects.all().delete()

    run = compare(is_repairing=True)

    assert run.repaired_count == 0
    assert not Topup.objects.exists()


def test_money_of_the_platforms_own_bank_is_explained(fake, account: Account) -> None:
    buy(fake, account, 90_000)
    fake.order("balance/move", amount=-1_000)

    run = compare()

    assert run.unexplained_count == 0
    assert ReconcileDifference.objects.filter(explanation=Explanation.BANK).count() == 1


# --- Runs ---


def test_a_difference_is_one_row_until_it_is_gone(fake, account: Account) -> None:
    buy(fake, account)
    spoil("UPDATE billing_topup SET amount_cents = amount_cents + 1")
    first = compare()
    row = ReconcileDifference.objects.get(kind="topup")

    second = compare()

    row.refresh_from_db()
    assert ReconcileDifference.objects.filter(kind="topup").count() == 1
    assert (row.first_run, row.last_run) == (first, second)

    spoil("UPDATE billing_topup SET amount_cents = amount_cents - 1")
    compare()

    row.refresh_from_db()
    assert row.resolved_at is not None


def test_a_run_goes_back_to_what_is_open(fake, account: Account) -> None:
    run = compare()
    ReconcileDifference.objects.create(
        kind="topup",
        fault="amount",
        our_id="x",
        happened_at=timezone.now() - timedelta(days=20),
        first_run=run,
        last_run=run,
    )

    later = compare()

    assert later.since < timezone.now() - timedelta(days=20)
    assert not ReconcileDifference.objects.filter(resolved_at=None).exists()


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (timedelta(0), timedelta(0)),
        (timedelta(days=1), timedelta(days=2)),
        (timedelta(days=1), -timedelta(hours=1)),
        (service.PERIOD_MAX + timedelta(hours=1), timedelta(0)),
    ],
)
def test_a_period_that_is_none_is_refused(fake, since: timedelta, until: timedelta) -> None:
    now = timezone.now()

    with pytest.raises(InvalidInputError):
        compare(since=now - since, until=now - until)
    assert not ReconcileRun.objects.exists()


def test_the_longest_period_is_compared(fake) -> None:
    now = timezone.now()

    assert compare(since=now - service.PERIOD_MAX, until=now).state == State.CLEAN


def test_lists_that_are_too_long_are_read_in_parts(
    fake, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        fake.order("clock", offset_s=-LONG_AGO_S + 40 * number)
        buy(fake, account)
    monkeypatch.setattr(calls, "LIST_SIZE_MAX", 2)

    run = compare()

    assert run.unexplained_count == 0
    assert run.counts["movement"]["matched"] == 7


def test_without_an_answer_of_stripe_nothing_is_said(fake, account: Account) -> None:
    buy(fake, account)
    spoil("UPDATE billing_topup SET amount_cents = amount_cents + 1")
    compare()
    fake.kill()
    try:
        with pytest.raises(StripeUnavailableError):
            compare()
        assert service.reconcile_nightly() is None
    finally:
        fake.start()

    assert ReconcileRun.objects.filter(state=State.FAILED).count() == 2
    # What is open stays open.
    assert ReconcileDifference.objects.filter(kind="topup", resolved_at=None).exists()


def test_at_night_the_admins_hear_of_what_is_unexplained_once(
    fake, account: Account, platform_admin: User
) -> None:
    buy(fake, account)
    assert service.reconcile_nightly() is not None
    assert not mail.outbox

    spoil("UPDATE billing_topup SET amount_cents = amount_cents + 1")
    # Once a night.
    assert service.reconcile_nightly() is None
    ReconcileRun.objects.update(started_at=timezone.now() - timedelta(days=1))
    assert service.reconcile_nightly() is not None

    assert [message.to for message in mail.outbox] == [[platform_admin.email]]
    assert "1 unexplained difference" in mail.outbox[0].subject
    [(address, title)] = list_told("platform")
    assert (address, "unexplained" in title) == (platform_admin.email, True)
    service.mail_runs()
    assert len(mail.outbox) == 1


# --- The command ---


def run_command(*arguments: str) -> int:
    try:
        call_command("reconcile", *arguments)
    except SystemExit as error:
        return int(str(error.code))
    return 0


def test_the_command_says_it_by_its_exit_code(
    fake, account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    row = open_and_pay(fake, account)

    assert run_command() == 0
    assert "not_yet_applied" in capsys.readouterr().out
    assert run_command("--repair") == 0
    assert "repaired   1" in capsys.readouterr().out

    spoil("UPDATE billing_topup SET amount_cents = amount_cents + 1")
    assert run_command("--json") == 1
    told = json.loads(capsys.readouterr().out)
    (difference,) = [one for one in told["differences"] if not one["explanation"]]
    assert (difference["our_id"], difference["fault"]) == (str(row.pk), "amount")
    assert difference["gap_nanos"] == -NANOS_PER_CENT

    assert run_command("--explain", difference["id"]) == 0
    assert "UNEXPLAINED" in capsys.readouterr().out

    fake.kill()
    try:
        assert run_command() == 2
    finally:
        fake.start()


@pytest.mark.parametrize(
    "arguments", [["--since", "yesterday"], ["--until", "2026-13-01"], ["--explain", "x"]]
)
def test_the_command_refuses_what_it_cannot_read(fake, arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("reconcile", *arguments)


def test_the_command_takes_days(fake, account: Account) -> None:
    day = timezone.now().date()

    assert run_command("--since", f"{day - timedelta(days=2)}", "--until", f"{day}") == 0
    assert ReconcileRun.objects.get().until.hour == 0


# --- A person's word ---


@pytest.fixture
def difference(db: None) -> ReconcileDifference:
    now = timezone.now()
    run = ReconcileRun.objects.create(since=now - timedelta(days=1), until=now)
    return ReconcileDifference.objects.create(
        kind="movement",
        fault="missing_here",
        stripe_id="txn_1",
        stripe_nanos=100 * 10**9,
        happened_at=now,
        first_run=run,
        last_run=run,
    )


def grow(difference: ReconcileDifference) -> None:
    difference.stripe_nanos = (difference.stripe_nanos or 0) + 1
    difference.save()


def test_a_small_difference_is_explained_by_one(difference, admin: Actor) -> None:
    row = service.mark_explained(admin, difference.pk, reason="A test charge of mine.")

    assert row.explanation == Explanation.BY_HAND
    assert AuditEvent.objects.get().action == "difference.mark"


def test_a_large_one_by_two(difference, admin: Actor, second: Actor) -> None:
    grow(difference)

    row = service.mark_explained(admin, difference.pk, reason="A test charge of mine.")
    assert (row.explanation, row.is_marked) == (Explanation.NONE, True)
    with pytest.raises(ForbiddenError):
        service.approve_mark(admin, difference.pk)
    with pytest.raises(ConflictError):
        service.mark_explained(second, difference.pk, reason="Mine.")

    assert service.approve_mark(second, difference.pk).explanation == Explanation.BY_HAND
    with pytest.raises(ConflictError):
        service.approve_mark(second, difference.pk)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_reconciledifference SET explanation = 'by_hand'",
        "UPDATE billing_reconciledifference SET mark_approved_by_id = marked_by_id",
        "UPDATE billing_reconciledifference SET explanation = 'by_hand', marked_by_id = NULL",
    ],
)
def test_the_database_wants_the_second_person_too(difference, admin: Actor, statement: str) -> None:
    grow(difference)
    service.mark_explained(admin, difference.pk, reason="A test charge of mine.")

    with pytest.raises(DatabaseError), transaction.atomic():
        query(f"{statement} RETURNING 1")


def test_a_word_can_be_taken_back(difference, admin: Actor, second: Actor) -> None:
    service.mark_explained(admin, difference.pk, reason="A test charge of mine.")

    row = service.withdraw_mark(second, difference.pk)

    assert (row.explanation, row.marked_by) == (Explanation.NONE, None)
    with pytest.raises(ConflictError):
        service.withdraw_mark(second, difference.pk)


def test_only_admins_have_a_word(difference, owner: User) -> None:
    for call in (
        lambda: service.mark_explained(Actor(user=owner), difference.pk, reason="Mine."),
        lambda: service.approve_mark(Actor(user=owner), difference.pk),
        lambda: service.withdraw_mark(Actor(user=owner), difference.pk),
    ):
        with pytest.raises(ForbiddenError):
            call()


@pytest.mark.parametrize("reason", ["", " ", "x" * 2_001])
def test_a_word_has_a_reason(difference, admin: Actor, reason: str) -> None:
    with pytest.raises(InvalidInputError):
        service.mark_explained(admin, difference.pk, reason=reason)


def test_a_word_holds_while_the_amounts_do(fake, account: Account, admin: Actor) -> None:
    buy(fake, account)
    spoil("UPDATE billing_topup SET amount_cents = amount_cents + 1")
    assert compare().unexplained_count == 1
    row = ReconcileDifference.objects.get(kind="topup")
    service.mark_explained(admin, row.pk, reason="Known.")

    assert compare().unexplained_count == 0

    spoil("UPDATE billing_topup SET amount_cents = amount_cents + 1")
    assert compare().unexplained_count == 1


# --- The pairing, alone ---


def fact(key: str, nanos: int, name: str) -> Fact:
    return Fact(key, name, nanos, timezone.now())


def test_sums_are_compared_where_things_go_back_and_forth() -> None:
    ours = [fact("dp_1", -5, "a"), fact("dp_1", 5, "b")]

    assert pair(findings.Kind.MOVEMENT, ours, [], summed=["dp_1"]).findings == []
    assert len(pair(findings.Kind.MOVEMENT, ours[:1], [], summed=["dp_1"]).findings) == 1


@pytest.mark.parametrize("seed", range(200))
def test_every_change_of_one_fact_is_found(seed: int) -> None:
    dice = random.Random(seed)
    sides = [
        [fact(f"k{n}", dice.choice([-1, 1]) * dice.randint(1, 9), f"{side}{n}") for n in range(5)]
        for side in ("our", "their")
    ]
    sides[1] = [
        fact(one.key, mine.amount_nanos, one.id)
        for mine, one in zip(sides[0], sides[1], strict=True)
    ]
    dice.shuffle(sides[0])
    assert pair(findings.Kind.MOVEMENT, *sides).findings == []

    side, place = dice.choice(sides), dice.randrange(5)
    match dice.choice(["delete", "alter", "copy", "rename"]):
        case "delete":
            del side[place]
        case "alter":
            side[place] = fact(side[place].key, side[place].amount_nanos + 1, side[place].id)
        case "copy":
            side.append(fact(side[place].key, side[place].amount_nanos, "copy"))
        case "rename":
            side[place] = fact("other", side[place].amount_nanos, side[place].id)

    assert pair(findings.Kind.MOVEMENT, *sides).findings
