"""The keeper of the certificate: on time, in time, and no longer than it is a node."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine

from inference.node.certificates import BACKOFF_LIMIT_S, TICK_S, CertificateKeeper
from inference.node.control_plane import KeyBroker
from inference.node.identity import IdentityStore
from marketplace.core.clock import utc_now
from tests.inference.node.platform import JOIN_TOKEN


@pytest.fixture
def identities(tmp_path):
    return IdentityStore(tmp_path)


@pytest.fixture
def broker(platform, identities):
    with KeyBroker(platform.broker_url, identities) as broker:
        yield broker


@pytest.fixture
def rejected():
    return []


@pytest.fixture
def keeper(broker, identities, rejected):
    return CertificateKeeper(broker, identities, on_rejected=lambda: rejected.append(1))


def test_who_has_not_joined_has_nothing_to_renew(platform, keeper):
    count = len(platform.certificates)

    assert keeper.look() == TICK_S
    assert len(platform.certificates) == count


def test_it_is_renewed_when_a_third_of_its_time_is_over(platform, broker, keeper, identities):
    broker.join(join_token=JOIN_TOKEN, name="n")
    first, due = identities.current.certificate, identities.current.renew_at

    with time_machine.travel(due - timedelta(seconds=1), tick=False):
        keeper.look()
    assert identities.current.certificate == first
    with time_machine.travel(due, tick=False):
        keeper.look()
        assert identities.current.certificate != first
        assert identities.current.renew_at > due
        newest = identities.current.certificate
        keeper.look()
    assert identities.current.certificate == newest


def test_an_outage_is_sat_out(platform, broker, keeper, identities, rejected):
    broker.join(join_token=JOIN_TOKEN, name="n")
    first = identities.current.certificate
    with time_machine.travel(identities.current.renew_at, tick=False):
        platform.is_broker_down = True
        try:
            assert 0 < keeper.look() <= BACKOFF_LIMIT_S
        finally:
            platform.is_broker_down = False
        assert (identities.current.certificate, rejected) == (first, [])
        assert keeper.look() == TICK_S
    assert identities.current.certificate != first


def test_one_that_was_put_out_is_told_to_join_anew(platform, broker, keeper, identities, rejected):
    broker.join(join_token=JOIN_TOKEN, name="n")
    platform.refuse_certificate = "node_revoked"
    try:
        with time_machine.travel(utc_now() + timedelta(hours=9), tick=False):
            keeper.look()
    finally:
        platform.refuse_certificate = ""

    assert rejected == [1]
