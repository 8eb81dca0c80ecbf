from __future__ import annotations

import pytest

from inference.serving.errors import LoadError, RequestError
from inference.serving.runtimes import chat
from inference.serving.runtimes.chat import ChatTemplate

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
