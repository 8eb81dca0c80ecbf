"""Versions that nobody wants are unloaded, and loaded again once for all who want them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest
from django.db import connection, connections, transaction
from django.test import override_settings
from django.utils import timezone

from inference.models import Deployment, Replica, WakeWish
from inference.models.node import IDLE_AFTER_MAX_S, IDLE_AFTER_MIN_S
from inference.selectors import wake as selectors
from inference.selectors.fleet import list_short_deployments
from inference.selectors.status import read_availability
from inference.services import deployment as deployments
from inference.services import wake as service
from inference.tasks import sweep_nodes
from inference.tasks.wake import CHANNEL, WakeListener
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.models import AuditEvent, ModelVersion
from marketplace.selectors.access import Actor
from marketplace.services import catalog
from tests.factories import ModelVersionFactory
from tests.gateway.processes import eventually
from tests.inference.django.test_deployment import load, make_node, placed
from tests.inference.django.wallets import fund

IDLE_AFTER_S = 300


@pytest.fixture
def version(db) -> ModelVersion:
    return ModelVersionFactory()


@pytest.fixture
def owned(account) -> ModelVersion:
    """A version of the account that `owner` owns."""
    return ModelVersionFactory(model__account=account)


def ask(version: ModelVersion) -> tuple[str | None, bool | None, int | None]:
    """What a gateway is told when it wants a version."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT state, may_wait, load_ms FROM inference_wake(%s)", [version.pk])
        return cursor.fetchone()


def note_use(*versions: ModelVersion) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT inference_note_use(%s)", [[one.pk for one in versions]])


def let_rest(seconds: int) -> None:
    """As if nobody had wanted anything for so long, and all replicas were loaded long before."""
    Deployment.objects.update(last_wanted_at=timezone.now() - timedelta(seconds=seconds))
    Replica.objects.update(changed_at=timezone.now() - timedelta(days=8))


def serve(version: ModelVersion, name: str = "node-1", idle_after_s: int | None = IDLE_AFTER_S):
    """A version that is loaded, and may be unloaded."""
    node = make_node(name)
    deployment = deployments.ensure_deployment(version=version)
    Deployment.objects.filter(pk=deployment.pk).update(idle_after_s=idle_after_s)
    load(node)
    return node


def put_to_sleep(version: ModelVersion):
    """The same, unloaded; the node has said so."""
    node = serve(version)
    let_rest(IDLE_AFTER_S + 1)
    assert service.unload_idle() == 1
    load(node)
    Replica.objects.filter(wanted=False).update(state="unloaded")
    return node


def state_of(version: ModelVersion) -> str:
    found = selectors.find_temperature(version)
    assert found is not None
    return str(found.state)


# --- Unloading ---------------------------------------------------------------------


@pytest.mark.parametrize(("rested_s", "is_unloaded"), [(297, False), (301, True)])
def test_what_nobody_wants_is_unloaded_when_its_time_is_over(version, rested_s, is_unloaded):
    serve(version)
    let_rest(rested_s)

    sweep_nodes()

    assert placed() == [("node-1", "ready", not is_unloaded)]
    assert state_of(version) == ("cold" if is_unloaded else "warm")
    # It stays unloaded, and is nobody's trouble.
    sweep_nodes()
    assert len(placed()) == 1
    assert list_short_deployments().count() == 0


@pytest.mark.parametrize("policy", [{"idle_after_s": None}, {"is_always_warm": True}])
def test_what_is_kept_is_never_unloaded(version, policy):
    serve(version)
    Deployment.objects.update(**policy)
    let_rest(IDLE_AFTER_MAX_S + 1)

    sweep_nodes()

    assert placed() == [("node-1", "ready", True)]


def test_what_a_gateway_uses_is_not_unloaded(version):
    serve(version)
    let_rest(IDLE_AFTER_S + 1)

    note_use(version)
    sweep_nodes()
    assert state_of(version) == "warm"

    # Control: the same without its word.
    let_rest(IDLE_AFTER_S + 1)
    sweep_nodes()
    assert state_of(version) == "cold"


def test_what_somebody_has_just_wished_for_is_not_unloaded(version):
    serve(version)
    let_rest(IDLE_AFTER_S + 1)

    assert ask(version)[0] == "warm"
    assert service.unload_idle() == 0
    assert service.answer_wishes() == 0

    assert service.unload_idle() == 0
    assert WakeWish.objects.count() == 0


