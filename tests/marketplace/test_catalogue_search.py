"""What a search finds, in which order, and what it must never find."""

from __future__ import annotations

import psycopg
import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from marketplace.core import limits
from marketplace.core.search import clean_query, list_words
from marketplace.models import AIModel, CatalogueEntry
from marketplace.selectors import search
from marketplace.selectors.access import ANONYMOUS, Actor
from marketplace.selectors.catalog import list_catalogue
from marketplace.services import embedding, entry
from marketplace.services.embedding import TextRefusedError
from marketplace.services.entry import ListedPrice
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory

LENGTH = limits.EMBEDDING_LENGTH


def sell(account, name: str, **fields) -> AIModel:
    model = AIModelFactory(account=account, name=name, **{"title": name.title()} | fields)
    return ChannelFactory(version__model=model).model


def find(query: str, actor: Actor = ANONYMOUS, meant: list[float] | None = None) -> list[str]:
    found = search.find_models(list_catalogue(actor), query=query, meant=meant)
    names = dict(AIModel.objects.values_list("pk", "name"))
    return [names[one] for one in found]


def direction(place: int, other: int = 0, share: float = 0.0) -> list[float]:
    """A vector along one axis, a share of it along another."""
    vector = [0.0] * LENGTH
    vector[place] = 1.0 - share
    vector[other] += share
    return vector


class Scripted:
    """Knows what texts mean by a word in them."""

    def __init__(self, axes: dict[str, int]) -> None:
        self.axes = axes
        self.calls: list[list[str]] = []

    def embed(self, texts, timeout_s):
        self.calls.append(list(texts))
        return [direction(self._axis(text)) for text in texts]

    def _axis(self, text: str) -> int:
        return next((axis for word, axis in self.axes.items() if word in text.lower()), LENGTH - 1)


class Away:
    def __init__(self) -> None:
        self.calls = 0

    def embed(self, texts, timeout_s):
        self.calls += 1


# --- words ---


@pytest.mark.parametrize(
    ("_case", "query", "expected"),
    [
        ("a word of the title", "weld", ["seam"]),
        ("its other forms", "welding", ["seam"]),
        ("half a word", "inspec", ["seam"]),
        ("half a word that is longer than its stem", "classifica", ["guard"]),
        ("a part of the name", "card", ["guard"]),
        ("the owner", "acme", ["guard", "seam"]),
        ("a word of the card", "porosity", ["seam"]),
        ("the industry", "manufacturing", ["seam"]),
        ("a mistyped name", "wled seam inspecton", ["seam"]),
        ("words that stand everywhere do not count", "the seam of a", ["seam"]),
        ("nothing fits", "zebra", []),
        ("only signs", "%_'\"\\;--", []),
        ("an operator of queries is a word", "weld & !guard | (", ["seam", "guard"]),
        ("a letter of another alphabet", "Ж", []),
    ],
)
def test_words(account, _case, query, expected):
    sell(
        account,
        "seam",
        title="Weld Seam Inspection",
        industry="manufacturing",
        card="Finds porosity.",
    )
    sell(account, "guard", title="Card Guard", task="tabular-classification")

    assert sorted(find(query)) == sorted(expected)


def test_a_title_counts_more_than_a_card(account):
    sell(account, "aa", title="Something", card="fraud " * 50)
    sell(account, "zz", title="Fraud score")

    assert find("fraud") == ["zz", "aa"]


def test_a_search_never_finds_what_one_may_not_see(account, owner):
    private = sell(account, "secret-one", visibility="private", title="Zebra")
    sell(account, "gone", title="Zebra", suspended_at=timezone.now())
    AIModelFactory(account=account, name="unpublished", title="Zebra")
    CatalogueEntry.objects.update(embedding=direction(1))

    assert find("zebra", meant=direction(1)) == []
    # Its owner finds its own, also what is suspended.
    assert sorted(find("zebra", Actor(user=owner), direction(1))) == ["gone", private.name]
    # The control: it is the one place of access that keeps them apart.
    everything = AIModel.objects.filter(channels__name="prod")
    assert len(search.find_models(everything, query="zebra")) == 2


# --- the entry follows ---


