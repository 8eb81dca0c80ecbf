"""A creator with a priced model, and a consumer with credit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import LedgerAccount, Price, Transfer
from billing.services import ledger
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, ModelVersion
from tests.billing import lock_order

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
        """One answered prediction, paid from the hold of its own id."""
        return {
            "prediction_id": str(prediction_id),
            "hold_id": str(prediction_id),
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


def reserve(*items: dict, ttl_s: int = 60) -> list[tuple[UUID, int, str]]:
    """Holds as a gateway takes them: (id, nanos, outcome) of each."""
    return query(
        "SELECT hold_id, amount_nanos, outcome FROM billing_reserve(%s, %s)",
        json.dumps(items),
        ttl_s,
    )


def asked(
    account_id: UUID, least_nanos: int, most_nanos: int = 0, *, api_key_id: UUID | None = None
) -> dict:
    """One item of `reserve`."""
    return {
        "hold_id": str(new_id()),
        "account_id": str(account_id),
        "api_key_id": None if api_key_id is None else str(api_key_id),
        "least_nanos": least_nanos,
        "most_nanos": most_nanos or least_nanos,
    }


def hold(shop: Shop, amount_nanos: int = PRICE_NANOS, *, ttl_s: int = 60) -> UUID:
    """A hold for one prediction, under the prediction's id."""
    ((hold_id, nanos, outcome),) = reserve(asked(shop.consumer.pk, amount_nanos), ttl_s=ttl_s)
    assert (nanos, outcome) == (amount_nanos, "held")
    return hold_id


def give_back(*hold_ids: UUID, nanos: int | None = None) -> int:
    """Take holds back; how many were."""
    ((count,),) = query("SELECT billing_give_back(%s, %s)", list(hold_ids), [nanos] * len(hold_ids))
    return count


def settle(*items: dict) -> list[str]:
    common = ("account_id", "api_key_id", "version_id", "creator_id", "price_id", "mode")
    groups = [
        {"no": no, "hold_id": item["hold_id"], "tag": item.get("tag")}
        | {name: item[name] for name in common}
        for no, item in enumerate(items)
    ]
    metered = [item.get("metered") for item in items]
    rows = query(
        "SELECT prediction_id, outcome, gross_nanos FROM billing_settle(%s, %s::uuid[], %s, %s,"
        " %s::bigint[], %s::timestamptz[], %s)",
        json.dumps(groups),
        [item["prediction_id"] for item in items],
        list(range(len(items))),
        [item["units"] for item in items],
        [item["gross_nanos"] for item in items],
        [item["occurred_at"] for item in items],
        json.dumps(metered) if any(metered) else None,
    )
    outcomes = {found: outcome for found, outcome, _ in rows}
    return [outcomes[UUID(item["prediction_id"])] for item in items]


def balances() -> dict[str, tuple[int, int]]:
    """Posted and held nanos by kind of ledger account."""
    return {
        account.kind: (account.posted_nanos, account.held_nanos)
        for account in LedgerAccount.objects.all()
    }


@pytest.fixture(autouse=True)
def nobody_locks_late() -> Iterator[None]:
    with lock_order.watching():
        yield


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
