"""A creator's model on a real tritonserver, a consumer with credit, and a gateway between."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest
from django.db import connection, transaction
from django.utils import timezone

from billing.models import Hold, LedgerAccount, Price, Transfer, TransferEntry, UsageEvent
from billing.selectors.ledger import check_invariants
from billing.services import ledger
from inference.models import Node, Prediction, Replica
from marketplace.core.ids import from_public, new_id
from marketplace.models import Account, AIModel, APIKey, ModelVersion
from strongroom.interface import Interface
from tests.factories import (
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    ModelVersionFactory,
)
from tests.gateway.processes import (
    TOY_LANGUAGE,
    GatewayProcess,
    ToyTriton,
    eventually,
    with_grpc,
)

PRICE_NANOS = 1_001  # Odd, so that shares do not divide evenly.
CREATOR_NANOS = 800  # 80 % of it, rounded down.
INTERFACE = {
    "inputs": [
        {"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [4], "maximum": 100},
        {"name": "note", "kind": "text", "default": "", "max_length": 20},
        {
            "name": "mode",
            "kind": "choice",
            "choices": ["ok", "fail", "die", "nan", "short"],
            "default": "ok",
        },
        {"name": "wait_s", "kind": "number", "default": 0, "minimum": 0, "maximum": 30},
    ],
    "outputs": [
        {"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [4]},
        {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [3]},
        {"name": "kind", "kind": "label", "source": "scores", "labels": ["a", "b", "c"]},
        {"name": "secret", "kind": "tensor", "datatype": "FP32", "shape": [1], "hidden": True},
        {"name": "echo", "kind": "text"},
    ],
    "batch": {"max_size": 4},
}
VECTORS = {
    "inputs": [{"name": "text", "kind": "text", "max_length": 100}],
    "outputs": [
        {"name": "embedding", "kind": "tensor", "datatype": "FP32", "shape": [3]},
        {"name": "tokens_in", "kind": "integer"},
    ],
    "batch": {"max_size": 2},
}
WRITER = {
    "inputs": [
        {"name": "prompt", "kind": "text", "max_length": 100},
        {"name": "system_prompt", "kind": "text", "default": "", "max_length": 100},
        {"name": "max_new_tokens", "kind": "integer", "minimum": 1, "maximum": 16, "default": 8},
        {"name": "temperature", "kind": "number", "minimum": 0, "maximum": 2, "default": 0},
        {"name": "seed", "kind": "integer", "default": -1},
    ],
    "outputs": [
        {"name": "text", "kind": "text"},
        {"name": "tokens_in", "kind": "integer"},
        {"name": "tokens_out", "kind": "integer"},
    ],
}
# Streams; its prompt says how, see `toy_language.py`.
TELLER = {
    "inputs": [
        {"name": "prompt", "kind": "text", "max_length": 1000},
        {"name": "messages", "kind": "text", "max_length": 20_000, "default": ""},
        {"name": "max_new_tokens", "kind": "integer", "maximum": 100_000, "default": 100},
    ],
    "outputs": [
        {"name": "text", "kind": "text", "stream": True},
        {"name": "tokens_in", "kind": "integer"},
        {"name": "tokens_out", "kind": "integer"},
    ],
}
REPLICA_IDS = [new_id(), new_id()]
LANGUAGE_REPLICA_IDS = {"vectors": new_id(), "writer": new_id(), "teller": new_id()}
X = [1, 2.5, 3, 4]


@dataclass
class Shop:
    creator: Account
    consumer: Account
    model: AIModel
    version: ModelVersion
    price: Price
    node: Node
    replica: Replica
    wallet_id: UUID
    key: APIKey
    funded_nanos: int = 0
    url: str = ""
    grpc_address: str = ""
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, key: str | None = None, *, url: str = "") -> httpx.Client:
        text = self.key.text if key is None else key
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        client = httpx.Client(base_url=url or self.url, headers=headers, timeout=60)
        self.clients.append(client)
        return client

    def fund(self, amount_nanos: int) -> None:
        """Put credit into the consumer's wallet, as a top-up does."""
        clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=Transfer.Kind.TOP_UP,
            idempotency_key=f"test:{new_id()}",
            amounts_nanos={clearing_id: -amount_nanos, self.wallet_id: amount_nanos},
        )
        self.funded_nanos += amount_nanos

    def sell(self, name: str, interface: dict[str, Any], replica_id: UUID, task: str = "") -> None:
        """Put another model of the creator on sale, served by a replica that is loaded."""
        model = AIModelFactory(account=self.creator, name=name, **({"task": task} if task else {}))
        version = ModelVersionFactory(model=model, number=1, interface=interface)
        ChannelFactory(version=version)
        set_price(model)
        self.add_replica(replica_id, version=version)

    def add_replica(self, replica_id: UUID, **fields: Any) -> Replica:
        return Replica.objects.create(
            id=replica_id,
            version=fields.pop("version", self.version),
            node=fields.pop("node", self.node),
            purpose=Replica.Purpose.SERVE,
            state=Replica.State.READY,
            **fields,
        )


