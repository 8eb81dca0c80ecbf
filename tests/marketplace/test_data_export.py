"""All that is kept of an account, as an archive: complete, its own alone, and without secrets."""

from __future__ import annotations

import base64
import dataclasses
import io
import tracemalloc
from datetime import timedelta

import pytest
from django.core import mail
from django.core.files.storage import FileSystemStorage
from django.db import connection
from django.utils import timezone

from inference.models import Prediction
from inference.services import own_data as inference_data
from marketplace.core import limits
from marketplace.core.ids import new_id
from marketplace.errors import ExportGoneError, ExportLimitError, ExportRunningError
from marketplace.models import Account, APIKey, AuditEvent, DataExport, Notice
from marketplace.selectors.access import Actor
from marketplace.services import data_export, export_file, exporter
from marketplace.services.exporter import Exporter
from marketplace.services.notice import mail_notices
from tests.billing.sealing import seal_all
from tests.factories import APIKeyFactory, ModelVersionFactory
from tests.marketplace.archives import find_leaks, make_export, make_world, open_export, read_rows

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    folder = tmp_path / "objects"
    artifacts = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(folder), "file_permissions_mode": 0o600},
    }
    settings.STORAGES = settings.STORAGES | {"artifacts": artifacts}
    return folder


@pytest.fixture
def actor(owner, account) -> Actor:
    return Actor(user=owner)


@pytest.fixture
def world(platform_admin):
    return make_world(platform_admin)


def stored(folder) -> list[str]:
    return [path.name for path in (folder / "exports").rglob("*") if path.is_file()]


# --- what is in it ---


@pytest.mark.django_db(transaction=True)
def test_every_kind_of_rows_is_in_it_and_no_other_account_s(world, settings):
    mine, other = world
    settings.RECEIPT_KEY = base64.b64encode(bytes(range(32))).decode()
    seal_all()
    actor = Actor(user=mine.owner)

    files = open_export(make_export(mine.account, actor), actor)

    counts = {path: len(read_rows(path, data)) for path, data in files.items() if "data/" in path}
    # Nothing is there by being empty.
    assert {path for path, count in counts.items() if count == 0} == set()
    assert set(counts) == {one.path for one in exporter.list_exporters().values()}
    assert len(counts) == 39
    # What was bought of the other bears the address of its model, and no more.
    told = b"\n".join(files.values()).replace(b"other/zq-other-model:1", b"")
    assert other.mark.encode() not in told
    assert b"words of the reporter" not in told
    assert mine.mark.encode() in told


@pytest.mark.parametrize("name", ["keys", "predictions", "usage-events", "audit-log"])
def test_an_exporter_that_forgot_whose_rows_it_reads_would_be_seen(world, monkeypatch, name):
    # The control of the test above.
    mine, other = world
    broken = dataclasses.replace(exporter.list_exporters()[name], read=leak_all(name))
    monkeypatch.setitem(exporter._exporters, name, broken)
    actor = Actor(user=mine.owner)

    files = open_export(make_export(mine.account, actor), actor)

    told = b"\n".join(files.values()).replace(b"other/zq-other-model:1", b"")
    assert other.mark.encode() in told


def leak_all(name: str):
    read = exporter.list_exporters()[name].read
    return lambda account: (row for one in Account.objects.all() for row in read(one))


def test_no_secret_is_in_it(world):
    mine, other = world
    actor = Actor(user=mine.owner)

    export = make_export(mine.account, actor)
    files = open_export(export, actor)

    assert len(mine.secrets) >= 12
    key = export_file.open_key(export.pk, bytes(export.sealed_key))
    assert find_leaks(files, [*mine.secrets, *other.secrets, key]) == []


def test_a_secret_that_got_in_would_be_found(world, monkeypatch):
    # The control of the test above: each of them, in each form.
    mine, _ = world
    forms = (bytes.hex, lambda one: base64.b64encode(one).decode())
    rows = [(form(one),) for one in mine.secrets for form in forms]
    leaking = Exporter("profile", "", ("x",), lambda account: rows)
    monkeypatch.setitem(exporter._exporters, "profile", leaking)
    actor = Actor(user=mine.owner)

    files = open_export(make_export(mine.account, actor), actor)

    for secret in mine.secrets:
        assert find_leaks(files, [secret]) == ["data/profile.csv"]


