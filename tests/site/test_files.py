"""The pages of files and of retention in a real browser: readable, and worked by the keyboard."""

from __future__ import annotations

import io

import pytest
from playwright.sync_api import expect

from inference.models import File
from inference.services import file as files
from tests.faults import find_faults
from tests.inference.storing import use_store
from tests.site.conftest import out_of_sight
from tests.site.test_webhooks import LOOKS


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path / "objects")


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_have_no_fault(visit, owner, account, site, look):
    page = visit(owner, **LOOKS[look])
    for url in ("/console/files", "/accounts/acme/retention"):
        page.goto(url)
        assert find_faults(page) == [], url
    for name in ("a-name-without-a-break-" * 8, "b.wav"):
        files.store_file(account, name, "audio/wav", io.BytesIO(b"x"))
    page.goto("/console/files")
    width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert find_faults(page) == []
    assert width <= 0
    # On a phone the button that deletes one was once out of sight.
    assert out_of_sight(page) == [0]


def test_a_file_is_put_up_and_deleted_by_the_keyboard(visit, owner, account, site):
    page = visit(owner, **LOOKS["light"])
    page.goto("/console/files")
    content = {"name": "song.wav", "mimeType": "audio/wav", "buffer": b"RIFF" * 100_000}
    page.get_by_label("File", exact=True).set_input_files(content)
    page.get_by_role("button", name="Put it up").press("Enter")
    expect(page.get_by_role("link", name="song.wav")).to_be_visible()
    assert File.objects.get(account=account).size_bytes == 400_000

    with page.expect_download() as download:
        page.get_by_role("link", name="song.wav").press("Enter")
    assert download.value.path().read_bytes() == content["buffer"]

    page.get_by_text("Delete …").press("Enter")
    page.get_by_role("button", name="Delete song.wav").press("Enter")
    expect(page.get_by_text("song.wav is deleted.")).to_be_visible()
    expect(page.get_by_text("No files")).to_be_visible()


def test_what_is_refused_is_said(visit, owner, account, site, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 10)
    page = visit(owner, **LOOKS["light"])
    page.goto("/console/files")
    content = {"name": "song.wav", "mimeType": "audio/wav", "buffer": b"x" * 11}
    page.get_by_label("File", exact=True).set_input_files(content)
    page.get_by_role("button", name="Put it up").press("Enter")
    expect(page.get_by_text("A file has at most 10 bytes.")).to_be_visible()
    assert not File.objects.exists()
