"""The benchmarks of the queue run, and would say so if a job were claimed twice or lost."""

from __future__ import annotations

from uuid import uuid4

import pytest

from bench import broker, fleet
from bench.queue_stand import Stand
from tests.factories import AccountFactory
from tests.inference.broker.conftest import make_version


@pytest.fixture
def made(transactional_db, database_urls, redis_url) -> Stand:
    version = make_version(AccountFactory(slug="maker"), "echo")
    return Stand(
        url=database_urls["gateway"],
        owner_url=database_urls["owner"],
        redis_url=redis_url,
        admin_redis_url=redis_url,
        version_id=version.pk,
        creator_id=version.model.account_id,
        price_id=version.model.prices.get().pk,
    )


def test_rates_and_turns_are_measured(made, capsys):
    assert broker.measure_depths(made, broker.SMALL)
    broker.measure_fairness(made, broker.SMALL)
    broker.measure_cancels(made, broker.SMALL)
    assert broker.check_books()

    printed = capsys.readouterr().out
    assert "| 200 |" in printed
    assert "claimed twice: none" in printed
    assert "cancel: 200 at once" in printed


def test_a_job_that_is_claimed_twice_is_noticed(made, capsys, monkeypatch):
    job_id = uuid4()
    shares = broker.Shares([0.001], 1.0, [job_id])
    monkeypatch.setattr(broker, "run_cycles", lambda *_: shares)
    monkeypatch.setattr(broker, "run_claims", lambda *_: shares)

    assert not broker.measure_depths(made, broker.SMALL)
    assert "claimed twice: SOME" in capsys.readouterr().out


def test_a_fleet_runs_each_job_once_in_virtual_time(made, capsys):
    found, took_s = fleet.simulate(made, fleet.Traffic(20, 20.0))

    assert fleet.report(found, took_s, 1.0)
    assert took_s >= 20
    assert found.seen.submitted > 5
    assert "each once" in capsys.readouterr().out


def test_jains_index():
    assert fleet.jain([3, 3, 3]) == 1
    assert fleet.jain([1, 0, 0, 0]) == 0.25
