"""The document of an invoice proves it to the nano-dollar, and nothing else passes for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from django.test import Client

from billing.models import Invoice, MeterReport
from billing.selectors import invoice as selectors
from billing.selectors.meter import HOUR, read_clock
from billing.selectors.receipt import describe_published, fetch_rows, list_batches
from billing.services import invoice as service
from billing.services import meter
from billing.services.postpaid import set_credit
from marketplace.core.receipt import RECEIPT_SQL, assemble
from marketplace.models import Account, Membership, User
from strongroom import receipts
from strongroom.cli import main
from strongroom.invoices import InvoiceVerifier
from strongroom.receipts import ReceiptError
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.billing.conftest import PRICE_NANOS, Shop
from tests.billing.metered_stripe import MeteredStripe
from tests.billing.postpaid import (
    age,
    agree,
    begin_earlier,
    buy,
    install,
    reopen_last_hour,
    this_hour,
)
from tests.billing.sealing import seal_all

pytestmark = pytest.mark.django_db(transaction=True)
KEY = signature.generate_signing_key()
PUBLIC_KEY = signature.derive_public_key(KEY)
Members = list[dict[str, Any]]


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@pytest.fixture
def invoice(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, platform_admin: User, settings: Any
) -> Invoice:
    """Of three hours with 3, 2 and 1 predictions, in several batches of receipts."""
    settings.RECEIPT_KEY = encode_base64(KEY)
    stripe = MeteredStripe(now=read_clock())
    install(monkeypatch, stripe)
    begin_earlier(agree(shop, platform_admin), stripe, 6)
    for count in (3, 2, 1):
        buy(shop, count)
        age(1)
        seal_all()
    meter.seal_hours(wait=timedelta(0))
    meter.send_reports()
    invoice_id = stripe.end_period("sub_1", this_hour())
    stripe.finalize(invoice_id, read_clock())
    found = service.mirror_invoice(invoice_id)
    assert found is not None
    return found


@pytest.fixture
def members(invoice: Invoice) -> Members:
    return json.loads(json.dumps(list(selectors.stream_document(invoice))))


def verify(members: Members, **options: Any) -> Any:
    return InvoiceVerifier([PUBLIC_KEY], **options).verify(members)


def refusal(members: Members, **options: Any) -> str:
    with pytest.raises(ReceiptError) as caught:
        verify(members, **options)
    return caught.value.code


def of_type(members: Members, kind: str) -> Members:
    return [one for one in members if one["type"] == kind]


def log_in(account: Account) -> Client:
    user = User.objects.create_user("reader@x.example", "a good long password")
    Membership.objects.create(account=account, user=user, role="viewer")
    client = Client()
    client.force_login(user)
    return client


# --- What passes ---


def test_an_invoice_is_recomputed_from_receipts_alone(invoice, members, shop):
    found = verify(members, consumer_id=str(shop.consumer.pk))

    assert (found.predictions, found.reports) == (6, 3)
    assert found.usage_nanos == 6 * PRICE_NANOS
    assert (found.billed_micro, found.subtotal_cents) == (6, 0)
    assert found.rounding_nanos == -6_000


def test_it_is_in_the_published_chain(invoice, members):
    published = [describe_published(one) for one in list_batches(after=0)]
    hashes = receipts.verify_batches(published, [PUBLIC_KEY])

    assert len(hashes) == 3
    verify(members, hashes=hashes)
    assert refusal(members, hashes={1: hashes[1]}) == "batch_unknown"


def test_the_api_answers_the_same_line_by_line(invoice, members, shop):
    answer = log_in(shop.consumer).get(f"/api/invoices/{invoice.pk}/document")

    assert (answer.status_code, answer["Content-Type"]) == (200, "application/x-ndjson")
    lines = b"".join(answer.streaming_content).splitlines()
    assert [json.loads(line) for line in lines] == members


def test_the_chain_of_paths_is_that_of_single_receipts(invoice, members):
    for count in range(1, 12):
        leaves = [bytes([index]) * 32 for index in range(count)]
        single = [receipts.list_path(leaves, index) for index in range(count)]
        assert receipts.list_paths(leaves) == single


# --- What does not ---


def change(member: dict[str, Any], **values: Any) -> None:
    member.update(values)


def drop_receipt(members: Members) -> None:
    members.remove(of_type(members, "receipt")[1])


def double_receipt(members: Members) -> None:
    members.append(of_type(members, "receipt")[-1])


def double_receipt_for_another(members: Members) -> None:
    first, second = of_type(members, "receipt")[:2]
    members[members.index(second)] = first


def drop_report(members: Members) -> None:
    """The one in the middle, with its receipts."""
    begin, end = (members.index(one) for one in of_type(members, "report")[1:])
    del members[begin:end]


def drop_last_report(members: Members) -> None:
    del members[members.index(of_type(members, "report")[-1]) :]


def double_report(members: Members) -> None:
    begin = members.index(of_type(members, "report")[-1])
    members.extend(members[begin:])


def add_nano(members: Members) -> None:
    change(of_type(members, "receipt")[0]["charge"], gross_nanos=PRICE_NANOS + 1)


def add_nano_with_rate(members: Members) -> None:
    """So that the receipt adds up in itself."""
    charge = of_type(members, "receipt")[0]["charge"]
    change(
        charge,
        gross_nanos=PRICE_NANOS + 1,
        rates_nanos={"prediction": PRICE_NANOS + 1},
        creator_nanos=(PRICE_NANOS + 1) * 8 // 10,
    )


def add_nano_to_report(members: Members) -> None:
    last = of_type(members, "report")[-1]
    change(last, usage_nanos=last["usage_nanos"] + 1, total_nanos=last["total_nanos"] + 1)


def add_micro_to_report(members: Members) -> None:
    last = of_type(members, "report")[-1]
    change(last, value_micro=last["value_micro"] + 1)


def add_two_cents(members: Members) -> None:
    change(members[0], subtotal_cents=2, total_cents=2)


def add_tax_to_the_total_only(members: Members) -> None:
    change(members[0], total_cents=1)


def move_report(members: Members) -> None:
    change(of_type(members, "report")[0], counted_at="2020-01-01T00:00:00.000000Z")


def name_another_account(members: Members) -> None:
    change(members[0], account_id="00000000-0000-0000-0000-000000000000")


def sign_otherwise(members: Members) -> None:
    change(of_type(members, "receipt")[0], signature=encode_base64(bytes(64)))


def forget_the_header(members: Members) -> None:
    del members[0]


def add_something_else(members: Members) -> None:
    members.append({"type": "discount", "cents": 1})


def make_an_amount_a_fraction(members: Members) -> None:
    change(members[0], subtotal_cents=0.5)


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (drop_receipt, "receipt_missing"),
        (double_receipt, "receipt_doubled"),
        (double_receipt_for_another, "receipt_doubled"),
        (drop_report, "report_missing"),
        (drop_last_report, "report_missing"),
        (double_report, "report_doubled"),
        (add_nano, "wrong_sum"),
        (add_nano_with_rate, "not_in_batch"),
        (add_nano_to_report, "report_differs"),
        (add_micro_to_report, "value_differs"),
        (add_two_cents, "invoice_differs"),
        (add_tax_to_the_total_only, "invoice_differs"),
        (move_report, "report_outside"),
        (name_another_account, "other_consumer"),
        (sign_otherwise, "signature_invalid"),
        (forget_the_header, "not_an_invoice"),
        (add_something_else, "not_an_invoice"),
        (make_an_amount_a_fraction, "not_an_invoice"),
    ],
)
def test_each_harm_has_its_code(members: Members, harm: Callable[[Members], None], code: str):
    verify(members)

    harm(members)

    assert refusal(members) == code


def test_a_receipt_of_another_account_is_refused(invoice, members, shop):
    """A true receipt, of somebody else's prediction of the same price."""
    shop.consumer = Account.objects.create(slug="other", name="Other")
    set_credit(shop.consumer.pk, 10**9)
    (prediction_id,) = buy(shop)
    seal_all()
    [row] = fetch_rows(RECEIPT_SQL, {"id": prediction_id})
    foreign = {"type": "receipt", **assemble(row, platform="x")}
    receipts.verify(foreign, [PUBLIC_KEY])

    members[members.index(of_type(members, "receipt")[0])] = foreign

    assert refusal(members) == "other_consumer"