def test_the_entry_follows_the_listing_the_channel_and_the_certificate(account):
    model = AIModelFactory(account=account, name="one", title="Alpha")
    version = ModelVersionFactory(model=model)
    assert CatalogueEntry.objects.get(model=model).published_at is None

    channel = ChannelFactory(model=model, version=version)
    before = CatalogueEntry.objects.get(model=model)
    assert before.published_at == channel.moved_at
    assert (before.p50_ms, before.hardware) == (None, "")

    version.certificate = {
        "benchmark": {
            "points": [
                {"batch": 1, "p50_ms": 4.5, "p95_ms": 6, "rows_per_s": 210.0},
                {"batch": 8, "p50_ms": 9.0, "rows_per_s": 900.5},
            ]
        }
    }
    version.save()
    model.title = "Omega"
    model.save()
    after = CatalogueEntry.objects.get(model=model)
    assert (after.p50_ms, after.rows_per_s, after.hardware) == (4.5, 900.5, "CPU")
    assert after.listing_sha256 != before.listing_sha256
    assert (find("omega"), find("alpha")) == (["one"], [])

    account.name = "Zanzibar Ltd"
    account.save()
    assert find("zanzibar") == ["one"]
    channel.delete()
    assert CatalogueEntry.objects.get(model=model).published_at is None


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        {},
        [],
        "text",
        {"load_time_s": 1.5},
        {"benchmark": []},
        {"benchmark": {"points": {"batch": 1, "p50_ms": "fast"}, "gpu": 7}},
        {"benchmark": {"points": [None, {"batch": 1, "p50_ms": None, "rows_per_s": "x"}]}},
    ],
)
def test_a_certificate_of_another_form_gives_no_facts(account, certificate):
    version = ChannelFactory(version__model__account=account).version
    version.certificate = certificate
    version.save()

    row = CatalogueEntry.objects.get(model=version.model)
    assert (row.p50_ms, row.rows_per_s) == (None, None)


def test_without_the_trigger_the_entry_stays_behind(account):
    # The control of the two above.
    model = sell(account, "one", title="Alpha")
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE marketplace_aimodel DISABLE TRIGGER marketplace_aimodel_entry")
    model.title = "Omega"
    model.save()

    assert find("omega") == []


def test_prices_and_use_are_written_where_they_differ(account):
    one, two = sell(account, "one"), sell(account, "two")
    assert entry.note_prices({one.pk: ListedPrice(500, is_plain=False)}) == 1
    assert entry.note_prices({one.pk: ListedPrice(500, is_plain=False)}) == 0
    assert entry.note_predictions({two.pk: 3}) == 1
    assert entry.note_predictions({two.pk: 3}) == 0

    rows = CatalogueEntry.objects.order_by("model__name")
    assert list(rows.values_list("price_nanos", "price_is_plain", "predictions_30d")) == [
        (500, False, 0),
        (None, True, 3),
    ]
    assert entry.note_prices({}) == 1
    assert entry.note_predictions({}) == 1