def test_bytes_never_leave(account, actor, monkeypatch):
    APIKeyFactory(account=account)
    leaking = Exporter(
        "keys", "", ("x",), lambda account: APIKey.objects.values_list("digest"), is_json=True
    )
    monkeypatch.setitem(exporter._exporters, "keys", leaking)

    with pytest.raises(TypeError, match="does not leave"):
        make_export(account, actor)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ('=HYPERLINK("x";"y")', '\'=HYPERLINK("x";"y")'),
        ("a=1", "a=1"),
        ("", ""),
        ('a"b,c\r\nd', 'a"b,c\r\nd'),
    ],
)
def test_no_cell_is_a_formula(account, actor, text, cell):
    APIKey.objects.bulk_create(
        [APIKey(account=account, name=text, mode="test", scopes=[], digest=b"d", hint="sk")]
    )

    [row] = read_rows("x.csv", open_export(make_export(account, actor), actor)["data/keys.csv"])

    assert row["name"] == cell


def test_numbers_stay_numbers():
    [head, row, end] = b"".join(export_file.write_csv(("a", "b", "c"), [(-5, True, None)])).split(
        b"\r\n"
    )

    assert (head, row, end) == (b"a,b,c", b"-5,true,", b"")


def test_json_keeps_every_text_as_it_is(account, actor):
    account.bio = "=1 “ü” <script> \u202e \\ \x7f"
    account.save()

    [row] = read_rows(
        "x.json", open_export(make_export(account, actor), actor)["data/profile.json"]
    )

    assert row["about"] == account.bio


def test_contents_are_in_it_only_while_they_are_kept(account, actor):
    version = ModelVersionFactory()
    common = {"account_id": account.pk, "version": version, "state": "succeeded"}
    now = timezone.now()
    Prediction.objects.create(id=new_id(), **common, created_at=now, input={"x": "kept"})
    Prediction.objects.create(id=new_id(), **common, created_at=now)

    rows = read_rows(
        "x.csv", open_export(make_export(account, actor), actor)["data/predictions.csv"]
    )

    # Two of one moment come in any order.
    assert sorted(row["input"] for row in rows) == ["", '{"x": "kept"}']


