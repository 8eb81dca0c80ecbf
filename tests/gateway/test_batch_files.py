"""Lines of a batch that name files: of the account they are read, of anybody else they are not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from inference.models import Batch
from marketplace.models import ModelVersion
from tests.factories import AccountFactory
from tests.gateway.conftest import check_books
from tests.gateway.pulling import PullingNode
from tests.gateway.test_batches import begin, finish, read
from tests.gateway.test_files import gateway_with_files, store  # noqa: F401 - fixtures
from tests.gateway.test_input_files import (  # noqa: F401 - fixtures
    REPLICA_ID,
    _loaded,
    check_output,
    keep,
    reader,
)

pytestmark = pytest.mark.django_db(transaction=True)

CONTENT = os.urandom(20_000)


@pytest.fixture
def run(reader, gateway, gateway_with_files, triton) -> Iterator:  # noqa: F811
    """Runs a batch of documents to its end."""
    reader.version = ModelVersion.objects.get(model__name="reader")
    # It knows no site, and would take lines that it cannot read.
    gateway.pause()
    node = PullingNode(gateway_with_files.url, reader.node, triton, {reader.version.pk: REPLICA_ID})

    def run(*documents: str) -> Batch:
        return finish(begin(reader, [{"input": {"document": one}} for one in documents]))

    yield run
    node.stop()
    gateway.go_on()


def list_faults(batch: Batch) -> list[tuple[int, str]]:
    return [(one["line"], one["error"]["code"]) for one in read(batch, "errors")]


def test_a_line_names_a_file_of_its_account(reader, run):  # noqa: F811
    files = [keep(reader.consumer, CONTENT + bytes([at])) for at in range(2)]

    batch = run(*[one.public_id for one in files])

    assert list_faults(batch) == []
    found = read(batch)
    for at, one in enumerate(found):
        check_output(one["output"], CONTENT + bytes([at]))
    check_books(reader, [one["id"] for one in found])


@pytest.mark.parametrize("whose", ["another account's", "nobody's", "deleted", "elsewhere"])
def test_a_line_with_a_file_that_is_not_its_account_s_fails_alone(reader, run, whose):  # noqa: F811
    own = keep(reader.consumer, CONTENT)
    other = keep(AccountFactory() if whose == "another account's" else reader.consumer, b"secret")
    value = other.public_id
    if whose == "nobody's":
        value = "file_" + "a" * 26
    if whose == "deleted":
        other.delete()
    if whose == "elsewhere":
        value = "https://elsewhere.example/v1/files/" + value

    batch = run(own.public_id, value, own.public_id)

    assert list_faults(batch) == [(2, "validation")]
    [fault] = read(batch, "errors")
    # Of another account's file nothing is told: it says the same as of one that never was.
    if whose != "elsewhere":
        assert fault["error"]["detail"] == f"There is no file {value}, or it has expired."
    assert fault["id"] is None
    found = read(batch)
    assert [one["line"] for one in found] == [1, 3]
    for one in found:
        check_output(one["output"], CONTENT)
    check_books(reader, [one["id"] for one in found])
    assert (batch.succeeded_count, batch.failed_count) == (2, 1)
