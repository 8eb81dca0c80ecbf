"""`/openai/v1/completions` and `/openai/v1/chat/completions`: a text in, a text out.

A model takes one prompt and, if its interface says so, a system prompt or a whole
conversation; it applies its chat template to these itself. A conversation for which a model
has no place is refused rather than pressed into the prompt.

Source: OpenAI API, "Create completion" and "Create chat completion".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.gateway.catalog import Offer
from inference.gateway.config import MESSAGES_MAX
from inference.gateway.errors import ParameterError, UnsupportedParameterError
from inference.gateway.protocols.openai_parameters import (
    Head,
    Plan,
    check_row,
    count_tokens,
    drop_idle,
    find_only,
    is_neutral,
    require_task,
    unsupported,
)
from strongroom.interface import Interface

TASK = "text-generation"
# The input that each parameter sets, where the interface has it.
_SETTINGS: Mapping[str, str] = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
}
_SYSTEM = "system_prompt"
_MESSAGES = "messages"
_RESERVED = frozenset({*_SETTINGS.values(), _SYSTEM, _MESSAGES})
_STREAM = frozenset({"stream", "stream_options"})
_COMPLETION = frozenset({"model", "prompt", *_SETTINGS, *_STREAM}) - {"max_completion_tokens"}
_CHAT = frozenset({"model", "messages", *_SETTINGS, *_STREAM})
_MESSAGE_MEMBERS = frozenset({"role", "content"})
# OpenAI's newer name for the same thing.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_FINISH_REASON = "finish_reason"
_LENGTH, _STOP = "length", "stop"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked of a model, and the parameter that said so."""

    param: str
    prompt: str
    system: str | None = None
    # All turns, where there are more than a question.
    turns: Sequence[tuple[str, str]] = ()


def plan_completion(document: Mapping[str, Any], offer: Offer) -> Plan:
    """One prompt, one text.

    Raises:
        ParameterError: What cannot be honoured, by name.
    """
    wanted = drop_idle(document, _COMPLETION)
    require_task(offer, TASK)
    prompt = wanted.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str):
        raise ParameterError("prompt", "Must be one text; tokens and several texts are not taken.")
    return _plan(offer, wanted, _Asked("prompt", prompt), is_chat=False)


def plan_chat(document: Mapping[str, Any], offer: Offer) -> Plan:
    """The next answer of a conversation.

    Raises:
        ParameterError: What cannot be honoured, by name.
    """
    wanted = drop_idle(document, _CHAT)
    require_task(offer, TASK)
    if {"max_tokens", "max_completion_tokens"} <= wanted.keys():
        raise ParameterError("max_tokens", "Give max_completion_tokens or max_tokens, not both.")
    return _plan(offer, wanted, _read_messages(wanted.get("messages")), is_chat=True)


def _plan(offer: Offer, wanted: Mapping[str, Any], asked: _Asked, *, is_chat: bool) -> Plan:
    interface = offer.interface
    spoken = [one for one in interface.inputs if one.kind == "text" and not one.format]
    prompts = [one for one in spoken if one.name not in _RESERVED]
    prompt = find_only(prompts, offer)
    texts = [
        one
        for one in interface.visible_outputs
        if one.kind == "text" and one.name != _FINISH_REASON
    ]
    answer = find_only(texts, offer)
    values: dict[str, Any] = {prompt: asked.prompt, **_place_turns(asked, offer)}
    params = dict.fromkeys(values, asked.param)
    for param, value in _list_settings(interface, wanted):
        values[_SETTINGS[param]] = value
        params[_SETTINGS[param]] = param
    row = check_row(interface, values, params)
    wants_usage = _read_stream(wanted, offer, answer)
    chunks = None if wants_usage is None else _TextChunks(wants_usage, is_chat, row)

    def render(decoded: Sequence[Mapping[str, Any]], head: Head) -> dict[str, Any]:
        (given,) = decoded
        finish_reason = _tell_finish_reason(given, row)
        render_answer = _render_chat if is_chat else _render_completion
        return render_answer(given[answer], finish_reason, head) | {"usage": _count_usage(decoded)}

    return Plan([row], render, chunks)