@pytest.mark.parametrize("state", ["queued", "leased", "running"])
def test_what_has_jobs_is_not_unloaded(version, state):
    serve(version)
    let_rest(IDLE_AFTER_S + 1)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE inference_job (version_id uuid, state text)")
        cursor.execute("INSERT INTO inference_job VALUES (%s, %s)", [version.pk, state])

        assert service.unload_idle() == 0

        cursor.execute("UPDATE inference_job SET state = 'succeeded'")
    assert service.unload_idle() == 1


@pytest.mark.parametrize("state", ["assigned", "loading", "warming"])
def test_what_is_being_loaded_is_let_finish(version, state):
    serve(version)
    let_rest(IDLE_AFTER_S + 1)
    Replica.objects.update(state=state)
    assert service.unload_idle() == 0

    # It has its whole time from when it came up.
    Replica.objects.update(state="ready", changed_at=timezone.now())
    assert service.unload_idle() == 0
    Replica.objects.update(changed_at=timezone.now() - timedelta(seconds=IDLE_AFTER_S + 1))
    assert service.unload_idle() == 1


def test_whoever_wants_it_while_it_is_looked_at_keeps_it(version, monkeypatch):
    serve(version)
    let_rest(IDLE_AFTER_S + 1)
    lock = service.lock_deployment

    def lock_late(version_id):
        note_use(version)
        return lock(version_id)

    monkeypatch.setattr(service, "lock_deployment", lock_late)

    assert service.unload_idle() == 0
    assert state_of(version) == "warm"


# --- Waking ------------------------------------------------------------------------


def test_a_wish_wakes_what_sleeps(version):
    node = put_to_sleep(version)
    version.certificate = {"benchmark": {"load_ms": 12_400.0}}
    version.save()
    assert selectors.find_temperature(version).cold_start_s == 12
    assert "cold start about 12 s" in selectors.find_temperature(version).text

    assert ask(version) == ("cold", True, 12_400)
    assert service.answer_wishes() == 1

    assert placed()[-1] == ("node-1", "assigned", True)
    assert state_of(version) == "waking"
    assert ask(version)[:2] == ("waking", True)
    assert service.answer_wishes() == 0

    load(node)
    assert ask(version)[:2] == ("warm", True)
    sweep_nodes()
    deployment = Deployment.objects.get()
    assert deployment.waking_since is None
    # What was measured counts from now on.
    assert 1 <= deployment.cold_start_ms < 60_000
    assert ask(version) == ("warm", False, deployment.cold_start_ms)


def test_who_has_it_run_wakes_it_too(version):
    put_to_sleep(version)

    deployments.ensure_deployment(version=version)

    assert placed()[-1] == ("node-1", "assigned", True)
    assert state_of(version) == "waking"


def test_a_version_that_is_not_deployed_cannot_be_woken(version):
    assert ask(version) == (None, None, None)
    assert WakeWish.objects.count() == 0


def test_one_that_no_node_could_take_is_not_waited_for(version):
    deployments.ensure_deployment(version=version)

    assert ask(version)[:2] == ("waking", False)


def test_one_that_was_never_placed_is_placed_by_a_wish(version):
    deployments.ensure_deployment(version=version)
    make_node("node-1")

    assert ask(version)[:2] == ("waking", True)
    assert ask(version)[:2] == ("waking", True)
    assert WakeWish.objects.count() == 1
    assert service.answer_wishes() == 0

    assert placed() == [("node-1", "assigned", True)]
    # Wanted a moment ago, and on its way: nobody need be told again.
    assert ask(version)[:2] == ("waking", True)
    assert WakeWish.objects.count() == 0


@pytest.mark.parametrize(
    "certificate", [None, {}, {"benchmark": 1}, {"benchmark": {"load_ms": "x"}}]
)
def test_a_load_that_nobody_measured_has_no_time(version, certificate):
    put_to_sleep(version)
    ModelVersion.objects.update(certificate=certificate)
    version.refresh_from_db()

    assert ask(version) == ("cold", True, None)
    assert selectors.find_temperature(version).cold_start_s is None


def test_a_wish_is_part_of_its_callers_transaction(version):
    put_to_sleep(version)

    with transaction.atomic():
        ask(version)
        assert WakeWish.objects.count() == 1
        transaction.set_rollback(True)

    assert service.answer_wishes() == 0
    assert state_of(version) == "cold"


