"""The pages of the documentation: all there, linked well, told to others, kept by browsers."""

from __future__ import annotations

import json
import re
from html import unescape
from urllib.parse import urljoin, urlsplit

import pytest
from django.conf import settings
from django.test import Client

from marketplace.core import limits
from marketplace.core.reserved import is_reserved
from marketplace.selectors import docs
from marketplace.selectors.docs import load_docs

FIXED = ["/docs", "/docs/reference", "/docs/search?q=receipt"]


def all_pages():
    return [*FIXED, *(page.url for page in load_docs().pages)]


def find_links(html):
    return [unescape(one) for one in re.findall(r'<a\b[^>]*\shref="([^"]*)"', html)]


def find_ids(html):
    return re.findall(r'\sid="([^"]+)"', html)


def walk(client):
    """Every page of the documentation, and every address of this site that they link to."""
    texts, answers = {}, {}
    for url in all_pages():
        texts[url] = client.get(url).content.decode()
    wanted = {
        (page, urljoin(page, link))
        for page, text in texts.items()
        for link in find_links(text)
        if not urlsplit(link).scheme
    }
    dead = []
    for page, link in sorted(wanted):
        path, _, anchor = link.partition("#")
        if path not in answers:
            answers[path] = client.get(path)
        answer = answers[path]
        is_there = answer.status_code in (200, 302) and not answer.streaming
        if is_there and anchor and answer.status_code == 200:
            is_there = anchor in find_ids(answer.content.decode())
        if not is_there:
            dead.append((page, link, answer.status_code))
    return len(wanted), dead


def test_every_page_is_there(client, db):
    for url in all_pages():
        answer = client.get(url)
        text = answer.content.decode()
        assert answer.status_code == 200, url
        assert text.count("<h1>") == 1, url
        assert re.search(r'<meta name="description" content="[^"]{20,}">', text), url
        ids = find_ids(text)
        assert len(ids) == len(set(ids)), url


def test_titles_and_descriptions_differ():
    titles = [(page.group, page.title) for page in load_docs().pages]
    descriptions = [page.description for page in load_docs().pages]

    assert len(set(titles)) == len(titles)
    assert len(set(descriptions)) == len(descriptions)


def test_no_link_is_dead(client, db):
    count, dead = walk(client)

    assert dead == []
    assert count > 1000


@pytest.mark.parametrize("link", ["/docs/consumers/nowhere", "/docs/consumers/errors#nowhere"])
def test_control_a_dead_link_is_found(client, db, monkeypatch, link):
    monkeypatch.setattr("tests.marketplace.test_docs_pages.FIXED", ["/docs"])
    monkeypatch.setattr(docs, "fill_lists", lambda text: text + f"\n\n[there]({link})\n")
    docs._load.cache_clear()
    try:
        _, dead = walk(client)
    finally:
        monkeypatch.undo()
        docs._load.cache_clear()

    assert link in {one[1] for one in dead}


@pytest.mark.parametrize(
    "path",
    [
        "/docs/consumers/nowhere",
        "/docs/nowhere/quick-start",
        "/docs/reference/gateway",
        "/docs/reference/gateway/nowhere",
        "/docs/reference/nowhere/native",
        "/docs/openapi/nowhere.json",
        "/docs/openapi/errors.json",
        "/docs/consumers/10-quick-start",
    ],
)
def test_what_is_no_page_is_not_found(client, db, path):
    assert client.get(path).status_code == 404


def test_the_first_part_of_the_address_is_nobodys_name():
    assert is_reserved("docs")


def test_pages_lead_to_those_before_and_after(client, db):
    pages = load_docs().pages
    first, second, last = (client.get(one.url).content.decode() for one in (*pages[:2], pages[-1]))

    assert 'rel="prev"' not in first
    assert f'rel="next" class="is-next" href="{pages[1].url}"' in first
    assert f'rel="prev" href="{pages[0].url}"' in second
    assert 'rel="next"' not in last


def test_the_page_that_is_open_is_marked(client, db):
    text = client.get("/docs/consumers/errors").content.decode()

    assert '<a href="/docs/consumers/errors" aria-current="page">Errors</a>' in text


# --- What others are told


def test_sitemap_has_every_page_but_the_search(client, db):
    text = client.get("/sitemap.xml").content.decode()

    for url in ["/docs", "/docs/reference", *(page.url for page in load_docs().pages)]:
        assert f"<loc>{settings.WEB_URL}{url}</loc>" in text
    assert "/docs/search" not in text


def test_canonical_address_is_the_page_without_what_was_asked(client, db):
    assert (
        f'<link rel="canonical" href="{settings.WEB_URL}/docs/consumers/errors">'
        in client.get("/docs/consumers/errors?utm=x").content.decode()
    )
    text = client.get("/docs/search?q=receipt").content.decode()
    assert f'<link rel="canonical" href="{settings.WEB_URL}/docs/search">' in text
    assert '<meta name="robots" content="noindex, follow">' in text


def test_llms_txt_leads_to_the_documentation(client, db):
    assert f"({settings.WEB_URL}/docs)" in client.get("/llms.txt").content.decode()


def test_every_page_of_the_site_leads_there(client, db):
    text = client.get("/").content.decode()

    assert '<a href="/docs">Docs</a>' in text
    assert '<a href="/docs">documentation</a>' in text


