"""The shop of `bench.million`: who sells and buys there, and how all of it is settled up."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from bench.million import WIDTH, Figures
from billing.models import (
    Invoice,
    PostpaidTerms,
    Price,
    ReceiptBatch,
    ReceiptKey,
    StripeCustomer,
    UsageEvent,
)
from billing.selectors import invoice as documents
from billing.selectors.meter import read_clock
from billing.selectors.receipt import describe_published
from billing.services import invoice as invoices
from billing.services import ledger, postpaid, topup
from billing.services.meter import seal_hours, send_reports
from billing.services.receipt import seal_receipts
from billing.services.stripe_client import get_stripe
from embedded import postgres
from inference.models import Node, Replica
from marketplace.core.ids import new_id
from marketplace.models import Account, Membership
from marketplace.selectors.access import Actor
from strongroom.interface import Interface
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests import servers
from tests.billing.postpaid import age
from tests.billing.stripe_client.test_payments import save_card
from tests.factories import (
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    ModelVersionFactory,
    UserFactory,
)
from tests.fakestripe.process import FakeStripeProcess
from tests.gateway.processes import GatewayProcess, ToyTriton

PRICE_NANOS = 10_001  # Odd, so that shares do not divide evenly.
TOPUP_CENTS = 10_000
LIMIT_NANOS = 100_000_000_000
CARD = "4242424242424242"
BATCH = 64
INTERFACE = {
    "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [WIDTH]}],
    "outputs": [{"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [WIDTH]}],
    "batch": {"max_size": BATCH},
}
HOUR_S = 3_600


class Market:
    """A model on sale behind a gateway, consumers, and Stripe's stand-in.

    Args:
        stack: Stops what is started here.
        folder: For what they write.
        provided: Ports and passwords.
        stripe: The stand-in.
        consumers: How many; the first is on credit.
    """

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        provided: servers.Servers,
        stripe: FakeStripeProcess,
        *,
        consumers: int,
    ) -> None:
        self.folder, self.stripe = folder, stripe
        settings.RECEIPT_KEY = encode_base64(signature.generate_signing_key())
        settings.STRIPE_TAX = False
        call_command("migrate", verbosity=0)
        call_command("grant_roles", verbosity=0)
        self.admin = UserFactory(email="admin@example.com", is_staff=True, is_superuser=True)
        replica_id = new_id()
        triton = ToyTriton(folder / "triton", Interface.parse(INTERFACE), [])
        stack.callback(triton.stop)
        triton.load(
            Interface.parse(INTERFACE),
            replica_id,
            model_source=Path(__file__).with_name("instant_model.py"),
        )
        self._sell(replica_id, triton.config.http_url, triton.config.grpc_url)
        self.accounts = [AccountFactory(slug=f"buyer-{number}") for number in range(consumers)]
        self.keys = [APIKeyFactory(account=one).text for one in self.accounts]
        for account in self.accounts[1:]:
            self._buy_credit(account)
        self.terms = self._agree(self.accounts[0])
        self.gateway = GatewayProcess(folder, provided.database_url(postgres.GATEWAY))
        stack.callback(self.gateway.stop)

    @property
    def port(self) -> int:
        """Where the gateway listens."""
        return self.gateway.port

    def _sell(self, replica_id: object, http_url: str, grpc_url: str) -> None:
        model = AIModelFactory(account=AccountFactory(slug="maker"), name="negate")
        version = ModelVersionFactory(
            model=model, number=1, interface=INTERFACE, manifest_sha256="ab" * 32
        )
        ChannelFactory(version=version)
        Price.objects.create(
            model=model,
            nanos_per_prediction=PRICE_NANOS,
            creator_share_bps=8_000,
            valid_from=timezone.now(),
        )
        node = Node.objects.create(
            name="node-1",
            public_key="node-1",
            token_digest=bytes(32),
            triton_http_url=http_url,
            triton_grpc_url=grpc_url,
            triton_ready=True,
            last_seen_at=timezone.now() + timedelta(days=1),
        )
        Replica.objects.create(
            id=replica_id,
            version=version,
            node=node,
            purpose=Replica.Purpose.SERVE,
            state=Replica.State.READY,
        )

    def _buy_credit(self, account: Account) -> None:
        """By card, as a person does on the page."""
        user = UserFactory(email=f"{account.slug}@example.com")
        Membership.objects.create(account=account, user=user, role="owner")
        row = topup.start_topup(Actor(user=user), account, amount_cents=TOPUP_CENTS)
        self.stripe.order(f"checkout/{row.checkout_session_id}/pay", card_number=CARD)
        assert topup.settle_topup(row.pk).state == "credited"

    def _agree(self, account: Account) -> PostpaidTerms:
        """Credit that was agreed a few hours ago, by both clocks."""
        user = UserFactory(email=f"{account.slug}@example.com")
        Membership.objects.create(account=account, user=user, role="owner")
        self.stripe.order("clock", offset_s=-6 * HOUR_S)
        terms = postpaid.apply_for_terms(Actor(), account, wanted_limit_nanos=LIMIT_NANOS)
        terms = postpaid.approve_terms(
            Actor(user=self.admin), terms, limit_nanos=LIMIT_NANOS, due_days=14, reason="Bench."
        )
        self.stripe.order("clock", offset_s=0)
        moment = read_clock() - timedelta(hours=5)
        PostpaidTerms.objects.filter(pk=terms.pk).update(activated_at=moment)
        terms.refresh_from_db()
        assert terms.state == "active"
        return terms

    # --- Settling up

    def settle_up(self, figures: Figures) -> None:
        """Seal, report, invoice and pay; then check all of it."""
        self._wait_idle()
        figures.booked = UsageEvent.objects.count()
        figures.is_clean["send"] = figures.booked == figures.answered and not figures.refused
        figures.settle_batch_mean = self._read_batch_mean()
        with _timed(figures, "seal receipts"):
            while seal_receipts():
                pass
        with _timed(figures, "report the hour"):
            # An hour is sealed once it is over: what was booked is of the hour before.
            age(1)
            seal_hours(wait=timedelta(0))
            send_reports()
        with _timed(figures, "invoice"):
            invoice = self._invoice()
        figures.notes["invoice"] = f"{invoice.total_cents} cents, {invoice.check_state}, paid"
        for name in ("ledger_check", "receipts_check", "reconcile"):
            with _timed(figures, name):
                figures.is_clean[name], figures.notes[name] = _call(name)
        self._prove(figures, invoice)

    def _wait_idle(self) -> None:
        """The gateway gives back what it has reserved, within seconds."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM billing_hold WHERE state = 'pending'")
                if not cursor.fetchone()[0]:
                    return
            time.sleep(0.5)
        ledger.expire_holds()

    def _read_batch_mean(self) -> float:
        """How many predictions the gateway booked in one commit."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*)::float8 / count(DISTINCT xid) FROM billing_usageevent")
            return float(cursor.fetchone()[0])

    def _invoice(self) -> Invoice:
        """Credit ends, so that its last invoice comes now; a card pays it."""
        postpaid.close_terms(Actor(), self.terms)
        postpaid.advance_postpaid()
        # Stripe keeps an invoice open for an hour before it is final.
        self.stripe.order("clock", offset_s=2 * HOUR_S)
        invoices.poll_invoices()
        customer_id = StripeCustomer.objects.get(account=self.accounts[0]).customer_id
        card = save_card(get_stripe(), customer_id)
        get_stripe().set_default_card(
            customer_id=customer_id, payment_method_id=card.id, idempotency_key="bench-default"
        )
        for open_one in Invoice.objects.filter(state="open"):
            get_stripe().pay_invoice(open_one.stripe_id, idempotency_key=f"bench-pay:{open_one.pk}")
        invoices.poll_invoices()
        postpaid.advance_postpaid()
        invoice = Invoice.objects.get(total_cents__gt=0)
        assert (invoice.state, invoice.check_state) == ("paid", "agrees")
        return invoice

    def _prove(self, figures: Figures, invoice: Invoice) -> None:
        """Write the invoice's document, and recompute it from its receipts alone."""
        path = self.folder / "invoice.ndjson"
        documents.check_document(invoice)
        with _timed(figures, "write document"), path.open("w") as file:
            for member in documents.stream_document(invoice):
                file.write(json.dumps(member, separators=(",", ":")) + "\n")
        figures.notes["write document"] = f"{path.stat().st_size / 1e6:,.0f} MB"
        chain = self.folder / "batches.json"
        batches = [describe_published(one) for one in ReceiptBatch.objects.order_by("seq")]
        chain.write_text(json.dumps({"platform": settings.WEB_URL, "batches": batches}))
        command = [
            *(str(Path(sys.executable).with_name("strongroom")), "verify-invoice", str(path)),
            *("--receipt-key", ReceiptKey.objects.get().public_key, "--batches", str(chain)),
            *("--consumer", str(invoice.account_id), "--json"),
        ]
        with _timed(figures, "verify-invoice"):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        used = UsageEvent.objects.filter(account=self.accounts[0])
        (told,) = json.loads(done.stdout)["invoices"] if done.returncode == 0 else ({},)
        nanos = used.count() * PRICE_NANOS
        figures.is_clean["verify-invoice"] = (told.get("predictions"), told.get("usage_nanos")) == (
            used.count(),
            nanos,
        )
        figures.notes["verify-invoice"] = (
            f"{told['predictions']:,} receipts come to {told['usage_nanos']:,} nano-dollars"
            if told
            else done.stderr[-300:]
        )


@contextmanager
def _timed(figures: Figures, name: str) -> Iterator[None]:
    began_s = time.monotonic()
    yield
    figures.seconds[name] = time.monotonic() - began_s
    print(f"{name}: {figures.seconds[name]:.1f} s", file=sys.stderr, flush=True)


def _call(name: str) -> tuple[bool, str]:
    """Whether a check found nothing, and what it says in the end."""
    out = io.StringIO()
    try:
        call_command(name, stdout=out)
        is_clean = True
    except SystemExit:
        is_clean = False
    lines = out.getvalue().strip().splitlines()
    if name == "ledger_check" and is_clean:
        return True, f"{len(lines)} invariants"
    return is_clean, lines[-1] if is_clean else "; ".join(lines)[-500:]
