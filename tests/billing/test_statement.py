"""Statements add up to the nano-dollar, as files too, and are the same bytes each time."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import threading
from contextlib import nullcontext
from datetime import date, timedelta

import pytest
from django.db import connections
from django.test import Client

from billing.errors import StatementDiffersError
from billing.models import LedgerAccount, Transfer
from billing.selectors import statement as statements
from billing.selectors import statement_file
from billing.selectors.earnings import EarnedRow, list_months, sum_earnings
from billing.selectors.statement import Statement, make_statement
from billing.selectors.statement_file import format_exactly, write_csv, write_pdf
from billing.services.payout import start_due_run
from billing.services.release import release_earnings
from marketplace.core.errors import InvalidInputError, NotFoundError
from marketplace.models import AIModel, ModelVersion, User
from tests.billing.conftest import PRICE_NANOS, Shop, balances, hold, settle
from tests.billing.payouts import (
    PART_NANOS,
    Fund,
    at,
    book,
    connect,
    correct,
    pay_and_take_back,
    shift_days,
    today,
)
from tests.factories import MembershipFactory

pytestmark = pytest.mark.django_db


def months(shop: Shop) -> list[Statement]:
    """All statements, oldest first."""
    return [make_statement(shop.creator, one) for one in reversed(list_months(shop.creator))]


def live_through(shop: Shop, fund: Fund) -> None:
    """Three months: earnings, something taken back, releases, and a payout on its way."""
    book(shop, fund, 3)
    shift_days(31)
    correct(shop, -7)
    book(shop, fund, 2)
    shift_days(31)
    connect(shop.creator)
    correct(shop, 30 * 10**9, LedgerAccount.Kind.CREATOR_PAYABLE)
    release_earnings()
    assert start_due_run() is not None
    book(shop, fund)


def test_months_follow_upon_each_other_and_end_in_the_ledger(shop: Shop, fund: Fund) -> None:
    live_through(shop, fund)

    found = months(shop)

    assert len(found) >= 3
    assert found[0].opening_nanos == 0
    for before, after in itertools.pairwise(found):
        assert after.opening == before.closing
    last = found[-1]
    assert last.closing == {
        kind: balances()[kind][0]
        for kind in ("creator_reserve", "creator_payable", "payout_in_flight")
    }
    assert sum(one.earned_nanos for one in found) == 6 * PART_NANOS
    assert sum(one.moved_nanos for one in found) == 30 * 10**9 - 7
    for one in found:
        assert one.opening_nanos + one.earned_nanos + one.moved_nanos == one.closing_nanos


def test_the_lines_of_the_csv_add_up_and_name_model_version_and_day(shop: Shop, fund: Fund) -> None:
    live_through(shop, fund)

    for one in months(shop):
        rows = list(csv.DictReader(io.StringIO(write_csv(one))))
        assert (rows[0]["line"], rows[-1]["line"]) == ("opening", "closing")
        nanos = [int(row["amount_nanos"]) for row in rows]
        assert sum(nanos[:-1]) == nanos[-1] == one.closing_nanos
        for row in rows:
            dollars = row["amount_usd"].replace(".", "")
            assert int(dollars) == int(row["amount_nanos"])
        for row in rows[1:-1]:
            assert row["day"].startswith(f"{one.month:%Y-%m}")
            if row["line"] == "earned":
                assert (row["model"], row["version"]) == ("creator/echo", "1")


def test_what_leaves_and_comes_back_is_a_line_and_what_moves_inside_is_none(
    shop: Shop, fund: Fund
) -> None:
    pay_and_take_back(shop)

    statement = make_statement(shop.creator, today())

    moved = [(one.kind, one.amount_nanos) for one in statement.movements]
    assert moved == [
        ("payout_sent", -30 * 10**9),
        ("adjustment", -7 * 10**7),
        ("clawback", 7 * 10**7),
    ]
    assert statement.closing_nanos == 1
    assert [one.reference for one in statement.movements][::2] == ["tr_1", "trr_1"]


def test_the_same_statement_is_the_same_bytes(shop: Shop, fund: Fund) -> None:
    live_through(shop, fund)
    for one in (make_statement(shop.creator, today()), months(shop)[0]):
        again = make_statement(shop.creator, one.month)
        assert write_pdf(one) == write_pdf(again)
        assert write_csv(one) == write_csv(again)
        assert write_pdf(one).startswith(b"%PDF-")
    assert write_pdf(months(shop)[0]) != write_pdf(months(shop)[-1])


def test_a_long_statement_has_many_pages(shop: Shop, fund: Fund) -> None:
    fund(10**9)
    for number in range(2, 120):
        ModelVersion.objects.create(model=shop.model, number=number, state="approved")
    versions = list(ModelVersion.objects.filter(model=shop.model).values_list("pk", flat=True))
    settle(*(shop.item(hold(shop), version_id=str(one)) for one in versions))

    made = write_pdf(make_statement(shop.creator, today()))

    assert made.count(b"/Type /Page\n") >= 3


def test_a_statement_of_so_many_lines_and_one_more(
    shop: Shop, fund: Fund, monkeypatch: pytest.MonkeyPatch
) -> None:
    book(shop, fund)
    correct(shop, 5)
    statement = make_statement(shop.creator, today())
    monkeypatch.setattr(statement_file, "PDF_LINES_MAX", 2)
    assert write_pdf(statement)

    monkeypatch.setattr(statement_file, "PDF_LINES_MAX", 1)
    with pytest.raises(InvalidInputError, match="CSV"):
        write_pdf(statement)
    assert write_csv(statement)


def test_long_names_and_signs_fit(shop: Shop, fund: Fund) -> None:
    AIModel.objects.filter(pk=shop.model.pk).update(name="a-long-name-" * 5 + "abc")
    book(shop, fund)
    statement = make_statement(shop.creator, today())
    odd = dataclasses.replace(statement.earned[0], model="<b>&amp;" + "x" * 100)

    assert write_pdf(dataclasses.replace(statement, earned=[odd])).startswith(b"%PDF")


def test_what_does_not_add_up_is_no_statement(
    shop: Shop, fund: Fund, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a prediction that the statement passes over is noticed."""
    book(shop, fund, 2)
    monkeypatch.setattr(statements, "sum_earnings", lambda *args: [])

    with pytest.raises(StatementDiffersError):
        make_statement(shop.creator, today())


