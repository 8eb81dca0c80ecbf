"""A creator with a priced model, and a consumer with credit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import LedgerAccount, Price, Transfer
from billing.services import ledger
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, ModelVersion

PRICE_NANOS = 1_001  # Odd, so that shares do not divide evenly.
SHARE_BPS = 8_000


@dataclass
class Shop:
    creator: Account
    consumer: Account
    model: AIModel
    version: ModelVersion
    price: Price
    wallet_id: UUID

    def item(self, prediction_id: UUID, *, units: int = 1, **changes: object) -> dict:
        """What the gateway hands to `billing_settle` for one answered prediction."""
        return {
            "prediction_id": str(prediction_id),
            "account_id": str(self.consumer.pk),
            "api_key_id": None,
            "version_id": str(self.version.pk),
            "creator_id": str(self.creator.pk),
            "price_id": str(self.price.pk),
            "mode": "live",
            "units": units,
            "gross_nanos": units * PRICE_NANOS,
            "occurred_at": timezone.now().isoformat(),
            **changes,
        }


def query(sql: str, *arguments: object) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments)
        return cursor.fetchall()


def hold(shop: Shop, amount_nanos: int = PRICE_NANOS, *, ttl_s: int = 60) -> UUID:
    prediction_id = new_id()
    query("SELECT billing_hold(%s, %s, %s, %s)", prediction_id, shop.wallet_id, amount_nanos, ttl_s)
    return prediction_id


def hold_many(*items: tuple[UUID, int], ttl_s: int = 60) -> list[str]:
    """Holds of (account, nanos), all at once; the outcomes in their order."""
    asked = [
        {"prediction_id": str(new_id()), "account_id": str(account), "amount_nanos": nanos}
        for account, nanos in items
    ]
    rows = query("SELECT * FROM billing_hold_many(%s, %s)", json.dumps(asked), ttl_s)
    outcomes = dict(rows)
    assert len(outcomes) == len(rows) == len(items)
    return [outcomes[UUID(item["prediction_id"])] for item in asked]


def settle(*items: dict) -> list[str]:
    rows = query("SELECT * FROM billing_settle(%s)", json.dumps(items))
    outcomes = dict(rows)
    return [outcomes[UUID(item["prediction_id"])] for item in items]


def balances() -> dict[str, tuple[int, int]]:
    """Posted and held nanos by kind of ledger account."""
    return {
        account.kind: (account.posted_nanos, account.held_nanos)
        for account in LedgerAccount.objects.all()
    }


@pytest.fixture
def shop(db: None) -> Shop:
    creator = Account.objects.create(slug="creator", name="Creator")
    consumer = Account.objects.create(slug="consumer", name="Consumer")
    model = AIModel.objects.create(account=creator, name="echo", title="Echo")
    version = ModelVersion.objects.create(model=model, number=1, state=ModelVersion.State.APPROVED)
    price = Price.objects.create(
        model=model,
        nanos_per_prediction=PRICE_NANOS,
        creator_share_bps=SHARE_BPS,
        valid_from=timezone.now(),
    )
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=consumer.pk)
    return Shop(creator, consumer, model, version, price, wallet_id)


@pytest.fixture
def fund(shop: Shop) -> Callable[..., None]:
    """Put credit into the consumer's wallet, as a top-up does."""

    def put(amount_nanos: int, *, key: str = "") -> None:
        clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=Transfer.Kind.TOP_UP,
            idempotency_key=key or f"test:{new_id()}",
            amounts_nanos={clearing_id: -amount_nanos, shop.wallet_id: amount_nanos},
        )

    return put