@dataclass(slots=True)
class _TextChunks:
    """The chunks of one text.

    Args:
        wants_usage: Whether a last chunk tells what was used.
        is_chat: Of a chat; else of a completion.
        row: What the model was asked.
    """

    wants_usage: bool
    is_chat: bool
    row: Mapping[str, Any]
    _has_begun: bool = False

    def render_piece(self, piece: str, head: Head) -> list[dict[str, Any]]:
        """A chunk with the piece; before the first one, one that says who speaks."""
        return [*self._begin(head), self._render({"content": piece}, None, head)]

    def render_end(
        self, answer: Mapping[str, Any], head: Head, *, cost_nanos: int
    ) -> list[dict[str, Any]]:
        """Why it ended, and what it cost; then, if that was asked for, what was used."""
        last = self._render({}, _tell_finish_reason(answer, self.row), head)
        chunks = [*self._begin(head), last | {"cost_nano_usd": cost_nanos}]
        if self.wants_usage:
            usage = _count_usage([answer])
            if usage is not None:
                usage["cost_nano_usd"] = cost_nanos
            chunks.append(self._frame([], head) | {"usage": usage})
        return chunks

    def _begin(self, head: Head) -> list[dict[str, Any]]:
        if self._has_begun or not self.is_chat:
            return []
        self._has_begun = True
        return [self._render({"role": "assistant", "content": ""}, None, head)]

    def _render(
        self, delta: Mapping[str, Any], finish_reason: str | None, head: Head
    ) -> dict[str, Any]:
        content = {"delta": delta} if self.is_chat else {"text": delta.get("content", "")}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return self._frame([choice], head)

    def _frame(self, choices: list[dict[str, Any]], head: Head) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        name = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{head.public_id}"
        chunk = _frame(name, kind, head, choices)
        return chunk | {"usage": None} if self.wants_usage else chunk


def _read_stream(wanted: Mapping[str, Any], offer: Offer, answer: str) -> bool | None:
    """Whether a stream shall end with what was used; None where none is wanted."""
    wants_stream = wanted.get("stream", False)
    if type(wants_stream) is not bool:
        raise unsupported("stream")
    if not wants_stream:
        if "stream_options" in wanted:
            raise unsupported("stream_options")
        return None
    streamed = offer.interface.streamed_output
    if streamed is None or streamed.name != answer:
        detail = f"{offer.model} gives its answer at once: it cannot stream."
        raise UnsupportedParameterError("stream", detail)
    return _read_include_usage(wanted.get("stream_options", {}))


def _read_include_usage(options: Any) -> bool:
    if not isinstance(options, dict):
        raise ParameterError("stream_options", "stream_options: Must be an object.")
    for name, value in options.items():
        # Padding against those who count octets of a cipher is not made here.
        if name != "include_usage" and value not in (None, False):
            raise unsupported("stream_options")
    include_usage = options.get("include_usage") or False
    if type(include_usage) is not bool:
        raise ParameterError("stream_options", "include_usage: Must be true or false.")
    return include_usage


def _place_turns(asked: _Asked, offer: Offer) -> dict[str, str]:
    """What stands beside the prompt, in the input that the model has for it."""
    interface = offer.interface
    if asked.system is None and not asked.turns:
        return {}
    if asked.system is not None and _has_input(interface, _SYSTEM):
        return {_SYSTEM: asked.system}
    if _has_input(interface, _MESSAGES):
        turns = [("system", asked.system), ("user", asked.prompt)]
        documents = [{"role": role, "content": content} for role, content in asked.turns or turns]
        return {_MESSAGES: json.dumps(documents, ensure_ascii=False)}
    if asked.system is not None:
        detail = f"{offer.model} takes no system message."
        raise UnsupportedParameterError(asked.param, detail)
    detail = (
        f"{offer.model} takes one user message, after at most one system message: its interface"
        " has no input for a longer conversation."
    )
    raise UnsupportedParameterError(asked.param, detail)


