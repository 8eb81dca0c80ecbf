"""The tokenizer and the small files beside it.

`tokenizer.json` is read by a Rust library with regular expressions of the creator's:
only ever in the sandbox, and only up to a size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.artifact.errors import ArtifactError
from inference.artifact.json_document import parse_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The largest open vocabularies (256,000 entries with merges) take 17 to 33 MB.
MAX_TOKENIZER_SIZE_BYTES = 32 * 1024 * 1024
MAX_TOKENIZER_CONFIG_SIZE_BYTES = 4 * 1024 * 1024
# Real chat templates have 1 to 15 KB.
MAX_CHAT_TEMPLATE_LENGTH = 65_536
# Rewriting before and after the model: real tokenizers have two to six steps, and make a text
# a few bytes longer.
MAX_PIPELINE_STEPS = 32
MAX_GROWTH = 64
# What a step adds once, whatever the text.
MAX_STEP_TEXT_LENGTH = 1_024
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """What a tokenizer_config.json says that matters here; all else is left behind."""

    chat_template: str | None = None
    special_tokens: dict[str, str] = field(default_factory=dict)
    model_max_length: int | None = None


def load_tokenizer(data: memoryview, *, vocab_size: int) -> Tokenizer:
    """Build the tokenizer. Call it in the sandbox only.

    Args:
        data: The plain tokenizer.json.
        vocab_size: Rows of the model's embedding; every token must have one.

    Raises:
        ArtifactError: `tokenizer_too_large`, `tokenizer_malformed`, `tokenizer_refused` or
            `tokenizer_vocab_mismatch`.
    """
    from tokenizers import Tokenizer

    if len(data) > MAX_TOKENIZER_SIZE_BYTES:
        detail = f"The tokenizer has {len(data)} bytes; {MAX_TOKENIZER_SIZE_BYTES} are allowed."
        raise ArtifactError("tokenizer_too_large", detail)
    try:
        tokenizer = Tokenizer.from_buffer(bytes(data))
    except BaseException as error:
        # The library raises bare Exception, and for a panic something that is none.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ArtifactError("tokenizer_malformed", "The tokenizer cannot be read.") from None
    for part in (tokenizer.normalizer, tokenizer.decoder):
        _check_pipeline(part)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= vocab_size:
        detail = f"A token has the number {largest}; the model knows {vocab_size} tokens."
        raise ArtifactError("tokenizer_vocab_mismatch", detail)
    return tokenizer


def _check_pipeline(part: Any) -> None:
    """Refuse steps that together make a gigabyte of a letter.

    Nine replacements of one letter by ten are a billion, and no limit of a request is of any
    use then.
    """
    steps = list(_list_steps(json.loads(part.__getstate__()))) if part is not None else []
    if len(steps) > MAX_PIPELINE_STEPS:
        detail = f"The tokenizer rewrites texts in more than {MAX_PIPELINE_STEPS} steps."
        raise ArtifactError("tokenizer_refused", detail)
    if math.prod(_growth_of(step) for step in steps) > MAX_GROWTH:
        detail = f"The tokenizer makes texts more than {MAX_GROWTH} times as long."
        raise ArtifactError("tokenizer_refused", detail)
    # Tables that map letters to texts of any length: one is SentencePiece's own.
    if sum(step.get("type") == "Precompiled" for step in steps) > 1:
        raise ArtifactError("tokenizer_refused", "The tokenizer has several tables of letters.")
    texts = (step.get(name) for step in steps for name in ("content", "prepend"))
    if any(isinstance(text, str) and len(text) > MAX_STEP_TEXT_LENGTH for text in texts):
        detail = f"A step of the tokenizer adds more than {MAX_STEP_TEXT_LENGTH} characters."
        raise ArtifactError("tokenizer_refused", detail)


def _list_steps(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield part
    for one in part.get("normalizers") or part.get("decoders") or ():
        yield from _list_steps(one)


def _growth_of(step: dict[str, Any]) -> float:
    """By how much a replacement makes a text longer, at most."""
    if step.get("type") != "Replace":
        return 1.0
    found = (step.get("pattern") or {}).get("String")
    # An expression may fit between any two letters.
    return max(1.0, len(step["content"]) / len(found) if found else len(step["content"]) + 1.0)


def parse_settings(data: memoryview) -> TokenizerSettings:
    """Read a tokenizer_config.json (or a special_tokens_map.json).

    Raises:
        ArtifactError: With a code that starts with `tokenizer_config_`.
    """
    document = parse_object(
        data,
        what="The tokenizer's configuration",
        max_size_bytes=MAX_TOKENIZER_CONFIG_SIZE_BYTES,
        reason_prefix="tokenizer_config",
    )
    tokens = {name: _token_text(document.get(name)) for name in _SPECIAL_TOKENS}
    length = document.get("model_max_length")
    return TokenizerSettings(
        chat_template=_find_template(document.get("chat_template")),
        special_tokens={name: text for name, text in tokens.items() if text is not None},
        # transformers writes 1e30 for "not known".
        model_max_length=length if type(length) is int and 0 < length < 10**7 else None,
    )


def parse_template(data: memoryview) -> TokenizerSettings:
    """Read a chat_template.jinja, which newer folders have beside the configuration.

    Raises:
        ArtifactError: `chat_template_refused`.
    """
    if len(data) > 4 * MAX_CHAT_TEMPLATE_LENGTH:
        raise ArtifactError("chat_template_refused", "The chat template is too long.")
    try:
        text = bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        detail = "The chat template is not UTF-8."
        raise ArtifactError("chat_template_refused", detail) from None
    return TokenizerSettings(chat_template=_check_template(text))


def merge_settings(found: list[TokenizerSettings]) -> TokenizerSettings:
    """Join what several files say; a template in a file of its own wins."""
    merged = TokenizerSettings()
    for one in found:
        merged = TokenizerSettings(
            chat_template=one.chat_template or merged.chat_template,
            special_tokens={**merged.special_tokens, **one.special_tokens},
            model_max_length=one.model_max_length or merged.model_max_length,
        )
    return merged


def _token_text(value: Any) -> str | None:
    # An AddedToken is written as an object with its text in "content".
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and len(text) <= 256 else None


def _find_template(value: Any) -> str | None:
    if isinstance(value, list):
        named = [one for one in value if isinstance(one, dict)]
        value = next((one.get("template") for one in named if one.get("name") == "default"), None)
    return _check_template(value) if isinstance(value, str) else None


def _check_template(text: str) -> str:
    if len(text) > MAX_CHAT_TEMPLATE_LENGTH:
        detail = f"The chat template is longer than {MAX_CHAT_TEMPLATE_LENGTH} characters."
        raise ArtifactError("chat_template_refused", detail)
    return text


def check_labels(data: memoryview) -> None:
    """Check a file of labels: UTF-8 text or JSON. Its only reader is a person.

    Raises:
        ArtifactError: `labels_malformed`.
    """
    if len(data) > MAX_TOKENIZER_CONFIG_SIZE_BYTES:
        raise ArtifactError("labels_malformed", "The file of labels is too large.")
    try:
        text = bytes(data).decode("utf-8")
        if text.lstrip()[:1] in ("{", "["):
            json.loads(text)
    except (ValueError, RecursionError):
        detail = "The file of labels is neither text nor JSON."
        raise ArtifactError("labels_malformed", detail) from None
