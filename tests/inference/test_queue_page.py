"""Where a consumer sees what waits and runs, and gives it up: one of it, or all that waits."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from inference.models import Deployment, Job, JobPace, Replica, WebhookDelivery
from inference.selectors import job as selectors
from inference.selectors.job import JobFilter
from inference.services import queue as services
from inference.services import webhook_delivery
from inference.tasks import cancel_waiting
from marketplace.core.ids import new_id, to_public
from marketplace.models import AuditEvent, Membership
from tests.factories import AccountFactory, AIModelFactory, ModelVersionFactory
from tests.inference import queued

PAGE, CANCEL = "/console/queue", "/console/queue/cancel"
PRICE_NANOS = 1_001


@pytest.fixture
def version(account):
    return ModelVersionFactory(model=AIModelFactory(account=account, name="digits"))


@pytest.fixture
def other(account):
    return ModelVersionFactory(model=AIModelFactory(account=account, name="letters"))


@pytest.fixture
def node(db):
    return queued.make_node()


def read(client, url: str = PAGE, status: int = 200) -> str:
    answer = client.get(url)
    assert answer.status_code == status
    return answer.content.decode()


def page_of(job_id) -> str:
    return f"/predictions/{to_public(job_id)}"


def states() -> list[str]:
    return list(Job.objects.order_by("pk").values_list("state", flat=True))


def load(version, node) -> None:
    """A copy of it is ready on the node."""
    deployment = Deployment.objects.create(version=version)
    Replica.objects.create(
        version=version, deployment=deployment, node=node, purpose="serve", state="ready"
    )


# --- What there is -------------------------------------------------------------------


def test_an_empty_queue_says_how_to_fill_it(owner_client, account):
    text = read(owner_client)

    assert "Nothing waits or runs" in text
    assert "Prefer: respond-async" in text
    assert 'style="' not in text


def test_what_runs_and_waits_is_shown_with_its_place(owner_client, account, version, node):
    load(version, node)
    JobPace.objects.create(version=version, mean_us=60_000_000)
    ids = [queued.submit(account, version, tag=f"batch-{number}") for number in range(4)]
    queued.start(queued.claim(node, [version]))

    text = read(owner_client)

    assert all(page_of(one) in text for one in ids)
    assert "batch-3" in text
    assert text.index(page_of(ids[0])) < text.index(page_of(ids[1]))
    lines = selectors.get_page(account).lines
    assert [(one.row.pk, one.position, one.eta_s) for one in lines] == [
        (ids[1], 1, 0),
        (ids[2], 2, 60),
        (ids[3], 3, 120),
    ]
    assert "in about 2 minutes" in text


def test_places_behind_those_on_offer_follow_the_order_of_offers(account, version, other, node):
    rival = AccountFactory(slug="rival")
    queued.submit(account, version)
    # Of an account and version 64 are on offer; the others come after them, the urgent ones first.
    first = [queued.submit(account, version) for _ in range(64)]
    late = queued.submit(account, version, priority=2)
    urgent = queued.submit(account, version, priority=0)
    queued.submit(rival, version)
    queued.submit(account, other)

    lines = selectors.place(list(selectors.list_jobs(account)))

    place = {one.row.pk: one.position for one in lines}
    assert not Job.objects.get(pk=first[63]).is_offered
    # 64 of this account and one of the rival are on offer.
    assert (place[urgent], place[first[63]], place[late]) == (66, 67, 68)
    assert max(place[one] for one in first[:63]) <= 65
    # A queue of its own.
    assert place[selectors.list_jobs(account, JobFilter(model="acme/letters"))[0].pk] == 1
    # Nobody knows how long a run takes, and nothing is loaded.
    assert {(one.eta_s, one.is_loaded) for one in lines} == {(None, False)}


def test_who_stands_too_far_back_is_told_so(owner_client, account, version, monkeypatch):
    monkeypatch.setattr(selectors, "POSITION_MAX", 2)
    for _ in range(3):
        queued.submit(account, version)

    assert [one.position for one in selectors.get_page(account).lines] == [1, 2, None]
    assert "far behind" in read(owner_client)


def test_parts_are_chosen_by_model_state_and_tag(owner_client, account, version, other, node):
    mine = queued.submit(account, version, tag="a")
    others = queued.submit(account, other, tag="b")
    running = queued.submit(account, version, tag="a")
    Job.objects.filter(pk=mine).update(ready_at=timezone.now() + timedelta(hours=1))
    assert queued.claim(node, [version]).pk == running

    def found(query: str) -> set:
        text = read(owner_client, f"{PAGE}?{query}")
        return {one for one in (mine, others, running) if page_of(one) in text}

    assert found("") == {mine, others, running}
    assert found("model=acme/digits") == {mine, running}
    assert found("state=waiting") == {mine, others}
    assert found("state=running&tag=a") == {running}
    assert "Nothing fits" in read(owner_client, f"{PAGE}?tag=c")
    for bad in ("model=digits", "state=over", "tag=" + "x" * 65):
        read(owner_client, f"{PAGE}?{bad}", 422)


def test_tags_at_the_limit_are_looked_for(owner_client, account, version):
    queued.submit(account, version, tag="x" * 64)

    assert "x" * 64 in read(owner_client, f"{PAGE}?tag={'x' * 64}")


def test_pages_follow_each_other(owner_client, account, version):
    ids = [queued.submit(account, version) for _ in range(selectors.PAGE_SIZE + 1)]

    first = read(owner_client)
    assert page_of(ids[-1]) not in first
    after = f"1.{to_public(ids[selectors.PAGE_SIZE - 1])}"
    assert f"after={after}" in first

    second = read(owner_client, f"{PAGE}?after={after}")
    assert page_of(ids[-1]) in second
    assert page_of(ids[0]) not in second
    for bad in ("x", "1.x", f"3.{to_public(ids[0])}", f"-1.{to_public(ids[0])}", to_public(ids[0])):
        assert owner_client.get(f"{PAGE}?after={bad}").status_code == 422, bad


def test_the_urgent_stand_first_on_all_pages(account, version, monkeypatch):
    monkeypatch.setattr(selectors, "PAGE_SIZE", 2)
    ids = {
        (priority, number): queued.submit(account, version, priority=priority)
        for number in range(2)
        for priority in (2, 0, 1)
    }

    found, after = [], ""
    while True:
        page = selectors.get_page(account, after=after)
        found += [one.row.pk for one in page.lines]
        if not (after := page.next_after):
            break

    assert found == [ids[place] for place in sorted(ids)]


def test_it_asks_as_often_for_much_as_for_little(
    owner_client, account, version, django_assert_max_num_queries
):
    def count() -> int:
        with django_assert_max_num_queries(40) as found:
            read(owner_client)
        return len(found)

    queued.submit(account, version)
    queued.submit(account, version)
    queued.claim(queued.make_node("a"), [version])
    before = count()
    for name in "bcdef":
        made = ModelVersionFactory(model=AIModelFactory(account=account, name=name))
        queued.submit(account, made)
        queued.submit(account, made)
        queued.claim(queued.make_node(name), [made])

    assert count() == before


def test_others_see_none_of_it(outsider_client, account, version):
    job_id = queued.submit(account, version)

    assert page_of(job_id) not in read(outsider_client)
    assert outsider_client.get(page_of(job_id)).status_code == 404
    assert outsider_client.post(f"{page_of(job_id)}/cancel").status_code == 404
    assert states() == ["queued"]


# --- One of it -----------------------------------------------------------------------


def test_one_that_waits_is_canceled_and_its_money_comes_back(owner_client, account, version):
    queued.fund(account, PRICE_NANOS)
    job_id = queued.submit(account, version, gross_nanos=PRICE_NANOS)

    answer = owner_client.post(f"{page_of(job_id)}/cancel", {"next": f"{PAGE}?tag=a"})

    assert answer.url == f"{PAGE}?tag=a"
    assert states() == ["canceled"]
    assert AuditEvent.objects.get(action="job.cancel").object_id == str(job_id)
    # The whole of it is there again.
    queued.submit(account, version, gross_nanos=PRICE_NANOS)
    # What is over is left alone.
    again = owner_client.post(f"{page_of(job_id)}/cancel", follow=True).content.decode()
    assert "nothing is left to cancel" in again
    assert AuditEvent.objects.filter(action="job.cancel").count() == 1


def test_one_that_runs_is_told_to_stop_once(owner_client, account, version, node):
    job_id = queued.submit(account, version)
    queued.start(queued.claim(node, [version]))

    text = owner_client.post(f"{page_of(job_id)}/cancel", follow=True).content.decode()

    assert "told to stop" in text
    assert "Stopping" in text
    job = Job.objects.get()
    assert (job.state, job.cancel_requested_at is not None) == ("running", True)
    assert (
        "nothing is left"
        in owner_client.post(f"{page_of(job_id)}/cancel", follow=True).content.decode()
    )


def test_who_may_not_run_may_not_cancel(teammate_client, teammate, account, version):
    account.memberships.filter(user=teammate).update(role=Membership.Role.BILLING)
    job_id = queued.submit(account, version)

    assert page_of(job_id) in read(teammate_client)
    assert f"{page_of(job_id)}/cancel" not in read(teammate_client)
    assert teammate_client.post(f"{page_of(job_id)}/cancel").status_code == 403
    assert teammate_client.get(CANCEL).status_code == 403
    assert teammate_client.post(CANCEL, {"until": "h" + "7" * 25}).status_code == 403
    assert states() == ["queued"]


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example"])
def test_nobody_is_led_off_the_site(owner_client, account, version, target):
    job_id = queued.submit(account, version)

    answer = owner_client.post(f"{page_of(job_id)}/cancel", {"next": target})
    assert answer.url == page_of(job_id)


# --- The page of one -----------------------------------------------------------------


def test_the_page_of_one_tells_its_way(owner_client, account, version, node):
    job_id = queued.submit(account, version, attempts_max=2)
    url = page_of(job_id)
    text = read(owner_client, url)
    assert "Next in its queue" in text
    assert "No node has the model yet." in text
    assert 'data-look="2"' in text

    deployment = Deployment.objects.create(version=version)
    Replica.objects.create(
        version=version,
        deployment=deployment,
        node=node,
        purpose="serve",
        state="fetching",
        progress=0.41,
    )
    assert "Fetching 41 %" in read(owner_client, url)

    job = queued.claim(node, [version])
    assert "Starting" in read(owner_client, url)
    queued.hand_back(job, "node_drained")
    Job.objects.update(ready_at=timezone.now())
    text = read(owner_client, url)
    assert "The node was shut down and gave it back. It went back into the queue." in text
    # Nodes are numbers to those who use them.
    assert "node 1" in text
    assert node.name not in text

    job = queued.claim(queued.make_node("second"), [version])
    queued.start(job)
    text = read(owner_client, url)
    assert "node 2" in text
    assert "Running" in text
    queued.finish(job)

    text = read(owner_client, url)
    assert "data-look=" not in text.split('id="prediction"')[1]
    assert "Succeeded." in text
    assert "node 2" in text


def test_a_dead_one_has_failed_for_its_account(owner_client, account, version, node):
    job_id = queued.kill(account, version, node, "triton_unavailable", "10.0.0.7 refused")

    text = read(owner_client, page_of(job_id))

    assert "Failed" in text
    assert "triton_unavailable" in text
    # What a node says of itself is for admins.
    assert "10.0.0.7" not in text
    assert "data-look=" not in text.split('id="prediction"')[1]
    assert f"{page_of(job_id)}/cancel" not in text


def test_dead_ones_are_listed_beside_what_waits(
    owner_client, account, version, other, node, monkeypatch
):
    mine = queued.kill(account, version, node, "node_lost")
    others = queued.kill(account, other, node, "a_code_of_its_own")

    text = read(owner_client)
    assert "Could not be run" in text
    assert "The node was not heard of any more." in text
    assert "a_code_of_its_own" in text
    found = read(owner_client, f"{PAGE}?model=acme/digits")
    assert (page_of(mine) in found, page_of(others) in found) == (True, False)
    assert "Could not be run" not in read(owner_client, f"{PAGE}?state=waiting")
    monkeypatch.setattr(selectors, "DEAD_SHOWN", 1)
    assert [one.row.pk for one in selectors.list_dead(account)] == [others]


@pytest.mark.parametrize("shown", [1, 2, 3])
def test_lists_end_at_their_limits(account, version, monkeypatch, shown):
    for name in ("RUNNING_SHOWN", "ATTEMPTS_SHOWN", "DELIVERIES_SHOWN"):
        monkeypatch.setattr(selectors, name, shown)
    job_id = queued.submit(
        account, version, webhook_url="https://93.184.216.34/x", webhook_events=[], attempts_max=9
    )
    for name in "ab":
        job = queued.claim(queued.make_node(name), [version])
        queued.start(job)
        queued.hand_back(job)
        Job.objects.update(ready_at=timezone.now() - timedelta(minutes=1))
    for slot in range(2):
        queued.submit(account, version)
        queued.claim(queued.make_node(f"slot-{slot}"), [version])
    webhook_delivery.spread_events()

    now = timezone.now()
    told = selectors.list_deliveries(account.pk, job_id, since=now, until=now)
    expected = min(shown, 2)
    assert len(selectors.list_attempts(job_id)) == expected
    assert len(selectors.list_running(account)) == expected
    assert len(told) == expected


def test_what_was_told_of_it_is_linked_for_who_may_see_it(
    owner_client, teammate_client, teammate, account, version, node
):
    job_id = queued.submit(
        account, version, webhook_url="https://93.184.216.34/x", webhook_events=[]
    )
    queued.finish(queued.claim(node, [version]))
    webhook_delivery.spread_events()
    told = WebhookDelivery.objects.values_list("type", "pk")
    links = {kind: f"/console/webhooks/deliveries/{pk}" for kind, pk in told}
    assert links.keys() == {"prediction.started", "prediction.completed"}

    text = read(owner_client, page_of(job_id))
    assert [one for one in links.values() if one not in text] == []
    account.memberships.filter(user=teammate).update(role=Membership.Role.BILLING)
    text = read(teammate_client, page_of(job_id))
    assert [one for one in links.values() if one in text] == []


# --- All that waits ------------------------------------------------------------------


def test_all_that_wait_are_named_before_they_go(owner_client, account, version, other, node):
    running = queued.submit(account, version)
    queued.claim(node, [version])
    for _ in range(3):
        queued.submit(account, version)
    kept = queued.submit(account, other)
    query = "?model=acme/digits"
    text = read(owner_client, f"{CANCEL}{query}")
    assert "<strong>3 predictions</strong>" in text
    until = text.split('name="until" value="')[1][:26]
    late = queued.submit(account, version)

    answer = owner_client.post(f"{CANCEL}{query}", {"until": until}, follow=True)

    assert "3 predictions canceled." in answer.content.decode()
    left = set(Job.objects.exclude(state="canceled").values_list("pk", flat=True))
    assert left == {running, kept, late}
    event = AuditEvent.objects.get(action="job.cancel_waiting")
    assert event.payload == {"count": 3, "model": "acme/digits", "tag": ""}
    assert "1 prediction</strong>" in read(owner_client, f"{CANCEL}{query}")


def test_where_nothing_waits_there_is_nothing_to_cancel(owner_client, account):
    assert "There is nothing left to cancel" in read(owner_client, CANCEL)
    assert owner_client.post(CANCEL, {"until": "x"}).status_code == 422
    assert owner_client.get(f"{CANCEL}?model=digits").status_code == 422
    assert not AuditEvent.objects.filter(action="job.cancel_waiting").exists()


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What is left to a worker."""
    found: list[tuple] = []
    monkeypatch.setattr(cancel_waiting, "delay", lambda *given: found.append(given))
    return found


