"""What tests of archives share: two tenants with rows of every kind, and what is in a ZIP."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import zipfile
from datetime import timedelta
from typing import Any

from django.utils import timezone

from billing.models import (
    Coupon,
    CouponRedemption,
    Invoice,
    PayoutItem,
    PayoutRun,
    Price,
    Royalty,
    SavedCard,
    TaxDetails,
    Topup,
    TopupRefund,
)
from billing.models.ledger import LedgerAccount, Transfer
from billing.services import ledger
from billing.services.reversal import reverse_usage
from inference.models import (
    AlertChannel,
    AlertRule,
    Batch,
    BatchLine,
    Deployment,
    File,
    FinishedJob,
    Job,
    JobInput,
    Prediction,
    SharedRun,
    SigningKey,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookSecret,
    WrappedKey,
)
from marketplace.core.ids import new_id, to_public
from marketplace.models import (
    Account,
    Authenticator,
    CardRevision,
    Collection,
    CollectionEntry,
    DataExport,
    Notice,
    Notification,
    Passkey,
    RecoveryCode,
    Report,
    Review,
    Takedown,
    User,
    UserSession,
)
from marketplace.selectors.access import Actor
from marketplace.services import data_export
from marketplace.services.account import describe_account
from tests.billing.conftest import Shop, hold, settle
from tests.factories import (
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    ModelVersionFactory,
    UserFactory,
)


class Tenant:
    """An account with a row of every kind; all its texts bear a mark that no other has."""

    def __init__(self, slug: str, staff: User) -> None:
        self.mark = f"zq-{slug}"
        self.owner = UserFactory(email=f"{self.mark}@example.com", name=f"{self.mark} owner")
        self.account = AccountFactory(slug=slug, name=self.mark, owner=self.owner)
        self.api_key = APIKeyFactory(account=self.account, created_by=self.owner, name=self.mark)
        self.model = AIModelFactory(
            account=self.account, name=f"{self.mark}-model", card=f"# {self.mark}"
        )
        self.version = ModelVersionFactory(model=self.model)
        ChannelFactory(model=self.model, version=self.version)
        self.secrets = [self.api_key.text.encode(), bytes(self.api_key.digest)]
        self.secrets.append(self.owner.password.encode())
        self._add_marketplace(staff)
        self._add_inference()

    def secret(self, name: str) -> bytes:
        """Random-looking bytes that must leave in no archive."""
        made = hashlib.sha256(f"{self.mark} {name}".encode()).digest()
        self.secrets.append(made)
        return made

    def _add_marketplace(self, staff: User) -> None:
        mark, owner, model = self.mark, self.owner, self.model
        Authenticator.objects.create(user=owner, sealed_secret=self.secret("totp"))
        RecoveryCode.objects.create(user=owner, digest=self.secret("code"))
        Passkey.objects.create(
            user=owner,
            name=mark,
            credential_id=self.secret("credential id"),
            credential=self.secret("credential"),
        )
        session_key = self.secret("session").hex()[:40]
        self.secrets.append(session_key.encode())
        UserSession.objects.create(user=owner, session_key=session_key)
        said = {"version": self.version, "reviewer": staff, "decision": "approved"}
        Review.objects.create(**said, reason=mark)
        Report.objects.create(
            model=model, reporter=staff, cause="harm", text="words of the reporter"
        )
        Takedown.objects.create(model=model, kind="warning", reason=mark, decided_by=staff)
        Notice.objects.create(account=self.account, subject=mark, text=mark)
        Notification.objects.create(
            person=owner,
            account=self.account,
            kind=Notification.Kind.ACCOUNT,
            key=f"test:{mark}",
            title=mark,
            created_at=timezone.now(),
        )
        CardRevision.objects.create(model=model, number=900, text=mark, author=mark)
        shelf = Collection.objects.create(account=self.account, slug="shelf", title=mark)
        CollectionEntry.objects.create(collection=shelf, model=model)
        describe_account(actor=Actor(user=owner), account=self.account, name=mark, bio=mark)

    def _add_inference(self) -> None:
        mark, now = self.mark, timezone.now()
        self.prediction = Prediction.objects.create(
            id=new_id(),
            account_id=self.account.pk,
            version=self.version,
            state="succeeded",
            input={"x": mark},
            output={"y": mark},
            created_at=now,
        )
        File.objects.create(
            account=self.account,
            name=mark,
            content_type="text/plain",
            size_bytes=1,
            sha256="0" * 64,
            state=File.State.READY,
            store_key=f"files/{mark}",
            sealed_key=self.secret("file"),
            created_at=now,
            expires_at=now + timedelta(days=1),
        )
        token = self.secret("share").hex()[:24]
        self.secrets.append(token.encode())
        SharedRun.objects.create(
            token=token,
            account=self.account,
            version=self.version,
            prediction_id=self.prediction.pk,
            input=mark,
            output=mark,
            size_bytes=1,
            expires_at=now + timedelta(days=1),
        )
        SigningKey.objects.create(
            account=self.account, public_key=mark, fingerprint=mark, registered_by=mark
        )
        Deployment.objects.create(version=self.version)
        AlertRule.objects.create(model=self.model, kind="p95", window_s=60)
        hook = f"https://hooks.example/{self.secret('hook').hex()}"
        AlertChannel.objects.create(model=self.model, kind="slack", target=hook)
        self._add_jobs()
        self._add_batch()
        self._add_webhooks()
        blob = base64.b64encode(self.secret("wrapped DEK")).decode()
        WrappedKey.objects.create(
            version=self.version, recipient="platform", kid="k", suite="s", blob=blob
        )

    def _add_jobs(self) -> None:
        mark, now = self.mark, timezone.now()
        common = {
            "account_id": self.account.pk,
            "attempt": 1,
            "error": "node_lost",
            "created_at": now,
        }
        job = Job.objects.create(
            id=new_id(),
            **common,
            version=self.version,
            creator_id=self.account.pk,
            state="dead",
            detail=mark,
            ready_at=now,
            deadline_at=now,
            finished_at=now,
            webhook_url=f"https://hooks.example/{self.secret('job hook').hex()}",
        )
        JobInput.objects.create(job=job, input={"x": mark})
        FinishedJob.objects.create(
            id=new_id(),
            **common,
            version_id=self.version.pk,
            state="failed",
            priority=1,
            finished_at=now,
        )

    def _add_batch(self) -> None:
        mark, now = self.mark, timezone.now()
        batch = Batch.objects.create(
            account=self.account,
            version=self.version,
            name=mark,
            tag=mark,
            webhook_url=f"https://hooks.example/{self.secret('batch hook').hex()}",
            next_at=now,
            deadline_at=now,
            finished_at=now,
        )
        BatchLine.objects.create(
            batch=batch,
            number=1,
            custom_id=mark,
            state="succeeded",
            prediction_id=self.prediction.pk,
            input={"x": mark},
            output={"y": mark},
        )

    def _add_webhooks(self) -> None:
        mark, now = self.mark, timezone.now()
        WebhookSecret.objects.create(account=self.account, sealed_secret=self.secret("default"))
        endpoint = WebhookEndpoint.objects.create(
            account=self.account,
            url=f"https://hooks.example/{self.secret('endpoint').hex()}",
            description=mark,
            sealed_secret=self.secret("signing"),
            sealed_old_secret=self.secret("signing before"),
        )
        event = WebhookEvent.objects.create(
            account_id=self.account.pk,
            type="prediction.completed",
            prediction_id=self.prediction.pk,
            url=f"https://hooks.example/{self.secret('own hook').hex()}",
            created_at=now,
        )
        WebhookDelivery.objects.create(
            account=self.account,
            event=event,
            endpoint=endpoint,
            type=event.type,
            prediction_id=event.prediction_id,
            due_at=now,
            next_at=now,
        )

    def add_money(self, seller: Tenant) -> None:
        """Buy from `seller`, and have a row of everything about money."""
        mark, account, now = self.mark, self.account, timezone.now()
        wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=account.pk)
        clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=Transfer.Kind.TOP_UP,
            idempotency_key=f"test:{mark}",
            amounts_nanos={clearing_id: -10_000_000, wallet_id: 10_000_000},
            reference=mark,
        )
        price = Price.objects.create(
            model=seller.model,
            nanos_per_prediction=1_001,
            creator_share_bps=8_000,
            valid_from=now,
        )
        shop = Shop(seller.account, account, seller.model, seller.version, price, wallet_id)
        self.bought = [hold(shop), hold(shop)]
        items = [shop.item(one) for one in self.bought]
        items[0]["tag"] = mark
        assert settle(items[0]) + settle(items[1]) == ["settled", "settled"]
        topup = Topup.objects.create(
            account=account,
            created_by=self.owner,
            amount_cents=500,
            checkout_url=f"https://pay.example/{self.secret('checkout').hex()}",
        )
        TopupRefund.objects.create(
            account=account, topup=topup, request_key=mark, net_cents=1, requested_by=mark
        )
        Invoice.objects.create(
            account=account,
            stripe_id=mark,
            subscription_id=mark,
            number=mark,
            state="open",
            currency="usd",
            lines=[mark],
            subtotal_cents=1,
            tax_cents=0,
            total_cents=1,
            period_start=now,
            period_end=now,
            created_at=now,
        )
        run = PayoutRun.objects.create()
        PayoutItem.objects.create(run=run, creator=account, amount_cents=1, destination="acct")
        reserve_id = ledger.get_ledger_account_id(
            LedgerAccount.Kind.CREATOR_RESERVE, holder_id=account.pk
        )
        Royalty.objects.create(
            version=seller.version,
            parent=self.version,
            beneficiary=account,
            reserve_id=reserve_id,
            bps=1,
        )
        coupon = Coupon.objects.create(
            code=mark.upper(), credit_nanos=1, uses_max=1, valid_until=now
        )
        CouponRedemption.objects.create(coupon=coupon, account=account, redeemed_by=mark)
        SavedCard.objects.create(
            account=account,
            payment_method_id=f"pm_{self.secret('card').hex()}",
            brand="visa",
            last4="4242",
            exp_month=1,
            exp_year=2030,
            fingerprint=mark,
        )
        TaxDetails.objects.create(
            account=account, name=mark, line1=mark, city=mark, postal_code="1", country="DE"
        )
        reverse_usage(Actor(user=seller.owner), to_public(self.bought[1]), reason="not as said")


def make_world(staff: User) -> tuple[Tenant, Tenant]:
    """Two tenants; each buys from the other. Their receipts are not sealed yet."""
    mine, other = Tenant("mine", staff), Tenant("other", staff)
    mine.add_money(other)
    other.add_money(mine)
    return mine, other


def make_export(account: Account, actor: Actor) -> DataExport:
    """An archive, as a worker makes it."""
    export = data_export.request_export(actor=actor, account=account)
    data_export.advance(export_id=export.pk)
    export.refresh_from_db()
    return export


def open_export(export: DataExport, actor: Actor) -> dict[str, bytes]:
    """The files of an archive by path, checked against its manifest."""
    content = b"".join(data_export.download(actor=actor, export=export))
    assert hashlib.sha256(content).hexdigest() == export.sha256
    assert len(content) == export.size_bytes
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    for one in json.loads(files["manifest.json"])["files"]:
        data = files[one["path"]]
        assert hashlib.sha256(data).hexdigest() == one["sha256"]
        assert len(data) == one["size_bytes"]
        assert len(read_rows(one["path"], data)) == one["rows"]
    return files


def read_rows(path: str, data: bytes) -> list[Any]:
    """The rows of a file."""
    if path.endswith(".json"):
        return list(json.loads(data))
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def find_leaks(files: dict[str, bytes], secrets: list[bytes]) -> list[str]:
    """Files in which one of the secrets stands, as it is, in hex or in base64."""
    return [
        path
        for path, data in files.items()
        for secret in secrets
        if any(
            form in data
            for form in (
                secret,
                secret.hex().encode(),
                base64.b64encode(secret).rstrip(b"="),
                base64.urlsafe_b64encode(secret).rstrip(b"="),
            )
        )
    ]
