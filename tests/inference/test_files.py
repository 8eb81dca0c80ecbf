"""Files of accounts: what is kept is what came, sealed, within limits, and gone in time."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import tracemalloc
from datetime import timedelta

import pytest
from django.core.files.storage import storages
from django.db import connection

from inference.errors import (
    FileGoneError,
    FileLimitError,
    FileNameError,
    FileTooLargeError,
    ObjectStoreUnavailableError,
    RetentionZeroError,
)
from inference.models import File
from inference.models import file as models
from inference.services import file as files
from marketplace.core.clock import utc_now
from strongroom.sealing import floe
from strongroom.sealing.errors import TamperedError
from tests.factories import AccountFactory
from tests.inference.storing import Zeros, list_objects, use_store

pytestmark = pytest.mark.django_db
CANARY = b"a canary that sings in clear text"
SEGMENT_BYTES = floe.PRODUCTION.plain_bytes


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path / "objects")


def keep(account, content=CANARY, **how):
    return files.store_file(account, "song.txt", "text/plain", io.BytesIO(content), **how)


def age(file, by):
    """Make a file that old."""
    File.objects.filter(pk=file.pk).update(
        created_at=file.created_at - by, expires_at=file.expires_at - by
    )
    file.refresh_from_db()


# --- what is kept ---


@pytest.mark.parametrize(
    "size_bytes", [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES]
)
def test_what_was_stored_comes_back(account, size_bytes):
    content = os.urandom(size_bytes)
    file = keep(account, content)
    assert (file.size_bytes, file.sha256) == (size_bytes, hashlib.sha256(content).hexdigest())
    with files.open_file(File.objects.get(pk=file.pk)) as stream:
        assert stream.read() == content


def test_a_file_is_read_from_anywhere(account):
    content = os.urandom(2 * SEGMENT_BYTES + 100)
    with files.open_file(keep(account, content)) as stream:
        for at in (0, SEGMENT_BYTES - 3, 2 * SEGMENT_BYTES + 90, 5):
            stream.seek(at)
            assert stream.read(10) == content[at : at + 10]
        stream.seek(0, io.SEEK_END)
        assert stream.read(1) == b""


def test_a_file_is_read_line_by_line(account):
    lines = [b'{"n": %d}\n' % number for number in range(200_000)]
    with files.open_file(keep(account, b"".join(lines))) as stream:
        assert list(stream) == lines


def test_nothing_lies_in_the_store_in_clear(account, store):
    keep(account)
    objects = list_objects(store)
    assert len(objects) == 1
    assert all(CANARY not in path.read_bytes() for path in objects)
    # The same look finds what is not sealed.
    (store / "plain").write_bytes(CANARY)
    assert any(CANARY in path.read_bytes() for path in list_objects(store))


def test_what_was_changed_in_the_store_is_not_given_out(account):
    file = keep(account)
    path = storages["artifacts"].path(file.store_key)
    with open(path, "r+b") as stored:  # noqa: PTH123 - as whoever has the disk would
        stored.seek(-5, io.SEEK_END)
        stored.write(b"other")
    with files.open_file(file) as stream, pytest.raises(TamperedError):
        stream.read()


def test_the_key_of_one_file_opens_no_other(account):
    first, second = keep(account), keep(account)
    first.sealed_key = second.sealed_key
    with pytest.raises(FileGoneError):
        files.open_file(first)


def test_a_large_file_is_never_wholly_in_memory(account):
    size_bytes = 64 * 1024 * 1024
    tracemalloc.start()
    file = files.store_file(account, "zeros", "", Zeros(size_bytes))
    with files.open_file(file) as stream:
        while stream.read(1024 * 1024):
            pass
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < size_bytes / 4


# --- limits ---


def test_a_file_at_the_limit_and_one_past_it(account, store, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 1000)
    keep(account, bytes(1000))
    with pytest.raises(FileTooLargeError):
        keep(account, bytes(1001))
    assert File.objects.count() == len(list_objects(store)) == 1


def test_the_limit_itself_is_what_the_table_takes(account):
    file = keep(account)
    File.objects.filter(pk=file.pk).update(size_bytes=models.FILE_BYTES_MAX)
    with pytest.raises(Exception, match="inference_file_size"):
        File.objects.filter(pk=file.pk).update(size_bytes=models.FILE_BYTES_MAX + 1)


def test_the_count_and_bytes_of_an_account_have_limits(account, store, monkeypatch):
    monkeypatch.setattr(files, "ACCOUNT_FILES_MAX", 2)
    monkeypatch.setattr(files, "ACCOUNT_FILE_BYTES_MAX", 100)
    keep(account, bytes(60))
    with pytest.raises(FileLimitError, match="100 bytes"):
        keep(account, bytes(41))
    keep(account, bytes(40))
    with pytest.raises(FileLimitError, match="2 files"):
        keep(account, b"")
    keep(AccountFactory(), bytes(60))
    assert File.objects.count() == len(list_objects(store)) == 3


@pytest.mark.django_db(transaction=True)
def test_many_at_once_stay_within_the_limit(account, monkeypatch):
    monkeypatch.setattr(files, "ACCOUNT_FILE_BYTES_MAX", 250)
    barrier, outcomes = threading.Barrier(5), []

    def store_one():
        try:
            barrier.wait(60)
            keep(account, bytes(100))
            outcomes.append("kept")
        except FileLimitError:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=store_one) for _ in range(5)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    assert sorted(outcomes) == ["kept"] * 2 + ["refused"] * 3


@pytest.mark.parametrize(
    ("name", "kept"), [("a.png", "a.png"), ("/etc/passwd", "passwd"), (r"C:\x\é.txt", "é.txt")]
)
def test_a_name_has_no_path(name, kept):
    assert files.check_name(name) == kept


@pytest.mark.parametrize("name", ["", "/", "..", "a\nb", "a\x00", "\u202egpj.exe", "x" * 256])
def test_what_is_no_name(name):
    with pytest.raises(FileNameError):
        files.check_name(name)


def test_a_name_of_the_greatest_length():
    assert files.check_name("x" * 255)


@pytest.mark.parametrize(
    "kind", ["png", "image/", "image/png\r\nx: y", "a/b; q=1", "a/" + "b" * 126]
)
def test_what_is_no_content_type(kind):
    with pytest.raises(FileNameError):
        files.check_content_type(kind)


def test_content_types():
    assert files.check_content_type(" Text/Plain; charset=UTF-8 ") == "text/plain; charset=utf-8"
    assert files.check_content_type("") == "application/octet-stream"
    assert files.check_content_type("a/" + "b" * 125)


def test_an_account_that_keeps_nothing_keeps_no_file(account, store):
    account.retention_days = 0
    account.save()
    with pytest.raises(RetentionZeroError):
        keep(account)
    # Decided while the content was on its way: the row says so, not what the caller holds.
    account.retention_days = 1
    with pytest.raises(RetentionZeroError):
        keep(account)
    assert not list_objects(store)


# --- their end ---


def test_a_file_lives_for_a_day_and_no_longer_than_its_account_keeps_anything(account):
    assert keep(account).expires_at - utc_now() <= timedelta(hours=24)
    late = utc_now() + timedelta(days=9)
    assert keep(account, expires_at=late).expires_at < late
    account.retention_days = 30
    account.save()
    assert keep(account, expires_at=late).expires_at == late


def test_an_expired_file_is_gone_before_and_after_the_upkeep(account, store):
    old, young = keep(account), keep(account)
    age(old, timedelta(hours=24))
    with pytest.raises(FileGoneError):
        files.open_file(old)
    assert files.sweep_files() == 1
    assert list(File.objects.all()) == [young]
    assert len(list_objects(store)) == 1


def test_a_deleted_file_is_gone_with_its_content(account, store):
    file = keep(account)
    assert files.delete_file(file)
    assert not list_objects(store)
    assert not File.objects.exists()
    # Twice is no harm.
    assert files.delete_file(file)


def test_what_the_store_keeps_is_opened_by_nobody_and_deleted_later(account, store, monkeypatch):
    file = keep(account)
    assert bytes(file.sealed_key)
    with monkeypatch.context() as broken:
        broken.setattr(type(storages["artifacts"]), "delete", _fail)
        assert not files.delete_file(file)
    file.refresh_from_db()
    assert not bytes(file.sealed_key)
    with pytest.raises(FileGoneError):
        files.open_file(file)
    assert files.sweep_files() == 1
    assert not list_objects(store)


def test_what_cannot_be_stored_leaves_nothing(account, store, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(type(storages["artifacts"]), "save", _fail)
        with pytest.raises(ObjectStoreUnavailableError):
            keep(account)
    assert not File.objects.exists()
    assert not list_objects(store)


def test_what_a_dead_process_left_is_deleted(account, store):
    file = keep(account)
    File.objects.filter(pk=file.pk).update(state=File.State.STORING)
    assert files.sweep_files() == 0
    File.objects.filter(pk=file.pk).update(created_at=utc_now() - timedelta(hours=7))
    assert files.sweep_files() == 1
    assert not list_objects(store)


def _fail(*_: object, **__: object) -> None:
    raise OSError("the store is away")
