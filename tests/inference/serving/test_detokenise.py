"""Text while its tokens come: whole characters only, and nothing is taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from inference.serving.runtimes.detokenise import HELD_TOKENS_MAX, Detokeniser
from tests.inference.serving import builders


def octets(ids):
    """A tokenizer whose tokens are single octets."""
    return bytes(ids).decode(errors="replace")


def push_all(decode, ids):
    text = Detokeniser(decode)
    pieces = [text.push(one) for one in ids]
    return [*pieces, text.finish()], text


@given(st.text(max_size=40))
def test_pieces_are_whole_characters_and_the_whole_text(said):
    pieces, text = push_all(octets, said.encode())

    assert "".join(pieces) == said == text.text
    # A mark of a broken character only where it was said.
    assert "".join(pieces).count("\ufffd") == said.count("\ufffd")


def test_character_comes_with_its_last_octet():
    pieces, _ = push_all(octets, "a€👩".encode())

    assert pieces == ["a", "", "", "€", "", "", "", "👩", ""]


@given(st.binary(max_size=60))
def test_whatever_is_said_comes_to_an_end(said):
    pieces, text = push_all(octets, said)

    assert "".join(pieces) == text.text
    held = 0
    for piece in pieces:
        held = 0 if piece else held + 1
        assert held <= HELD_TOKENS_MAX


def test_character_that_never_ends_is_given_out():
    endless = [0xF0] * (2 * HELD_TOKENS_MAX)

    pieces, _ = push_all(octets, endless)

    assert "".join(pieces[: HELD_TOKENS_MAX - 1]) == ""
    assert pieces[HELD_TOKENS_MAX - 1] == "\ufffd" * HELD_TOKENS_MAX


def test_cost_of_a_piece_does_not_grow():
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return octets(ids)

    push_all(decode, [0x61, 0xF0] * 500)

    assert longest <= 2 * HELD_TOKENS_MAX


@pytest.mark.parametrize("_text", ["hello world the cat", "Grüße, 日本 👩‍👩‍👧!", " two  spaces "])
def test_pieces_of_a_real_tokenizer_are_its_text(_text):
    tokenizer = builders.byte_tokenizer()
    ids = tokenizer.encode(_text).ids

    pieces, _ = push_all(tokenizer.decode, ids)

    assert "".join(pieces) == tokenizer.decode(ids) == _text


def test_space_that_a_tokenizer_drops_at_the_front_stays_between_words():
    vocabulary = {"<unk>": 0, "▁one": 1, "▁two": 2, "<0xE2>": 3, "<0x82>": 4, "<0xAC>": 5}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    ids = [1, 2, 3, 4, 5, 3, 4, 5, 1]

    pieces, _ = push_all(tokenizer.decode, ids)

    assert pieces == ["one", " two", "", "", "€", "", "", "€", " one", ""]
    assert "".join(pieces) == tokenizer.decode(ids)
