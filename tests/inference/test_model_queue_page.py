"""Where a creator sees how much waits for a model: numbers and pseudonyms, and no consumer."""

from __future__ import annotations

import pytest

from inference.models import JobPace
from inference.selectors import queue
from inference.selectors.metric import make_pseudonym
from marketplace.core.clock import utc_now
from marketplace.core.ids import to_public
from tests.factories import AccountFactory, AIModelFactory, ModelVersionFactory
from tests.inference import queued

PAGE = "/dashboard/models/acme/digits/monitoring/queue"


@pytest.fixture
def version(account):
    model = AIModelFactory(account=account, name="digits", visibility="public")
    return ModelVersionFactory(model=model, number=7)


@pytest.fixture
def consumer(db):
    return AccountFactory(slug="a-secret-consumer", name="Secret")


def read(client, status: int = 200) -> str:
    answer = client.get(PAGE)
    assert answer.status_code == status
    return answer.content.decode()


def test_a_queue_in_which_nothing_was_says_so(owner_client, version):
    text = read(owner_client)

    assert "Nothing has waited yet" in text
    assert 'style="' not in text


def test_what_waits_is_shown_without_whose_it_is(owner_client, account, version, consumer):
    node = queued.make_node()
    ids = [queued.submit(consumer, version, priority=2, tag="their-own-words") for _ in range(3)]
    queued.claim(node, [version])
    JobPace.objects.create(version=version, mean_us=90_000_000)

    text = read(owner_client)

    assert "Version 7" in text
    assert "90.00 s" in text
    assert make_pseudonym(account.pk, consumer.pk, utc_now()) in text
    found = [one for one in (*map(to_public, ids), str(consumer.pk)) if one in text]
    assert found == []
    assert "secret" not in text.lower()
    assert "their-own-words" not in text
    assert node.name not in text


def test_accounts_are_listed_by_how_much_they_have(account, version, consumer, monkeypatch):
    queued.submit(account, version)
    for _ in range(2):
        queued.submit(consumer, version)
    other = ModelVersionFactory(model=AIModelFactory(account=account, name="letters"))
    queued.submit(AccountFactory(), other)

    found = [(one.account_id, one.count) for one in queue.list_waiters([version.pk])]
    assert found == [(consumer.pk, 2), (account.pk, 1)]
    monkeypatch.setattr(queue, "WAITERS_SHOWN", 1)
    assert len(queue.list_waiters([version.pk])) == 1


def test_an_account_whose_jobs_are_over_is_not_listed(version, consumer):
    queued.submit(consumer, version)
    queued.finish(queued.claim(queued.make_node(), [version]))

    assert queue.list_waiters([version.pk]) == []


def test_other_models_are_not_counted(owner_client, account, version, consumer):
    other = ModelVersionFactory(model=AIModelFactory(account=account, name="letters"))
    for _ in range(5):
        queued.submit(consumer, other)

    assert "Nothing has waited yet" in read(owner_client)


def test_it_asks_as_often_for_many_versions(
    owner_client, version, consumer, django_assert_max_num_queries
):
    def count() -> int:
        with django_assert_max_num_queries(40) as found:
            read(owner_client)
        return len(found)

    queued.submit(consumer, version)
    before = count()
    for number in range(8, 14):
        made = ModelVersionFactory(model=version.model, number=number)
        queued.submit(consumer, made)
        queued.submit(AccountFactory(), made)

    assert count() == before


def test_it_is_the_accounts_own_business(version, outsider_client, admin_client, client):
    read(outsider_client, 403)
    read(admin_client)
    assert client.get(PAGE).url.startswith("/login?next=")