@pytest.fixture(scope="session")
def interface() -> Interface:
    return Interface.parse(INTERFACE)


# Of one package: whose conftest imports them has others, and a gateway that outlived its tests
# would take the batches of the next ones.
@pytest.fixture(scope="package")
def triton(tmp_path_factory, interface) -> Iterator[ToyTriton]:
    server = ToyTriton(tmp_path_factory.mktemp("triton"), interface, REPLICA_IDS)
    for name, described in (("vectors", VECTORS), ("writer", WRITER), ("teller", TELLER)):
        server.load(
            Interface.parse(described), LANGUAGE_REPLICA_IDS[name], model_source=TOY_LANGUAGE
        )
    yield server
    server.stop()


@pytest.fixture(scope="package")
def gateway(tmp_path_factory, database_urls) -> Iterator[GatewayProcess]:
    process = GatewayProcess(
        tmp_path_factory.mktemp("gateway"), database_urls["gateway"], **with_grpc()
    )
    yield process
    process.stop()


@pytest.fixture
def shop(transactional_db, triton, gateway) -> Iterator[Shop]:
    creator = AccountFactory(slug="maker")
    consumer = AccountFactory(slug="buyer")
    model = AIModelFactory(account=creator, name="echo", title="Echo")
    version = ModelVersionFactory(
        model=model, number=1, interface=INTERFACE, manifest_sha256="ab" * 32
    )
    ChannelFactory(version=version)
    price = set_price(model)
    node = make_node("node-1", triton.config.http_url, triton.config.grpc_url)
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=consumer.pk)
    key = APIKeyFactory(account=consumer)
    replica = Replica(pk=REPLICA_IDS[0])
    made = Shop(creator, consumer, model, version, price, node, replica, wallet_id, key)
    made.replica = made.add_replica(REPLICA_IDS[0])
    made.url = gateway.url
    made.grpc_address = gateway.grpc_address
    made.fund(10 * PRICE_NANOS)
    yield made
    for client in made.clients:
        client.close()


@pytest.fixture
def language(shop: Shop) -> Shop:
    """The shop with two more models: `maker/vectors` embeds and `maker/writer` writes."""
    for name, task, described in (
        ("vectors", "feature-extraction", VECTORS),
        ("writer", "text-generation", WRITER),
    ):
        shop.sell(name, described, LANGUAGE_REPLICA_IDS[name], task)
    return shop


@pytest.fixture
def teller(shop: Shop) -> Shop:
    """The shop with one more model: `maker/teller` streams."""
    shop.sell("teller", TELLER, LANGUAGE_REPLICA_IDS["teller"], "text-generation")
    return shop


@pytest.fixture
def client(shop: Shop) -> httpx.Client:
    return shop.client()


@pytest.fixture
def start_gateway(shop, tmp_path, database_urls):
    """Starts further gateways, with another app or other settings."""
    started: list[GatewayProcess] = []

    def start(database_url: str = "", **settings: Any) -> GatewayProcess:
        process = GatewayProcess(tmp_path, database_url or database_urls["gateway"], **settings)
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop()


