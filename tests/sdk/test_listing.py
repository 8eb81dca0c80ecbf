"""The listing: what strongroom.toml may say."""

import tomllib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.listing import (
    MAX_CARD_LENGTH,
    Listing,
    ListingError,
    format_price,
    parse_price,
)
from tests.sdk.test_interface import EVERYTHING

GOOD = {
    "owner": "acme",
    "name": "writer",
    "title": "Writer",
    "task": "text-generation",
    "licence": "MIT",
    "price_dollars_per_prediction": "0.001",
    "interface": EVERYTHING,
    "test_vectors": [{"input": {"prompt": "hi"}, "expected": {"text": "ho"}}],
}


def refused_key(**changes):
    with pytest.raises(ListingError) as refused:
        Listing.parse(GOOD | changes)
    assert refused.value.code == "listing_invalid"
    return refused.value.key


def test_a_listing_survives_its_own_text():
    listing = Listing.parse(GOOD)

    assert Listing.parse(tomllib.loads(listing.to_toml())) == listing
    assert (listing.visibility, listing.publish, listing.card) == ("public", "prod", "")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(text):
    listing = Listing.parse(GOOD | {"summary": text, "title": "t" + text})

    assert Listing.parse(tomllib.loads(listing.to_toml())) == listing


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("owner", ""),
        ("owner", 7),
        ("title", None),
        ("visibility", "hidden"),
        ("publish", "dev"),
        ("publish", None),
        ("price_dollars_per_prediction", True),
        ("interface", {}),
        ("test_vectors", {}),
        ("test_vectors", [{}] * 65),
        ("test_vectors", [{"input": {"prompt": "hi"}}]),
        ("test_vectors", [{"input": {"prompt": "hi"}, "expected": {"text": ""}, "note": ""}]),
        ("test_vectors", [{"input": {}, "expected": {"text": ""}}]),
        ("test_vectors", [{"input": {"prompt": "hi"}, "expected": {}}]),
        ("test_vectors", [{"input": {"prompt": "hi"}, "expected": {"z": 1}}]),
        ("test_vectors", [{"input": {"prompt": "hi"}, "expected": {"text": ""}, "tolerance": 2}]),
        ("unknown", 1),
    ],
)
def test_faults_are_named_by_their_key(key, value):
    assert refused_key(**{key: value}).startswith(key)


def test_the_fault_of_a_test_vector_is_named_by_its_place():
    vectors = [*GOOD["test_vectors"], {"input": {"prompt": 7}, "expected": {"text": ""}}]

    assert refused_key(test_vectors=vectors) == "test_vectors.1.input.prompt"


@pytest.mark.parametrize(
    ("value", "nanos"),
    [("0.0005", 500_000), (0, 0), (1, 10**9), (0.1, 10**8), ("1e-9", 1), ("1000000", 10**15)],
)
def test_prices(value, nanos):
    assert parse_price(value) == nanos


@pytest.mark.parametrize(
    "value", ["", "free", "-0.1", "1e-10", "nan", "inf", "1000001", None, True, [], "1,5"]
)
def test_prices_that_are_none(value):
    with pytest.raises(ListingError):
        parse_price(value)


@given(st.integers(0, 10**15))
def test_a_price_survives_its_text(nanos):
    assert parse_price(format_price(nanos)) == nanos
    assert Decimal(format_price(nanos)) * 10**9 == nanos


def test_the_card_is_read_and_limited(tmp_path):
    listing = Listing.parse(GOOD | {"card": "CARD.md"})
    (tmp_path / "CARD.md").write_text("é" * MAX_CARD_LENGTH)
    assert len(listing.read_card(tmp_path)) == MAX_CARD_LENGTH
    assert Listing.parse(GOOD).read_card(tmp_path) == ""

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "LINK.md").symlink_to(tmp_path / "CARD.md")
    for outside in ("../CARD.md", str(tmp_path / "CARD.md"), "LINK.md"):
        with pytest.raises(ListingError, match="outside"):
            Listing.parse(GOOD | {"card": outside}).read_card(folder)

    for content in (b"x" * (MAX_CARD_LENGTH + 1), b"\xff"):
        (tmp_path / "CARD.md").write_bytes(content)
        with pytest.raises(ListingError, match="card"):
            listing.read_card(tmp_path)


def test_a_listing_that_is_no_text_or_too_long(tmp_path, monkeypatch):
    (tmp_path / "strongroom.toml").write_bytes(b"\xff")
    with pytest.raises(ListingError, match="Not valid TOML"):
        Listing.load(tmp_path)

    monkeypatch.setattr("strongroom.listing.MAX_LISTING_BYTES", 0)
    with pytest.raises(ListingError, match="At most"):
        Listing.load(tmp_path)
