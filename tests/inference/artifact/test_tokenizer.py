from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from inference.artifact import tokenizer as tokenizers
from inference.artifact.errors import ArtifactError


def raw(vocabulary: dict[str, int]) -> memoryview:
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    return memoryview(made.to_str().encode())


def settings(document: Any) -> tokenizers.TokenizerSettings:
    return tokenizers.parse_settings(memoryview(json.dumps(document).encode()))


def test_reads_a_tokenizer():
    made = tokenizers.load_tokenizer(raw({"a": 0, "b": 4}), vocab_size=5)

    assert made.token_to_id("b") == 4


def test_token_without_a_row_is_refused():
    with pytest.raises(ArtifactError, match="tokenizer_vocab_mismatch"):
        tokenizers.load_tokenizer(raw({"a": 0, "b": 5}), vocab_size=5)


@pytest.mark.parametrize("_content", [b"", b"{}", b"\x80\x04.", b"[" * 1000])
def test_anything_else_is_refused(_content):
    with pytest.raises(ArtifactError, match="tokenizer_malformed"):
        tokenizers.load_tokenizer(memoryview(_content), vocab_size=5)


def test_size_has_a_limit(monkeypatch):
    content = raw({"a": 0})
    monkeypatch.setattr(tokenizers, "MAX_TOKENIZER_SIZE_BYTES", len(content))

    tokenizers.load_tokenizer(content, vocab_size=5)
    with pytest.raises(ArtifactError, match="tokenizer_too_large"):
        tokenizers.load_tokenizer(memoryview(bytes(content) + b" "), vocab_size=5)


def test_settings_keep_templates_and_tokens_only():
    found = settings(
        {
            "chat_template": "{{ x }}",
            "bos_token": {"content": "<s>", "__type": "AddedToken"},
            "eos_token": "</s>",
            "pad_token": None,
            "model_max_length": 1000000000000000019884624838656,
            "auto_map": {"AutoTokenizer": ["evil.py", None]},
        }
    )

    assert found == tokenizers.TokenizerSettings(
        chat_template="{{ x }}", special_tokens={"bos_token": "<s>", "eos_token": "</s>"}
    )


def test_named_templates_give_the_default():
    templates = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]

    assert settings({"chat_template": templates}).chat_template == "d"
    assert settings({"chat_template": templates[:1]}).chat_template is None


def test_template_has_a_limit(monkeypatch):
    monkeypatch.setattr(tokenizers, "MAX_CHAT_TEMPLATE_LENGTH", 3)

    assert settings({"chat_template": "abc"}).chat_template == "abc"
    with pytest.raises(ArtifactError, match="chat_template_refused"):
        settings({"chat_template": "abcd"})
    with pytest.raises(ArtifactError, match="chat_template_refused"):
        tokenizers.parse_template(memoryview(b"abcd"))
    with pytest.raises(ArtifactError, match="chat_template_refused"):
        tokenizers.parse_template(memoryview(b"\xff"))


def test_template_of_its_own_file_wins():
    merged = tokenizers.merge_settings(
        [settings({"chat_template": "old", "eos_token": "e"}), tokenizers.parse_template(b"new")]
    )

    assert merged.chat_template == "new"
    assert merged.special_tokens == {"eos_token": "e"}


@pytest.mark.parametrize("_content", [b"\xff\xfe", b"[1,", b"[" * 100_000])
def test_labels_must_be_text(_content):
    with pytest.raises(ArtifactError, match="labels_malformed"):
        tokenizers.check_labels(memoryview(_content))


@pytest.mark.parametrize("_content", [b"cat\ndog\n", b'["cat"]', b'{"0": "cat"}'])
def test_labels_are_accepted(_content):
    tokenizers.check_labels(memoryview(_content))
