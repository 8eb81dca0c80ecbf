from __future__ import annotations

import json
import sys

import pytest

from inference.serving.errors import LoadError, RequestError
from inference.serving.runtimes import chat
from inference.serving.runtimes.chat import ChatTemplate, read_messages

MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hello, {{ 7 * 7 }}!"},
]
SMOLLM = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def render(source: str, messages=MESSAGES) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages)


def test_prompt_is_put_into_the_template_and_not_run():
    assert render(SMOLLM) == (
        "<|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\nHello, {{ 7 * 7 }}!<|im_end|>\n<|im_start|>assistant\n"
    )


def test_templates_find_what_they_expect():
    source = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{{ m | tojson }}{% endfor %}{{ strftime_now('%Y') | length }}"
    )

    assert render(source) == '<s>{"content": "Hello, {{ 7 * 7 }}!", "role": "user"}4'


_HOSTILE = {
    "globals": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "function": "{{ raise_exception.__globals__.keys() }}",
    "code": "{{ strftime_now.__code__.co_consts }}",
    "change": "{{ messages.append(1) }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "large_range": "{% for i in range(10**9) %}x{% endfor %}",
    "endless_output": "{% for i in range(99999) %}{{ messages[0].content * 99 }}{% endfor %}",
    "many_pieces": "{% for i in range(99999) %}{% for j in range(9) %}{{ '' }}{% endfor %}"
    "{% endfor %}",
    "refusal": "{{ raise_exception('no system prompt') }}",
    "unknown": "{{ nothing.at.all }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("_case", _HOSTILE)
def test_hostile_template_fails_alone(_case):
    with pytest.raises(RequestError) as caught:
        render(_HOSTILE[_case])

    assert caught.value.reason_code == "chat_template_failed"
    assert "root:" not in caught.value.detail


def test_without_jinjas_sandbox_the_first_would_run(monkeypatch):
    import jinja2
    import jinja2.sandbox

    monkeypatch.setattr(jinja2.sandbox, "ImmutableSandboxedEnvironment", jinja2.Environment)

    assert "uid=" in render(_HOSTILE["globals"])


@pytest.mark.parametrize("_source", ["{{", "{% if %}", "{% generation %}x{% endgeneration %}"])
def test_template_that_cannot_be_read_is_refused(_source):
    with pytest.raises(LoadError, match="chat_template_refused"):
        ChatTemplate(_source, {})


def test_output_may_be_as_long_as_the_prompt_needs(monkeypatch):
    monkeypatch.setattr(chat, "MAX_OVERHEAD_LENGTH", 10)
    messages = [{"role": "user", "content": "x" * 1000}]

    assert len(render("{{ messages[0].content }}" * 2, messages)) == 2000
    with pytest.raises(RequestError, match="chat_template_failed"):
        render("{{ messages[0].content }}" * 3, messages)


# --- What would take for ever ---

_ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops_over_a_text": "{% set s = messages[0].content * 9999 %}{% for a in s %}{% for b in s %}"
    "{% for c in s %}{% endfor %}{% endfor %}{% endfor %}",
    "repeated_text": "{{ 'a' * 10 ** 9 }}",
    "repeated_from_the_left": "{{ 10 ** 9 * 'a' }}",
    "repeated_list": "{% set x = [1] * 10 ** 9 %}",
    "repeated_repetition": "{% set x = 'a' * 1000000 %}{% set x = x * 1000 %}{{ x | length }}",
    "power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "product": "{% set x = 2 ** 200 %}{% set x = x * x %}{% set x = x * x %}{{ x }}",
}


@pytest.mark.parametrize("_case", _ENDLESS)
def test_template_that_takes_for_ever_is_ended(_case, monkeypatch):
    monkeypatch.setattr(chat, "MAX_RENDER_S", 0.2)

    with pytest.raises(RequestError) as caught:
        render(_ENDLESS[_case])

    assert caught.value.reason_code == "chat_template_failed"


def test_limit_on_time_is_over_with_the_block(monkeypatch):
    before = sys.gettrace()
    monkeypatch.setattr(chat, "MAX_RENDER_S", 0.0)
    with pytest.raises(RequestError):
        render(SMOLLM)

    assert sys.gettrace() is before


def test_small_numbers_may_be_multiplied():
    assert render("{{ 2 ** 10 * 3 }}{{ 'ab' * 2 }}") == "3072abab"


# --- Conversations ---


def test_conversation_is_read():
    assert read_messages(json.dumps(MESSAGES)) == MESSAGES
    assert len(read_messages(json.dumps(MESSAGES[:1] * chat.MAX_MESSAGES))) == chat.MAX_MESSAGES


@pytest.mark.parametrize(
    "_messages",
    [
        [],
        {},
        [5],
        [{"role": "user"}],
        [{"role": "tool", "content": ""}],
        [{"role": ["user"], "content": ""}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "", "name": ""}],
        MESSAGES[:1] * (chat.MAX_MESSAGES + 1),
    ],
)
def test_what_is_no_conversation_is_the_requests_fault(_messages):
    with pytest.raises(RequestError) as caught:
        read_messages(json.dumps(_messages))

    assert (caught.value.reason_code, caught.value.is_input_fault) == ("messages_invalid", True)


@pytest.mark.parametrize("_text", ["[", "[" * 100_000])
def test_what_is_no_json_is_the_requests_fault(_text):
    with pytest.raises(RequestError) as caught:
        read_messages(_text)

    assert caught.value.is_input_fault
