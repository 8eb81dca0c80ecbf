"""How long an account keeps contents: who may say so, with what consequence, and to what limit."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from django.test import Client

from inference.errors import ConfirmationMissingError, FileGoneError, RetentionZeroError
from inference.models import File, Job, JobInput, Prediction, SharedRun
from inference.services import file as files
from inference.services.retention import change_retention
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import new_id
from marketplace.core.limits import RETENTION_DAYS_MAX
from marketplace.models import AuditEvent
from marketplace.selectors.access import Actor
from tests.factories import ModelVersionFactory
from tests.inference.storing import list_objects, use_store

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path / "objects")


@pytest.fixture
def change(owner, account):
    def change(days, **how):
        return change_retention(actor=Actor(user=owner), account=account, days=days, **how)

    return change


def keep(account, **how):
    return files.store_file(account, "a.txt", "", io.BytesIO(b"a"), **how)


@pytest.mark.parametrize("days", [-1, RETENTION_DAYS_MAX + 1])
def test_so_many_days_there_are_not(change, account, days):
    with pytest.raises(InvalidInputError):
        change(days, is_confirmed=True)
    account.refresh_from_db()
    assert account.retention_days == 1


def test_longer_is_said_at_once_and_shorter_is_confirmed(change, account):
    assert change(RETENTION_DAYS_MAX).retention_days == RETENTION_DAYS_MAX
    with pytest.raises(ConfirmationMissingError):
        change(RETENTION_DAYS_MAX - 1)
    account.refresh_from_db()
    assert account.retention_days == RETENTION_DAYS_MAX
    assert change(0, is_confirmed=True).retention_days == 0
    events = AuditEvent.objects.filter(action="account.retention").order_by("seq")
    assert [one.payload for one in events] == [
        {"days": 30, "days_before": 1},
        {"days": 0, "days_before": 30},
    ]
    change(0)
    assert events.count() == 2


def test_shorter_shortens_the_lives_of_files(change, account):
    account.refresh_from_db()
    change(30)
    account.refresh_from_db()
    long = keep(account, expires_at=utc_now() + timedelta(days=20))
    short = keep(account)
    change(2, is_confirmed=True)
    ends = {one.pk: one.expires_at - one.created_at for one in File.objects.all()}
    assert ends == {long.pk: timedelta(days=2), short.pk: timedelta(days=1)}


def test_nothing_ends_every_file_at_once(change, account, store):
    file = keep(account)
    change(0, is_confirmed=True)
    file.refresh_from_db()
    with pytest.raises(FileGoneError):
        files.open_file(file)
    files.sweep_files()
    assert not list_objects(store)
    assert not File.objects.exists()
    with pytest.raises(RetentionZeroError):
        keep(account)


def test_nothing_ends_shared_runs_and_inputs_of_the_dead(change, account):
    version, now = ModelVersionFactory(), utc_now()
    SharedRun.objects.create(
        token="t" * 24,
        account=account,
        version=version,
        prediction_id=new_id(),
        input={},
        output={},
        size_bytes=1,
        expires_at=now + timedelta(days=1),
    )
    job = Job.objects.create(
        id=new_id(),
        account_id=account.pk,
        version=version,
        creator_id=account.pk,
        state="dead",
        ready_at=now,
        deadline_at=now,
        created_at=now,
        finished_at=now,
    )
    JobInput.objects.create(job=job, input={"x": 1})
    change(0, is_confirmed=True)
    assert not SharedRun.objects.exists()
    assert not JobInput.objects.exists()


def test_the_table_itself_keeps_no_content_of_such_an_account(account):
    version = ModelVersionFactory()

    def add():
        return Prediction.objects.create(
            id=new_id(),
            account_id=account.pk,
            version=version,
            state="succeeded",
            input={"x": 1},
            output={"y": 1},
            created_at=utc_now(),
        )

    kept = add()
    account.retention_days = 0
    account.save()
    gone = add()
    kept.refresh_from_db()
    gone.refresh_from_db()
    assert (kept.input, kept.output) == ({"x": 1}, {"y": 1})
    assert (gone.input, gone.output) == (None, None)


# --- the API ---


def put(client, **fields):
    url = "/api/retention?account=acme"
    return client.put(url, fields, content_type="application/json")


def test_it_is_read_and_changed(owner_client):
    assert owner_client.get("/api/retention?account=acme").json() == {
        "account": "acme",
        "days": 1,
        "days_max": 30,
    }
    assert put(owner_client, days=30).json()["days"] == 30
    refused = put(owner_client, days=7)
    assert (refused.status_code, refused.json()["code"]) == (422, "confirmation_missing")
    assert put(owner_client, days=7, confirm=True).json()["days"] == 7
    assert put(owner_client, days=31).status_code == 422
    assert put(owner_client, days="many").status_code == 422


def test_it_wants_a_recent_look_at_who_asks(owner_client, monkeypatch):
    monkeypatch.setattr("marketplace.api.authentication.is_confirmed", lambda _: False)
    assert put(owner_client, days=2).status_code == 403


def test_who_may_not(teammate_client, outsider):
    assert teammate_client.get("/api/retention?account=acme").status_code == 200
    assert put(teammate_client, days=2).status_code == 403
    stranger = Client()
    stranger.force_login(outsider)
    assert put(stranger, days=2).status_code == 404
    assert Client().get("/api/retention?account=acme").status_code == 401
