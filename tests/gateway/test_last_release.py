"""A gateway of the last release on this schema, beside one of this code: both serve and book.

`releases/` has the last release's gateway as it was (`pack_release.py`). It is what a platform
runs while the new version comes, and during a canary.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection

from tests.gateway.conftest import PRICE_NANOS, X, check_books, check_nothing_booked, predict
from tests.gateway.processes import GatewayProcess

pytestmark = pytest.mark.django_db(transaction=True)
ARCHIVES = sorted(Path(__file__).with_name("releases").glob("gateway-*.tar.xz"))
COUNT = 20
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def old_code(tmp_path_factory) -> Path:
    """The last release's files, unpacked."""
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(ARCHIVES[-1]) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old(shop, old_code, tmp_path, database_urls) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path, database_urls["gateway"], root=old_code, module="granian")
    yield process
    process.stop()


def test_it_is_the_old_code_that_runs(shop, old, old_code):
    # What this code added is not in it, and nothing else is looked at.
    assert not (old_code / "inference/gateway/demand.py").exists()
    assert Path(f"/proc/{old.process.pid}/cwd").resolve() == old_code.resolve()
    for url, has_pools in ((old.url, False), (shop.url, True)):
        page = shop.client("", url=url).get("/metrics").text
        assert ("strongroom_pool_" in page) is has_pools, url


def test_both_serve_and_book_side_by_side(shop, old):
    shop.fund(COUNT * PRICE_NANOS)
    clients = (shop.client(), shop.client(url=old.url))

    def ask(number: int) -> str:
        answer = predict(clients[number % 2])
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(4) as threads:
        answered = list(threads.map(ask, range(COUNT)))
    check_books(shop, answered)


def test_a_job_put_in_by_one_is_ended_by_the_other(shop, old):
    clients = (shop.client(), shop.client(url=old.url))
    path, body = "/v1/models/maker/echo/predictions", {"input": {"x": X}}
    for first, second in (clients, clients[::-1]):
        made = first.post(path, json=body, headers=ASYNC)
        assert made.status_code == 202, made.text
        address = f"/v1/predictions/{made.json()['id']}"
        assert second.get(address).json()["status"] == made.json()["status"]
        ended = second.post(f"{address}/cancel")
        assert ended.json()["status"] == "canceled", ended.text
    check_nothing_booked(shop)


def test_a_column_that_it_needs_is_missed(shop, old):
    """The control: on a schema that the rules for migrations forbid it cannot serve."""
    client = shop.client(url=old.url)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE inference_prediction RENAME COLUMN account_id TO payer_id")
    try:
        assert predict(client).status_code >= 500
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE inference_prediction RENAME COLUMN payer_id TO account_id")
    assert predict(client).status_code == 201
