"""Files in the console and retention among the settings: who sees what, and what is confirmed."""

from __future__ import annotations

import io

import pytest

from inference.models import File
from inference.services import file as files
from marketplace.models import Membership
from tests.factories import AccountFactory, MembershipFactory, UserFactory
from tests.inference.storing import use_store

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path / "objects")


def keep(account, name="song.wav"):
    return files.store_file(account, name, "audio/wav", io.BytesIO(b"RIFF"))


def read(client, url):
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def test_no_files_yet(owner_client):
    page = read(owner_client, "/console/files?account=acme")
    assert "No files" in page
    assert "data-file-form" in page


def test_a_file_is_listed_with_its_end_and_deleted(owner_client, account):
    file = keep(account, "<b>song.wav")
    keep(AccountFactory(), "of another.wav")
    page = read(owner_client, "/console/files?account=acme")
    assert "&lt;b&gt;song" in page
    assert file.public_id in page
    assert f"{file.expires_at:%H:%M} UTC" in page
    assert "of another" not in page
    url = f"/console/files/{file.public_id}/delete"
    assert owner_client.get(url).status_code == 405
    answer = owner_client.post(url, follow=True)
    assert "is deleted" in answer.content.decode()
    assert File.objects.count() == 1


def test_pages_of_files(owner_client, account, monkeypatch):
    monkeypatch.setattr("inference.selectors.file.PAGE_SIZE", 1)
    first, second = keep(account, "first.wav"), keep(account, "second.wav")
    page = read(owner_client, "/console/files?account=acme")
    assert second.name in page
    assert first.name not in page
    older = read(owner_client, f"/console/files?account=acme&before={second.public_id}")
    assert first.name in older


def test_who_only_looks_deletes_nothing(client, account):
    viewer = UserFactory()
    MembershipFactory(account=account, user=viewer, role=Membership.Role.VIEWER)
    client.force_login(viewer)
    file = keep(account)
    page = read(client, "/console/files?account=acme")
    assert file.name in page
    assert "data-file-form" not in page
    assert client.post(f"/console/files/{file.public_id}/delete").status_code == 403
    assert File.objects.exists()


def test_an_account_that_keeps_nothing_is_told_so(owner_client, account):
    account.retention_days = 0
    account.save()
    page = read(owner_client, "/console/files?account=acme")
    assert "keeps nothing" in page
    assert "data-file-form" not in page


def test_retention_is_shortened_only_when_confirmed(owner_client, account):
    url = "/accounts/acme/retention"
    assert "1 day at most" in read(owner_client, url)
    assert owner_client.post(url, {"days": 30}).status_code == 302
    refused = owner_client.post(url, {"days": 7})
    assert refused.status_code == 422
    assert "cannot be brought back" in refused.content.decode()
    account.refresh_from_db()
    assert account.retention_days == 30
    assert owner_client.post(url, {"days": 0, "is_confirmed": "on"}).status_code == 302
    assert "Nothing is kept" in read(owner_client, url)


@pytest.mark.parametrize("days", ["", "-1", "31", "x"])
def test_so_many_days_there_are_not(owner_client, account, days):
    refused = owner_client.post("/accounts/acme/retention", {"days": days, "is_confirmed": "on"})
    assert refused.status_code == 422
    account.refresh_from_db()
    assert account.retention_days == 1


def test_only_who_may_changes_it(teammate_client, account):
    assert "Owners and admins" in read(teammate_client, "/accounts/acme/retention")
    answer = teammate_client.post("/accounts/acme/retention", {"days": 2})
    assert answer.status_code == 403
