"""The key broker is gone, or its clock is not the node's: what was lent still comes back.

The node's own code keeps the leases of a real broker, which is killed and started again. Leases
end by the clock that only runs forwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from inference.models import Replica
from inference.node import leases as node_leases
from inference.node.errors import RefusedError, UnreachableError
from inference.node.leases import Lease, LeaseKeeper
from marketplace.core.clock import utc_now
from tests.inference.keybroker.conftest import Broker, EnrolledNode, start_broker
from tests.inference.node.platform import wait_for
from tests.threats.conftest import ask

pytestmark = pytest.mark.django_db(transaction=True)


class Wire:
    """The node's way to a broker; unreachable while there is none."""

    def __init__(self, node: EnrolledNode) -> None:
        self.node = node
        self.broker: Broker | None = None
        self.renewed = self.failed = 0

    def renew_lease(self, lease_id: str) -> dict[str, Any]:
        if self.broker is None or self.broker.process.poll() is not None:
            self.failed += 1
            raise UnreachableError("away")
        body = self.node.sign(
            {"node_id": str(self.node.row.pk), "nonce": self.node.nonce(self.broker)}
        )
        answer = self.broker.post(f"/v1/leases/{lease_id}/renew", body, token=None)
        if answer.status_code != 200:
            raise RefusedError(answer.status_code, answer.json()["code"], "")
        self.renewed += 1
        return answer.json()


class Held:
    """A replica that is loaded, and the keeper that has it unloaded."""

    def __init__(self, wire: Wire, lease: Lease) -> None:
        self.wire, self.lease = wire, lease
        self.unloaded_at: float | None = None
        self.keeper = LeaseKeeper(wire, list_leases=lambda: [lease], on_loss=self._unload)
        self.keeper.start()

    def _unload(self, _: Lease) -> None:
        self.unloaded_at = time.monotonic()


@pytest.fixture
def hold(
    node: EnrolledNode, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Broker], Held]]:
    """Have a replica loaded under a lease of a broker."""
    monkeypatch.setattr(node_leases, "RETRY_S", 0.1)
    monkeypatch.setattr(node_leases, "_TICK_S", 0.05)
    started: list[Held] = []

    def run(broker: Broker) -> Held:
        wire = Wire(node)
        wire.broker = broker
        answer = ask(broker, node.request(broker, replica)).json()
        started.append(Held(wire, Lease.parse(answer, replica.pk)))
        return started[-1]

    yield run
    for one in started:
        one.keeper.stop()


def kill(broker: Broker) -> None:
    """As a machine dies: at once, and with all of its processes."""
    whole = psutil.Process(broker.process.pid)
    for one in [whole, *whole.children(recursive=True)]:
        one.kill()
    broker.process.wait(10)


def test_a_broker_that_stays_away_takes_the_replica_down_at_the_leases_end(
    hold: Callable[[Broker], Held], broker: Broker
) -> None:
    held = hold(broker)
    # The control: while it lives, the lease is renewed when that is due.
    held.lease.renew_at = time.monotonic()
    wait_for(lambda: held.wire.renewed)

    kill(broker)
    # The ten minutes pass.
    held.lease.extend(1.0)
    end = held.lease.expires_at

    wait_for(lambda: held.unloaded_at)
    assert held.lease.loss is not None
    assert held.lease.loss.reason_code == "lease_expired"
    assert held.wire.failed > 0
    # Not before: who killed the broker has not taken the node's models down with it.
    assert held.unloaded_at is not None
    assert held.unloaded_at >= end


def test_a_broker_that_comes_back_in_time_is_asked_again(
    hold: Callable[[Broker], Held],
    broker: Broker,
    database_urls: dict[str, str],
    tmp_path: Path,
) -> None:
    held = hold(broker)
    kill(broker)
    held.lease.renew_at = time.monotonic()
    # The control: it is missed.
    wait_for(lambda: held.wire.failed)
    assert held.wire.renewed == 0

    held.wire.broker = start_broker(tmp_path, database_urls["keybroker"])
    try:
        wait_for(lambda: held.wire.renewed)
        assert held.unloaded_at is None
    finally:
        held.keeper.stop()
        held.wire.broker.process.terminate()
        held.wire.broker.process.wait(10)


def test_a_node_whose_clock_is_wrong_keeps_nothing_longer(
    broker: Broker, node: EnrolledNode, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ask(broker, node.request(broker, replica)).json()
    # A broker of before told of the end only, by its own clock.
    of_before = {name: value for name, value in answer.items() if name != "ttl_s"}

    def seconds_left(told: dict[str, Any], *, clock_is_off_by: timedelta) -> float:
        monkeypatch.setattr(node_leases, "utc_now", lambda: utc_now() + clock_is_off_by)
        return Lease.parse(told, replica.pk).expires_at - time.monotonic()

    day = timedelta(days=1)
    # Told how many seconds it has, the node's own clock is of no account: it keeps the key for
    # the broker's time to live, and works.
    assert 0 < seconds_left(answer, clock_is_off_by=-day) <= node_leases.TTL_S_MAX
    assert 0 < seconds_left(answer, clock_is_off_by=day) <= node_leases.TTL_S_MAX
    # Told the end only. Behind: never more than the time to live. Ahead: it ends at once.
    assert 0 < seconds_left(of_before, clock_is_off_by=-day) <= node_leases.TTL_S_MAX
    assert seconds_left(of_before, clock_is_off_by=day) <= 0
    # The control: somebody who believed the wall clock would keep the key for another day.
    believed = datetime.fromisoformat(answer["expires_at"]) - (utc_now() - day)
    assert believed.total_seconds() > day.total_seconds()


def test_a_clock_that_is_set_later_moves_no_end(
    broker: Broker, node: EnrolledNode, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease.parse(ask(broker, node.request(broker, replica)).json(), replica.pk)
    lost: list[Lease] = []
    keeper = LeaseKeeper(Wire(node), list_leases=lambda: [lease], on_loss=lost.append)
    monkeypatch.setattr(node_leases, "utc_now", lambda: utc_now() - timedelta(days=1))
    monkeypatch.setattr(time, "time", lambda: 0.0)

    # The control: until its end it is kept, whatever the wall clock says.
    keeper.look()
    assert lost == []
    lease.expires_at = time.monotonic()
    keeper.look()
    assert lost == [lease]