def test_the_control_sees_nothing_wrong_otherwise(shop: Shop, fund: Fund) -> None:
    book(shop, fund, 2)
    assert make_statement(shop.creator, today()).earned_nanos == 2 * PART_NANOS


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_one", [True, False])
def test_what_is_booked_meanwhile_is_in_no_part(
    transactional_db: None, shop: Shop, fund: Fund, monkeypatch: pytest.MonkeyPatch, is_one: bool
) -> None:
    """Without one snapshot the parts would not fit together."""
    book(shop, fund)
    late = hold(shop)

    def book_elsewhere() -> None:
        settle(shop.item(late))
        connections.close_all()

    def look(*args: object) -> list[EarnedRow]:
        thread = threading.Thread(target=book_elsewhere)
        thread.start()
        thread.join()
        return sum_earnings(*args)

    monkeypatch.setattr(statements, "sum_earnings", look)
    if is_one:
        assert make_statement(shop.creator, today()).earned_nanos == PART_NANOS
    else:
        monkeypatch.setattr(statements, "_one_snapshot", nullcontext)
        with pytest.raises(StatementDiffersError):
            make_statement(shop.creator, today())


def test_a_day_is_the_one_of_the_booking(shop: Shop, fund: Fund) -> None:
    """A prediction that ended before midnight and was booked after it is the new day's."""
    fund(10 * PRICE_NANOS)
    before = at(-1).isoformat()
    settle(shop.item(hold(shop), occurred_at=before))

    assert [row.day for row in sum_earnings(shop.creator, today(), today())] == [f"{today()}"]
    assert sum_earnings(shop.creator, today() - timedelta(days=1), at(-1).date()) == []


def test_earnings_are_summed_by_day_model_and_version(shop: Shop, fund: Fund) -> None:
    other = AIModel.objects.create(account=shop.creator, name="second", title="Second")
    second = ModelVersion.objects.create(model=shop.model, number=2, state="approved")
    assert other.pk
    fund(100 * PRICE_NANOS)
    settle(shop.item(hold(shop)))
    settle(*(shop.item(hold(shop), version_id=str(second.pk)) for _ in range(2)))

    def summed(by: str) -> list[tuple]:
        rows = sum_earnings(shop.creator, today(), today(), by)
        return [(row.day, row.model, row.version, row.predictions) for row in rows]

    day = f"{today()}"
    assert summed("day") == [(day, "creator/echo", 1, 1), (day, "creator/echo", 2, 2)]
    assert summed("model") == [("", "creator/echo", None, 3)]
    assert summed("version") == [("", "creator/echo", 2, 2), ("", "creator/echo", 1, 1)]
    assert sum_earnings(shop.consumer, today(), today()) == []
    assert len(sum_earnings(shop.creator, today(), today(), limit=1)) == 1


def test_test_predictions_earn_nothing(shop: Shop, fund: Fund) -> None:
    book(shop, fund)
    settle(shop.item(hold(shop), mode="test", gross_nanos=0))

    (row,) = sum_earnings(shop.creator, today(), today())
    assert row.predictions == 1


def test_the_future_has_no_statement_and_a_stranger_an_empty_one(shop: Shop) -> None:
    with pytest.raises(NotFoundError):
        make_statement(shop.creator, today() + timedelta(days=40))
    assert make_statement(shop.creator, date(2020, 1, 1)).closing_nanos == 0
    assert list_months(shop.creator) == []


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.000000000"), (-1, "-0.000000001"), (1_500_000_000, "1.500000000")],
)
def test_amounts_are_written_exactly(nanos: int, text: str) -> None:
    assert format_exactly(nanos) == text


def test_the_api_answers_files_to_the_creator_only(
    shop: Shop, fund: Fund, owner: User, outsider_client: Client
) -> None:
    book(shop, fund)
    MembershipFactory(account=shop.creator, user=owner, role="viewer")
    client = Client()
    client.force_login(owner)
    url = f"/api/statements/{today():%Y-%m}"

    made = client.get(f"{url}/csv?account=creator")
    assert (made.status_code, made["Content-Type"]) == (200, "text/csv; charset=utf-8")
    assert "attachment" in made["Content-Disposition"]
    assert client.get(f"{url}/pdf?account=creator").content.startswith(b"%PDF")
    for wrong in (f"{url}/xls", "/api/statements/2026-13/csv", "/api/statements/x/csv"):
        assert client.get(f"{wrong}?account=creator").status_code == 404
    assert outsider_client.get(f"{url}/csv?account=creator").status_code == 404
    assert Transfer.objects.exists()
