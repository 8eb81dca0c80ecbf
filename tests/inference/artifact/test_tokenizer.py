from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers

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


def rewriting(steps: list[Any], *, after: bool = False) -> memoryview:
    """A tokenizer that rewrites texts before the model, or after it."""
    made = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    if after:
        made.decoder = decoders.Sequence(steps)
    else:
        made.normalizer = normalizers.Sequence(steps)
    return memoryview(made.to_str().encode())


Replace = normalizers.Replace
_BOMBS = {
    "a billion letters of one": [Replace("a", "a" * 10)] * 9,
    "one long text": [Replace("a", "b" * 65)],
    "between any two letters": [Replace(Regex(""), "b" * 64)],
    "many steps": [normalizers.NFC()] * 33,
    "nested": [normalizers.Sequence([Replace("a", "a" * 9)]), Replace("a", "a" * 9)],
    "a long beginning": [normalizers.Prepend("x" * 1_025)],
}


@pytest.mark.parametrize("_case", _BOMBS)
def test_rewriting_that_explodes_is_refused(_case):
    with pytest.raises(ArtifactError, match="tokenizer_refused"):
        tokenizers.load_tokenizer(rewriting(_BOMBS[_case]), vocab_size=5)


@pytest.mark.parametrize(
    "steps",
    [
        [decoders.Replace("a", "b" * 65)],
        [decoders.Replace("a", "a" * 10)] * 2,
        [decoders.Fuse()] * 33,
    ],
)
def test_rewriting_of_answers_is_limited_as_well(steps):
    with pytest.raises(ArtifactError, match="tokenizer_refused"):
        tokenizers.load_tokenizer(rewriting(steps, after=True), vocab_size=5)


def test_honest_rewriting_is_accepted_up_to_the_limit():
    llama = [normalizers.Prepend("\u2581"), Replace(" ", "\u2581"), normalizers.NFKC()]
    edge = [Replace("a", "b" * 64), normalizers.Prepend("x" * 1_024), *[normalizers.NFC()] * 29]

    for steps in (llama, edge):
        tokenizers.load_tokenizer(rewriting(steps), vocab_size=5)


def test_without_the_limit_the_bomb_would_be_built(monkeypatch):
    """Negative control: the library takes it, and would write a thousand letters for each."""
    monkeypatch.setattr(tokenizers, "MAX_GROWTH", 10**12)

    made = tokenizers.load_tokenizer(rewriting([Replace("a", "a" * 10)] * 3), vocab_size=5)

    assert len(made.normalizer.normalize_str("a")) == 1_000


def test_several_tables_of_letters_are_refused():
    table = {"type": "Precompiled", "precompiled_charsmap": ""}
    document = json.loads(bytes(rewriting([normalizers.NFC()] * 2)))
    document["normalizer"]["normalizers"] = [table, table]

    with pytest.raises(ArtifactError, match=r"tokenizer_(refused|malformed)"):
        tokenizers.load_tokenizer(memoryview(json.dumps(document).encode()), vocab_size=5)


@pytest.mark.parametrize("pattern", ["(" * 50_000 + ")" * 50_000, "(", "[", "\\"])
def test_expressions_that_cannot_be_read_are_refused(pattern):
    document = json.loads(bytes(raw({"a": 0})))
    document["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }

    with pytest.raises(ArtifactError, match="tokenizer_malformed"):
        tokenizers.load_tokenizer(memoryview(json.dumps(document).encode()), vocab_size=5)


def test_a_panic_of_the_library_is_a_refusal(monkeypatch):
    """It is no Exception, and would end the serving process's load as an error of ours."""

    class PanicException(BaseException):
        pass

    def panic(_: bytes) -> None:
        raise PanicException("retry-limit-in-match over")

    content = raw({"a": 0})
    monkeypatch.setattr("tokenizers.Tokenizer", type("T", (), {"from_buffer": panic}))

    with pytest.raises(ArtifactError, match="tokenizer_malformed"):
        tokenizers.load_tokenizer(content, vocab_size=5)


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
