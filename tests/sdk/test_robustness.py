"""Whatever arrives, the answer is one of our refusals: never another exception."""

import copy
import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.errors import InputError, InterfaceError
from strongroom.interface import Interface
from strongroom.listing import Listing, ListingError
from strongroom.onnx_file import OnnxError, _read_model
from strongroom.sealing.canonical import canonicalize
from strongroom.sealing.errors import CanonicalError, ManifestError, WrapError
from strongroom.sealing.manifest import Manifest, check_files
from strongroom.sealing.wrap import WrappedKey
from tests.sdk.test_interface import DIGITS, EVERYTHING
from tests.sdk.test_manifest import GOOD

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, 2**64, -1, 0])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "tensor", "label", "FP32", "x" * 300, "../x", "a/b"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def places(value, path=()):
    """Paths of everything inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, dict | list):
        for key, inner in items:
            yield from (
                places(inner, (*path, key)) if isinstance(inner, dict | list) else [(*path, key)]
            )


def replaced(value, path, new):
    if not path:
        return new
    value = copy.deepcopy(value)
    place = value
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = new
    return value


def attempt(kind, call, *args):
    """The result and None, or None and the refusal; any other exception fails the test."""
    try:
        return call(*args), None
    except kind as error:
        return None, error


@settings(deadline=None, max_examples=400)
@given(data=st.data(), base=st.sampled_from([DIGITS, EVERYTHING]), new=VALUES)
def test_any_interface(data, base, new):
    description = replaced(base, data.draw(st.sampled_from(list(places(base)))), new)

    parsed, error = attempt(InterfaceError, Interface.parse, description)

    assert parsed or error.code
    assert parsed or error.pointer == "" or error.pointer.startswith("/")
    assert error or json.dumps(parsed.to_json())


@settings(deadline=None, max_examples=400)
@given(
    interface=st.sampled_from([Interface.parse(DIGITS), Interface.parse(EVERYTHING)]),
    values=VALUES
    | st.dictionaries(
        st.sampled_from(["image", "prompt", "style", "count", "heat", "loud", "seed"]), VALUES
    ),
)
def test_any_input(interface, values):
    checked, error = attempt(InputError, interface.check_input, values)

    faults = error.errors if error else [{"pointer": "", "detail": "", "code": ""}]
    assert 1 <= len(faults) <= 16
    assert all(set(one) == {"pointer", "detail", "code"} for one in faults)
    assert error or list(checked) == [one.name for one in interface.inputs]
    assert error or math.isfinite(checked.get("heat", 0))


@settings(deadline=None, max_examples=400)
@given(data=st.data(), new=VALUES)
def test_any_manifest(data, new):
    description = replaced(GOOD, data.draw(st.sampled_from(list(places(GOOD)))), new)
    raw, error = attempt(CanonicalError, canonicalize, description)

    parsed, refusal = attempt(ManifestError, Manifest.parse, raw or json.dumps(description))

    assert error or parsed or refusal.code
    assert not (error and parsed)


@given(VALUES)
def test_any_announcement(value):
    for files in (value, [value], [GOOD["files"][0], value]):
        _, error = attempt(ManifestError, check_files, files)
        assert error.code


@given(VALUES)
def test_any_wrap(value):
    for wrapped in (value, {"recipient": value, "kid": "k", "suite": value, "blob": value}):
        _, error = attempt(WrapError, WrappedKey.parse, wrapped)
        assert error.code == "key_wrap_invalid"


LISTING = {
    "owner": "acme",
    "name": "digits",
    "title": "Digits",
    "task": "ocr",
    "licence": "MIT",
    "price_dollars_per_prediction": "0.5",
    "interface": DIGITS,
    "test_vectors": [
        {"input": {"image": [[0] * 8] * 8}, "expected": {"digit": {}}, "tolerance": 0.1}
    ],
}


@settings(deadline=None, max_examples=400)
@given(data=st.data(), new=VALUES)
def test_any_listing(data, new):
    path = data.draw(st.sampled_from([one for one in places(LISTING) if one]))

    parsed, error = attempt(ListingError, Listing.parse, replaced(LISTING, path, new))

    assert parsed or error.code == "listing_invalid"


@settings(deadline=None, max_examples=400)
@given(st.binary(max_size=120))
def test_any_bytes_as_onnx(content):
    for data in (content, b"\x3a" + bytes([len(content)]) + content):
        found, error = attempt(OnnxError, _read_model, memoryview(data))
        assert found or error.code == "onnx_malformed"
