"""Whatever stands in a body or a header is read or refused, and nothing else happens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
import tracemalloc
import types
import zlib
from urllib.parse import quote

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from inference.gateway import auth, catalog, deadline, idempotency
from inference.gateway.compression import inflate
from inference.gateway.config import (
    IDEMPOTENCY_KEY_LENGTH_MAX,
    JSON_DEPTH_MAX,
    QUERY_FIELDS_MAX,
    REFERENCE_LENGTH_MAX,
    WAIT_MAX_S,
)
from inference.gateway.http import Request, parse_json
from inference.gateway.origin import Origins
from inference.gateway.protocols import native
from inference.gateway.protocols.oip_request import LENGTH_HEADER, read_json_length
from inference.gateway.tag import read_tag
from inference.gateway.tracing import read_traceparent
from marketplace.core.address import parse_address, parse_network
from marketplace.core.errors import MarketplaceError
from marketplace.core.ids import from_public, new_id, to_public
from tests.gateway.hostile import INTEGERS, JSON, TEXTS, Refused, fuzz, try_out

LIMIT_BYTES = 100_000


# --- JSON ---


def depth_of(document) -> int:
    inner = document.values() if isinstance(document, dict) else document
    return 1 + max(map(depth_of, inner), default=0) if isinstance(document, list | dict) else 0


@fuzz
@given(st.one_of(st.binary(max_size=60), JSON.map(lambda one: json.dumps(one).encode())))
@example(b'{"a":1,"a":2}')
@example(b"\xef\xbb\xbf{}")
@example(b'"\xff"')
@example(b'"\\ud800"')
@example(b'{"\\udfff": NaN}')
@example(b"[NaN, " + b"9" * 5000 + b"]")
@example(b"-" + b"9" * 5000)
@example(b"1e" + b"9" * 5000)
@example(b"\x00")
@example(b"[" * (JSON_DEPTH_MAX + 1))
@example(b'{"":' * (JSON_DEPTH_MAX + 1))
def test_json_can_be_sent_back_as_it_was_read(body):
    check_json(parse_json, body)


def check_json(parse, body):
    document = try_out(lambda: parse(body))

    if not isinstance(document, Refused):
        assert depth_of(document) <= JSON_DEPTH_MAX
        # An answer repeats its input: what was taken must be possible to say.
        again = orjson.loads(orjson.dumps(document))
        assert same(again, document)


def same(one, other) -> bool:
    """Equal, but for NaN and infinity, which an answer says as null."""
    if isinstance(other, float) and not math.isfinite(other):
        return one is None
    if isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in other)
    return one == other


def test_numbers_are_the_same_beside_a_nan():
    numbers = "[18446744073709551615, 18446744073709551616, -9223372036854775809, 1.5]"

    read = parse_json(f"[NaN, {numbers}]".encode())[1]

    assert read == parse_json(numbers.encode())
    assert [type(one) for one in read] == [int, float, float, float]


@given(st.integers(1, 60), st.sampled_from(["[", '{"a":', '[{"":']), st.binary(max_size=5))
def test_depth_is_counted_whatever_follows(depth, opening, rest):
    body = opening.encode() * depth + rest

    assume(depth * (opening.count("[") + opening.count("{")) > JSON_DEPTH_MAX)
    assert isinstance(try_out(lambda: parse_json(body)), Refused)


# --- Compression ---


@fuzz
@given(st.binary(max_size=200), st.sampled_from([15, 31]), st.data())
def test_compressed_body_is_whole_or_refused(plain, window_bits, data):
    packer = zlib.compressobj(wbits=window_bits)
    packed = packer.compress(plain) + packer.flush()
    assert inflate(packed, window_bits, len(plain)) == plain

    cut = data.draw(st.integers(0, len(packed) - 1))
    damaged = bytearray(packed)
    damaged[cut] ^= data.draw(st.integers(1, 255))
    for body in (packed[:cut], packed + packed, packed + b"\0", b"\0" + packed):
        assert isinstance(try_out(lambda body=body: inflate(body, window_bits, 1000)), Refused)
    # The ten bytes of gzip's head say when and where a file was packed: they may differ.
    found = try_out(lambda: inflate(bytes(damaged), window_bits, 1000))
    assert isinstance(found, Refused) or found == plain


@fuzz
@given(st.binary(max_size=200), st.sampled_from([15, 31]))
def test_what_is_not_compressed_is_refused_or_within_the_limit(body, window_bits):
    found = try_out(lambda: inflate(body, window_bits, 50))

    assert isinstance(found, Refused) or len(found) <= 50


@pytest.mark.parametrize("_window_bits", [15, 31])
@pytest.mark.parametrize("_layers", [1, 2])
def test_bomb_costs_no_more_than_the_limit(_window_bits, _layers):
    bomb = bytes(64 * 1024 * 1024)
    for _ in range(_layers):
        packer = zlib.compressobj(level=9, wbits=_window_bits)
        bomb = packer.compress(bomb) + packer.flush()
    assert len(bomb) < LIMIT_BYTES
    tracemalloc.start()
    try:
        found = try_out(lambda: inflate(bomb, _window_bits, LIMIT_BYTES))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # One layer only is taken off: what is inside is no JSON then.
    assert isinstance(found, Refused) == (_layers == 1)
    assert peak_bytes < 4 * LIMIT_BYTES


# --- Headers ---

HEADER_TEXTS = st.one_of(
    st.none(),
    TEXTS,
    st.text(st.characters(max_codepoint=255), max_size=300),
    st.integers(0, 2000).map(lambda length: "k" * length),
)


@fuzz
@given(HEADER_TEXTS)
@example("")
@example('""')
@example('"')
@example('"' + "k" * IDEMPOTENCY_KEY_LENGTH_MAX + '"')
@example("k" * (IDEMPOTENCY_KEY_LENGTH_MAX + 1))
@example("a\x7f")
def test_idempotency_key_is_printable_or_refused(text):
    # A header that cannot be read is there, and has no value.
    key = try_out(lambda: idempotency.read_key({"idempotency-key": text}))

    if not isinstance(key, Refused):
        assert 1 <= len(key) <= IDEMPOTENCY_KEY_LENGTH_MAX
        assert key.isascii()
        assert key.isprintable()
        assert key in text
    assert idempotency.read_key({}) is None


@fuzz
@given(
    st.one_of(
        HEADER_TEXTS,
        st.builds(
            "{}{}{}".format,
            st.sampled_from(["Bearer", "bearer", "TOKEN", "Basic", "Digest", ""]),
            st.sampled_from([" ", "  ", "\t", ""]),
            st.one_of(
                TEXTS, st.binary(max_size=20).map(lambda one: base64.b64encode(one).decode())
            ),
        ),
    ),
    st.booleans(),
)
@example("Bearer sk_live_" + "a" * 38, False)
@example("Basic " + base64.b64encode(b":\xff").decode(), True)
@example("Bearer " + "9" * 1024, False)
@example("Bearer " + "9" * 1025, False)
def test_credential_is_ascii_or_refused(text, allow_basic):
    credential = try_out(lambda: auth._read_credential(text, allow_basic=allow_basic))

    if isinstance(credential, Refused):
        assert credential.error.http_status == 401
    else:
        assert credential
        # It is hashed: UTF-8 must be able to say it.
        credential.encode()


@fuzz
@given(st.one_of(TEXTS, st.from_regex(r"sp_[A-Za-z0-9_=-]{0,40}\.[A-Za-z0-9_=-]{0,40}")))
@example("sp_" + "A" * 43 + "." + "A" * 43)
@example("sp_.")
@example("sp_")
def test_token_of_the_site_is_refused_unless_it_is_signed(token):
    authenticator = auth.Authenticator(None, playground_secret="secret")

    assert isinstance(try_out(lambda: authenticator._open_token(token)), Refused)


@fuzz
@given(JSON)
@example({"account": str(new_id()), "exp": None})
@example({"account": 1, "exp": 1})
@example({"account": str(new_id()), "exp": 10**400})
def test_signed_token_of_another_kind_is_refused(claims):
    authenticator = auth.Authenticator(None, playground_secret="secret")
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    mark = hmac.new(b"secret", text.encode(), hashlib.sha256).digest()
    token = f"sp_{text}.{base64.urlsafe_b64encode(mark).decode().rstrip('=')}"

    assert isinstance(try_out(lambda: authenticator._open_token(token)), Refused)


@fuzz
@given(st.one_of(HEADER_TEXTS, INTEGERS.map(str)), st.integers(0, 1000))
@example("+1", 10)
@example(" 1", 10)
@example("1_0", 100)
@example("٣", 10)
@example("0", 10)
@example("9" * 5000, 10)
def test_length_of_the_json_part_is_exact_or_refused(text, body_bytes):
    length = try_out(lambda: read_json_length({LENGTH_HEADER: text}, body_bytes))

    assert isinstance(length, Refused) or (1 <= length <= body_bytes and text.isdigit())


@fuzz
@given(st.one_of(HEADER_TEXTS, st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")))
@example("00-" + "0" * 32 + "-" + "0" * 16 + "-00")
def test_trace_of_a_client_is_read_or_passed_over(text):
    found = read_traceparent(text)

    assert found is None or f"{found[0]:032x}-{found[1]:016x}" in text


TIMES = st.one_of(
    HEADER_TEXTS, st.from_regex(r"[0-9]{0,4}h?[0-9]{0,7}m?[0-9]{0,8}s?", fullmatch=True)
)


@fuzz
@given(st.dictionaries(st.sampled_from(["cancel-after", "x-request-timeout-ms"]), TIMES))
@example({"cancel-after": "٩s"})
@example({"cancel-after": "9" * 5000})
@example({"x-request-timeout-ms": "0"})
@example({"x-request-timeout-ms": "1e3"})
@example({"x-request-timeout-ms": "²"})
def test_time_of_a_caller_is_within_the_limit_or_refused(headers):
    found = try_out(lambda: deadline.read_deadline(headers, 60))

    assert isinstance(found, Refused) or 0 < found <= 60


@fuzz
@given(st.one_of(HEADER_TEXTS, st.from_regex(r"[A-Za-z0-9._:-]{0,66}", fullmatch=True)))
@example("")
@example("²")
@example("a\n")
def test_tag_is_kept_as_it_is_or_refused(text):
    found = try_out(lambda: read_tag({"strongroom-tag": text}))

    assert isinstance(found, Refused) or (found == text and 1 <= len(text) <= 64)


@fuzz
@given(st.one_of(HEADER_TEXTS, TIMES.map(lambda one: f"wait={one}"), TIMES.map("{};wait".format)))
@example("wait=")
@example("wait=0")
@example("WAIT = 5 ; x")
@example("respond-async, wait=61")
@example(",,,=;")
def test_preference_is_read_passed_over_or_refused(text):
    found = try_out(lambda: deadline.read_wait({"prefer": text}))

    if found is not None and not isinstance(found, Refused):
        assert 0 < found[1] <= WAIT_MAX_S
        # It is sent back in a header.
        assert re.fullmatch(r"wait(=\d+)?", found[0], re.ASCII)


class ForwardedHeaders(dict):
    def get_all(self, name):
        return self.get(name, [])


@fuzz
@given(
    st.lists(
        st.one_of(HEADER_TEXTS.map(lambda one: one or ""), st.ip_addresses().map(str)), max_size=3
    ),
    st.one_of(TEXTS, st.ip_addresses().map("{}:1".format), st.just("127.0.0.1:1")),
)
@example(["10.0.0.1," * 50], "127.0.0.1:1")
@example(["1.2.3.4%eth0"], "127.0.0.1:1")
@example(["::ffff:1.2.3.4"], "[::1]:1")
def test_origin_is_an_address_or_unknown(entries, peer):
    origins = Origins([parse_network("127.0.0.0/8"), parse_network("10.0.0.0/8")])
    request = types.SimpleNamespace(
        headers=ForwardedHeaders({"x-forwarded-for": entries} if entries else {}),
        scope=types.SimpleNamespace(client=peer),
    )

    found = origins.find(request)

    assert found is None or parse_address(str(found)) == found
    if found is not None and peer != "127.0.0.1:1":
        # What anybody writes counts only where a proxy of ours is the peer.
        assert found == parse_address(peer) or parse_address(peer) in origins._trusted


# --- Names, ids and cursors ---

NAME = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}[a-z0-9]", fullmatch=True)


@fuzz
@given(
    st.one_of(
        JSON,
        TEXTS,
        st.builds(
            "{}/{}{}{}".format,
            NAME,
            NAME,
            st.sampled_from(["", ":", "@", "/", "\n", "\x00"]),
            st.one_of(st.just(""), TEXTS, INTEGERS.map(str), st.just("a" * 64)),
        ),
    )
)
@example("owner/name\n")
@example("owner/name:٣")
@example("owner/name:" + "9" * 20)
@example("a/" * REFERENCE_LENGTH_MAX)
def test_reference_names_what_can_exist_or_nothing(text):
    reference = try_out(lambda: catalog.parse_reference(text))

    if isinstance(reference, Refused):
        assert reference.code == "not_found"
        return
    mark = {"channel": "@", "bare": ""}.get(reference.kind, ":")
    whole = f"{reference.owner}/{reference.name}{mark}{reference.value}".removeprefix("/")
    assert text in (whole, whole.removesuffix(f"@{catalog.DEFAULT_CHANNEL}"))
    assert reference.kind != "number" or int(reference.value) < 2**31


@fuzz
@given(st.one_of(TEXTS, st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26)))
@example("a" * 25)
@example("7" * 26)
@example("A" * 26)
@example("0" * 26)
def test_id_comes_back_as_it_was_or_is_unknown(text):
    found = try_out(lambda: native.read_prediction_id(text))

    assert isinstance(found, Refused) or to_public(found) == text
    for cursor in (text, f"n{text}", f"p{text}"):
        read = try_out(lambda cursor=cursor: native._read_cursor(cursor))
        if not isinstance(read, Refused):
            is_backward, anchor = read
            assert cursor == f"{'p' if is_backward else 'n'}{to_public(anchor)}"


@given(st.uuids())
def test_every_id_has_one_public_form(identifier):
    assert from_public(to_public(identifier)) == identifier


@fuzz
@given(st.one_of(TEXTS, st.datetimes(timezones=st.timezones()).map(lambda one: one.isoformat())))
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59.999999-23:59")
@example("2026-11-21")
@example("20261121T00Z")
@example("2026-W47-6")
def test_moment_has_a_time_zone_and_fits_into_the_calendar(text):
    moment = try_out(lambda: native._read_time("created_after", text))

    if not isinstance(moment, Refused):
        # In UTC: that is what is compared with.
        assert moment.astimezone(native.UTC) == moment


@fuzz
@given(st.one_of(TEXTS.map(quote), TEXTS, st.integers(0, 60).map(lambda n: "&".join("a" * n))))
@example("=" * 100)
@example("a=%ff&b=%00&%C3%28")
@example("&".join("a" * QUERY_FIELDS_MAX))
@example("&".join("a" * (QUERY_FIELDS_MAX + 1)))
def test_query_has_few_fields(text):
    request = Request("GET", "/", [""], text, {}, None, None, 0, 0.0)

    query = try_out(lambda: request.query)

    assert isinstance(query, Refused) or len(query) <= QUERY_FIELDS_MAX
    is_too_many = text.count("&") + 1 > QUERY_FIELDS_MAX
    assert isinstance(query, Refused) == is_too_many


@fuzz
@given(JSON)
def test_native_envelope_is_an_object_with_an_input_or_refused(document):
    read = try_out(lambda: native._read_document(json.dumps(document).encode()))

    if not isinstance(read, Refused):
        assert read.keys() <= {"input", "version", "stream"}
        assert "input" in read


# --- The checks above notice ---


def test_an_error_that_is_none_of_ours_is_noticed():
    with pytest.raises(ValueError, match="invalid literal"):
        try_out(lambda: int("x"))
    with pytest.raises(AssertionError):
        try_out(lambda: (_ for _ in ()).throw(MarketplaceError()))


@pytest.mark.parametrize(
    "_body", [b"[9999999999999999999999]", b'"\\ud800"', b"]", b"[" * 40 + b"]" * 40]
)
def test_a_reader_that_lets_too_much_in_is_noticed(_body):
    check_json(parse_json, _body)

    with pytest.raises((AssertionError, TypeError, ValueError)):
        check_json(json.loads, _body)
