from __future__ import annotations

import math
import time
from datetime import timedelta

import pytest
import time_machine

from inference.node.errors import RefusedError, UnreachableError
from inference.node.leases import RENEW_SHARE, TTL_S_MAX, Lease, LeaseKeeper
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id


class Broker:
    """Answers renewals with what the test says."""

    def __init__(self):
        self.answer = ends_in(600)
        self.renewed = []

    def renew_lease(self, lease_id):
        self.renewed.append(lease_id)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def release_lease(self, lease_id):
        raise UnreachableError("away")


def ends_in(seconds):
    return {"expires_at": (utc_now() + timedelta(seconds=seconds)).isoformat()}


def make_lease(ttl_s=600.0):
    return Lease.parse({"lease_id": str(new_id()), **ends_in(ttl_s)}, new_id())


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def held():
    return []


@pytest.fixture
def lost():
    return []


@pytest.fixture
def keeper(broker, held, lost):
    return LeaseKeeper(broker, list_leases=lambda: list(held), on_loss=lost.append)


def test_a_lease_is_due_after_a_third_of_its_time(keeper, broker, held):
    lease = make_lease(600)
    held.append(lease)
    assert lease.renew_at - time.monotonic() == pytest.approx(600 * RENEW_SHARE, abs=1)

    keeper.look()
    assert broker.renewed == []
    lease.renew_at = time.monotonic()
    keeper.look()

    assert broker.renewed == [lease.lease_id]
    assert lease.renew_at - time.monotonic() == pytest.approx(200, abs=1)
    assert lease.loss is None


def test_a_refused_renewal_loses_the_lease_once(keeper, broker, held, lost):
    lease = make_lease()
    lease.renew_at = 0.0
    held.append(lease)
    broker.answer = RefusedError(403, "lease_lost", "")

    keeper.look()
    keeper.look()

    assert lost == [lease]
    assert lease.loss.reason_code == "lease_lost"
    assert len(broker.renewed) == 1


def test_an_outage_is_sat_out_until_the_end(keeper, broker, held, lost):
    lease = make_lease()
    lease.renew_at = 0.0
    held.append(lease)
    broker.answer = UnreachableError("away")

    keeper.look()
    assert (lost, lease.loss) == ([], None)
    # Not asked in a storm, but well before the end.
    assert 0 < lease.renew_at - time.monotonic() <= 5.0

    lease.expires_at = lease.renew_at = time.monotonic() - 0.001
    keeper.look()
    assert lost == [lease]
    assert lease.loss.reason_code == "lease_expired"


def test_what_has_ended_is_given_up_before_a_silent_broker_is_asked(keeper, broker, held, lost):
    due, ended = make_lease(), make_lease()
    due.renew_at = 0.0
    ended.expires_at = time.monotonic() - 0.001
    held += [due, ended]
    seen = []

    def renew_lease(lease_id):
        seen.append(list(lost))
        raise UnreachableError("away")

    broker.renew_lease = renew_lease
    keeper.look()

    assert seen == [[ended]]


def test_a_nonce_that_ran_out_says_nothing_of_the_lease(keeper, broker, held, lost):
    lease = make_lease()
    lease.renew_at = 0.0
    held.append(lease)
    broker.answer = RefusedError(409, "nonce_replayed", "")

    keeper.look()

    assert (lost, lease.loss) == ([], None)
    assert lease.renew_at > time.monotonic()


def test_clocks_that_differ_do_not_make_leases_longer():
    assert make_lease(5000).expires_at - time.monotonic() <= TTL_S_MAX
    assert make_lease(-5000).expires_at <= time.monotonic()


@pytest.mark.parametrize("offset_s", [-240, 240])
def test_a_lease_ends_by_the_monotonic_clock(keeper, held, lost, offset_s):
    """Whatever happens to the time of day of a machine: it only counts when the lease is read."""
    lease = make_lease(600)
    held.append(lease)

    with time_machine.travel(utc_now() + timedelta(days=1), tick=False):
        keeper.look()
    with time_machine.travel(utc_now() + timedelta(seconds=offset_s), tick=False):
        keeper.look()
    assert lost == []

    # A clock that is behind gets no more than the broker gives, one ahead a little less.
    answer = {"lease_id": str(new_id()), **ends_in(600)}
    with time_machine.travel(utc_now() + timedelta(seconds=offset_s), tick=False):
        made = Lease.parse(answer, new_id())
    left_s = made.expires_at - time.monotonic()
    assert left_s <= TTL_S_MAX
    assert left_s == pytest.approx(min(TTL_S_MAX, 600 - offset_s), abs=30)


@pytest.mark.parametrize("offset_s", [-100_000, -240, 0, 240, 100_000])
def test_seconds_that_the_broker_tells_need_no_clock(offset_s):
    answer = {"lease_id": str(new_id()), **ends_in(600), "ttl_s": 599}
    with time_machine.travel(utc_now() + timedelta(seconds=offset_s), tick=False):
        made = Lease.parse(answer, new_id())

    assert made.expires_at - time.monotonic() == pytest.approx(599, abs=30)


@pytest.mark.parametrize(
    ("ttl_s", "least_s", "most_s"),
    [(601, 570, TTL_S_MAX), (0, -30, 0), (-1, -30, 0), (math.nan, -30, 0), (math.inf, 570, 600)],
)
def test_seconds_out_of_bounds_make_no_lease_longer(ttl_s, least_s, most_s):
    made = Lease.parse({"lease_id": str(new_id()), "ttl_s": ttl_s}, new_id())

    assert least_s <= made.expires_at - time.monotonic() <= most_s


def test_a_release_that_cannot_be_said_is_no_error(keeper):
    keeper.release(make_lease())


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"lease_id": "x", **ends_in(1)},
        {"lease_id": str(new_id()), "expires_at": "x"},
        {"lease_id": str(new_id()), "ttl_s": "soon"},
        {"lease_id": str(new_id()), "ttl_s": None},
    ],
)
def test_a_malformed_lease_is_no_answer(answer):
    with pytest.raises(UnreachableError):
        Lease.parse(answer, new_id())
