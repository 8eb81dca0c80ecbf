"""Pages go over the line compressed; what a browser cannot read does not."""

from __future__ import annotations

import gzip

import pytest
from django.test import Client

BROWSER = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.mark.django_db
def test_a_page_is_compressed_for_whom_that_is_known(client: Client) -> None:
    plain, packed = client.get("/login"), client.get("/login", headers=BROWSER)

    assert "Content-Encoding" not in plain
    assert packed["Content-Encoding"] == "gzip"
    assert "Sign in" in gzip.decompress(packed.content).decode()
    assert len(packed.content) < len(plain.content) / 2
    assert int(packed["Content-Length"]) == len(packed.content)


@pytest.mark.django_db
def test_stores_on_the_way_keep_both(client: Client) -> None:
    for headers in ({}, BROWSER):
        assert "Accept-Encoding" in client.get("/login", headers=headers)["Vary"]


@pytest.mark.django_db
def test_what_programs_read_is_sent_as_it_is(client: Client) -> None:
    for path in ("/llms.txt", "/sitemap.xml", "/robots.txt"):
        answer = client.get(path, headers=BROWSER)
        assert answer.status_code == 200
        assert "Content-Encoding" not in answer


@pytest.mark.django_db
def test_one_page_is_never_twice_as_long(client: Client) -> None:
    """Its length says nothing of what is in it: see BREACH."""
    lengths = {len(client.get("/login", headers=BROWSER).content) for _ in range(12)}

    assert len(lengths) > 1
