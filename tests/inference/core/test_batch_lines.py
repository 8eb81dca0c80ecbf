"""Lines of a batch's file: whatever comes, each good line is found and each bad one is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference.core.batch_lines import (
    CUSTOM_ID_LENGTH_MAX,
    FileTooLargeError,
    Line,
    TooManyLinesError,
    read_lines,
)


def read(text: str | bytes, **limits: int) -> list[Line]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_lines([data], **limits))


def test_lines_have_their_number_name_and_input():
    found = read('{"custom_id":"a","input":{"x":1}}\n\n{"input":{}}\r\n{"input":{"t":"ü"}}')

    assert found == [
        Line(1, "a", '{"x":1}'),
        Line(3, "", "{}"),
        Line(4, "", '{"t":"ü"}'),
    ]


def test_a_file_may_begin_with_a_byte_order_mark():
    assert read(b'\xef\xbb\xbf{"input":{}}\n') == [Line(1, "", "{}")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "bad_json"),
        ("nonsense", "bad_json"),
        ('{"input":{"x":NaN}}', "bad_json"),
        (b'{"input":{"x":"\xff"}}', "bad_json"),
        ('{"input":{"x":"\\ud800"}}', "bad_json"),
        ('{"input":{"x":"a\\u0000b"}}', "bad_json"),
        ('{"input":{"a\\u0000":1}}', "bad_json"),
        ('{"input":' + "[" * 2_000 + "]" * 2_000 + "}", "bad_json"),
        ('{"input":{"x":' + "[" * 400 + "]" * 400 + "}}", "bad_json"),
        ("[1]", "bad_line"),
        ("null", "bad_line"),
        ("{}", "bad_line"),
        ('{"input":[1]}', "bad_line"),
        ('{"input":{},"url":"/v1"}', "bad_line"),
        ('{"custom_id":7,"input":{}}', "bad_line"),
        ('{"custom_id":null,"input":{}}', "bad_line"),
        ('{"custom_id":"a\\nb","input":{}}', "bad_line"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_read(text, code):
    data = text if isinstance(text, bytes) else text.encode()
    found = read(data + b'\n{"input":{}}\n')

    assert [(one.number, one.code) for one in found] == [(1, code), (2, "")]
    assert found[0].input is None
    assert found[0].detail


def test_a_name_comes_once():
    same = '{"custom_id":"a","input":{}}\n'

    assert [one.code for one in read(same * 3)] == ["", *["duplicate_custom_id"] * 2]


def test_a_name_has_so_many_characters_and_no_more():
    def code(length: int) -> str:
        [line] = read(json.dumps({"custom_id": "n" * length, "input": {}}))
        return line.code

    assert code(CUSTOM_ID_LENGTH_MAX) == ""
    assert code(CUSTOM_ID_LENGTH_MAX + 1) == "bad_line"


def test_a_line_has_so_many_bytes_and_no_more():
    line = b'{"input":{"t":"abc"}}'

    def codes(size: int, end: bytes) -> list[str]:
        return [one.code for one in read(line + end + b'{"input":{}}', line_bytes_max=size)]

    for end in (b"\n", b"\r\n"):
        assert codes(len(line), end) == ["", ""]
        assert codes(len(line) - 1, end) == ["line_too_long", ""]
    assert [one.code for one in read(line, line_bytes_max=len(line) - 1)] == ["line_too_long"]


def test_a_file_has_so_many_lines_and_no_more():
    assert len(read('{"input":{}}\n' * 5 + "\n", lines_max=5)) == 5
    with pytest.raises(TooManyLinesError):
        read('{"input":{}}\n' * 6, lines_max=5)


def test_a_file_has_so_many_bytes_and_no_more():
    text = '{"input":{}}\n'

    assert len(read(text, file_bytes_max=len(text))) == 1
    with pytest.raises(FileTooLargeError):
        read(text, file_bytes_max=len(text) - 1)


# As small as the limits of the test, so that most examples come near them.
_TEXTS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda name, value: json.dumps({"custom_id": name, "input": {"x": value}}).encode(),
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        ),
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_TEXTS, max_size=8), st.sampled_from([b"\n", b"\r\n"]), st.integers(1, 20), st.data()
)
@example([b"", b" ", b"\r"], b"\n", 1, None)
def test_whatever_comes_each_line_is_good_or_named(texts, end, step, data):
    """However the file is cut in pieces, the same lines are found; what is kept, JSON takes."""
    whole = end.join(texts)
    pieces = [whole[at : at + step] for at in range(0, len(whole), step)]

    found = list(read_lines(pieces, line_bytes_max=40))

    assert found == list(read_lines([whole], line_bytes_max=40))
    numbers = [one.number for one in found]
    assert numbers == sorted(set(numbers))
    for one in found:
        assert (one.input is None) == bool(one.code)
        if one.input is not None:
            assert isinstance(json.loads(one.input), dict)
            assert "\\u0000" not in one.input.replace("\\\\", "")
    names = [one.custom_id for one in found if one.custom_id and one.input is not None]
    assert len(names) == len(set(names))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers(-9, 9), max_size=3), max_size=9))
def test_good_lines_come_out_as_they_went_in(inputs):
    inputs = [{k: v for k, v in one.items() if "\x00" not in k} for one in inputs]
    text = "\n".join(json.dumps({"input": one}) for one in inputs)

    assert [json.loads(one.input or "") for one in read(text)] == inputs