@pytest.mark.parametrize(("count", "is_left"), [(3, False), (4, True)])
def test_many_are_left_to_a_worker(
    owner_client, account, version, monkeypatch, asked, count, is_left
):
    monkeypatch.setattr(services, "AT_ONCE_MAX", 3)
    ids = [queued.submit(account, version, tag="a") for _ in range(count)]
    until = to_public(ids[-1])

    text = owner_client.post(f"{CANCEL}?tag=a", {"until": until}, follow=True).content.decode()

    assert asked == ([(str(account.pk), "", "a", until)] if is_left else [])
    assert (f"{count} predictions are being canceled" in text) == is_left
    assert states() == (["queued"] if is_left else ["canceled"]) * count


def test_a_worker_goes_on_in_portions_until_none_is_left(account, version, monkeypatch, asked):
    monkeypatch.setattr(services, "PORTION_SIZE", 2)
    monkeypatch.setattr(services, "PORTIONS_MAX", 2)
    ids = [queued.submit(account, version, tag="a") for _ in range(7)]
    late = queued.submit(account, version, tag="a")
    given = (str(account.pk), "", "a", to_public(ids[-1]))

    cancel_waiting(*given)
    assert states() == ["canceled"] * 4 + ["queued"] * 4
    assert asked == [given]
    cancel_waiting(*asked.pop())
    assert states() == ["canceled"] * 7 + ["queued"]
    # One that is given twice does nothing more.
    cancel_waiting(*given)
    assert (states()[-1], Job.objects.get(state="queued").pk, asked) == ("queued", late, [])


def test_a_hundred_thousand_are_listed_and_named_in_little_time(owner_client, account, version):
    """The queue's own limit; written as rows, since only reading them is looked at."""
    queued.submit(account, version)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO inference_job (id, account_id, version_id, creator_id, priority, state,
                ready_at, deadline_at, created_at)
            SELECT uuidv7(), %s, %s, %s, 1, 'queued', now(), now() + interval '1 hour', now()
            FROM generate_series(1, 99999)
            """,
            [account.pk, version.pk, version.model.account_id],
        )
        cursor.execute("ANALYZE inference_job")
        cursor.execute("SET LOCAL statement_timeout = '2s'")

    assert "100000" in read(owner_client)
    assert "<strong>100000 predictions</strong>" in read(owner_client, CANCEL)
    newest = Job.objects.order_by("-pk").first()
    [line] = selectors.place([newest])
    assert line.position is None
    place = f"1.{to_public(Job.objects.order_by('pk')[90_000].pk)}"
    assert len(selectors.get_page(account, after=place).lines) == selectors.PAGE_SIZE
    assert selectors.list_waiting(account, until=new_id()).count() == 100_000
