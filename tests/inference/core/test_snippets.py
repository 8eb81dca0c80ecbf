"""The programs as text; that they run is shown in tests/clients and tests/e2e."""

from __future__ import annotations

import ast
import json
import shlex

import pytest

from inference.core.snippets import INLINE_BYTES_MAX, Call, list_snippets
from strongroom.interface import Interface

INTERFACE = Interface.parse(
    {
        "inputs": [
            {"name": "text", "kind": "text", "max_length": 100_000},
            {"name": "odd/name", "kind": "boolean", "default": False},
            {"name": "x", "kind": "tensor", "datatype": "UINT8", "shape": [2, -1]},
        ],
        "outputs": [{"name": "y", "kind": "text"}],
    }
)
NASTY = "it's \"q\" \\ $(id) `id` \n \u2028 </pre><script>é😀'''"
VALUES = {"text": NASTY, "odd/name": True, "x": [[1, 2], [3, 4]]}


def make(task: str = "", values=VALUES, url: str = "https://api.example"):
    call = Call(url, "acme/m", task, INTERFACE, values)
    return {one.name: one for one in list_snippets(call)}


def test_a_shell_reads_the_body_as_it_is():
    words = shlex.split(make()["curl"].text.replace("\\\n", " "))

    assert json.loads(words[words.index("--data-binary") + 1]) == {"input": VALUES}


@pytest.mark.parametrize("name", ["strongroom", "replicate", "tritonclient"])
def test_python_reads_the_values_as_they_are(name):
    tree = ast.parse(make()[name].text)

    (assigned,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "values"
    ]
    assert ast.literal_eval(assigned) == VALUES


def test_openais_client_is_shown_where_it_can_call():
    assert "openai" not in make()
    assert "embeddings.create" in make("feature-extraction")["openai"].text
    assert "chat.completions" in make("text-generation")["openai"].text
    ast.parse(make("text-generation")["openai"].text)


@pytest.mark.parametrize("size", [0, 1])
def test_a_long_input_comes_from_a_file(size):
    room = INLINE_BYTES_MAX - len(json.dumps({"text": ""}))
    snippets = make(values={"text": "x" * (room + size)})

    for name in ("curl", "strongroom", "replicate", "tritonclient", "javascript"):
        assert ("input.json" in snippets[name].text) is bool(size)
        assert len(snippets[name].text) < 2_000 + (0 if size else INLINE_BYTES_MAX)


def test_each_program_has_one_place_for_the_key_and_none_in_it():
    for one in make("text-generation").values():
        assert one.text.count(one.key_slot) == 1
        assert "sk_" not in one.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [("https://api.example", '"api.example", ssl=True'), ("http://h:81", '"h:81")')],
)
def test_tritons_client_is_told_of_tls(url, shown):
    assert shown in make(url=url)["tritonclient"].text
