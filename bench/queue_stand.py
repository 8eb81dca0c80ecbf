"""A queue of jobs in a Postgres of its own, as in production, and crowds of jobs in it.

Started for one benchmark, which alone uses it; it flushes what it commits. Beside it a Redis.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import psycopg

from embedded import postgres, spawn
from tests import servers

if TYPE_CHECKING:
    from inference.broker.job import NewJob

PRICE_NANOS = 1_001
CREDIT_NANOS = 10**13
_START_TIMEOUT_S = 60.0
_AT_ONCE = 1_000
T = TypeVar("T")

_JOBS = """
    INSERT INTO inference_job (id, account_id, version_id, creator_id, price_id, priority,
        gross_nanos, hold_id, expected_ms, ready_at, deadline_at, attempts_max, created_at)
    SELECT g.id, g.account_id, %(version)s, %(creator)s, %(price)s, %(priority)s,
        %(nanos)s, CASE WHEN %(nanos)s > 0 THEN g.id END, 1000, now(),
        now() + interval '10 hours', 3, now()
    FROM unnest(%(ids)s::uuid[], %(accounts)s::uuid[]) AS g(id, account_id)
"""
_INPUTS = """INSERT INTO inference_jobinput (job_id, input)
    SELECT i, '{"x": [1, 2.5, 3, 4]}' FROM unnest(%s::uuid[]) i"""
_FLOWS = """
    INSERT INTO inference_jobflow AS f (account_id, version_id, offered_count, parked_count)
    SELECT a, %s, 0, count(*) FROM unnest(%s::uuid[]) a GROUP BY a
    ON CONFLICT (account_id, version_id)
        DO UPDATE SET parked_count = f.parked_count + excluded.parked_count
"""
_OFFER = "SELECT inference_offer_jobs(f.account_id, f.version_id) FROM inference_jobflow f"


@dataclass(frozen=True, slots=True)
class Stand:
    """Where the servers are, and what is sold.

    Args:
        url: Of the database, for a gateway.
        owner_url: Of the database, past all functions.
        redis_url: For a gateway.
        admin_redis_url: Of the same Redis, with all rights.
    """

    url: str
    owner_url: str
    redis_url: str
    admin_redis_url: str
    version_id: UUID
    creator_id: UUID
    price_id: UUID

    def make_accounts(self, count: int) -> list[UUID]:
        """Accounts with credit."""
        from marketplace.core.ids import new_id

        accounts = [new_id() for _ in range(count)]
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            for begin in range(0, count, _AT_ONCE):
                _fund(connection, accounts[begin : begin + _AT_ONCE])
        return accounts

    def crowd(
        self, accounts: Sequence[UUID], each: int, *, priority: int = 1, is_paid: bool = True
    ) -> list[UUID]:
        """Put jobs of each account into the queue, as `inference_submit` does."""
        from marketplace.core.ids import new_id

        owners = [one for one in accounts for _ in range(each)]
        ids = [new_id() for _ in owners]
        nanos = PRICE_NANOS if is_paid else 0
        fixed = {"version": self.version_id, "creator": self.creator_id, "price": self.price_id}
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            for begin in range(0, len(ids), _AT_ONCE):
                some, of = ids[begin : begin + _AT_ONCE], owners[begin : begin + _AT_ONCE]
                if is_paid:
                    _reserve(connection, some, of)
                values = {"ids": some, "accounts": of, "nanos": nanos, "priority": priority}
                connection.execute(_JOBS, fixed | values)
                connection.execute(_INPUTS, [some])
            connection.execute(_FLOWS, [self.version_id, owners])
            connection.execute(_OFFER)
            connection.execute("ANALYZE inference_job")
        return ids

    def empty(self) -> None:
        """Forget all jobs, as if there had never been one; money stays where it is."""
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            connection.execute(
                "TRUNCATE inference_job, inference_jobinput, inference_jobflow,"
                " inference_jobclock, inference_jobpace, inference_jobattempt"
            )

    def make_job(self, account_id: UUID, **changes: Any) -> NewJob:
        from inference.broker.job import NewJob
        from marketplace.core.ids import new_id

        given: dict[str, Any] = {
            "id": new_id(),
            "account_id": account_id,
            "version_id": self.version_id,
            "creator_id": self.creator_id,
            "price_id": self.price_id,
            "gross_nanos": PRICE_NANOS,
            "input": {"x": [1, 2.5, 3, 4]},
        }
        return NewJob(**(given | changes))


@contextlib.contextmanager
def stand() -> Iterator[Stand]:
    """Start the servers and make the tables; all is gone at the end."""
    provided = servers.provide()
    folder = provided.folder / "durable"
    password = provided.superuser_password
    user = postgres.server_user(folder)
    postgres.prepare(folder, password=password, user=user)
    process = spawn.start(
        postgres.command(folder, provided.postgres_port),
        env=postgres.environment(),
        cwd=folder,
        log=folder / "log",
        user=user,
        death_signal=signal.SIGQUIT,
    )
    try:
        _wait(lambda: postgres.is_ready(provided.superuser_url))
        postgres.ensure_roles(provided.postgres_port, password, provided.passwords, for_tests=True)
        yield _prepare(provided)
    finally:
        process.send_signal(postgres.STOP_SIGNAL)
        process.wait(30)


def in_threads(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What each call returns, all made at once; the first error is raised."""
    found: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []

    def keep(number: int) -> None:
        try:
            found[number] = calls[number]()
        except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=keep, args=[number]) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


