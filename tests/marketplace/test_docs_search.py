"""Search over the documentation: the right place first, and nothing for what is nowhere."""

from __future__ import annotations

import pytest

from marketplace.core import limits
from marketplace.core.docs_search import (
    EXCERPT_LENGTH,
    RESULTS_MAX,
    WORDS_MAX,
    Index,
    Passage,
    read_query,
    split_words,
)
from marketplace.selectors.docs import load_docs, search_docs

GUIDES, REFERENCE = "/docs", "/docs/reference"
# A query, and an address that is among the first three.
EXPECTED = [
    ("idempotency", "/docs/consumers/retries#idempotency-keys"),
    ("how do I stream", "/docs/consumers/streaming"),
    ("insufficient_credit", "/docs/consumers/errors#all-codes"),
    ("verify receipt", "/docs/consumers/receipts#fetch-and-check"),
    ("budgets of a key", "/docs/consumers/limits#budgets-of-a-key"),
    ("cancel prediction", "/docs/reference/gateway/native#cancel-prediction"),
    ("gRPC", "/docs/consumers/clients#tritonclient"),
    ("install the cli", "/docs/creators/quick-start"),
    ("payout minimum", "/docs/creators/getting-paid#the-way-of-the-money"),
    ("price floor", "/docs/creators/prices#the-floor"),
    ("webhook alerts", "/docs/creators/monitoring"),
    ("shred a version", "/docs/creators/channels#withdraw-and-shred"),
    ("data retention", "/docs/consumers/your-data"),
    ("suspend an account", "/docs/admins/accounts#suspend-and-restore"),
    ("reconcile with Stripe", "/docs/admins/money#every-night"),
    ("Retry-After", "/docs/consumers/errors#what-to-do-about-the-usual-ones"),
    ("pickle_refused", "/docs/creators/onboarding#all-reasons"),
    ("chat completions", "/docs/reference/gateway/openai#create-chat-completion"),
    ("new signing key", "/docs/creators/onboarding#signed-by-a-new-key"),
    ("audit log", "/docs/admins/switches#the-audit-log"),
]


@pytest.mark.parametrize(("query", "url"), EXPECTED)
def test_a_query_finds_its_place(query, url):
    assert url in [one.passage.url for one in search_docs(query)[:3]]


@pytest.mark.parametrize("query", ["zxqwv", "idempotency zxqwv", "", "   ", "?!", "\x1b[31m", "éé"])
def test_what_is_nowhere_is_not_found(query):
    assert search_docs(query) == []


def test_control_an_index_that_asks_for_one_word_of_many_finds_nonsense(monkeypatch):
    """Each word counts: were one enough, the second query above would find something."""
    monkeypatch.setattr(
        "marketplace.core.docs_search.read_query", lambda query: read_query(query)[:1]
    )

    with pytest.raises(AssertionError):
        test_what_is_nowhere_is_not_found("idempotency zxqwv")


def test_every_passage_is_on_a_page():
    docs = load_docs()
    pages = {page.url for page in docs.pages}

    assert len(docs.index.passages) > 400
    assert {one.url.split("#")[0] for one in docs.index.passages} == pages


# --- The index itself

PASSAGES = [
    Passage("/a", "Fruit", "Apples", "An apple is round. " + "Other words follow here. " * 30),
    Passage("/b", "Fruit", "Pears", "A pear is not an apple, and pear_juice is made of it."),
]


def test_a_title_counts_more_than_a_text():
    assert [one.passage.url for one in Index(PASSAGES).search("apple")] == ["/a", "/b"]


def test_the_beginning_of_a_word_is_enough_from_three_letters_on():
    index = Index(PASSAGES)

    assert [one.passage.url for one in index.search("pea")] == ["/b"]
    assert index.search("pe") == []


def test_a_name_is_found_by_its_parts():
    assert [one.passage.url for one in Index(PASSAGES).search("juice")] == ["/b"]
    assert split_words("pear_juices") == ["pear_juice", "pear", "juice"]


def test_words_that_say_nothing_do_not_count_unless_there_are_no_others():
    assert read_query("how is the apple") == ["apple"]
    assert read_query("how is it") == ["how", "is", "it"]
    assert [one.passage.url for one in Index(PASSAGES).search("is the apple")] == ["/a", "/b"]


def test_an_excerpt_has_the_hit_and_an_end():
    text = "before " * 60 + "the needle is here " + "after " * 60
    found = Index([Passage("/a", "Page", "Title", text)]).search("needle")[0]
    shown = "".join(piece.text for piece in found.excerpt)

    assert [piece.text for piece in found.excerpt if piece.is_hit] == ["needle"]
    assert shown.startswith("… ")
    assert shown.endswith(" …")
    assert len(shown) <= EXCERPT_LENGTH + 4


def test_an_excerpt_is_text_and_never_markup():
    found = Index([Passage("/a", "Page", "Title", "<b>bold</b> needle")]).search("needle")[0]

    assert "".join(piece.text for piece in found.excerpt) == "<b>bold</b> needle"


def test_results_and_words_are_limited():
    index = Index(
        [Passage(f"/{place}", "Page", "Title", "needle") for place in range(RESULTS_MAX + 1)]
    )
    words = [f"word{place}" for place in range(WORDS_MAX + 1)]
    whole = Index([Passage("/a", "Page", "Title", " ".join(words[:WORDS_MAX]))])

    assert len(index.search("needle")) == RESULTS_MAX
    assert len(whole.search(" ".join(words[:WORDS_MAX]))) == 1
    # One more is not looked at: the passage does not have it.
    assert len(whole.search(" ".join(words))) == 1


def test_a_query_that_is_too_long_is_cut_at_its_limit():
    # The last word stands just within the limit, and just beyond it.
    spaces = " " * (limits.SEARCH_LENGTH_MAX - len("idempotency") - len("zxqwv"))

    assert search_docs(f"idempotency{spaces}zxqwv") == []
    assert search_docs(f"idempotency{spaces} " + " " * 5 + "zxqwv") != []
