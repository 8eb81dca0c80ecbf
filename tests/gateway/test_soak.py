"""Memory stays where it is, whatever is asked of a gateway and however often.

`bench/soak.py` does the same a million times, with the whole product.
"""

from __future__ import annotations

import asyncio

import pytest

from billing.models import LedgerAccount, UsageEvent
from tests.gateway.conftest import PRICE_NANOS, X, check_holds, check_ledger
from tests.gateway.processes import eventually
from tests.gateway.traffic import Shape, find_worker, fit_growth, mix, soak

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]

TOTAL = 20_000
STEPS = 20
# Buffers, caches and the allocator's arenas have grown by then.
WARM = STEPS * 2 // 5
# So many that requests wait for each other: then the gateway watches whether callers leave.
CONNECTIONS = 64
# Of 20,000 requests 40 to 130 were seen, the noise of the allocator. One reference that is kept
# of each request is 8,000; one of each request that had to wait, 2,700.
GROWTH_BYTES_MAX = 800


def run(shop, gateway, total, name):
    shop.fund(2 * total * PRICE_NANOS)
    make = mix(Shape("maker/echo", X), shop.key.text, run=name)
    pid = find_worker(gateway.process.pid)
    return asyncio.run(
        soak(gateway.port, pid, make, total=total, steps=STEPS, connections=CONNECTIONS)
    )


def check_flat(samples):
    growth_bytes = fit_growth(samples[WARM:])
    assert growth_bytes < GROWTH_BYTES_MAX, (growth_bytes, samples)


def test_memory_does_not_grow_with_the_requests(shop, start_gateway):
    samples, answered = run(shop, start_gateway(), TOTAL, "flat")

    check_flat(samples)
    check_answers(answered)
    sold = answered["plain", 200] + answered["plain", 201] + answered["keyed", 201]
    check_money(shop, sold=sold, left=TOTAL // 20)


# By kind: how many of twenty, and what they may be answered with.
KINDS = {
    "plain": (14, {200, 201}),
    "keyed": (1, {200, 201, 409}),
    "wrong": (1, {422}),
    "stray": (1, {404}),
    "broken": (1, {400}),
    "unknown": (1, {401}),
}


def check_answers(answered):
    each = TOTAL // 20
    for kind, (parts, statuses) in KINDS.items():
        found = {status: count for (one, status), count in answered.items() if one == kind}
        assert found.keys() <= statuses, found
        assert sum(found.values()) == parts * each
    assert answered["keyed", 201] <= each // 2


def check_money(shop, *, sold, left):
    """What was answered is booked once; of those who left at most what was on its way."""
    eventually(lambda: check_holds(shop), timeout_s=30)
    count = UsageEvent.objects.count()
    assert sold <= count <= sold + left
    wallet = LedgerAccount.objects.get(pk=shop.wallet_id)
    assert wallet.posted_nanos == shop.funded_nanos - count * PRICE_NANOS
    check_ledger()


@pytest.mark.parametrize("_damage", ["keeps_requests", "keeps_watches"])
def test_gateway_that_keeps_requests_is_caught(shop, start_gateway, _damage):
    gateway = start_gateway(target=f"tests.gateway.broken:{_damage}")

    samples, _ = run(shop, gateway, TOTAL // 2, _damage)

    with pytest.raises(AssertionError):
        check_flat(samples)