def test_examples_name_this_platform(client, db):
    text = client.get("/docs/consumers/quick-start").content.decode()

    assert f"{settings.GATEWAY_URL}/v1/models/demo/smollm2/predictions" in text
    assert "gateway.example" not in text


# --- Documents to download


@pytest.mark.parametrize(
    ("api", "server"), [("gateway", settings.GATEWAY_URL), ("management", settings.WEB_URL)]
)
def test_a_document_is_downloaded_with_this_platforms_address(client, db, api, server):
    answer = client.get(f"/docs/openapi/{api}.json")
    document = json.loads(answer.content)

    assert document["servers"] == [{"url": server}]
    assert document["openapi"].startswith("3.1")
    assert answer["Content-Type"] == "application/json"
    assert f"strongroom-{api}.openapi.json" in answer["Content-Disposition"]
    assert "public" in answer["Cache-Control"]
    again = client.get(f"/docs/openapi/{api}.json", headers={"If-None-Match": answer["ETag"]})
    assert again.status_code == 304
    assert again.content == b""


def test_a_document_is_the_same_for_who_is_signed_in(client, owner):
    before = client.get("/docs/openapi/gateway.json")
    client.force_login(owner)
    after = client.get("/docs/openapi/gateway.json")

    assert (before.content, before["ETag"]) == (after.content, after["ETag"])
    assert "no-store" not in after["Cache-Control"]


# --- What browsers keep


def test_a_page_that_has_not_changed_is_not_sent_again(client, db):
    first = client.get("/docs/consumers/errors")
    same = client.get("/docs/consumers/errors", headers={"If-None-Match": first["ETag"]})

    assert first["Cache-Control"] == "private, no-cache" or set(
        first["Cache-Control"].split(", ")
    ) == {"private", "no-cache"}
    assert "Cookie" in first["Vary"]
    assert same.status_code == 304
    assert same.content == b""


def test_another_theme_page_or_person_is_another_answer(client, owner):
    tag = client.get("/docs/consumers/errors")["ETag"]

    def ask(one, path="/docs/consumers/errors"):
        return one.get(path, headers={"If-None-Match": tag})

    assert ask(client, "/docs/consumers/limits").status_code == 200
    client.cookies["theme"] = "dark"
    assert ask(client).status_code == 200
    del client.cookies["theme"]
    assert ask(client).status_code == 304
    client.force_login(owner)
    signed_in = ask(client)
    assert signed_in.status_code == 200
    assert "no-store" in signed_in["Cache-Control"]


def test_control_a_tag_with_the_form_token_in_it_would_never_fit(client, db, monkeypatch):
    monkeypatch.setattr("marketplace.views.docs._TOKEN", re.compile(b"(nowhere)"))

    with pytest.raises(AssertionError):
        test_a_page_that_has_not_changed_is_not_sent_again(client, db)


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_pages_are_only_read(db, method):
    for path in ("/docs", "/docs/search", "/docs/consumers/errors", "/docs/openapi/gateway.json"):
        assert getattr(Client(), method)(path).status_code == 405


def test_pages_need_no_query_for_a_visitor(client, db, django_assert_max_num_queries):
    client.get("/docs")
    with django_assert_max_num_queries(2):
        client.get("/docs/consumers/errors")


# --- Search


def test_search_shows_places_with_marked_words(client, db):
    text = client.get("/docs/search", {"q": "idempotency"}).content.decode()

    assert '<a href="/docs/consumers/retries#idempotency-keys">Idempotency keys</a>' in text
    assert "<mark>" in text
    assert "idempotency · Search the docs" in text


def test_search_says_when_nothing_fits(client, db):
    text = client.get("/docs/search", {"q": "zxqwv"}).content.decode()

    assert "Nothing fits" in text
    assert "<mark>" not in text


def test_search_without_a_word_shows_the_form_alone(client, db):
    text = client.get("/docs/search").content.decode()

    assert "docs-results" in text
    assert "Nothing fits" not in text


@pytest.mark.parametrize("query", ["<script>alert(1)</script>", '"><img src=x>', "{{ 7 }}"])
def test_a_query_is_shown_as_text(client, db, query):
    text = client.get("/docs/search", {"q": query}).content.decode()

    assert "<script>alert" not in text
    assert "<img src=x" not in text


@pytest.mark.parametrize("over", [0, 1, 5000])
def test_a_long_query_is_cut(client, db, over):
    query = "x" * (limits.SEARCH_LENGTH_MAX + over)
    answer = client.get("/docs/search", {"q": query})

    shown = re.search(r'id="q" name="q" value="(x+)"', answer.content.decode())
    assert answer.status_code == 200
    assert len(shown[1]) == limits.SEARCH_LENGTH_MAX


def test_the_palette_finds_guides(client, db):
    groups = client.get("/search/results", {"q": "idempotency"}).json()["groups"]
    found = next(one for one in groups if one["label"] == "Documentation")

    assert found["items"][0]["url"] == "/docs/consumers/retries#idempotency-keys"
    assert len(found["items"]) <= 5
    # Without a word it offers the first page alone.
    empty = client.get("/search/results").json()["groups"]
    assert "Documentation" not in {one["label"] for one in empty}