@pytest.mark.django_db(transaction=True)
def test_the_site_writes_entries_the_gateway_reads_what_it_lists_and_no_other_may(database_urls):
    ChannelFactory(version__model__title="Alpha")
    count = "SELECT count(*) FROM marketplace_catalogueentry, marketplace_search_query('{alph}')"
    with psycopg.connect(database_urls["app"]) as site:
        found = site.execute(f"{count} WHERE words @@ any_word").fetchone()
        site.execute("UPDATE marketplace_aimodel SET title = 'Omega'")
        after = site.execute(f"{count} WHERE words @@ any_word").fetchone()
    assert (found, after) == ((1,), (0,))
    with psycopg.connect(database_urls["gateway"]) as gateway:
        assert gateway.execute(f"{count} WHERE words @@ any_word").fetchone() == (0,)
    refused = [
        ("keybroker", count),
        ("gateway", "SELECT embedding FROM marketplace_catalogueentry"),
        ("gateway", "UPDATE marketplace_catalogueentry SET label = 'x'"),
        ("gateway", "DELETE FROM marketplace_catalogueentry"),
    ]
    for role, sql in refused:
        with (
            psycopg.connect(database_urls[role]) as other,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            other.execute(sql)


# --- meaning ---


def test_meaning_finds_what_no_word_names(account):
    sell(account, "guard", title="Payment risk score")
    sell(account, "seam", title="Weld check")
    embedder = Scripted({"payment": 1, "weld": 2, "swindle": 1})
    assert embedding.embed_listings(embedder) == 2

    meant = embedding.embed_query("Swindle", embedder)
    assert find("swindle", meant=meant) == ["guard"]
    # The control: words alone do not.
    assert find("swindle") == []


def test_the_three_lists_are_joined_by_their_places(account):
    sell(account, "both", title="Fraud score")
    sell(account, "meant", title="Something else")
    sell(account, "unlike", title="Another thing")
    axes = {"both": direction(1, 2, 0.2), "meant": direction(1), "unlike": direction(7)}
    for name, vector in axes.items():
        CatalogueEntry.objects.filter(model__name=name).update(embedding=vector)

    # Second by meaning, first by words: together first. What is unlike is not there at all.
    assert find("fraud", meant=direction(1)) == ["both", "meant"]


def test_where_meaning_is_known_one_word_of_many_is_not_enough(account):
    sell(account, "guard", title="Payment risk")
    sell(account, "other", title="Card maker")
    CatalogueEntry.objects.filter(model__name="guard").update(embedding=direction(1))

    assert find("stolen card numbers", meant=direction(1)) == ["guard"]
    assert find("stolen card numbers") == ["other"]
    # Nothing is meant by it that we have: then words are better than nothing.
    assert find("stolen card numbers", meant=direction(9)) == ["other"]


def test_listings_are_embedded_once_and_again_after_a_change(account):
    model = sell(account, "one", title="Alpha")
    embedder = Scripted({"alpha": 1, "omega": 2})
    assert embedding.embed_listings(embedder) == 1
    assert embedding.embed_listings(embedder) == 0
    assert len(embedder.calls) == 1

    model.title = "Omega"
    model.save()
    assert embedding.embed_listings(embedder) == 1
    assert CatalogueEntry.objects.get().embedding == direction(2)
    # What does not change the text does not cost a prediction.
    model.licence = "MIT"
    model.save()
    assert embedding.embed_listings(embedder) == 0


def test_another_model_embeds_everything_anew(account, settings):
    sell(account, "one")
    embedder = Scripted({})
    embedding.embed_listings(embedder)
    settings.SEARCH_MODEL = "other/embeddings"

    assert embedding.embed_listings(embedder) == 1
    assert CatalogueEntry.objects.get().embedded_by == "other/embeddings"


def test_private_and_unpublished_listings_are_sent_to_nobody(account):
    sell(account, "secret", visibility="private")
    AIModelFactory(account=account, name="draft")
    embedder = Scripted({})

    assert embedding.embed_listings(embedder) == 0
    assert embedder.calls == []
    # The control.
    AIModel.objects.update(visibility="public")
    assert embedding.embed_listings(embedder) == 1


def test_listings_go_in_batches_and_a_run_ends(account, monkeypatch):
    monkeypatch.setattr(embedding, "BATCH_SIZE", 2)
    monkeypatch.setattr(embedding, "RUN_SIZE", 4)
    for number in range(5):
        sell(account, f"m{number}")
    embedder = Scripted({})

    assert embedding.embed_listings(embedder) == 4
    assert [len(call) for call in embedder.calls] == [2, 2]
    assert embedding.embed_listings(embedder) == 1


def test_a_text_that_is_refused_does_not_stop_its_neighbours(account):
    sell(account, "bad", title="Poison")
    sell(account, "good", title="Fine")

    class Choosy(Scripted):
        def embed(self, texts, timeout_s):
            if any("Poison" in text for text in texts):
                raise TextRefusedError
            return super().embed(texts, timeout_s)

    assert embedding.embed_listings(Choosy({"fine": 3})) == 2
    kept = dict(CatalogueEntry.objects.values_list("model__name", "embedding"))
    assert kept == {"bad": None, "good": direction(3)}
    assert embedding.embed_listings(Choosy({})) == 0


def test_while_the_model_is_away_nothing_changes_and_the_next_run_tries_again(account):
    sell(account, "one")
    assert embedding.embed_listings(Away()) == 0
    assert embedding.embed_listings(Scripted({})) == 1


def test_a_query_is_asked_once_and_not_while_the_model_is_away(db):
    embedder, away = Scripted({"fraud": 1}), Away()
    assert embedding.embed_query("Fraud", embedder) == direction(1)
    assert embedding.embed_query("fraud", embedder) == direction(1)
    assert len(embedder.calls) == 1

    assert embedding.embed_query("other", away) is None
    assert embedding.embed_query("another", away) is None
    assert away.calls == 1
    # What was asked before is still known.
    assert embedding.embed_query("fraud", away) == direction(1)
    assert embedding.embed_query("", embedder) is None


# --- the gateway's answers ---


class Answer:
    def __init__(self, status: int, document: object = None, size: int = 10) -> None:
        self.status_code, self.document, self.content = status, document, b"x" * size

    def json(self):
        if isinstance(self.document, Exception):
            raise self.document
        return self.document


def data(*vectors):
    rows = [{"index": place, "embedding": one} for place, one in enumerate(vectors)]
    return {"data": rows[::-1]}


@pytest.mark.parametrize(
    ("_case", "answer"),
    [
        ("too few", Answer(200, data())),
        ("too short", Answer(200, data([1.0] * (LENGTH - 1)))),
        ("too long", Answer(200, data([1.0] * (LENGTH + 1)))),
        ("all zero", Answer(200, data([0.0] * LENGTH))),
        ("no number", Answer(200, data(["nan"] * LENGTH))),
        ("endless", Answer(200, data([float("inf")] * LENGTH))),
        ("no JSON", Answer(200, ValueError())),
        ("another form", Answer(200, {"data": None})),
        ("a list", Answer(200, [])),
        ("too large", Answer(200, data(direction(1)), 2 * 1024 * 1024)),
        ("no key", Answer(401)),
        ("too many", Answer(429)),
        ("away", Answer(503)),
    ],
)
def test_an_answer_that_is_not_right_is_none(monkeypatch, settings, _case, answer):
    settings.SEARCH_KEY = "sk_test_x"
    monkeypatch.setattr(embedding, "_client", type("C", (), {"post": lambda *a, **k: answer}))

    assert embedding.GatewayEmbedder().embed(["text"], 1) is None


def test_a_right_answer_is_read_in_its_order(monkeypatch, settings):
    settings.SEARCH_KEY = "sk_test_x"
    asked = {}

    def post(self, url, **rest):
        asked.update(rest, url=url)
        return Answer(200, data(direction(1), direction(2)))

    monkeypatch.setattr(embedding, "_client", type("C", (), {"post": post}))
    found = embedding.GatewayEmbedder().embed(["a", "b"], 1)

    assert found == [direction(1), direction(2)]
    assert asked["url"] == f"{settings.GATEWAY_URL}/openai/v1/embeddings"
    assert asked["json"] == {"model": settings.SEARCH_MODEL, "input": ["a", "b"]}


@pytest.mark.parametrize("status", [413, 422])
def test_a_refused_text_is_told_apart(monkeypatch, settings, status):
    settings.SEARCH_KEY = "sk_test_x"
    client = type("C", (), {"post": lambda *a, **k: Answer(status)})()
    monkeypatch.setattr(embedding, "_client", lambda: client)

    with pytest.raises(TextRefusedError):
        embedding.GatewayEmbedder().embed(["text"], 1)


def test_without_a_key_nothing_is_asked(monkeypatch):
    assert settings.SEARCH_KEY == "unset"
    monkeypatch.setattr(embedding, "_client", lambda: pytest.fail("asked"))

    assert embedding.GatewayEmbedder().embed(["text"], 1) is None


# --- queries ---


def test_queries_are_cleaned_and_bounded():
    assert clean_query("  a\u202e\n b\t ") == "a b"
    assert len(clean_query("ab " * 5_000)) <= limits.SEARCH_LENGTH_MAX
    words = " ".join(f"w{number}" for number in range(limits.SEARCH_WORDS_MAX + 1))
    assert len(list_words(words)) == limits.SEARCH_WORDS_MAX
    assert list_words("Fraud, fraud; DÉTECTION_2") == ["fraud", "détection", "2"]


def test_what_is_read_as_the_models_text_is_bounded(account):
    model = AIModelFactory(
        account=account, title="T", card="---\nlicense: mit\n---\nBody " + "x" * 60_000
    )
    text = embedding.describe(model)

    assert len(text) == limits.EMBEDDED_CHARACTERS_MAX
    assert text.startswith("T\n")
    assert "license" not in text
