from __future__ import annotations

from collections.abc import Iterator

import pytest

from billing.stripe.client import StripeConfig, StripeGateway
from fakestripe.contract import Contract
from tests.billing.stripe_client.traffic import ACCOUNT_ID, ContractClient
from tests.fakestripe.process import SECRET_KEY, WEBHOOK_SECRET, FakeStripeProcess, Receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stripe")


@pytest.fixture(scope="module")
def process(folder, receiver) -> Iterator[FakeStripeProcess]:
    process = FakeStripeProcess(folder, webhook_url=receiver.url)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def fake(process, receiver) -> FakeStripeProcess:
    process.reset()
    receiver.clear()
    return process


@pytest.fixture
def traffic(fake, folder) -> Iterator[ContractClient]:
    """Every test's traffic is held to the contract."""
    traffic = ContractClient(Contract.load(folder))
    yield traffic
    assert traffic.violations == []


@pytest.fixture
def config(fake) -> StripeConfig:
    return StripeConfig(SECRET_KEY, WEBHOOK_SECRET, fake.url)


@pytest.fixture
def gateway(config, traffic) -> StripeGateway:
    return StripeGateway(config, http_client=traffic)


@pytest.fixture
def customer_id(gateway) -> str:
    return gateway.create_customer(
        account_id=ACCOUNT_ID, email="owner@example.com", idempotency_key="customer:a"
    )
