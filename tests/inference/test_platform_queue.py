"""The platform's pages of the queue: what waits and runs, what died, and how it runs again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from inference.models import FinishedJob, Job, JobAttempt, JobInput
from inference.selectors import dead_job, queue
from inference.services import dead_job as services
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id, to_public
from marketplace.models import AuditEvent
from tests.factories import AIModelFactory, ModelVersionFactory
from tests.inference import queued

QUEUE, DEAD = "/platform/queue", "/platform/queue/dead"
REPLAY = f"{DEAD}/replay"
PRICE_NANOS = 1_001


@pytest.fixture
def version(account):
    return ModelVersionFactory(model=AIModelFactory(account=account, name="digits"))


@pytest.fixture
def node(db):
    return queued.make_node()


@pytest.fixture
def dead(account, version, node):
    """Two of `digits` and one of another model, the newest last."""
    other = ModelVersionFactory(model=AIModelFactory(account=account, name="letters"))
    return [
        queued.kill(account, version, node, "node_lost"),
        queued.kill(account, version, node, "triton_unavailable", "connection refused"),
        queued.kill(account, other, node, "node_lost"),
    ]


def ask(*job_ids) -> str:
    return f"{REPLAY}?{'&'.join(f'job={to_public(one)}' for one in job_ids)}"


def read(client: Client, url: str, status: int = 200) -> str:
    answer = client.get(url)
    assert answer.status_code == status
    return answer.content.decode()


def test_they_are_for_admins_alone(dead, admin_client, owner_client, client):
    for url in (QUEUE, DEAD, f"{DEAD}/{to_public(dead[0])}", ask(dead[0])):
        assert admin_client.get(url).status_code == 200
        assert owner_client.get(url).status_code == 404
        assert client.get(url).url.startswith("/login?next=")
    for stranger in (owner_client, client):
        assert stranger.post(ask(*dead), {"reason": "mine"}).status_code in (302, 404)
    assert Job.objects.filter(state="dead").count() == 3


def test_without_jobs_the_pages_say_so(admin_client):
    assert "Nothing waits or runs" in read(admin_client, QUEUE)
    assert "Nothing is dead" in read(admin_client, DEAD)


def test_what_waits_is_counted_by_version_and_class(account, version, node):
    queued.submit(account, version, priority=0)
    for _ in range(3):
        queued.submit(account, version, priority=2)
    running = queued.claim(node, [version])
    queued.start(running)

    [depth] = queue.list_depths()

    assert depth.version == version
    assert [(one.priority, one.waiting, one.running) for one in depth.classes] == [
        (Job.Priority.HIGH, 0, 1),
        (Job.Priority.NORMAL, 0, 0),
        (Job.Priority.BATCH, 3, 0),
    ]
    assert (depth.waiting, depth.running) == (3, 1)
    assert depth.oldest_at == Job.objects.filter(state="queued").earliest("created_at").created_at
    # Nobody has measured a run yet.
    assert depth.wait_s is None

    queued.finish(running, took_us=4_000_000)
    [depth] = queue.list_depths()
    assert (depth.mean_s, depth.place_count, depth.wait_s) == (4.0, 0, 12)


def test_nodes_stand_with_what_they_took(admin_client, account, version, node):
    old = queued.make_node("node-old", drain_requested_at=timezone.now())
    idle = queued.make_node("node-idle", drain_requested_at=timezone.now())
    for _ in range(2):
        queued.submit(account, version)
    queued.claim(old, [version])
    Job.objects.filter(state="leased").update(lease_until=utc_now() - timedelta(seconds=9))
    job = queued.claim(node, [version])

    found = {one.node: one for one in queue.list_leases()}

    assert set(found) == {node, old, idle}
    assert [one.pk for one in found[node].jobs] == [job.pk]
    assert found[node].oldest_at == job.leased_at
    assert [found[one].late_count for one in (node, old, idle)] == [0, 1, 0]
    text = read(admin_client, QUEUE)
    assert "draining" in text.lower()
    assert "1 lease ran out" in text


def test_a_lease_of_a_node_that_went_is_shown(admin_client, account, version, node):
    queued.submit(account, version)
    job = queued.claim(node, [version])
    node.delete()

    [found] = queue.list_leases()
    assert (found.node, found.node_id) == (None, job.lease_node_id)
    assert str(job.lease_node_id) in read(admin_client, QUEUE)


def test_the_page_asks_as_often_for_much_as_for_little(
    admin_client, account, node, django_assert_max_num_queries
):
    def fill(name: str) -> None:
        made = ModelVersionFactory(model=AIModelFactory(account=account, name=name))
        queued.kill(account, made, queued.make_node(f"{name}-dead"))
        queued.submit(account, made)
        queued.claim(queued.make_node(name), [made])
        queued.submit(account, made)

    def count(url: str) -> int:
        with django_assert_max_num_queries(60) as found:
            assert admin_client.get(url).status_code == 200
        return len(found)

    fill("one")
    before = [count(url) for url in (QUEUE, DEAD)]
    for name in ("two", "three", "four"):
        fill(name)

    assert [count(url) for url in (QUEUE, DEAD)] == before


def test_endings_are_counted_where_they_lie(account, version, node):
    queued.submit(account, version)
    queued.finish(queued.claim(node, [version]))
    queued.kill(account, version, node)
    now = utc_now()
    for hours, state in ((1, "failed"), (2, "canceled"), (9, "failed")):
        at = now - timedelta(hours=hours)
        FinishedJob.objects.create(
            pk=new_id(),
            account_id=account.pk,
            version_id=version.pk,
            state=state,
            priority=1,
            attempt=1,
            created_at=at,
            finished_at=at,
        )

    found = queue.count_endings()

    counts = {name: found.count(name) for name in queue.ENDINGS}
    assert counts == {"succeeded": 1, "failed": 1, "canceled": 1, "dead": 1}
    # The newest span is the last one, and another model has none of it.
    assert found.counts["succeeded"][-1] == 1
    assert found.times[-1] <= now.timestamp() < found.times[-1] + 900
    assert queue.count_endings([new_id()]).total == 0
    assert queue.count_endings([version.pk]).total == 4


def test_a_chart_of_too_much_begins_later(account, version, node, monkeypatch):
    monkeypatch.setattr(queue, "ENDINGS_READ_MAX", 2)
    for _ in range(2):
        queued.submit(account, version)
        queued.finish(queued.claim(node, [version]))

    found = queue.count_endings()

    # What was read of the first span may be a part of it.
    assert found.is_cut
    assert found.counts["succeeded"] == [None] * queue.ENDINGS_POINTS


def test_dead_ones_are_listed_with_their_reasons(admin_client, dead):
    text = read(admin_client, DEAD)
    assert "3" in text
    assert all(f"{DEAD}/{to_public(one)}" in text for one in dead)
    assert "The node was not heard of any more." in text

    found = read(admin_client, f"{DEAD}?model=acme/digits&reason=node_lost")
    assert to_public(dead[0]) in found
    assert not any(to_public(one) in found for one in dead[1:])
    # Nothing can be chosen that is not there.
    assert "Select a valid choice" in read(admin_client, f"{DEAD}?model=acme/none", 422)


def test_one_dead_is_shown_with_its_attempts(admin_client, dead):
    text = read(admin_client, f"{DEAD}/{to_public(dead[1])}")

    assert "connection refused" in text
    assert "node-1" in text
    assert "/platform/accounts/acme" in text
    assert "The model&#x27;s server on the node did not answer." in text


@pytest.mark.parametrize("public_id", ["x", "a" * 26, "ä" * 26, "7" * 26])
def test_what_is_not_dead_has_no_page(admin_client, dead, public_id):
    assert admin_client.get(f"{DEAD}/{public_id}").status_code == 404
    assert admin_client.get(f"{REPLAY}?job={public_id}").status_code in (404, 422)


def test_a_dead_one_runs_again_and_the_log_says_why(admin_client, dead, node, version):
    url = ask(dead[0])
    assert "1 prediction of 1 account waits in the queue anew" in read(admin_client, url)
    # Without a reason nothing happens.
    assert admin_client.post(url, {"reason": " "}).status_code == 422
    assert Job.objects.get(pk=dead[0]).state == "dead"

    answer = admin_client.post(url, {"reason": "The rack has power again."})

    assert "1 of 1 waits in the queue again" in answer.content.decode()
    assert Job.objects.get(pk=dead[0]).state == "queued"
    event = AuditEvent.objects.get(action="job.replay")
    assert event.object_id == str(dead[0])
    assert event.payload == {"reason": "The rack has power again."}
    assert queued.claim(node, [version]).pk == dead[0]
    # Sent once more it does nothing.
    assert admin_client.post(url, {"reason": "Again."}).status_code == 404
    assert AuditEvent.objects.filter(action="job.replay").count() == 1


def test_a_selection_runs_again_and_each_says_what_came_of_it(
    admin_client, account, version, node, dead
):
    queued.fund(account, PRICE_NANOS)
    poor = queued.kill(account, version, node, gross_nanos=PRICE_NANOS)
    queued.submit(account, version, gross_nanos=PRICE_NANOS)
    erased = dead[1]
    JobInput.objects.filter(job=erased).delete()

    text = admin_client.post(ask(dead[0], poor, erased), {"reason": "Try."}).content.decode()

    assert "1 of 3 waits in the queue again" in text
    assert "does not hold enough credit" in text
    assert "was deleted with its account" in text
    states = {one.pk: one.state for one in Job.objects.all()}
    assert (states[dead[0]], states[poor], states[erased]) == ("queued", "dead", "dead")
    assert AuditEvent.objects.filter(action="job.replay").count() == 1


def test_those_that_ran_again_meanwhile_are_counted(admin_client, dead):
    url = ask(*dead)
    admin_client.post(ask(dead[0]), {"reason": "First."})

    assert "1 of those chosen is not dead any more." in read(admin_client, url)
    text = admin_client.post(url, {"reason": "Second."}).content.decode()

    assert "2 of 2 wait in the queue again" in text
    assert "1 of those chosen was not dead any more." in text


def test_all_of_a_filter_are_named_before_they_run(admin_client, dead, monkeypatch):
    answer = admin_client.get(f"{REPLAY}?all=1&model=acme/digits&reason=")
    assert answer.status_code == 302
    assert answer.url == ask(dead[0], dead[1])

    monkeypatch.setattr(services, "DEAD_AT_ONCE_MAX", 1)
    assert admin_client.get(f"{REPLAY}?all=1").url == ask(dead[0])


@pytest.mark.parametrize(("count", "status"), [(0, 404), (100, 200), (101, 422)])
def test_a_form_takes_so_many_and_no_more(admin_client, dead, count, status):
    others = [new_id() for _ in range(max(0, count - 1))]
    url = ask(*([dead[0], *others] if count else []))

    assert admin_client.post(url, {"reason": "All."}).status_code == status
    assert Job.objects.filter(state="queued").exists() == (status == 200)


def test_the_overview_counts_the_dead(admin_client, dead):
    text = read(admin_client, "/platform/panels/serving")

    assert "Dead predictions" in text
    assert dead_job.count_dead() == (
        3,
        Job.objects.filter(state="dead").earliest("finished_at").finished_at,
    )


def test_attempts_of_many_leases_name_each_node(account, version):
    queued.submit(account, version, attempts_max=2)
    for name in ("a", "b"):
        node = queued.make_node(name)
        queued.hand_back(queued.claim(node, [version]))
        Job.objects.update(ready_at=utc_now() - timedelta(minutes=5))
    job = Job.objects.get()

    assert [one.node_name for one in dead_job.list_attempts(job.pk)] == ["b", "a"]
    assert JobAttempt.objects.count() == 2
    assert job.state == "dead"


@pytest.mark.parametrize(("shown", "expected"), [(1, 1), (2, 2), (3, 2)])
def test_lists_end_at_their_limits(account, node, monkeypatch, shown, expected):
    for where, name in (
        (queue, "DEPTHS_SHOWN"),
        (queue, "LEASES_SHOWN"),
        (dead_job, "CHOICES_SHOWN"),
        (dead_job, "ATTEMPTS_SHOWN"),
    ):
        monkeypatch.setattr(where, name, shown)
    for name in ("one", "two"):
        made = ModelVersionFactory(model=AIModelFactory(account=account, name=name))
        queued.kill(account, made, node, name)
        queued.submit(account, made)
        queued.claim(queued.make_node(name), [made])
    job_id = Job.objects.filter(state="dead").earliest("pk").pk
    attempt = JobAttempt.objects.filter(job_id=job_id).get()
    JobAttempt.objects.create(
        job_id=job_id, epoch=9, node_id=node.pk, ended_at=attempt.ended_at, outcome="lost"
    )

    assert len(queue.list_depths()) == expected
    assert sum(len(one.jobs) for one in queue.list_leases()) == expected
    assert len(dead_job.list_models()) == expected
    assert len(dead_job.list_reasons()) == expected
    assert len(dead_job.list_attempts(job_id)) == expected
