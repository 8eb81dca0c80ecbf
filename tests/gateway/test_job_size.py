"""A version that is larger than every node: nobody is made to wait for what can never come."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing.models import Hold
from inference.models import Artifact, Job, Node, Replica, SigningKey, Upload
from inference.services import job as jobs
from inference.tasks.job import end_unplaceable_jobs
from marketplace.core.ids import from_public
from marketplace.models import ModelVersion
from marketplace.selectors.access import Actor
from tests.gateway.conftest import (
    REPLICA_IDS,
    check_books,
    check_untouched,
    make_node,
    predict,
    problem_of,
)
from tests.gateway.processes import eventually
from tests.gateway.pulling import PullingNode
from tests.gateway.test_batches import GOOD, begin, store  # noqa: F401 - a fixture
from tests.gateway.test_job_stream import submit as submit_to
from tests.inference.queued import call

pytestmark = pytest.mark.django_db(transaction=True)

ASYNC = {"Prefer": "respond-async"}
MEMORY_BYTES = 64 * 1024**3
GPU_BYTES = 24 * 1024**3


def seal(version: ModelVersion, size_bytes: int) -> None:
    """Give a version files of a size."""
    account, now = version.model.account, timezone.now()
    key = SigningKey.objects.create(
        account=account, public_key="AAAA", fingerprint="f1" * 8, trusted_at=now
    )
    upload = Upload.objects.create(
        account=account, version=version, signing_key=key, files=[], kem={}, expires_at=now
    )
    Artifact.objects.create(
        version=version,
        upload=upload,
        manifest="{}",
        manifest_sha256="ab" * 32,
        signature="c2ln",
        signing_key=key,
        size_bytes=size_bytes,
    )


def equip(node: Node, **info: Any) -> None:
    Node.objects.filter(pk=node.pk).update(info=info)


@pytest.fixture
def bare(shop):
    """The shop, whose version is loaded nowhere, and whose one node has said what it has."""
    Replica.objects.filter(version=shop.version).delete()
    Node.objects.exclude(pk=shop.node.pk).delete()
    equip(shop.node, memory_total_bytes=MEMORY_BYTES)
    return shop


def submit(shop):
    return predict(shop.client(), headers=ASYNC)


@pytest.mark.parametrize(
    ("more_bytes", "gpus"),
    [(0, None), (GPU_BYTES, [{"memory_total_bytes": GPU_BYTES}]), (0, "none"), (0, [{}])],
)
def test_one_that_may_fit_is_taken_and_one_byte_more_is_not(bare, more_bytes, gpus):
    info = {"memory_total_bytes": MEMORY_BYTES} | ({} if gpus is None else {"gpus": gpus})
    equip(bare.node, **info)
    seal(bare.version, MEMORY_BYTES + more_bytes)
    taken = submit(bare)
    assert taken.status_code == 202, taken.text
    bare.client().post(f"/v1/predictions/{taken.json()['id']}/cancel")

    equip(bare.node, **info | {"memory_total_bytes": MEMORY_BYTES - 1})
    refused = submit(bare)

    assert problem_of(refused) == (503, "no_node_large_enough")
    # Nobody's client library tries it again by itself.
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert Job.objects.count() == 1
    check_books(bare, [])


def test_what_is_refused_leaves_nothing(bare):
    seal(bare.version, MEMORY_BYTES + 1)
    client = bare.client()
    refused = predict(client, headers=ASYNC | {"Idempotency-Key": "a"})
    assert problem_of(refused) == (503, "no_node_large_enough")
    check_untouched(bare)
    assert not Job.objects.exists()

    # With a node for it the same key is good.
    equip(bare.node, memory_total_bytes=MEMORY_BYTES + 1)
    assert predict(client, headers=ASYNC | {"Idempotency-Key": "a"}).status_code == 202


@pytest.mark.parametrize(
    "who", ["no_node", "silent_about_it", "says_nonsense", "larger", "draining", "quiet", "loaded"]
)
def test_where_it_is_not_known_that_none_fits_it_waits(bare, who):
    seal(bare.version, MEMORY_BYTES + 1)
    if who == "no_node":
        Node.objects.all().delete()
    elif who == "loaded":
        bare.add_replica(REPLICA_IDS[0])
    else:
        other = make_node("node-2", "http://127.0.0.1:1")
        info: dict[str, Any] = {"memory_total_bytes": 2 * MEMORY_BYTES}
        if who == "silent_about_it":
            info = {}
        if who == "says_nonsense":
            info = {"memory_total_bytes": "much"}
        equip(other, **info)
        if who == "draining":
            Node.objects.filter(pk=other.pk).update(drain_requested_at=timezone.now())
        if who == "quiet":
            Node.objects.filter(pk=other.pk).update(last_seen_at=None, triton_ready=False)

    assert submit(bare).status_code == 202
    assert jobs.end_unplaceable() == 0


@pytest.fixture
def waiting(bare):
    """The shop, with a prediction that waits for the one node that is large enough."""
    bare.big = make_node("node-2", "http://127.0.0.1:1")
    equip(bare.big, memory_total_bytes=2 * MEMORY_BYTES)
    seal(bare.version, MEMORY_BYTES + 1)
    bare.public_id = submit(bare).json()["id"]
    return bare


def revoke(node: Node, minutes_ago: float) -> None:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    Node.objects.filter(pk=node.pk).update(revoked_at=at)


def test_what_waits_when_the_last_large_node_goes_is_told_so(waiting):
    end_unplaceable_jobs()
    assert Job.objects.get().state == "queued"
    # It is perhaps being replaced.
    revoke(waiting.big, 9)
    assert jobs.end_unplaceable() == 0

    revoke(waiting.big, 11)
    end_unplaceable_jobs()

    found = Job.objects.get()
    assert (found.state, found.error) == ("dead", "no_node_large_enough")
    shown = waiting.client().get(f"/v1/predictions/{waiting.public_id}").json()
    assert (shown["status"], shown["error"]) == ("failed", "no_node_large_enough")
    assert shown["metrics"]["cost_nano_usd"] == 0
    call("inference_return_holds", 100)
    assert not Hold.objects.filter(state="pending").exists()
    check_books(waiting, [])
    assert jobs.end_unplaceable() == 0


def test_an_admin_runs_it_again_when_there_is_a_node(waiting, triton):
    revoke(waiting.big, 11)
    assert jobs.end_unplaceable() == 1
    equip(waiting.node, memory_total_bytes=MEMORY_BYTES + 1)

    jobs.replay_job(actor=Actor(), job_id=from_public(waiting.public_id))

    assert jobs.end_unplaceable() == 0
    waiting.add_replica(REPLICA_IDS[0])
    node = PullingNode(waiting.url, waiting.node, triton, {waiting.version.pk: REPLICA_IDS[0]})
    try:

        def look() -> None:
            found = waiting.client().get(f"/v1/predictions/{waiting.public_id}").json()
            assert found["status"] == "succeeded", found

        eventually(look, timeout_s=60)
    finally:
        node.stop()
    check_books(waiting, [waiting.public_id])


def test_only_what_waits_is_ended(waiting):
    """Not what runs already."""
    assert submit(waiting).status_code == 202
    assert call("inference_claim", waiting.big.pk, 0, [waiting.version.pk], 30.0)
    runs, waits = Job.objects.get(state="leased"), Job.objects.get(state="queued")
    revoke(waiting.big, 11)

    assert jobs.end_unplaceable() == 1

    runs.refresh_from_db()
    waits.refresh_from_db()
    assert (runs.state, waits.state) == ("leased", "dead")


def test_what_fits_is_left_alone(teller, waiting):
    """Another version's, in the same fleet."""
    small = submit_to(teller.client())
    revoke(waiting.big, 11)

    assert jobs.end_unplaceable() == 1

    assert Job.objects.get(state="queued").pk == from_public(small)


def test_control_a_fleet_that_is_never_asked_is_noticed(waiting):
    """Without the end of what fits nowhere, it waits on."""
    revoke(waiting.big, 11)

    call("inference_reap")

    assert Job.objects.get().state == "queued"


@pytest.mark.usefixtures("store")
def test_a_batch_of_such_a_version_stands_still_and_says_why(bare):
    seal(bare.version, MEMORY_BYTES + 1)
    batch = begin(bare, [GOOD, GOOD])

    def look() -> None:
        batch.refresh_from_db()
        assert (batch.state, batch.reason) == ("paused", "no_node_large_enough")

    eventually(look, timeout_s=60)
    assert not Job.objects.exists()
