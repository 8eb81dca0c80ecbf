"""Versions that are always warm are paid by the hour: once, from credit that is there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.core import mail
from django.db import IntegrityError, connection, connections, transaction
from django.db.models import F

from billing.models import LedgerAccount, Transfer
from billing.selectors.warm_hour import WARM_HOUR_INVARIANT
from billing.services import warm_hour as payments
from inference.errors import AlwaysWarmUnpaidError
from inference.models import Deployment, Replica
from inference.selectors import warm_hour as selectors
from inference.services import closing, wake
from inference.services import deployment as deployments
from inference.services import warm_hour as service
from inference.services.warm_hour import CATCH_UP_HOURS_MAX, UNPAID_IDLE_AFTER_S
from inference.tasks import charge_warm_hours, sweep_nodes
from marketplace import celery
from marketplace.core.errors import AccountFrozenError
from marketplace.core.ids import new_id
from marketplace.models import (
    Account,
    AccountDeletion,
    AIModel,
    AuditEvent,
    ModelVersion,
    Notification,
)
from marketplace.selectors.access import Actor
from marketplace.services.notice import mail_notices
from tests.billing.conftest import asked, reserve
from tests.factories import ModelVersionFactory
from tests.inference.django.test_deployment import load, make_node
from tests.inference.django.wallets import fund, read_balance

PRICE_NANOS = 1_000
HOUR = timedelta(hours=1)
Kind = LedgerAccount.Kind


class Clock:
    """Hours that pass when a test says so, and all lie in the past, as those that are charged."""

    def __init__(self) -> None:
        self.hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 100 * HOUR

    def read(self) -> datetime:
        return self.hour

    def advance(self, hours: int) -> None:
        self.hour += hours * HOUR


@pytest.fixture(autouse=True)
def price(settings) -> None:
    settings.WARM_HOUR_NANOS = PRICE_NANOS


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    for module in (selectors, service, deployments):
        monkeypatch.setattr(module, "read_hour", found.read)
    return found


@pytest.fixture
def owned(account) -> ModelVersion:
    """A version of the account that `owner` owns."""
    return ModelVersionFactory(model__account=account, model__name="digits", number=3)


@pytest.fixture
def warm(owned, owner, clock) -> Deployment:
    """It is loaded, and always warm from the next hour on; the wallet holds ten hours."""
    fund(owned.model.account, 10 * PRICE_NANOS)
    return keep_warm(owned, owner)


def keep_warm(version: ModelVersion, owner, name: str = "node-1") -> Deployment:
    node = make_node(name)
    deployment = deployments.ensure_deployment(version=version)
    load(node)
    return set_policy(deployment, owner, is_always_warm=True)


def set_policy(deployment: Deployment, owner, **policy) -> Deployment:
    return wake.set_policy(
        actor=Actor(user=owner),
        deployment=deployment,
        **{"idle_after_s": None, "is_always_warm": False} | policy,
    )


def list_charged() -> list[str]:
    """The hours that were charged, as their keys name them."""
    rows = Transfer.objects.filter(kind=Transfer.Kind.WARM_HOUR).order_by("idempotency_key")
    return [key.rpartition(":")[2] for key in rows.values_list("idempotency_key", flat=True)]


def read_wallet(deployment: Deployment) -> int:
    return read_balance(Kind.WALLET, deployment.version.model.account)


def list_misfits() -> list[object]:
    with connection.cursor() as cursor:
        cursor.execute(WARM_HOUR_INVARIANT.sql)
        return [row[0] for row in cursor.fetchall()]


def at_once(deed: Callable[[], object], count: int = 4) -> None:
    gate = threading.Barrier(count)
    faults: list[Exception] = []

    def run() -> None:
        try:
            connection.ensure_connection()
            gate.wait(60)
            deed()
        except Exception as fault:  # noqa: BLE001 - Shown by the test's own thread.
            faults.append(fault)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


# --- Once --------------------------------------------------------------------------


def test_each_full_hour_is_charged_once_when_it_is_over(warm, clock):
    chosen = clock.hour
    assert warm.next_warm_hour_at == chosen + HOUR
    # The hour that had begun is free, and the next one is not over.
    clock.advance(1)
    charge_warm_hours()
    assert list_charged() == []

    clock.advance(1)
    charge_warm_hours()
    charge_warm_hours()

    transfer = Transfer.objects.get(kind=Transfer.Kind.WARM_HOUR)
    assert transfer.idempotency_key == f"warm_hour:{warm.pk}:{chosen + HOUR:%Y-%m-%dT%HZ}"
    assert transfer.reference == str(warm.version_id)
    assert read_wallet(warm) == 9 * PRICE_NANOS
    assert read_balance(Kind.PLATFORM_REVENUE) == PRICE_NANOS
    assert list_misfits() == []
    # After an outage of workers.
    clock.advance(3)
    assert service.charge_warm_hours() == 3
    assert read_wallet(warm) == 6 * PRICE_NANOS
    assert len(set(list_charged())) == 4
    assert list_misfits() == []


def test_beat_charges_hours():
    assert celery.app.conf.beat_schedule["charge-warm-hours"]["task"] == charge_warm_hours.name


@pytest.mark.django_db(transaction=True)
def test_workers_at_the_same_time_charge_each_hour_once(warm, clock):
    clock.advance(6)

    at_once(service.charge_warm_hours)

    assert len(list_charged()) == 5
    assert read_wallet(warm) == 5 * PRICE_NANOS
    assert service.charge_warm_hours() == 0


@pytest.mark.django_db(transaction=True)
def test_without_the_lock_of_the_row_the_key_lets_each_hour_be_charged_once(
    warm, clock, monkeypatch
):
    monkeypatch.setattr("django.db.models.QuerySet.select_for_update", lambda rows, **_: rows.all())
    clock.advance(6)

    at_once(service.charge_warm_hours)

    assert len(list_charged()) == 5
    assert read_wallet(warm) == 5 * PRICE_NANOS


@pytest.mark.parametrize("place", ["_move_on", "get_cashier"])
def test_a_worker_that_dies_has_charged_the_hour_and_noted_it_or_neither(
    warm, clock, monkeypatch, place
):
    clock.advance(3)

    def die(*_: object) -> None:
        raise RuntimeError("died")

    with monkeypatch.context() as patch:
        patch.setattr(service, place, die)
        assert service.charge_warm_hours() == 0
    assert list_charged() == []

    assert service.charge_warm_hours() == 2
    assert read_wallet(warm) == 8 * PRICE_NANOS


def go_back(deployment: Deployment) -> None:
    """As if what notes the hour were lost."""
    Deployment.objects.filter(pk=deployment.pk).update(
        next_warm_hour_at=F("next_warm_hour_at") - HOUR
    )


def test_an_hour_whose_note_is_lost_is_not_charged_again(warm, clock):
    clock.advance(2)
    assert service.charge_warm_hours() == 1
    go_back(warm)

    assert service.charge_warm_hours() == 0

    assert read_wallet(warm) == 9 * PRICE_NANOS
    warm.refresh_from_db()
    assert warm.next_warm_hour_at == clock.hour
    # Nor at another price.
    go_back(warm)
    Deployment.objects.update(warm_hour_nanos=PRICE_NANOS + 1)
    assert service.charge_warm_hours() == 0
    assert read_wallet(warm) == 9 * PRICE_NANOS


def test_control_without_the_key_it_would_be_charged_again_and_noticed(warm, clock, monkeypatch):
    monkeypatch.setattr(payments, "name_hour", lambda _: f"warm_hour:{new_id()}")
    clock.advance(2)
    assert service.charge_warm_hours() == 1
    go_back(warm)

    assert service.charge_warm_hours() == 1

    assert read_wallet(warm) == 8 * PRICE_NANOS
    assert len(list_misfits()) == 2


def test_one_in_trouble_keeps_no_other_waiting(warm, owner, clock, monkeypatch):
    other = ModelVersionFactory(model__account=warm.version.model.account, model__name="letters")
    second = keep_warm(other, owner, "node-2")
    clock.advance(2)
    real = service.is_served_now

    def stumble(deployment: Deployment) -> bool:
        if deployment == warm:
            raise RuntimeError("in trouble")
        return real(deployment)

    monkeypatch.setattr(service, "is_served_now", stumble)

    assert service.charge_warm_hours() == 1
    assert Transfer.objects.get(kind="warm_hour").reference == str(second.version_id)


def test_the_present_hour_is_that_of_utc(db):
    before = datetime.now(UTC)
    found = selectors.read_hour()
    after = datetime.now(UTC)

    assert found in {at.replace(minute=0, second=0, microsecond=0) for at in (before, after)}


# --- Not more than there is --------------------------------------------------------


@pytest.mark.parametrize(("nanos", "is_taken"), [(PRICE_NANOS, True), (PRICE_NANOS - 1, False)])
def test_it_is_chosen_with_credit_for_an_hour(owned, owner, clock, nanos, is_taken):
    fund(owned.model.account, nanos)
    if is_taken:
        keep_warm(owned, owner)
    else:
        with pytest.raises(AlwaysWarmUnpaidError):
            keep_warm(owned, owner)

    assert Deployment.objects.get().is_always_warm == is_taken
    # Nothing is taken for it, nor reserved.
    assert read_balance(Kind.WALLET, owned.model.account) == nanos


def test_without_a_wallet_it_is_not_chosen(owned, owner, clock):
    with pytest.raises(AlwaysWarmUnpaidError):
        keep_warm(owned, owner)


def test_credit_that_predictions_have_reserved_pays_no_hour(owned, owner, clock):
    fund(owned.model.account, PRICE_NANOS)
    ((_, _, outcome),) = reserve(asked(owned.model.account_id, 1))
    assert outcome == "held"

    with pytest.raises(AlwaysWarmUnpaidError):
        keep_warm(owned, owner)

    # Nor an hour that is over.
    fund(owned.model.account, 1)
    deployment = set_policy(Deployment.objects.get(), owner, is_always_warm=True)
    reserve(asked(owned.model.account_id, 1))
    clock.advance(2)
    assert service.charge_warm_hours() == 0
    deployment.refresh_from_db()
    assert not deployment.is_always_warm
    assert read_wallet(deployment) == PRICE_NANOS + 1


def test_what_the_wallet_cannot_pay_is_not_owed_and_the_version_may_sleep(warm, clock):
    fund(warm.version.model.account, PRICE_NANOS // 2)
    clock.advance(13)

    assert service.charge_warm_hours() == 10
    assert service.charge_warm_hours() == 0

    assert read_wallet(warm) == PRICE_NANOS // 2
    warm.refresh_from_db()
    assert (warm.is_always_warm, warm.warm_hour_nanos, warm.next_warm_hour_at) == (
        *(False, None),
        None,
    )
    assert warm.idle_after_s == UNPAID_IDLE_AFTER_S
    event = AuditEvent.objects.get(action="deployment.unpaid")
    assert (event.account_id, event.payload["reason"]) == (
        warm.version.model.account_id,
        "insufficient_credit",
    )
    # Told in the inbox, and by mail, once.
    [line] = Notification.objects.filter(kind=Notification.Kind.PAYMENT)
    assert line.title == "acme/digits, version 3, is not always warm any more"
    assert line.path == "/dashboard/models/acme/digits/monitoring/cold-start"
    mail_notices()
    mail_notices()
    [sent] = mail.outbox
    assert sent.to == ["owner@example.com"]
    assert "was kept loaded for $0.000001 an hour" in sent.body
    assert "unloaded after 60 minutes without a call" in sent.body
    # Credit that comes later pays nothing of it.
    fund(warm.version.model.account, 10 * PRICE_NANOS)
    clock.advance(5)
    assert service.charge_warm_hours() == 0
    # It is unloaded as any other.
    Deployment.objects.update(last_wanted_at=clock.hour)
    Replica.objects.update(changed_at=clock.hour)
    assert wake.unload_idle() == 1


@pytest.mark.parametrize(
    ("own_s", "default_s", "expected_s"), [(300, 900, 300), (None, 900, 900), (None, 0, 3_600)]
)
def test_then_its_own_idle_time_counts_or_the_platforms(
    warm, owner, clock, settings, own_s, default_s, expected_s
):
    settings.IDLE_AFTER_S = default_s
    set_policy(warm, owner, idle_after_s=own_s, is_always_warm=True)
    clock.advance(13)

    service.charge_warm_hours()

    assert Deployment.objects.get().idle_after_s == expected_s


@pytest.mark.django_db(transaction=True)
def test_versions_that_share_a_wallet_never_overdraw_it(warm, owner, clock):
    account = warm.version.model.account
    for number in range(3):
        other = ModelVersionFactory(model__account=account, model__name=f"other-{number}")
        keep_warm(other, owner, f"node-{number + 2}")
    clock.advance(5)

    at_once(service.charge_warm_hours)

    # Sixteen hours, and credit for ten.
    assert len(list_charged()) == 10
    assert read_wallet(warm) == 0
    assert list_misfits() == []


def test_a_frozen_account_pays_nothing_and_chooses_nothing(warm, owner, clock):
    Account.objects.update(frozen_at=datetime.now(UTC))
    clock.advance(2)

    assert service.charge_warm_hours() == 0

    assert read_wallet(warm) == 10 * PRICE_NANOS
    found = Deployment.objects.get()
    assert not found.is_always_warm
    assert AuditEvent.objects.get(action="deployment.unpaid").payload["reason"] == "account_frozen"
    with pytest.raises(AccountFrozenError):
        set_policy(found, owner, is_always_warm=True)


# --- Which hours -------------------------------------------------------------------


@pytest.mark.parametrize("hours", [CATCH_UP_HOURS_MAX, CATCH_UP_HOURS_MAX + 1])
def test_hours_are_made_up_for_a_day_and_no_longer(warm, clock, hours):
    fund(warm.version.model.account, 100 * PRICE_NANOS)
    chosen = clock.hour
    clock.advance(1 + hours)

    assert service.charge_warm_hours() == CATCH_UP_HOURS_MAX

    first = chosen + HOUR * (1 + hours - CATCH_UP_HOURS_MAX)
    assert list_charged()[0] == f"{first:%Y-%m-%dT%HZ}"
    assert service.charge_warm_hours() == 0


@pytest.mark.parametrize("state", ["loading", "failed", "lost", "unloaded"])
def test_what_is_not_served_when_an_hour_is_charged_is_free(warm, clock, state):
    Replica.objects.update(state=state)
    clock.advance(3)
    assert service.charge_warm_hours() == 0
    assert read_wallet(warm) == 10 * PRICE_NANOS

    # Nor later: those hours are over.
    Replica.objects.update(state="ready")
    assert service.charge_warm_hours() == 0
    clock.advance(1)
    assert service.charge_warm_hours() == 1


def test_a_price_of_nothing_charges_nothing(owned, owner, clock, settings):
    settings.WARM_HOUR_NANOS = 0
    deployment = keep_warm(owned, owner)
    settings.WARM_HOUR_NANOS = PRICE_NANOS
    clock.advance(5)

    assert service.charge_warm_hours() == 0

    assert deployment.is_always_warm
    assert list_charged() == []
    deployment.refresh_from_db()
    assert deployment.is_always_warm


def test_the_price_is_that_of_the_choice(warm, owner, clock, settings):
    settings.WARM_HOUR_NANOS = 3 * PRICE_NANOS
    # Another idle time is no new choice.
    set_policy(warm, owner, idle_after_s=300, is_always_warm=True)
    clock.advance(2)
    service.charge_warm_hours()
    assert read_wallet(warm) == 9 * PRICE_NANOS

    found = set_policy(Deployment.objects.get(), owner, is_always_warm=False)
    assert (found.warm_hour_nanos, found.next_warm_hour_at) == (None, None)
    clock.advance(2)
    assert service.charge_warm_hours() == 0
    set_policy(found, owner, is_always_warm=True)
    clock.advance(2)
    service.charge_warm_hours()
    assert read_wallet(warm) == 6 * PRICE_NANOS


def test_a_newer_version_is_paid_by_itself_from_its_own_first_hour(warm, owner, clock):
    clock.advance(4)
    newer = ModelVersionFactory(model=warm.version.model, number=4)
    node = make_node("node-2")
    found = deployments.ensure_deployment(version=newer)
    load(node)
    assert (found.is_always_warm, found.warm_hour_nanos) == (True, PRICE_NANOS)
    assert found.next_warm_hour_at == clock.hour + HOUR
    clock.advance(2)

    assert service.charge_warm_hours() == 5 + 1

    charged = Transfer.objects.filter(kind="warm_hour", reference=str(newer.pk))
    assert charged.count() == 1
    assert list_misfits() == []


def test_what_is_charged_has_an_hour_to_begin_with(warm):
    with pytest.raises(IntegrityError), transaction.atomic():
        Deployment.objects.update(next_warm_hour_at=None)
    with pytest.raises(IntegrityError), transaction.atomic():
        Deployment.objects.update(warm_hour_nanos=-1)


# --- The end -----------------------------------------------------------------------


def test_a_deployment_that_was_stopped_is_charged_no_more(warm, clock):
    clock.advance(3)
    deployments.stop_deployment(deployment_id=warm.pk)

    assert service.charge_warm_hours() == 0
    assert list_charged() == []


@pytest.mark.parametrize("what", [Account, AIModel])
def test_what_is_suspended_is_not_charged(warm, clock, what):
    what.objects.update(suspended_at=datetime.now(UTC))
    clock.advance(3)

    # Before the sweep has stopped it.
    assert service.charge_warm_hours() == 0
    sweep_nodes()

    assert Deployment.objects.get().stopped_at is not None
    assert service.charge_warm_hours() == 0
    assert read_wallet(warm) == 10 * PRICE_NANOS


def test_an_account_that_is_deleted_is_charged_no_more(warm, clock):
    clock.advance(2)
    assert service.charge_warm_hours() == 1
    clock.advance(3)

    closing.stop_serving(AccountDeletion(account=warm.version.model.account))

    assert service.charge_warm_hours() == 0
    assert read_wallet(warm) == 9 * PRICE_NANOS
