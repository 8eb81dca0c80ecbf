"""Turn a prompt into the text that a chat model was trained on.

The template is the creator's: a program in Jinja. It runs in Jinja's sandbox inside the
process's sandbox, on values that it cannot change, and what it may write has an end.
Memory that it wastes is bounded by the process's limit.

Source: transformers 5, `apply_chat_template`, for what templates expect to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from inference.serving.errors import LoadError, RequestError

# A template repeats the prompt once and adds some hundreds of characters.
MAX_OVERHEAD_LENGTH = 65_536
# `range` of Jinja's sandbox stops at 100,000 by itself.
MAX_PIECES = 100_000


class ChatTemplate:
    """A compiled template, with the special tokens that it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile.

        Raises:
            LoadError: `chat_template_refused`.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
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
            for piece in self._template.generate(values):
                length += len(piece)
                pieces.append(piece)
                if length > limit or len(pieces) > MAX_PIECES:
                    raise _TooLongError
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            detail = f"The chat template failed ({type(error).__name__.strip('_')})."
            raise RequestError("chat_template_failed", detail) from None
        return "".join(pieces)


class _TooLongError(Exception):
    """The template writes without end."""


def _refuse(message: str) -> NoReturn:
    # Templates call this for roles they do not know; the text is the creator's.
    raise ValueError(str(message)[:200])


def _strftime_now(form: str) -> str:
    # Local time, as the library gives it: templates print it as today's date.
    return datetime.now().strftime(form)  # noqa: DTZ005
