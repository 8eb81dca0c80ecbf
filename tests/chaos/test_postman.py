"""The worker that brings webhooks, killed again and again; and the judge, with a wrong worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inference.models import WebhookDelivery
from marketplace.models import Account
from marketplace.selectors.access import Actor
from tests.chaos.postman import Postman, bring_all, list_missing
from tests.factories import AIModelFactory, MembershipFactory, ModelVersionFactory
from tests.gateway.processes import eventually
from tests.inference.hooked import add, finish
from tests.inference.receivers import Receiver, receive

EVENT_COUNT, KILL_COUNT = 60, 6
# Long enough that most are killed while something is on its way.
SLOW_S = 0.3


@pytest.fixture
def receiver(transactional_db: None, account: Account) -> Iterator[Receiver]:
    """One that is to be told of many predictions."""
    owner = MembershipFactory(account=account, role="owner").user
    with receive() as found:
        _, found.secret = add(Actor(user=owner), account, found.url)
        found.slow_s = SLOW_S
        version = ModelVersionFactory(model=AIModelFactory(account=account))
        for _ in range(EVENT_COUNT):
            finish(account, version)
        yield found


def kill_again_and_again(postman: Postman, receiver: Receiver) -> None:
    """Each time as soon as it has taken something into its hands."""
    for _ in range(KILL_COUNT):
        count = count_tries()

        def check(count: int = count) -> None:
            assert count_tries() > count, postman.log()[-2000:]

        eventually(check, timeout_s=60)
        postman.kill()
        postman.start()
    receiver.slow_s = 0.0
    bring_all(postman)


def count_tries() -> int:
    return sum(WebhookDelivery.objects.values_list("tries", flat=True))


def test_each_event_comes_whoever_dies(receiver, database_urls, tmp_path):
    postman = Postman(tmp_path, database_urls["app"])
    try:
        kill_again_and_again(postman, receiver)
    finally:
        postman.kill()

    assert list_missing(receiver) == []
    assert WebhookDelivery.objects.filter(state="succeeded").count() == EVENT_COUNT
    # Otherwise nothing was on its way when it died.
    assert count_tries() > EVENT_COUNT


def test_what_is_written_down_too_early_is_found_out(receiver, database_urls, tmp_path):
    postman = Postman(tmp_path, database_urls["app"], is_hasty=True)
    try:
        kill_again_and_again(postman, receiver)
    finally:
        postman.kill()

    assert not WebhookDelivery.objects.filter(state="waiting").exists()
    assert list_missing(receiver) != []


def test_what_nobody_signed_has_not_come(receiver, database_urls, tmp_path):
    receiver.slow_s = 0.0
    postman = Postman(tmp_path, database_urls["app"])
    try:
        bring_all(postman)
    finally:
        postman.kill()
    assert list_missing(receiver) == []

    one = receiver.seen[0]
    one.body = one.body.replace(b"prediction.completed", b"prediction.c0mpleted")

    assert list_missing(receiver) == [one.headers["webhook-id"]]