def test_a_prediction_in_two_invoices_is_refused(members):
    verifier = InvoiceVerifier([PUBLIC_KEY])
    verifier.verify(members)

    with pytest.raises(ReceiptError) as caught:
        verifier.verify(members)

    assert caught.value.code == "receipt_doubled"


def test_another_accounts_invoice_and_another_key_are_refused(members):
    assert refusal(members, consumer_id="somebody") == "other_consumer"
    with pytest.raises(ReceiptError) as caught:
        InvoiceVerifier([bytes(32)]).verify(members)
    assert caught.value.code == "signature_invalid"


@pytest.mark.parametrize(("offset", "agrees"), [(0, True), (1, False)])
def test_a_cent_of_rounding_and_a_millionth_past_it(members, offset, agrees):
    # Six millionths were used: an invoice of one cent is 9,994 off, with one line.
    change(members[0], subtotal_cents=1 + offset, total_cents=1 + offset)

    assert (refusal(members) == "invoice_differs") if not agrees else verify(members)


# --- Limits ---


def test_a_draft_has_no_document(invoice, shop):
    Invoice.objects.update(state="draft", booked_at=None)

    answer = log_in(shop.consumer).get(f"/api/invoices/{invoice.pk}/document")

    assert (answer.status_code, answer.json()["code"]) == (409, "invoice_not_final")