def _has_input(interface: Interface, name: str) -> bool:
    return any(one.name == name for one in interface.inputs)


def _list_settings(interface: Interface, wanted: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What is set, by parameter; refuses what the model has no input for."""
    settings = []
    for param, name in _SETTINGS.items():
        if param not in wanted:
            continue
        value = wanted[param]
        if param == "stop" and isinstance(value, list) and len(value) == 1:
            (value,) = value
        if _has_input(interface, name):
            settings.append((param, value))
        elif not is_neutral(param, value):
            raise unsupported(param)
    return settings


def _read_messages(value: Any) -> _Asked:
    if not isinstance(value, list) or not 1 <= len(value) <= MESSAGES_MAX:
        detail = f"Must be a list of 1 to {MESSAGES_MAX} messages."
        raise ParameterError("messages", detail)
    read = [_read_message(one, f"messages[{index}]") for index, one in enumerate(value)]
    match read:
        case [("user", prompt)]:
            return _Asked("messages", prompt)
        case [("system", system), ("user", prompt)]:
            return _Asked("messages", prompt, system)
    # An answer to nothing, or a second one to the same, is not asked for in a conversation.
    if read[-1][0] != "user":
        raise UnsupportedParameterError("messages", "The last message must be the user's.")
    return _Asked("messages", read[-1][1], turns=read)


def _read_message(value: Any, place: str) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise ParameterError("messages", f"{place}: Must be an object.")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ParameterError("messages", f"{place}: The role is system, user or assistant.")
    for name, member in value.items():
        if name not in _MESSAGE_MEMBERS and member is not None:
            detail = f"{place}: {name[:64]!r} cannot be honoured here."
            raise UnsupportedParameterError("messages", detail)
    return _ROLES[role], _read_content(value.get("content"), place)


def _read_content(value: Any, place: str) -> str:
    """A text, or the texts of its parts, each on lines of its own."""
    parts = value if isinstance(value, list) else [{"type": "text", "text": value}]
    texts = [_read_part(one) for one in parts]
    if not texts or None in texts:
        raise ParameterError("messages", f"{place}: The content is a text, or parts of texts.")
    return "\n".join(one for one in texts if one is not None)


def _read_part(part: Any) -> str | None:
    """The text of a part; None for anything else, as images."""
    is_text = isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"
    return part["text"] if is_text and isinstance(part["text"], str) else None


def _tell_finish_reason(given: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The model's own word; without it an answer as long as was allowed was cut."""
    if given.get(_FINISH_REASON) in (_LENGTH, _STOP):
        return str(given[_FINISH_REASON])
    count, limit = count_tokens([given], "tokens_out"), row.get("max_new_tokens")
    return _LENGTH if count is not None and limit is not None and count >= limit else _STOP


def _count_usage(decoded: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """None where the model does not count both."""
    tokens_in, tokens_out = (count_tokens(decoded, name) for name in ("tokens_in", "tokens_out"))
    if tokens_in is None or tokens_out is None:
        return None
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }


def _render_chat(text: str, finish_reason: str, head: Head) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason,
    }
    return _render(f"chatcmpl-{head.public_id}", "chat.completion", head, choice)


def _render_completion(text: str, finish_reason: str, head: Head) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
    return _render(f"cmpl-{head.public_id}", "text_completion", head, choice)


def _render(name: str, kind: str, head: Head, choice: Mapping[str, Any]) -> dict[str, Any]:
    return _frame(name, kind, head, [choice])


def _frame(
    name: str, kind: str, head: Head, choices: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "id": name,
        "object": kind,
        "created": head.created_s,
        "model": head.model,
        "choices": choices,
    }