@pytest.mark.django_db(transaction=True)
def test_a_wish_waits_for_nobody():
    version = ModelVersionFactory()
    put_to_sleep(version)

    def hold(is_held: threading.Event, may_end: threading.Event) -> None:
        with transaction.atomic():
            ask(version)
            Deployment.objects.select_for_update().get()
            is_held.set()
            may_end.wait(60)
        connections.close_all()

    is_held, may_end = threading.Event(), threading.Event()
    other = threading.Thread(target=hold, args=(is_held, may_end))
    other.start()
    try:
        assert is_held.wait(60)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '100ms'")
            assert ask(version)[0] == "cold"
    finally:
        may_end.set()
        other.join()
    assert WakeWish.objects.count() == 2
    assert service.answer_wishes() == 1


def in_threads(count: int, job: Callable[[], None]) -> None:
    """Run it as often at the same time, each with a connection of its own."""
    barrier = threading.Barrier(count)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            barrier.wait(60)
            job()
        except BaseException as error:  # noqa: BLE001 - Told by the test itself.
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.django_db(transaction=True)
def test_a_hundred_who_ask_at_once_are_one_load():
    version = ModelVersionFactory()
    put_to_sleep(version)
    for name in ("node-2", "node-3", "node-4"):
        make_node(name)
    # A hundred connections at once are more than Postgres has: so many come one after another.
    for _ in range(5):
        in_threads(20, lambda: ask(version))
    assert 1 <= WakeWish.objects.count() <= 20

    in_threads(8, service.answer_wishes)

    assert WakeWish.objects.count() == 0
    assert Replica.objects.filter(wanted=True).count() == 1


@pytest.mark.django_db(transaction=True)
def test_without_the_rows_lock_there_would_be_several_loads(monkeypatch):
    version = ModelVersionFactory()
    put_to_sleep(version)
    for name in ("node-2", "node-3", "node-4"):
        make_node(name)
    Deployment.objects.update(slept_at=None)
    both = threading.Barrier(2)

    def look(deployment_id):
        deployment = Deployment.objects.get(pk=deployment_id)
        both.wait(60)
        return deployment

    monkeypatch.setattr(deployments, "_lock", look)
    deployment = Deployment.objects.get()

    in_threads(2, lambda: deployments.place_replicas(deployment_id=deployment.pk))

    assert Replica.objects.filter(wanted=True).count() == 2


def test_a_version_that_is_withdrawn_while_it_wakes_is_not_loaded(version, owner):
    put_to_sleep(version)
    ask(version)
    service.answer_wishes()
    assert placed()[-1] == ("node-1", "assigned", True)

    catalog.withdraw(version=version, actor=Actor(user=owner))
    ask(version)
    sweep_nodes()

    assert not Replica.objects.filter(wanted=True).exists()
    assert ask(version) == (None, None, None)


def test_a_wish_for_a_version_that_was_withdrawn_since_is_dropped(version, owner):
    put_to_sleep(version)
    ask(version)

    catalog.withdraw(version=version, actor=Actor(user=owner))

    assert service.answer_wishes() == 0
    assert WakeWish.objects.count() == 0
    assert not Replica.objects.filter(wanted=True).exists()


def test_without_a_free_node_it_stays_waking_until_there_is_one(version):
    put_to_sleep(version)
    connection.cursor().execute("UPDATE inference_node SET triton_ready = false")
    ask(version)

    assert service.answer_wishes() == 1
    assert state_of(version) == "waking"
    assert not Replica.objects.filter(wanted=True).exists()

    make_node("node-2")
    sweep_nodes()
    assert placed()[-1] == ("node-2", "assigned", True)