def test_as_many_predictions_as_a_document_holds_and_one_past_it(invoice, shop, monkeypatch):
    client = log_in(shop.consumer)
    monkeypatch.setattr(selectors, "PREDICTIONS_MAX", 6)
    assert client.get(f"/api/invoices/{invoice.pk}/document").status_code == 200
    monkeypatch.setattr(selectors, "PREDICTIONS_MAX", 5)

    answer = client.get(f"/api/invoices/{invoice.pk}/document")

    assert (answer.status_code, answer.json()["code"]) == (409, "invoice_too_large")


def test_what_is_not_sealed_yet_is_waited_for(invoice, shop):
    buy(shop)
    age(1)
    reopen_last_hour()
    meter.seal_hours(wait=timedelta(0))
    MeterReport.objects.filter(state="new").update(
        state="ok", counted_at=this_hour() - timedelta(seconds=1)
    )

    answer = log_in(shop.consumer).get(f"/api/invoices/{invoice.pk}/document")

    assert (answer.status_code, answer.json()["code"]) == (409, "receipt_pending")


# --- The command ---


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["verify-invoice", *arguments])


def write(path: Path, members: Members) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in members))
    return str(path)


def test_the_command_says_what_it_found(members, tmp_path):
    file = write(tmp_path / "one.jsonl", members)

    answer = run(file, "--receipt-key", encode_base64(PUBLIC_KEY), "--json")

    assert answer.exit_code == 0, answer.output
    (found,) = json.loads(answer.stdout)["invoices"]
    assert (found["predictions"], found["usage_nanos"]) == (6, 6 * PRICE_NANOS)
    told = run(file, "--receipt-key", encode_base64(PUBLIC_KEY))
    assert "Right: invoice SR-in_1 is $0.00" in told.output
    assert "$0.000006006" in told.output


def test_the_command_names_the_file_and_the_fault(members, tmp_path):
    good = write(tmp_path / "good.jsonl", members)
    drop_receipt(members)
    bad = write(tmp_path / "bad.jsonl", members)

    answer = run(bad, good, "--receipt-key", encode_base64(PUBLIC_KEY))

    assert answer.exit_code == 1
    assert "receipt_missing" in answer.output
    assert "bad.jsonl" in answer.output


@pytest.mark.parametrize("text", ["", "x", "[]\n", "{", '{"type": "invoice"'])
def test_the_command_refuses_what_is_no_document(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_text(text)

    answer = run(str(path), "--receipt-key", encode_base64(PUBLIC_KEY))

    assert answer.exit_code == 1
    assert "not_an_invoice" in answer.output


def test_a_file_that_broke_off_is_refused(members, tmp_path):
    path = Path(write(tmp_path / "x.jsonl", members))
    path.write_bytes(path.read_bytes()[:-50])

    answer = run(str(path), "--receipt-key", encode_base64(PUBLIC_KEY))

    assert (answer.exit_code, "not_an_invoice" in answer.output) == (1, True)


def test_hours_are_of_the_database(invoice, members):
    hours = [one["hour"] for one in of_type(members, "report")]
    assert hours == sorted(hours)
    assert hours[-1].startswith(f"{this_hour() - HOUR:%Y-%m-%dT%H}:00")
