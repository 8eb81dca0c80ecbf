"""Turn a prompt into the text that a chat model was trained on.

The template is the creator's: a program in Jinja. It runs in Jinja's sandbox inside the
process's sandbox, on values that it cannot change, and what it may write has an end, and
how long it may take. Memory that it wastes is bounded by the process's limit.

Source: transformers 5, `apply_chat_template`, for what templates expect to find.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

from inference.serving.errors import LoadError, RequestError

# A template repeats the prompt once and adds some hundreds of characters.
MAX_OVERHEAD_LENGTH = 65_536
# `range` of Jinja's sandbox stops at 100,000 by itself.
MAX_PIECES = 100_000
# Real ones take a millisecond. Meanwhile nobody else is answered.
MAX_RENDER_S = 1.0
# Powers and products of larger numbers are no part of a text, and can take for ever.
MAX_NUMBER_BITS = 256
# A text or a list that is repeated; indentation needs no more than this.
MAX_REPEATED_LENGTH = 1_000_000
# Turns of a conversation.
MAX_MESSAGES = 256
_ROLES = ("system", "user", "assistant")
_MESSAGE_MEMBERS = frozenset({"role", "content"})


class ChatTemplate:
    """A compiled template, with the special tokens that it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile.

        Raises:
            LoadError: `chat_template_refused`.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Environment(ImmutableSandboxedEnvironment):
            intercepted_binops = frozenset({"*", "**"})

            def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
                _check_product(operator, left, right)
                return super().call_binop(context, operator, left, right)

        environment = Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except (TemplateError, RecursionError, ValueError) as error:
            detail = f"The chat template cannot be read ({type(error).__name__})."
            raise LoadError("chat_template_refused", detail) from None
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Render messages, up to where the answer begins.

        Raises:
            RequestError: `chat_template_failed`.
        """
        limit = sum(len(one["content"]) for one in messages) * 2 + MAX_OVERHEAD_LENGTH
        values: dict[str, Any] = {
            **self._special_tokens,
            "messages": [dict(one) for one in messages],
            "add_generation_prompt": True,
        }
        pieces: list[str] = []
        length = 0
        try:
            with _time_limit(MAX_RENDER_S):
                for piece in self._template.generate(values):
                    length += len(piece)
                    pieces.append(piece)
                    if length > limit or len(pieces) > MAX_PIECES:
                        raise _TooLongError
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            detail = f"The chat template failed ({type(error).__name__.strip('_')})."
            raise RequestError("chat_template_failed", detail) from None
        return "".join(pieces)


def read_messages(text: str) -> list[dict[str, str]]:
    """A conversation out of its JSON.

    Raises:
        RequestError: `messages_invalid`.
    """
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        raise _refuse_messages("They are no JSON.") from None
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise _refuse_messages(f"They are a list of 1 to {MAX_MESSAGES}.")
    for one in messages:
        fits = isinstance(one, dict) and one.keys() == _MESSAGE_MEMBERS
        if not fits or one["role"] not in _ROLES or not isinstance(one["content"], str):
            raise _refuse_messages("Each has a role (system, user or assistant) and a content.")
    return messages


class _TooLongError(Exception):
    """The template writes, or runs, without end."""


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """End Python code of the block that runs for too long, whatever it does."""
    ends_at = time.monotonic() + limit_s

    def check(*_: object) -> Any:
        if time.monotonic() > ends_at:
            raise _TooLongError
        return check

    before = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)


def _check_product(operator: str, left: Any, right: Any) -> None:
    for text, times in ((left, right), (right, left)):
        if isinstance(text, str | bytes | list | tuple) and isinstance(times, int):
            # One step of Python's, which no limit of time would interrupt.
            if len(text) * times > MAX_REPEATED_LENGTH:
                raise _TooLongError
            return
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length()
        if max(bits, right.bit_length()) > MAX_NUMBER_BITS:
            raise _TooLongError


def _refuse_messages(detail: str) -> RequestError:
    return RequestError("messages_invalid", f"The messages: {detail}", is_input_fault=True)


def _refuse(message: str) -> NoReturn:
    # Templates call this for roles they do not know; the text is the creator's.
    raise ValueError(str(message)[:200])


def _strftime_now(form: str) -> str:
    # Local time, as the library gives it: templates print it as today's date.
    return datetime.now().strftime(form)  # noqa: DTZ005
