"""Batches over the management API and in the console: who may, how much, and what is shown."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from inference.api.batch import BODY_BYTES_MAX
from inference.core import batch_lines
from inference.models import Batch, BatchLine, File
from inference.services import batch as services
from inference.services import batch_run
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from marketplace.models import Account, AuditEvent, ModelVersion
from marketplace.selectors.access import Actor
from tests.factories import AccountFactory, AIModelFactory, APIKeyFactory, ChannelFactory
from tests.factories import ModelVersionFactory as VersionFactory
from tests.inference.storing import use_store

pytestmark = pytest.mark.django_db
INTERFACE = {
    "inputs": [{"name": "text", "kind": "text", "max_length": 20}],
    "outputs": [{"name": "y", "kind": "text"}],
    "batch": {"max_size": 4},
}
LINE = '{"custom_id":"a","input":{"text":"hello"}}\n'


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path / "objects")


@pytest.fixture
def version() -> ModelVersion:
    model = AIModelFactory(account=AccountFactory(slug="maker"), name="echo", visibility="public")
    version = VersionFactory(model=model, number=1, interface=INTERFACE, manifest_sha256="cd" * 32)
    ChannelFactory(version=version)
    return version


@pytest.fixture
def key(account):
    return APIKeyFactory(account=account)


def call(key, method: str, path: str, data: Any = None, content_type="application/json"):
    body = data if isinstance(data, bytes) else json.dumps(data or {}).encode()
    headers = {"Authorization": f"Bearer {key.text}"}
    return Client().generic(
        method, f"/api/batches{path}", body, content_type=content_type, headers=headers
    )


def send(key, lines: str | bytes = LINE, model="maker/echo", **said: Any):
    query = "&".join(f"{name}={value}" for name, value in {"model": model, **said}.items())
    data = lines.encode() if isinstance(lines, str) else lines
    return call(key, "POST", f"?{query}", data, "application/jsonl")


def make(account, version, **fields: Any) -> Batch:
    now = utc_now()
    given = {"next_at": now, "deadline_at": now + timedelta(days=1), "name": "lines.jsonl"}
    return Batch.objects.create(account=account, version=version, **(given | fields))


def test_lines_in_the_body_become_a_batch(account, version, key):
    answer = send(key, LINE * 1 + '{"input":{"text":"b"}}', tag="nightly", name="Reviews")

    assert answer.status_code == 201, answer.content
    found = answer.json()
    assert (found["status"], found["model"], found["tag"]) == ("reading", "maker/echo", "nightly")
    batch = Batch.objects.get()
    assert (batch.account, batch.api_key_id, batch.version) == (account, key.pk, version)
    assert batch.input_file.purpose == File.Purpose.BATCH
    batch_run.advance_batches()
    shown = call(key, "GET", f"/{batch.pk}").json()
    assert shown["status"] == "running"
    assert shown["counts"] == {
        **dict.fromkeys(("queued", "running", "succeeded", "failed", "canceled"), 0),
        "total": 2,
        "waiting": 2,
    }
    assert AuditEvent.objects.filter(action="batch.create", account_id=account.pk).exists()
    assert call(key, "GET", "").json()["results"][0]["id"] == str(batch.pk)


def test_the_same_request_again_begins_nothing(account, version, key):
    def begin(idempotency_key: str):
        headers = {
            "Authorization": f"Bearer {key.text}",
            "Idempotency-Key": idempotency_key,
        }
        return Client().generic(
            *("POST", "/api/batches?model=maker/echo", LINE.encode()),
            content_type="application/jsonl",
            headers=headers,
        )

    first, again, other = begin("a"), begin("a"), begin("b")

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 201)
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    assert begin("k" * 255).status_code == 201
    assert begin("k" * 256).status_code == 422
    assert Batch.objects.count() == File.objects.count() == 3


def test_a_file_that_was_uploaded_becomes_a_batch(account, version, key):
    from io import BytesIO

    from inference.services.file import store_file

    file = store_file(account, "a.jsonl", "application/jsonl", BytesIO(LINE.encode()))
    said = {"model": "maker/echo:1", "input_file": file.public_id, "cancel_after_s": 60}

    answer = call(key, "POST", "", said)

    assert answer.status_code == 201, answer.content
    assert answer.json()["input_file"] == file.public_id
    batch = Batch.objects.get()
    assert batch.deadline_at - batch.created_at < timedelta(seconds=61)


def test_the_file_of_another_account_is_none(account, version, key):
    from io import BytesIO

    from inference.services.file import store_file

    file = store_file(AccountFactory(), "a.jsonl", "", BytesIO(LINE.encode()))
    said = {"model": "maker/echo", "input_file": file.public_id}

    assert call(key, "POST", "", said).status_code == 404
    assert call(key, "POST", "", said | {"input_file": "file_x"}).status_code == 404


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"model": "maker/none"}, 404),
        ({"model": "maker"}, 404),
        ({"model": "maker/echo:9"}, 404),
        ({"model": "maker/echo@beta"}, 404),
        ({"model": f"maker/echo:{'cd' * 32}"}, 201),
        ({"tag": "x" * 64}, 201),
        ({"tag": "x" * 65}, 422),
        ({"tag": "a%20b"}, 422),
        ({"cancel_after_s": 60}, 201),
        ({"cancel_after_s": 59}, 422),
        ({"cancel_after_s": 7 * 86_400}, 201),
        ({"cancel_after_s": 7 * 86_400 + 1}, 422),
        ({"webhook": "https://127.0.0.1/x"}, 422),
        ({"webhook": "http://93.184.216.34/x"}, 422),
        ({"account": "maker"}, 404),
        ({"input_file": "file_aaaaaaaaaaaaaaaaaaaaaaaaaa"}, 422),
    ],
)
def test_what_is_said_beside_the_lines_is_checked(account, version, key, settings, said, status):
    settings.DEVELOPMENT = False  # Where this machine may be called.
    answer = send(key, **said)

    assert answer.status_code == status, answer.content
    assert Batch.objects.count() == (status == 201)
    # Nothing is left of what was refused.
    assert File.objects.count() == (status == 201)


def test_a_batch_has_lines(account, version, key):
    assert send(key, b"").status_code == 422
    batch_id = send(key, b"\n \n").json()["id"]
    batch_run.advance_batches()

    found = call(key, "GET", f"/{batch_id}").json()
    assert (found["status"], found["reason"]) == ("failed", "empty_file")


def test_a_body_has_so_many_bytes_and_no_more(account, version, key):
    assert send(key, LINE.encode().ljust(BODY_BYTES_MAX)).status_code == 201
    assert send(key, LINE.encode().ljust(BODY_BYTES_MAX + 1)).status_code == 413
    assert Batch.objects.count() == File.objects.count() == 1


def test_a_file_has_so_many_lines_and_no_more(account, version, key, monkeypatch):
    kept = batch_run.read_lines
    monkeypatch.setattr(batch_run, "read_lines", lambda chunks: kept(chunks, lines_max=3))
    line = '{"input":{"text":"x"}}\n'
    fine, many = (send(key, line * count).json()["id"] for count in (3, 4))
    batch_run.advance_batches()

    assert Batch.objects.get(pk=fine).state == "running"
    found = Batch.objects.get(pk=many)
    assert (found.state, found.reason) == ("failed", "too_many_lines")
    assert not BatchLine.objects.filter(batch=found).exists()
    assert batch_lines.LINES_MAX == 100_000


def test_an_account_has_so_many_open_batches_and_no_more(account, version, key):
    for _ in range(services.BATCHES_OPEN_MAX - 1):
        make(account, version)
    make(AccountFactory(), version)
    make(account, version, finished_at=utc_now(), state="completed")

    assert send(key).status_code == 201
    answer = send(key)
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_batches")
    assert File.objects.count() == 1


def test_an_account_that_keeps_nothing_has_no_batches(account, version, key):
    Account.objects.filter(pk=account.pk).update(retention_days=0)

    answer = send(key)

    assert (answer.status_code, answer.json()["code"]) == (409, "retention_zero")


def test_a_key_runs_what_it_was_made_for(account, version, key):
    key.allowed_models = ["maker/other"]
    key.save()
    assert send(key).status_code == 422
    reading = APIKeyFactory(account=account, scopes=["read"])
    assert send(reading).status_code == 403
    testing = APIKeyFactory(account=account, mode="test")
    assert send(testing).status_code == 422
    assert Batch.objects.count() == 0


def test_a_private_model_of_another_account_of_the_same_person_is_none(account, owner, version):
    private = AIModelFactory(account=AccountFactory(slug="side"), name="own", visibility="private")
    private.account.memberships.create(user=owner, role="owner")
    ChannelFactory(version=VersionFactory(model=private, number=1, interface=INTERFACE))
    from inference.selectors.batch import find_version
    from marketplace.core.errors import NotFoundError

    assert find_version(Actor(user=owner), private.account, "side/own").number == 1
    with pytest.raises(NotFoundError):
        find_version(Actor(user=owner), account, "side/own")


def test_it_is_canceled_once_and_deleted_when_it_is_over(account, version, key):
    batch_id = send(key).json()["id"]
    batch_run.advance_batches()

    assert call(key, "DELETE", f"/{batch_id}").status_code == 409
    assert call(key, "POST", f"/{batch_id}/cancel").json()["status"] == "canceling"
    assert call(key, "POST", f"/{batch_id}/cancel").status_code == 202
    assert call(key, "POST", f"/{batch_id}/resume").json()["code"] == "batch_over"
    batch_run.advance_batches()
    assert call(key, "GET", f"/{batch_id}").json()["status"] == "canceled"
    assert call(key, "POST", f"/{batch_id}/cancel").status_code == 409
    [wrong] = _lines(call(key, "GET", f"/{batch_id}/errors"))
    assert (wrong["line"], wrong["custom_id"], wrong["status"]) == (1, "a", "canceled")
    assert call(key, "DELETE", f"/{batch_id}").status_code == 204
    assert not Batch.objects.exists()
    assert not BatchLine.objects.exists()


def test_a_paused_one_is_resumed_by_whoever_stands_for_it(account, version, key):
    batch = make(account, version, state="paused", reason="insufficient_credit")
    other = APIKeyFactory(account=account)

    answer = call(other, "POST", f"/{batch.pk}/resume")

    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    batch.refresh_from_db()
    assert batch.api_key_id == other.pk
    assert call(other, "POST", f"/{batch.pk}/resume").status_code == 200


def test_results_are_there_before_all_are_over_and_in_order(account, version, key):
    batch = make(account, version, state="running", ready_at=utc_now())
    for number, state in ((3, "succeeded"), (1, "succeeded"), (2, "failed"), (4, "waiting")):
        BatchLine.objects.create(
            batch=batch,
            number=number,
            state=state,
            custom_id=f"c{number}",
            prediction_id=new_id() if state == "succeeded" else None,
            output={"y": number} if state == "succeeded" else None,
            code="bad_json" if state == "failed" else "",
        )

    out = _lines(call(key, "GET", f"/{batch.pk}/output"))
    assert [(one["line"], one["custom_id"], one["output"]) for one in out] == [
        (1, "c1", {"y": 1}),
        (3, "c3", {"y": 3}),
    ]
    [wrong] = _lines(call(key, "GET", f"/{batch.pk}/errors"))
    assert wrong["error"] == {"code": "bad_json", "detail": None}
    shown = call(key, "GET", f"/{batch.pk}").json()
    assert shown["eta_s"] is not None
    assert shown["first_errors"] == [{"line": 2, "custom_id": "c2", "code": "bad_json"}]


def _lines(answer) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/jsonl"
    return [json.loads(one) for one in answer.getvalue().splitlines()]


def test_when_a_file_was_deleted_the_rest_of_the_results_is_there(account, version, key):
    batch = make(account, version, state="completed", finished_at=utc_now(), succeeded_count=1)
    BatchLine.objects.create(batch=batch, number=1, state="succeeded", prediction_id=new_id())

    [line] = _lines(call(key, "GET", f"/{batch.pk}/output"))

    assert (line["output"], line["data_removed"]) == (None, True)


def test_a_file_that_is_gone_before_it_was_read_ends_its_batch(account, version, key):
    batch_id = send(key).json()["id"]
    File.objects.all().delete()
    batch_run.advance_batches()

    found = call(key, "GET", f"/{batch_id}").json()
    assert (found["status"], found["reason"]) == ("failed", "file_gone")


def test_one_batch_that_cannot_go_on_stops_no_other(account, version, key, monkeypatch):
    # Two ids of one millisecond are in no order.
    first, second = sorted((make(account, version) for _ in range(2)), key=lambda one: one.pk)
    kept = batch_run.advance_batch
    seen = []

    def fail_first(batch_id):
        seen.append(batch_id)
        if batch_id == first.pk:
            raise RuntimeError
        kept(batch_id)

    monkeypatch.setattr(batch_run, "advance_batch", fail_first)
    batch_run.advance_batches()

    assert seen == [first.pk, second.pk]
    second.refresh_from_db()
    assert second.state == "failed"


# --- Pages ------------------------------------------------------------------------


@pytest.fixture
def page(owner) -> Client:
    client = Client()
    client.force_login(owner)
    return client


def text_of(answer) -> str:
    return " ".join(answer.content.decode().split())


def test_the_list_says_what_a_batch_is_where_there_is_none(page, account, version):
    empty = text_of(page.get(reverse("inference:batches")))
    assert "No batches yet" in empty

    batch = make(account, version, state="running", ready_at=utc_now())
    BatchLine.objects.create(batch=batch, number=1, state="failed", code="bad_json")
    BatchLine.objects.create(batch=batch, number=2)
    shown = text_of(page.get(reverse("inference:batches")))
    assert 'max="2" value="1"' in shown
    assert "lines.jsonl" in shown


def test_the_page_shows_counts_first_faults_and_what_may_be_done(page, account, version):
    batch = make(account, version, state="running", ready_at=utc_now())
    BatchLine.objects.create(batch=batch, number=7, state="failed", code="bad_json", detail="<b>")
    BatchLine.objects.create(batch=batch, number=8)

    shown = text_of(page.get(reverse("inference:batch", args=[batch.pk])))

    assert "1 of 2 lines are over" in shown
    assert "bad_json" in shown
    assert "&lt;b&gt;" in shown
    assert "Cancel the batch" in shown
    assert 'hx-trigger="every 3s"' in shown
    part = text_of(page.get(reverse("inference:batch-panel", args=[batch.pk])))
    assert "1 of 2 lines are over" in part
    assert "<html" not in part


def test_a_batch_that_stands_still_says_why_and_is_resumed(page, account, version):
    batch = make(
        *(account, version),
        state="paused",
        reason="insufficient_credit",
        detail="No credit.",
        paused_at=utc_now(),
    )
    address = reverse("inference:batch", args=[batch.pk])
    shown = text_of(page.get(address))
    assert "Stands still" in shown
    assert "No credit." in shown
    assert reverse("billing:wallet") in shown

    page.post(reverse("inference:batch-do", args=[batch.pk]), {"do": "resume"})

    batch.refresh_from_db()
    assert (batch.state, batch.api_key_id) == ("running", None)


def test_it_is_canceled_and_deleted_by_hand(page, account, version):
    batch = make(account, version, state="running", ready_at=utc_now())
    BatchLine.objects.create(batch=batch, number=1)
    address = reverse("inference:batch-do", args=[batch.pk])

    page.post(address, {"do": "cancel"})
    batch_run.advance_batches()

    shown = page.get(reverse("inference:batch", args=[batch.pk]))
    assert "hx-trigger" not in text_of(shown).split('id="batch"')[1].split(">")[0]
    assert "Delete the batch" in text_of(shown)
    page.post(address, {"do": "delete"})
    assert not Batch.objects.exists()
    assert "no such" not in text_of(page.get(reverse("inference:batches"))).lower()


def upload(page, text: str, **said: Any):
    file = SimpleUploadedFile("lines.jsonl", text.encode(), "application/jsonl")
    given = {"model": "maker/echo", "hours": "24", "file": file}
    return page.post(reverse("inference:batch-new"), given | said)


def test_a_file_is_looked_at_before_it_is_begun(page, account, version, settings):
    settings.GATEWAY_URL = "http://127.0.0.1:9"  # Nobody is there: the price is not known.
    lines = LINE + "nonsense\n" + '{"input":{"text":"far too long for this model"}}\n'

    answer = upload(page, lines)

    shown = text_of(answer)
    assert answer.status_code == 200
    assert "bad_json" in shown
    assert "validation" in shown
    assert "cannot be said right now" in shown
    assert not Batch.objects.exists()
    file = File.objects.get()
    start = {"model": "maker/echo", "hours": "6", "tag": "", "file": file.public_id}
    began = page.post(reverse("inference:batch-start"), start)
    batch = Batch.objects.get()
    assert began.headers["Location"] == reverse("inference:batch", args=[batch.pk])
    assert timedelta(hours=5) < batch.deadline_at - utc_now() < timedelta(hours=6)
    assert batch.api_key_id is None


def test_a_file_with_nothing_to_run_is_not_begun(page, account, version):
    answer = upload(page, "nonsense\n")

    assert answer.status_code == 422
    assert "Nothing was begun" in text_of(answer)
    assert "Begin the batch" not in text_of(answer)
    assert not File.objects.exists()


def test_a_model_that_is_none_is_told_in_the_form(page, account, version):
    answer = upload(page, LINE, model="maker/none")

    assert answer.status_code == 422
    assert not File.objects.exists()