def test_a_wish_outlives_the_worker_that_dies_over_it(version, monkeypatch):
    put_to_sleep(version)
    ask(version)

    def die(**_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(deployments, "place_replicas", die)
        with pytest.raises(KeyboardInterrupt), transaction.atomic():
            service.answer_wishes()
    assert state_of(version) == "cold"
    assert WakeWish.objects.count() == 1

    sweep_nodes()
    assert placed()[-1] == ("node-1", "assigned", True)


@pytest.mark.django_db(transaction=True)
def test_a_worker_hears_of_a_wish_at_once():
    version = ModelVersionFactory()
    put_to_sleep(version)
    listener = WakeListener()
    listener.start()
    try:
        ask(version)
        eventually(lambda: _is(Replica.objects.filter(wanted=True).count() == 1), timeout_s=20)
    finally:
        listener.stop()


@pytest.mark.django_db(transaction=True)
def test_a_worker_looks_by_itself_where_no_notice_came():
    version = ModelVersionFactory()
    put_to_sleep(version)
    listener = WakeListener()
    listener.start()
    try:
        # As a wish whose notice was lost.
        WakeWish.objects.create(version_id=version.pk, asked_at=timezone.now())
        eventually(lambda: _is(WakeWish.objects.count() == 0), timeout_s=20)
    finally:
        listener.stop()
    assert Replica.objects.filter(wanted=True).count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_notice_is_sent_with_the_wish_and_only_then():
    version = ModelVersionFactory()
    put_to_sleep(version)
    parameters = connection.get_connection_params()
    names = ("dbname", "user", "password", "host", "port")
    with psycopg.connect(**{name: parameters[name] for name in names}, autocommit=True) as other:
        other.execute(f"LISTEN {CHANNEL}")
        with transaction.atomic():
            ask(version)
            assert list(other.notifies(timeout=0.2)) == []
        [notice] = list(other.notifies(timeout=20, stop_after=1))
    assert notice.payload == str(version.pk)


def _is(condition: bool) -> None:
    assert condition


# --- Policy ------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [IDLE_AFTER_MIN_S, IDLE_AFTER_MAX_S, None])
def test_a_policy_within_its_limits_is_kept_and_audited(owned, owner, seconds):
    serve(owned)

    service.set_policy(
        actor=Actor(user=owner),
        deployment=Deployment.objects.get(),
        idle_after_s=seconds,
        is_always_warm=False,
    )

    assert Deployment.objects.get().idle_after_s == seconds
    event = AuditEvent.objects.get(action="deployment.set_policy")
    assert event.payload["idle_after_s"] == seconds


@pytest.mark.parametrize("seconds", [IDLE_AFTER_MIN_S - 1, IDLE_AFTER_MAX_S + 1, 0, -1])
def test_a_policy_out_of_its_limits_changes_nothing(owned, owner, seconds):
    serve(owned)

    with pytest.raises(InvalidInputError) as caught:
        service.set_policy(
            actor=Actor(user=owner),
            deployment=Deployment.objects.get(),
            idle_after_s=seconds,
            is_always_warm=True,
        )

    assert caught.value.errors[0]["pointer"] == "/idle_after_s"
    deployment = Deployment.objects.get()
    assert (deployment.idle_after_s, deployment.is_always_warm) == (IDLE_AFTER_S, False)
    assert not AuditEvent.objects.filter(action="deployment.set_policy").exists()


def test_who_may_not_push_sets_no_policy(version, owner):
    serve(version)

    with pytest.raises(ForbiddenError):
        service.set_policy(
            actor=Actor(user=owner),
            deployment=Deployment.objects.get(),
            idle_after_s=60,
            is_always_warm=False,
        )

    assert Deployment.objects.get().idle_after_s == IDLE_AFTER_S


@override_settings(WARM_HOUR_NANOS=123)
@pytest.mark.parametrize(("idle_after_s", "is_always_warm"), [(IDLE_AFTER_S, True), (None, False)])
def test_what_may_not_sleep_any_more_wakes_at_once(owned, owner, idle_after_s, is_always_warm):
    put_to_sleep(owned)
    fund(owned.model.account, 123)

    service.set_policy(
        actor=Actor(user=owner),
        deployment=Deployment.objects.get(),
        idle_after_s=idle_after_s,
        is_always_warm=is_always_warm,
    )

    assert placed()[-1] == ("node-1", "assigned", True)
    assert Deployment.objects.get().warm_hour_nanos == (123 if is_always_warm else None)


def test_a_newer_version_goes_on_with_the_policy(version):
    serve(version, idle_after_s=600)
    newer = ModelVersionFactory(model=version.model, number=2)
    other = ModelVersionFactory()

    with override_settings(IDLE_AFTER_S=900):
        assert deployments.ensure_deployment(version=newer).idle_after_s == 600
        assert deployments.ensure_deployment(version=other).idle_after_s == 900
    assert deployments.ensure_deployment(version=ModelVersionFactory()).idle_after_s is None


# --- What people see ---------------------------------------------------------------


def test_a_model_that_sleeps_is_not_told_to_be_out_of_order(version):
    node = put_to_sleep(version)
    assert read_availability(version).word == "Cold"
    assert read_availability(version).tone == ""

    ask(version)
    service.answer_wishes()
    assert read_availability(version).word == "Waking"

    load(node)
    assert read_availability(version).word == "Served"
