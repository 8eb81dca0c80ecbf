"""Canonical JSON and base64: one text for one value."""

import json
import math
import random
import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.sealing.canonical import (
    MAX_DEPTH,
    canonicalize,
    decode_base64,
    encode_base64,
    parse_canonical,
)
from strongroom.sealing.errors import CanonicalError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # RFC 8785, appendix B.
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (-5e-324, "-5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740992, "9007199254740992"),
        (-9007199254740992, "-9007199254740992"),
        (295147905179352830000, "295147905179352830000"),
        (295147905179352825856.0, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e23, "1e+23"),
        (1.0000000000000001e23, "1.0000000000000001e+23"),
        (999999999999999700000, "999999999999999700000"),
        (999999999999999900000, "999999999999999900000"),
        (1e21, "1e+21"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (0.000001, "0.000001"),
        (333333333.3333332, "333333333.3333332"),
        (333333333.33333325, "333333333.33333325"),
        (1424953923781206.2, "1424953923781206.2"),
        (1.0, "1"),
        (0.1, "0.1"),
        (1e-7, "1e-7"),
        (12.5e-8, "1.25e-7"),
        (10**20, "100000000000000000000"),
        (10**22, "1e+22"),
        (True, "true"),
        (None, "null"),
        ('€$\x0f\nA\'B"\\"/\x7f\u2028', '"€$\\u000f\\nA\'B\\"\\\\\\"/\x7f\u2028"'),
        ((1, [2]), "[1,[2]]"),
        ({"b": 1, "a": {"d": [], "c": {}}}, '{"a":{"c":{},"d":[]},"b":1}'),
    ],
)
def test_texts_of_values(value, text):
    assert canonicalize(value).decode() == text


def test_keys_are_sorted_by_utf16_units():
    """The order of RFC 8785 section 3.2.3."""
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\xf6": 7}

    names = list(json.loads(canonicalize(value)))

    assert names == ["\r", "1", "\x80", "\xf6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        [-math.inf],
        2**53 + 1,
        2**60,
        2**64 - 1,
        10**400,
        {1: 2},
        {None: 2},
        {"a": {True: 1}},
        "\ud800",
        {"\ud800": 1},
        b"bytes",
        {1, 2},
        object(),
    ],
)
def test_values_without_a_canonical_text_are_refused(value):
    with pytest.raises(CanonicalError) as refused:
        canonicalize(value)

    assert refused.value.code == "not_canonical"


def test_depth_is_limited():
    value = 1
    for _ in range(MAX_DEPTH):
        value = [value]

    assert canonicalize(value).count(b"[") == MAX_DEPTH
    with pytest.raises(CanonicalError):
        canonicalize([value])


@given(JSON)
def test_the_canonical_text_parses_back(value):
    raw = canonicalize(value)

    assert canonicalize(parse_canonical(raw)) == raw
    # As JavaScript reads it: every number is a double.
    assert json.loads(raw, parse_int=float) == value


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"NaN", "not_json"),
        (b"-Infinity", "not_json"),
        (b"\xff", "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b"9" * 5000, "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"1e999", "not_canonical"),
        (b"1.0", "not_canonical"),
        (b"{} ", "not_canonical"),
        (b'{"b":1,"a":2}', "not_canonical"),
        (b'{"a":1,"a":1}', "not_canonical"),
        (b'"\\u0041"', "not_canonical"),
        (b'"\\ud800"', "not_canonical"),
    ],
)
def test_texts_that_are_not_canonical_are_refused(raw, code):
    with pytest.raises(CanonicalError) as refused:
        parse_canonical(raw)

    assert refused.value.code == code


def test_numbers_agree_with_javascript(tmp_path):
    node = shutil.which("node")
    if node is None:
        # The fixed answers above stand for JavaScript where there is none.
        return
    # Every pattern of bits is as likely as another, so all exponents come, and subnormal numbers.
    bits = random.Random(8785)
    drawn = struct.unpack("<4000d", bits.randbytes(8 * 4000))
    numbers = [one for one in drawn if math.isfinite(one)]
    written = tmp_path / "numbers.json"
    written.write_text(json.dumps(numbers))
    script = "process.stdout.write(JSON.stringify(JSON.parse(fs.readFileSync(process.argv[1]))))"

    answer = subprocess.run([node, "-e", script, written], capture_output=True, check=False)

    assert answer.returncode == 0, answer.stderr.decode()
    assert canonicalize(numbers) == answer.stdout


def test_base64_has_one_spelling():
    assert decode_base64(encode_base64(b"\x00\xff")) == b"\x00\xff"
    assert encode_base64(b"\x00\xff") == "AP8="
    for text in ("AP8", "AP9=", "AP8=\n", " AP8=", "AP-_", "AP8==", None, b"AP8=", "é"):
        with pytest.raises(CanonicalError) as refused:
            decode_base64(text)
        assert refused.value.code == "base64_invalid"


def test_base64_of_another_size_is_refused():
    with pytest.raises(CanonicalError, match="3 bytes"):
        decode_base64("AP8=", size_bytes=3)
