"""Fixtures of the whole run: the real servers behind every test that needs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from django.core.management import call_command
from django.test import TransactionTestCase

from embedded import postgres
from tests import servers, tables
from tests import stack as stacks
from tests.fixtures import *  # noqa: F403 - the people of the tests, for all of them

# The first test that needs the whole product waits until it has come up.
STACK_TIMEOUT_S = stacks.START_TIMEOUT_S + 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the whole product come last, with time for its start, and say what they are."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stack)
        if item.get_closest_marker("stack") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(STACK_TIMEOUT_S))
    items.sort(key=lambda item: item.get_closest_marker("stack") is not None)


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """Called before the test database is made: the server must run by then."""
    servers.start_postgres()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker) -> None:
    """The migrated test database, with every role's rights as in production."""
    with django_db_blocker.unblock():
        call_command("grant_roles", verbosity=0)


@pytest.fixture(autouse=True, scope="session")
def empty_what_was_filled() -> Iterator[None]:
    """After a test that commits, its rows are deleted: Django empties every table anew.

    That took a sixth of a second for each of thousands of tests, most of it for tables in which
    nothing was.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _case: tables.empty())
        yield


@pytest.fixture(scope="session")
def database_urls(django_db_setup, django_db_blocker) -> dict[str, str]:
    """By role: where it reaches the *test* database, as the processes of the product do.

    Keys: `owner`, `app`, `gateway`, `keybroker`. Rows that such a connection shall see must
    be committed: use `@pytest.mark.django_db(transaction=True)` or the fixture
    `transactional_db`.
    """
    from django.db import connection

    name = connection.settings_dict["NAME"]
    provided = servers.provide()
    return {
        role.removeprefix("strongroom_"): provided.database_url(role, name)
        for role in postgres.ROLES
    }


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The run's own Redis."""
    return servers.provide().redis_url


@pytest.fixture
def redis_client(redis_url):
    """An empty Redis."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """The whole product, started by `bin/up` once per run; see `tests.stack.Stack`.

    Ended by Ctrl-C at the end of the run, after which nothing of it may be left.
    """
    folder = tmp_path_factory.mktemp("stack")
    folder.chmod(0o711)
    running = stacks.start(folder)
    try:
        yield running
    finally:
        stacks.stop(running)
