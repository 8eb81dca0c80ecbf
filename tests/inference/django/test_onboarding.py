"""From a complete upload to a published version, with a node that is played faithfully."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import time_machine
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from inference.models import (
    Artifact,
    Deployment,
    OnboardingStep,
    Replica,
    ReplicaWork,
    UploadPart,
    WrappedKey,
)
from inference.selectors.node import LOST_AFTER
from inference.selectors.onboarding import list_due_versions
from inference.services import (
    deployment,
    object_store,
    onboarding,
    onboarding_steps,
    scan,
)
from inference.tasks import onboarding as tasks
from inference.tasks import sweep_onboarding
from marketplace.models import Channel, ModelVersion
from marketplace.selectors.access import Actor
from marketplace.services import catalog, review
from strongroom.sealing.manifest import TestVector
from tests.inboxes import list_told
from tests.inference.django.creator import Creator
from tests.inference.django.scripted_node import BENCHMARK, LOAD, VALIDATION, ScriptedNode, hear

pytestmark = pytest.mark.django_db(transaction=True)

FILES = {"model.onnx": b"weights" * 1000, "labels.txt": b"zero\none\n"}
VECTOR = TestVector({"x": [1, 2]}, {"y": 3.0})
BEFORE_REVIEW = ["verify", "validate", "load", "test", "benchmark"]


@pytest.fixture
def node() -> ScriptedNode:
    return make_node("node-1")


def make_node(name: str) -> ScriptedNode:
    node = ScriptedNode(name)
    assert node.enrol().status_code == 201
    node.look()
    return node


@pytest.fixture
def version_id(creator, model) -> UUID:
    return push(creator)


def push(creator: Creator, **options) -> UUID:
    options = {"vectors": (VECTOR,)} | options
    return UUID(creator.push("acme/digits", FILES, **options)["id"])


def states(version_id: UUID) -> dict[str, str]:
    steps = OnboardingStep.objects.filter(version_id=version_id).order_by("position")
    return {step.name: step.state for step in steps}


def step(version_id: UUID, name: str) -> OnboardingStep:
    return OnboardingStep.objects.get(version_id=version_id, name=name)


def run(version_id: UUID, *nodes: ScriptedNode, until: str = "review", rounds: int = 60) -> None:
    """Look at the version and let the nodes look, in turn, until a step is reached or failed."""
    for _ in range(rounds):
        onboarding.advance(version_id=version_id)
        for node in nodes:
            node.look()
        found = states(version_id)
        if found[until] != "pending" or "failed" in found.values():
            return
    raise AssertionError(f"{until} was not reached: {found}")


def approve(version_id: UUID, admin) -> None:
    version = ModelVersion.objects.get(pk=version_id)
    review.approve_version(version=version, reviewer=admin, reason="It does what it says.")


def assert_failed(version_id: UUID, name: str, code: str) -> None:
    """The step failed with this code, the version with it, and nothing stays loaded."""
    failed = step(version_id, name)
    assert (failed.state, failed.reason_code) == ("failed", code), failed.log
    assert failed.finished_at is not None
    version = ModelVersion.objects.get(pk=version_id)
    assert (version.state, version.refusal_reason) == ("failed", code)
    assert not Replica.objects.filter(wanted=True).exists()
    assert not Deployment.objects.exists()
    assert version_id not in list_due_versions()


@pytest.mark.parametrize(
    ("opinion", "line"),
    [
        (None, ""),
        ("<script>", ""),
        (
            {"scanner": "modelaudit", "version": "0.2.54", "clean": True, "findings": []},
            " A second scanner, modelaudit 0.2.54, found nothing.",
        ),
        (
            {"scanner": "m", "version": "1", "findings": [{"rule": "S9", "severity": "info"}, "x"]},
            " A second scanner, m 1, found notes on S9 (info), none of which stops it.",
        ),
        ({"findings": 3}, " A second scanner,  , found nothing."),
    ],
)
def test_the_log_tells_what_the_second_scanner_said(version_id, node, monkeypatch, opinion, line):
    monkeypatch.setitem(VALIDATION, "second_opinion", opinion)

    run(version_id, node)

    log = step(version_id, "validate").log
    assert f"The files were opened and checked on node node-1.{line}\n" in f"{log}\n"


def test_the_log_names_a_few_findings_only():
    findings = [{"rule": f"S{number}", "severity": "info"} for number in range(20)]
    line = onboarding_steps._describe_opinion({"findings": findings})

    assert line.count("(info)") == onboarding_steps.FINDINGS_SHOWN_MAX


# --- The whole way ----------------------------------------------------------------


def test_a_version_goes_from_upload_to_review(version_id, node, broker):
    run(version_id, node)

    assert states(version_id) == {
        **dict.fromkeys(BEFORE_REVIEW, "succeeded"),
        "review": "running",
        "publish": "pending",
    }
    version = ModelVersion.objects.get(pk=version_id)
    assert version.state == ModelVersion.State.IN_REVIEW
    assert sorted(version.certificate) == ["benchmark", "load", "measured_at", "node"]
    assert version.certificate["benchmark"] == BENCHMARK
    assert version.certificate["load"] == LOAD
    assert version.certificate["node"] == "node-1"
    assert step(version_id, "validate").detail["validation"] == VALIDATION
    assert step(version_id, "load").detail["load"] == LOAD
    assert [kind for kind, _ in node.work_done] == ["test", "benchmark"]
    assert broker.calls == ["/v1/upload-keys", "/v1/upload-keys/check"]
    # The scan replica is gone from the desired state, and then from the node.
    replica = Replica.objects.get()
    assert (replica.purpose, replica.wanted) == ("scan", False)
    node.look()
    replica.refresh_from_db()
    assert (replica.state, node.held) == ("unloaded", {})


def test_each_step_tells_what_it_did_and_when(version_id, node):
    run(version_id, node)

    steps = OnboardingStep.objects.filter(version_id=version_id, name__in=BEFORE_REVIEW)
    for one in steps:
        assert one.started_at <= one.finished_at
        assert one.log
    verify = step(version_id, "verify")
    assert "All 2 parts are what was signed" in verify.log
    assert verify.detail == {"parts_verified": 2, "parts": 2}
    assert "Assigned to node node-1 (attempt 1 of 3)." in step(version_id, "validate").log
    assert "Node node-1: decrypting." in step(version_id, "validate").log
    assert "All 1 test vectors are right." in step(version_id, "test").log


def test_an_approved_version_without_a_channel_is_done_at_once(version_id, node, platform_admin):
    run(version_id, node)
    approve(version_id, platform_admin)

    run(version_id, node, until="publish")
    onboarding.advance(version_id=version_id)

    assert set(states(version_id).values()) == {"succeeded"}
    assert "No channel was asked for" in step(version_id, "publish").log
    assert not Channel.objects.exists()
    assert not Deployment.objects.exists()


def test_publishing_waits_for_a_serving_replica_and_then_moves_the_channel(
    creator, model, node, platform_admin
):
    version_id = push(creator, channel="prod")
    run(version_id, node)
    approve(version_id, platform_admin)
    onboarding.advance(version_id=version_id)
    onboarding.advance(version_id=version_id)

    assert states(version_id)["publish"] == "running"
    replica = Replica.objects.get(purpose="serve")
    assert (replica.version_id, replica.wanted) == (version_id, True)
    assert replica.deployment.replica_count == 1
    # Consumers who follow the channel are not sent to a model that is still loading.
    assert not Channel.objects.exists()

    for _ in range(10):
        node.look()
        onboarding.advance(version_id=version_id)

    assert set(states(version_id).values()) == {"succeeded"}
    assert Channel.objects.get().version_id == version_id
    replica.refresh_from_db()
    assert list_told("onboarding") == [("owner@example.com", "acme/digits:1 is published")]
    assert (replica.state, replica.triton_name) == ("ready", f"r{replica.pk.hex}")


def test_a_refused_version_ends_with_the_reviewers_reason(version_id, node, platform_admin):
    run(version_id, node)
    version = ModelVersion.objects.get(pk=version_id)
    review.refuse_version(version=version, reviewer=platform_admin, reason="The card is empty.")

    onboarding.advance(version_id=version_id)

    refused = step(version_id, "review")
    assert (refused.state, refused.reason_code) == ("failed", "refused")
    assert "The card is empty." in refused.log
    assert states(version_id)["publish"] == "pending"
    version.refresh_from_db()
    assert (version.state, version.refusal_reason) == ("refused", "The card is empty.")
    # The reviewer's word is told, and not that a step failed by it.
    assert list_told("review") == [("owner@example.com", "acme/digits:1 was refused")]
    assert list_told("onboarding") == []
    assert not Replica.objects.filter(wanted=True).exists()


@pytest.mark.parametrize("rounds", [0, 1, 3, 9])
def test_a_withdrawn_version_stops_where_it_is(creator, model, node, owner, rounds):
    version_id = push(creator)
    for _ in range(rounds):
        onboarding.advance(version_id=version_id)
        node.look()
    version = ModelVersion.objects.get(pk=version_id)
    catalog.withdraw(version=version, actor=Actor(user=owner))

    onboarding.advance(version_id=version_id)
    onboarding.advance(version_id=version_id)

    found = states(version_id)
    assert list(found.values()).count("failed") == 1
    failed = OnboardingStep.objects.get(state="failed")
    assert failed.reason_code == "withdrawn"
    version.refresh_from_db()
    assert version.state == ModelVersion.State.WITHDRAWN
    assert not Replica.objects.filter(wanted=True).exists()


def test_no_test_vectors_is_said_and_not_a_failure(creator, model, node):
    version_id = push(creator, vectors=())

    run(version_id, node)

    assert states(version_id)["test"] == "succeeded"
    assert "no test vectors; none were run" in step(version_id, "test").log
    assert [kind for kind, _ in node.work_done] == ["benchmark"]


# --- Verify -----------------------------------------------------------------------


def _flip(path: Path) -> None:
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_flip, "part_checksum_mismatch"),
        (_truncate, "part_checksum_mismatch"),
        (_extend, "part_checksum_mismatch"),
        (Path.unlink, "part_missing"),
    ],
)
def test_a_damaged_object_is_noticed(version_id, node, store, damage, code):
    damage(store / UploadPart.objects.get(file_index=0).storage_name)

    run(version_id, node)

    assert_failed(version_id, "verify", code)
    assert not Replica.objects.exists()


def test_without_its_check_a_damaged_object_would_pass(monkeypatch, version_id, node, store):
    _flip(store / UploadPart.objects.get(file_index=0).storage_name)
    monkeypatch.setattr(onboarding_steps, "_verify_parts", lambda manifest, parts, done: len(parts))

    onboarding.advance(version_id=version_id)

    assert states(version_id)["verify"] == "succeeded"


def test_swapped_objects_are_noticed(version_id, node, store):
    first, second = UploadPart.objects.order_by("file_index")
    names = first.storage_name, second.storage_name
    UploadPart.objects.filter(pk=first.pk).update(storage_name=names[1])
    UploadPart.objects.filter(pk=second.pk).update(storage_name=names[0])

    run(version_id, node)

    assert_failed(version_id, "verify", "part_checksum_mismatch")


def test_a_part_that_is_not_in_the_table_is_noticed(version_id, node):
    UploadPart.objects.filter(file_index=1).delete()

    run(version_id, node)

    assert_failed(version_id, "verify", "part_missing")


def test_the_wrap_of_another_version_is_noticed(creator, model, node):
    # As a thief with the database would do it: the row of one version under another.
    first, second = push(creator), push(creator)
    wraps = {
        version_id: WrappedKey.objects.get(version_id=version_id, recipient="platform")
        for version_id in (first, second)
    }
    WrappedKey.objects.filter(pk=wraps[first].pk).update(blob=wraps[second].blob)

    run(first, node)
    run(second, node)

    failed = step(first, "verify")
    assert (failed.state, failed.reason_code) == ("failed", "key_wrap_invalid")
    assert states(second)["verify"] == "succeeded"
    assert not Replica.objects.filter(version_id=first).exists()


def test_a_data_key_that_does_not_fit_the_headers_is_noticed(creator, model, node):
    upload = creator.begin("acme/digits", FILES).json()
    sealed = creator.seal(upload, FILES, model="acme/digits")
    creator.put_parts(sealed)
    other = creator.wrap_keys(upload, bytes(32))
    version_id = UUID(creator.complete(sealed, wrapped_keys=other).json()["id"])

    run(version_id, node)

    assert_failed(version_id, "verify", "header_tag_invalid")


def test_verifying_goes_on_where_it_stopped(monkeypatch, version_id, node, broker):
    hashed = []
    original = object_store.hash_part
    monkeypatch.setattr(
        object_store, "hash_part", lambda name: hashed.append(name) or original(name)
    )
    # Each look is over after one part.
    monkeypatch.setattr(onboarding_steps, "VERIFY_SLICE_S", 0.0)

    onboarding.advance(version_id=version_id)
    first = step(version_id, "verify")
    onboarding.advance(version_id=version_id)

    assert (first.state, first.detail) == ("running", {"parts_verified": 1, "parts": 2})
    assert states(version_id)["verify"] == "succeeded"
    names = UploadPart.objects.order_by("file_index").values_list("storage_name", flat=True)
    assert hashed == list(names)
    assert broker.calls.count("/v1/upload-keys/check") == 1


def test_a_broker_that_is_down_is_waited_for(version_id, node, broker):
    broker.broken_status = 503
    for _ in range(3):
        onboarding.advance(version_id=version_id)

    waiting = step(version_id, "verify")
    assert waiting.state == "running"
    assert waiting.log.count("The key broker does not answer.") == 1

    broker.broken_status = None
    onboarding.advance(version_id=version_id)
    assert states(version_id)["verify"] == "succeeded"


def test_what_was_waited_for_last_is_the_reason_when_time_is_up(version_id, node, broker):
    broker.broken_status = 503
    onboarding.advance(version_id=version_id)

    with time_machine.travel(timezone.now() + timedelta(hours=12, seconds=1), tick=False):
        onboarding.advance(version_id=version_id)

    assert_failed(version_id, "verify", "keybroker_unavailable")


# --- What the node says -----------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "failed_step"),
    [
        ("fetching", "validate"),
        ("decrypting", "validate"),
        ("validating", "validate"),
        ("loading", "load"),
        ("warming", "load"),
    ],
)
def test_a_model_that_is_refused_fails_its_step_with_the_loaders_code(
    version_id, node, state, failed_step
):
    node.fail_at, node.fail_code = state, "onnx_custom_op"

    run(version_id, node)

    assert_failed(version_id, failed_step, "onnx_custom_op")
    assert "It went wrong with onnx_custom_op." in step(version_id, failed_step).log
    title = f"acme/digits:1 failed: {failed_step}"
    assert list_told("onboarding") == [("owner@example.com", title)]
    assert Replica.objects.count() == 1


def test_a_failed_test_vector_fails_the_version(version_id, node):
    result = {"detail": "Vector 0: y is 4.0 instead of 3.0.", "vectors": [{"index": 0}]}
    node.work_results["test"] = {
        "state": "failed",
        "reason_code": "test_vector_mismatch",
        "result": result,
    }

    run(version_id, node)

    assert_failed(version_id, "test", "test_vector_mismatch")
    failed = step(version_id, "test")
    assert "Vector 0: y is 4.0 instead of 3.0." in failed.log
    assert failed.detail["test"] == result
    assert states(version_id)["benchmark"] == "pending"


def test_without_a_live_node_the_version_waits_and_then_goes_on(version_id):
    for _ in range(4):
        onboarding.advance(version_id=version_id)
    waiting = step(version_id, "validate")
    assert waiting.log.count("No node is live; waiting for one.") == 1
    assert not Replica.objects.exists()

    node = make_node("late")
    run(version_id, node)

    assert states(version_id)["benchmark"] == "succeeded"


def test_a_version_that_finds_no_node_for_two_hours_fails(version_id):
    for _ in range(3):
        onboarding.advance(version_id=version_id)

    with time_machine.travel(timezone.now() + timedelta(hours=2, seconds=1), tick=False):
        onboarding.advance(version_id=version_id)

    assert_failed(version_id, "validate", "node_unavailable")


def test_the_least_loaded_live_node_is_taken(creator, model):
    busy, idle, silent = (make_node(name) for name in ("a-busy", "b-idle", "c-silent"))
    for name in ("a-busy", "c-silent"):
        node_id = {"a-busy": busy, "c-silent": silent}[name].node_id
        Replica.objects.create(
            version=ModelVersion.objects.create(model=model, number=90 + ord(name[0])),
            node_id=node_id,
            purpose="serve",
        )
    version_id = push(creator)

    for _ in range(3):
        onboarding.advance(version_id=version_id)

    assert str(Replica.objects.get(version_id=version_id).node_id) == idle.node_id


# --- Trouble that is ours ---------------------------------------------------------


def test_an_infrastructure_failure_is_tried_again_on_another_node(version_id):
    first, second = make_node("node-1"), make_node("node-2")
    first.fail_at, first.fail_code = "fetching", "fetch_failed"

    run(version_id, first, second)

    assert states(version_id)["benchmark"] == "succeeded"
    by_node = dict(Replica.objects.values_list("node__name", "state"))
    assert by_node["node-1"] == "failed"
    assert step(version_id, "validate").attempt == 2
    assert "Trying again." in step(version_id, "validate").log


@pytest.mark.parametrize("_code", ["out_of_memory", "load_timeout", "loader_not_allowed"])
def test_what_is_a_nodes_own_fault_fails_no_version(version_id, _code):
    first, second = make_node("node-1"), make_node("node-2")
    first.fail_at, first.fail_code = "starting", _code

    run(version_id, first, second)

    assert states(version_id)["benchmark"] == "succeeded"


def test_three_infrastructure_failures_are_enough(version_id, node):
    node.fail_at, node.fail_code = "starting", "stub_died"

    run(version_id, node)

    assert_failed(version_id, "validate", "stub_died")
    assert Replica.objects.count() == scan.ATTEMPTS_MAX == 3
    assert step(version_id, "validate").attempt == 3


def test_a_lost_node_hands_its_scan_to_another(version_id):
    first = make_node("node-1")
    for _ in range(8):
        onboarding.advance(version_id=version_id)
        first.look()
    assert states(version_id)["load"] != "pending"
    now = timezone.now() + LOST_AFTER + timedelta(seconds=1)

    second = make_node("node-2")
    hear(second, until=now)
    with time_machine.travel(now, tick=True):
        deployment.reconcile()
        run(version_id, second)

    assert states(version_id)["benchmark"] == "succeeded"
    lost, tried_again = Replica.objects.order_by("pk").values_list("node__name", "state", "wanted")
    assert lost == ("node-1", "lost", False)
    assert tried_again[0] == "node-2"
    assert second.fetched == [str(version_id)]


def test_a_replica_that_does_not_move_is_given_up_after_five_minutes(version_id, node):
    for _ in range(4):
        onboarding.advance(version_id=version_id)
        node.look()
    hanging = Replica.objects.get()
    start = timezone.now()

    for seconds, expected in ((299, 1), (302, 2)):
        with time_machine.travel(start + timedelta(seconds=seconds), tick=False):
            node.report()
            onboarding.advance(version_id=version_id)
            onboarding.advance(version_id=version_id)
        assert Replica.objects.count() == expected

    hanging.refresh_from_db()
    assert not hanging.wanted
    assert "Nothing has moved on node node-1 for 5 minutes." in step(version_id, "validate").log


def test_work_that_never_ends_is_given_up(monkeypatch, version_id, node):
    monkeypatch.setattr(node, "_do", lambda work: None)
    for _ in range(20):
        onboarding.advance(version_id=version_id)
        node.look()
    assert ReplicaWork.objects.get().state == "waiting"

    with time_machine.travel(timezone.now() + timedelta(minutes=10, seconds=1), tick=False):
        node.report()
        onboarding.advance(version_id=version_id)
        onboarding.advance(version_id=version_id)

    assert Replica.objects.filter(wanted=True).count() == 1
    assert Replica.objects.count() == 2
    assert "was not over after" in step(version_id, "test").log


# --- Twice, at once, and after a kill ----------------------------------------------


def test_looking_twice_at_every_point_changes_nothing(version_id, node, broker):
    for _ in range(40):
        for _ in range(3):
            onboarding.advance(version_id=version_id)
        node.look()
        node.report()

    assert states(version_id)["review"] == "running"
    assert Replica.objects.count() == 1
    assert sorted(ReplicaWork.objects.values_list("kind", flat=True)) == ["benchmark", "test"]
    assert broker.calls.count("/v1/upload-keys/check") == 1
    assert len(node.work_done) == 2


def test_two_workers_at_once_do_the_work_once(monkeypatch, version_id, node):
    onboarding.advance(version_id=version_id)
    assert states(version_id)["verify"] == "succeeded"
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        for _ in range(5):
            onboarding.advance(version_id=version_id)
        connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Replica.objects.count() == 1
    assert step(version_id, "validate").log.count("Assigned to node") == 1


def test_a_look_while_another_is_at_work_returns_at_once(version_id, node):
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            list(OnboardingStep.objects.select_for_update().filter(version_id=version_id))
            held.set()
            done.wait(10)
        connections.close_all()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)

    onboarding.advance(version_id=version_id)

    done.set()
    thread.join()
    assert set(states(version_id).values()) == {"pending"}
    onboarding.advance(version_id=version_id)
    assert states(version_id)["verify"] == "succeeded"


class _KilledError(BaseException):
    """Ends a worker the way a signal does: no handler of ours runs."""


@pytest.mark.parametrize("name", [*BEFORE_REVIEW, "review", "publish"])
def test_a_worker_killed_in_any_step_is_carried_on_by_the_next(
    monkeypatch, creator, model, node, platform_admin, name
):
    version_id = push(creator, channel="prod")
    killed = []
    original = onboarding_steps.HANDLERS[name]

    def die_once(step, version):
        progress = original(step, version)
        if not killed:
            killed.append(step.name)
            raise _KilledError
        return progress

    monkeypatch.setitem(onboarding_steps.HANDLERS, name, die_once)
    for _ in range(80):
        try:
            onboarding.advance(version_id=version_id)
        except _KilledError:
            # Seen running, and nothing of the look that was cut off is kept.
            assert states(version_id)[name] == "running"
        node.look()
        if states(version_id)["review"] == "running" and (
            ModelVersion.objects.get(pk=version_id).state == "in_review"
        ):
            approve(version_id, platform_admin)
        if set(states(version_id).values()) == {"succeeded"}:
            break

    assert killed == [name]
    assert set(states(version_id).values()) == {"succeeded"}
    assert Replica.objects.filter(purpose="scan").count() == 1
    assert Replica.objects.filter(purpose="serve", wanted=True).count() == 1
    assert sorted(ReplicaWork.objects.values_list("kind", flat=True)) == ["benchmark", "test"]
    assert Channel.objects.get().version_id == version_id


def test_the_sweep_asks_for_what_is_due_and_for_nothing_else(
    creator, model, node, platform_admin, enqueued
):
    waiting, reviewed, done, failed = (push(creator) for _ in range(4))
    for version_id in (reviewed, done):
        run(version_id, node)
    approve(done, platform_admin)
    for _ in range(3):
        onboarding.advance(version_id=done)
    node.fail_at, node.fail_code = "loading", "onnx_custom_op"
    run(failed, node)
    enqueued.clear()

    sweep_onboarding()

    assert enqueued == [str(waiting)]
    approve(reviewed, platform_admin)
    enqueued.clear()
    sweep_onboarding()
    assert enqueued == [str(waiting), str(reviewed)]


def test_a_report_and_a_result_wake_the_version_they_are_of(version_id, node, enqueued):
    for _ in range(3):
        onboarding.advance(version_id=version_id)
    enqueued.clear()

    node.look()
    assert enqueued == [str(version_id)]

    enqueued.clear()
    node.report()
    assert enqueued == []


def test_a_redis_that_is_down_costs_time_and_nothing_else(monkeypatch, creator, model, node):
    def delay(version_id):
        raise ConnectionError("Redis is down.")

    monkeypatch.setattr(tasks.advance_onboarding, "delay", delay)

    version_id = push(creator)
    run(version_id, node)

    assert states(version_id)["review"] == "running"


# --- Logs -------------------------------------------------------------------------


def test_a_log_has_an_end():
    now = timezone.now()
    log = ""
    for number in range(5000):
        log = onboarding.append_line(log, f"line {number}", now)

    assert len(log) <= onboarding.LOG_LENGTH_MAX + len(onboarding.LOG_CUT) + 1
    assert log.endswith(onboarding.LOG_CUT)
    assert log.count(onboarding.LOG_CUT) == 1


def test_a_repeated_line_is_written_once():
    now = timezone.now()

    log = onboarding.append_line("", "Waiting.", now)
    log = onboarding.append_line(log, "Waiting.", now)
    log = onboarding.append_line(log, "Going on.", now)
    log = onboarding.append_line(log, "Waiting.", now)

    assert [line.split(" ", 1)[1] for line in log.splitlines()] == [
        "Waiting.",
        "Going on.",
        "Waiting.",
    ]


def test_the_manifest_of_an_artifact_cannot_be_changed(version_id):

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        Artifact.objects.update(manifest="{}")