def test_a_large_account_needs_no_more_memory(account, actor):
    version = ModelVersionFactory()
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO inference_prediction (id, account_id, version_id, state, source,
                   protocol, rows, cost_nanos, error, predict_time_us, created_at)
               SELECT gen_random_uuid(), %s, %s, 'succeeded', 'api', 'native', 1, 1,
                   repeat('x', 400), 1, %s FROM generate_series(1, 60000)""",
            [account.pk, version.pk, now],
        )
    read = inference_data.read_predictions
    peaks = []
    for count in (2_000, 60_000):
        rows = (row for _, row in zip(range(count), read(account), strict=False))
        tracemalloc.start()
        size = sum(map(len, export_file.write_csv(("x",) * 14, rows)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert size > count * 400

    # Thirty times as much to write takes no more to hold.
    assert peaks[1] < 1.5 * peaks[0]

    export = make_export(account, actor)
    assert export.steps.get(name="predictions").rows == 60_000


# --- how it lies there ---


def test_the_store_has_ciphertext_under_a_random_name(world, store):
    mine, _ = world
    export = make_export(mine.account, Actor(user=mine.owner))

    [name] = stored(store)

    assert len(name) == 32
    assert export.storage_name.endswith(name)
    content = next((store / "exports").rglob(name)).read_bytes()
    assert b"PK" not in content[:4]
    assert mine.mark.encode() not in content


def test_what_was_changed_in_the_store_is_not_handed_out(account, actor, store):
    export = make_export(account, actor)
    path = next((store / "exports").rglob(export.storage_name.rpartition("/")[2]))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))

    with pytest.raises(Exception, match="is not what was sealed"):
        b"".join(data_export.download(actor=actor, export=export))


@pytest.mark.parametrize("size", [0, 1, 1_048_544, 1_048_545, 2_097_088, 2_500_000])
def test_files_of_any_size_come_back(size):
    export_id = new_id()
    key = export_file.open_key(export_id, export_file.seal_key(export_id))
    content = bytes(range(256)) * (size // 256 + 1)
    source = io.BytesIO(content[:size])
    chunks = iter(lambda: source.read(100_003), b"")
    kept = export_file.store(export_id, key, "x", chunks)

    assert kept.size_bytes == size
    assert b"".join(export_file.read(kept.name, key, "x", size)) == content[:size]


def test_a_key_opens_its_own_archive_only():
    sealed = export_file.seal_key(new_id())

    with pytest.raises(ExportGoneError):
        export_file.open_key(new_id(), sealed)


# --- asking for it ---


def test_there_is_one_at_a_time(account, actor):
    data_export.request_export(actor=actor, account=account)

    with pytest.raises(ExportRunningError):
        data_export.request_export(actor=actor, account=account)
    assert DataExport.objects.count() == 1


def test_there_are_so_many_in_a_day(account, actor):
    for _ in range(limits.EXPORTS_PER_DAY_MAX):
        make_export(account, actor)
    with pytest.raises(ExportLimitError) as refusal:
        data_export.request_export(actor=actor, account=account)
    assert 0 < refusal.value.retry_after_s <= 86_400

    DataExport.objects.update(created_at=timezone.now() - limits.EXPORT_WINDOW)
    assert data_export.request_export(actor=actor, account=account)


def test_owners_get_a_mail_and_the_log_says_who(account, actor):
    export = make_export(account, actor)

    assert mail_notices() == 1
    [sent] = mail.outbox
    assert sent.to == ["owner@example.com"]
    assert sent.subject == "The data of acme is ready"
    assert export.sha256 in sent.body
    events = AuditEvent.objects.filter(account_id=account.pk).order_by("seq")
    assert [(one.action, one.actor) for one in events] == [
        ("export.request", "user:owner@example.com"),
        ("export.ready", "system:export"),
    ]


@pytest.mark.parametrize("over", [0, 1])
def test_a_file_has_a_limit(account, actor, monkeypatch, over, store):
    limit = 10_000
    monkeypatch.setattr(limits, "EXPORT_FILE_BYTES_MAX", limit)
    line = "y" * (limit - len("x\r\n") - len("\r\n") + over)
    only = Exporter("one", "", ("x",), lambda account: [(line,)])
    monkeypatch.setattr(exporter, "_exporters", {"one": only})

    export = make_export(account, actor)

    assert export.state == ("failed" if over else "ready")
    assert len(stored(store)) == 1 - over
    assert (bytes(export.sealed_key) == b"") == bool(over)


# --- fetching it ---


def url(export: DataExport) -> str:
    return f"/accounts/acme/data/{export.pk}/download"


def test_it_is_downloaded_from_its_page(owner_client, account, actor):
    export = make_export(account, actor)
    assert "Download" in owner_client.get("/accounts/acme/data").content.decode()

    answer = owner_client.post(url(export))

    content = b"".join(answer.streaming_content)
    assert len(content) == int(answer["Content-Length"]) == export.size_bytes
    assert answer["Content-Type"] == "application/zip"
    assert "attachment" in answer["Content-Disposition"]
    assert "no-store" in answer["Cache-Control"]
    assert AuditEvent.objects.filter(action="export.download").count() == 1


def test_it_asks_who_sits_there(owner_client, account, actor):
    export = make_export(account, actor)
    session = owner_client.session
    session["confirmed_at"] = 0
    session.save()

    for address in ("/accounts/acme/data", url(export)):
        answer = owner_client.post(address)
        assert answer.status_code == 422
        assert "confirm_password" in answer.content.decode()
    assert not AuditEvent.objects.filter(action="export.download").exists()
    assert DataExport.objects.count() == 1


def test_an_archive_of_another_account_is_not_there(outsider_client, outsider, account, actor):
    export = make_export(account, actor)

    assert outsider_client.post(url(export)).status_code == 404
    # Not by one's own account's address either.
    other = f"/accounts/elsewhere/data/{export.pk}/download"
    assert outsider_client.post(other).status_code == 404


def test_a_member_without_the_right_gets_none(teammate_client, account, actor):
    export = make_export(account, actor)

    assert teammate_client.post(url(export)).status_code == 403
    assert teammate_client.post("/accounts/acme/data").status_code == 403
    page = teammate_client.get("/accounts/acme/data").content.decode()
    assert "Download" not in page


def test_an_admin_who_sees_the_site_as_the_owner_gets_none(admin_client, owner, account, actor):
    export = make_export(account, actor)
    form = {"reason": "A question.", "confirmed": "yes"}
    admin_client.post(f"/platform/people/{owner.pk}/see-as", form)

    assert admin_client.post(url(export)).status_code == 403
    assert not AuditEvent.objects.filter(action="export.download").exists()


def test_after_a_week_it_is_gone_with_its_key(owner_client, account, actor, store):
    export = make_export(account, actor)
    DataExport.objects.update(expires_at=timezone.now() + timedelta(minutes=1))
    data_export.sweep()
    assert owner_client.post(url(export)).status_code == 200

    DataExport.objects.update(expires_at=timezone.now())
    assert owner_client.post(url(export)).status_code == 410
    data_export.sweep()

    export.refresh_from_db()
    assert (export.state, bytes(export.sealed_key)) == ("expired", b"")
    assert stored(store) == []
    assert not (store / "exports" / str(export.pk)).exists()


def test_a_store_that_is_away_delays_the_end_and_not_the_key(account, actor, store, monkeypatch):
    export = make_export(account, actor)
    DataExport.objects.update(expires_at=timezone.now())

    def refuse(self, name):
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr(FileSystemStorage, "delete", refuse)
        data_export.sweep()
    export.refresh_from_db()
    assert (export.state, bytes(export.sealed_key)) == ("ready", b"")
    data_export.sweep()

    export.refresh_from_db()
    assert export.state == "expired"
    assert stored(store) == []


# --- what dies on the way ---


class Killed(BaseException):
    """A worker that is gone: nothing catches it."""


@pytest.mark.parametrize("when", ["before the file", "after the file", "at the note"])
def test_a_worker_that_dies_at_every_file_is_followed_by_another(world, store, monkeypatch, when):
    mine, _ = world
    actor = Actor(user=mine.owner)
    export = data_export.request_export(actor=actor, account=mine.account)
    total = export.steps.count()
    died = set()

    def die(kept):
        def call(*args, **kwargs):
            step = data_export._find_next(DataExport.objects.get(pk=export.pk)).name
            if when != "before the file":
                made = kept(*args, **kwargs)
            if step not in died:
                died.add(step)
                raise Killed
            return made if when != "before the file" else kept(*args, **kwargs)

        return call

    owner, name = {
        "before the file": (export_file, "put"),
        "after the file": (export_file, "put"),
        "at the note": (data_export, "_write"),
    }[when]
    monkeypatch.setattr(owner, name, die(getattr(owner, name)))
    for _ in range(total + 1):
        try:
            data_export.advance(export_id=export.pk)
        except Killed:
            continue
        break

    export.refresh_from_db()
    assert export.state == "ready"
    assert len(died) == total - (when == "at the note")
    # What the dead left is gone.
    assert len(stored(store)) == 1
    files = open_export(export, actor)
    assert len(files) == total + 1
    assert Notice.objects.filter(subject__startswith="The data of").count() == 1


def test_a_step_that_kills_every_worker_is_given_up(account, actor, monkeypatch, store):
    export = data_export.request_export(actor=actor, account=account)
    monkeypatch.setattr(data_export, "_write", lambda *_: (_ for _ in ()).throw(Killed()))
    for _ in range(limits.EXPORT_ATTEMPTS_MAX):
        with pytest.raises(Killed):
            data_export.advance(export_id=export.pk)
    export.refresh_from_db()
    assert export.state == "running"

    data_export.advance(export_id=export.pk)

    export.refresh_from_db()
    assert (export.state, bytes(export.sealed_key)) == ("failed", b"")
    assert stored(store) == []
    assert AuditEvent.objects.filter(action="export.fail").count() == 1


def test_a_store_that_is_away_is_tried_again(account, actor, monkeypatch):
    export = data_export.request_export(actor=actor, account=account)

    def refuse(*args):
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr(export_file, "put", refuse)
        data_export.advance(export_id=export.pk)
    export.refresh_from_db()
    assert export.state == "running"
    data_export.advance(export_id=export.pk)

    export.refresh_from_db()
    assert export.state == "ready"


def test_the_page_shows_how_far_it_is(owner_client, account, actor):
    data_export.request_export(actor=actor, account=account)

    panel = owner_client.get("/panels/accounts/acme/data").content.decode()

    assert 'hx-trigger="every 2s"' in panel
    assert "<progress" in panel
    make = DataExport.objects.get()
    data_export.advance(export_id=make.pk)
    panel = owner_client.get("/panels/accounts/acme/data").content.decode()
    assert "hx-trigger" not in panel
    assert "Download" in panel