def describe_machine() -> str:
    """What the figures were seen on."""
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{os.cpu_count()} cores, load average {load}"


def _prepare(provided: servers.Servers) -> Stand:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", "--no-input", verbosity=0)
    call_command("grant_roles", verbosity=0)
    from tests.factories import AccountFactory
    from tests.inference.broker.conftest import make_version

    version = make_version(AccountFactory(slug="maker"), "echo")
    made = Stand(
        url=provided.database_url(postgres.GATEWAY),
        owner_url=provided.database_url(postgres.OWNER),
        redis_url=provided.gateway_redis_url,
        admin_redis_url=provided.redis_url,
        version_id=version.pk,
        creator_id=version.model.account_id,
        price_id=version.model.prices.get().pk,
    )
    connection.close()
    return made


def _fund(connection: psycopg.Connection[Any], accounts: list[UUID]) -> None:
    from marketplace.core.ids import new_id

    connection.execute(
        """INSERT INTO marketplace_account (id, slug, name, kind, created_at)
           SELECT i, 'b-' || i, 'Bench', 'person', now() FROM unnest(%s::uuid[]) i""",
        [accounts],
    )
    connection.execute(
        """SELECT billing_transfer(%s, 'top_up', %s, '', (
               SELECT jsonb_agg(jsonb_build_object('account', billing_account(i, 'wallet'),
                       'amount', %s::bigint))
                   || jsonb_build_object('account', billing_account(NULL, 'stripe_clearing'),
                       'amount', -%s::bigint * count(*))
               FROM unnest(%s::uuid[]) i), NULL)""",
        [new_id(), f"bench:{new_id()}", CREDIT_NANOS, CREDIT_NANOS, accounts],
    )


def _reserve(
    connection: psycopg.Connection[Any], ids: Sequence[UUID], accounts: Sequence[UUID]
) -> None:
    connection.execute(
        """SELECT billing_reserve((
               SELECT jsonb_agg(jsonb_build_object('hold_id', g.id, 'account_id', g.account_id,
                   'api_key_id', NULL, 'least_nanos', %(nanos)s::bigint,
                   'most_nanos', %(nanos)s::bigint))
               FROM unnest(%(ids)s::uuid[], %(accounts)s::uuid[]) AS g(id, account_id)), 86400)""",
        {"nanos": PRICE_NANOS, "ids": ids, "accounts": accounts},
    )


def _wait(is_ready: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while not is_ready():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