def set_price(model: AIModel) -> Price:
    return Price.objects.create(
        model=model,
        nanos_per_prediction=PRICE_NANOS,
        creator_share_bps=8_000,
        valid_from=timezone.now(),
    )


def make_node(name: str, url: str, grpc_url: str = "") -> Node:
    return Node.objects.create(
        name=name,
        public_key=name,
        token_digest=os.urandom(32),
        triton_http_url=url,
        triton_grpc_url=grpc_url,
        triton_ready=True,
        last_seen_at=timezone.now(),
    )


def predict(client: httpx.Client, *, headers: dict[str, str] | None = None, **given: Any):
    """One prediction through the public address."""
    body = {"input": {"x": X} | given}
    return client.post("/v1/models/maker/echo/predictions", json=body, headers=headers)


def predict_many(client: httpx.Client, count: int, **given: Any) -> list[httpx.Response]:
    """Predictions at the same time."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: predict(client, **given), range(count)))


def check_books(shop: Shop, answered: list[str], *, price_nanos: int = PRICE_NANOS) -> None:
    """Each answered prediction is booked once, nothing else is, and all sums are right.

    It looks at once: what is answered must be on disk already.
    """
    ids = {from_public(one) for one in answered}
    assert len(ids) == len(answered)
    assert set(Prediction.objects.filter(state="succeeded").values_list("pk", flat=True)) == ids
    assert set(UsageEvent.objects.values_list("pk", flat=True)) == ids
    creator_nanos = price_nanos * 8_000 // 10_000
    amounts = UsageEvent.objects.values_list("gross_nanos", "creator_nanos")
    assert set(amounts) <= {(price_nanos, creator_nanos)}
    usage = Transfer.objects.filter(kind=Transfer.Kind.USAGE)
    charged = UsageEvent.objects.filter(gross_nanos__gt=0)
    assert charged.count() == (len(ids) if price_nanos else 0)
    assert set(usage.values_list("pk", flat=True)) == set(
        charged.values_list("transfer", flat=True)
    )
    for transfer in usage:
        # One for all that were booked together: it moves their sums and nothing else.
        count = charged.filter(transfer=transfer).count()
        entries = sorted(transfer.entries.values_list("amount_nanos", flat=True))
        platform_nanos = price_nanos - creator_nanos
        assert entries == sorted(
            [-price_nanos * count, platform_nanos * count, creator_nanos * count]
        )
    eventually(lambda: check_holds(shop))
    wallet = LedgerAccount.objects.get(pk=shop.wallet_id)
    assert wallet.posted_nanos == shop.funded_nanos - price_nanos * len(answered)
    check_ledger()


def check_nothing_booked(shop: Shop) -> None:
    """No usage, no transfer, and every hold released."""
    check_books(shop, [])


def check_untouched(shop: Shop) -> None:
    """Not even a hold was taken."""
    check_nothing_booked(shop)
    assert Hold.objects.count() == 0
    assert Prediction.objects.count() == 0


def check_holds(shop: Shop) -> None:
    """Nothing is held: what is left goes back a moment after the answer."""
    assert Hold.objects.filter(state=Hold.State.PENDING).count() == 0
    assert LedgerAccount.objects.get(pk=shop.wallet_id).held_nanos == 0


def check_ledger() -> None:
    """The invariants of the whole ledger."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(sum(amount_nanos), 0) FROM billing_transferentry")
        assert cursor.fetchone()[0] == 0
    for one in LedgerAccount.objects.all():
        entries = TransferEntry.objects.filter(ledger_account=one)
        assert one.posted_nanos == sum(entries.values_list("amount_nanos", flat=True))
    with transaction.atomic():
        found = check_invariants()
    assert [(one.invariant.name, one.sample) for one in found if one.count] == []


def problem_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code, after a look at the form."""
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["request_id"] == response.headers["x-request-id"]
    assert response.headers["x-cost-nano-usd"] == "0"
    return response.status_code, document["code"]
