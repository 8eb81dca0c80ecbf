"""What goes into a model and what comes out: the contract of every prediction.

The interface is written once by the creator, travels in the signed manifest, and then
decides everything that touches inputs: the form in the browser, the check in the
gateway, the tensors that reach Triton. So it is strict: an unknown member is refused,
not ignored, and every number has a limit.

`Interface.check_input` runs on the hot path of the gateway. Lists are therefore checked
with set, min, max and sum over the whole list, which run in C; only a list that fails
is searched item by item, to say where.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NoReturn

from strongroom.errors import Fault, InputError, InterfaceError

# More inputs or outputs than this is not a form that a person fills in.
MAX_INPUTS = 32
MAX_OUTPUTS = 32
# Class lists of real classifiers end far below; each label is sent with the manifest.
MAX_LABELS = 4096
MAX_LABEL_LENGTH = 256
MAX_CHOICES = 256
MAX_CHOICE_LENGTH = 256
MAX_TOP = 100
MAX_DESCRIPTION_LENGTH = 500
# 64 MiB of FP32: larger tensors do not belong into a JSON body.
MAX_TENSOR_ELEMENTS = 16 * 1024 * 1024
MAX_RANK = 8
DEFAULT_TEXT_LENGTH = 8192
MAX_TEXT_LENGTH = 1024 * 1024
MAX_BATCH_SIZE = 1024
# Of a picture, a sound or a file within the input itself; a larger one is named by its id.
MAX_DATA_URL_LENGTH = 256 * 1024
# From telephones to studios; every browser plays what lies between.
MIN_SAMPLE_RATE_HZ = 8_000
MAX_SAMPLE_RATE_HZ = 48_000
# A body may name thousands of unknown inputs; the answer stays small.
MAX_FAULTS = 16

# What a text may stand for: a data URL, or a file of the account by its id or its address.
FORMATS = ("image", "audio", "file")
FILE_ID = re.compile(r"file_[a-z2-7]{26}")
FILE_URL = re.compile(r"https?://[^/\s]+/v1/files/(file_[a-z2-7]{26})(?:/content)?(?:\?\S*)?")
DATA_URL = re.compile(r"data:([a-z0-9.+-]+/[a-z0-9.+-]+)(?:;[a-z0-9-]+=[^;,\s]+)*;base64,")

# The plainest of each, to try a model with: one black dot, one silent sample, one zero.
PLAIN_FILES: Mapping[str, str] = {
    "image": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4"
    "nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==",
    "audio": "data:audio/wav;base64,UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIA"
    "AAAAAA==",
    "file": "data:application/octet-stream;base64,AA==",
}

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,63}")

_FLOAT32_MAX = 3.4028234663852886e38
_FLOAT64_MAX = 1.7976931348623157e308

# What an element may be, by datatype. Floats list their largest finite value.
RANGES: Mapping[str, tuple[float, float] | tuple[int, int]] = {
    "FP32": (-_FLOAT32_MAX, _FLOAT32_MAX),
    "FP64": (-_FLOAT64_MAX, _FLOAT64_MAX),
    "INT64": (-(2**63), 2**63 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "INT8": (-(2**7), 2**7 - 1),
    "UINT64": (0, 2**64 - 1),
    "UINT32": (0, 2**32 - 1),
    "UINT16": (0, 2**16 - 1),
    "UINT8": (0, 2**8 - 1),
}
FLOAT_DATATYPES = frozenset({"FP32", "FP64"})
TENSOR_DATATYPES = frozenset({*RANGES, "BOOL"})

# The datatypes each kind may have; the first is the default. A tensor must name its own.
KIND_DATATYPES: Mapping[str, tuple[str, ...]] = {
    "text": ("BYTES",),
    "choice": ("BYTES",),
    "number": ("FP32", "FP64"),
    "integer": ("INT64", "INT32"),
    "boolean": ("BOOL",),
}
AUDIO, IMAGE = "audio/wav", "image/png"
MEDIA_TYPES = (AUDIO, IMAGE)
# Of a tensor that is answered as a sound or a picture: its numbers are samples or shades.
MEDIA_DATATYPES: Mapping[str, tuple[str, ...]] = {
    AUDIO: ("FP32", "FP64", "INT16"),
    IMAGE: ("UINT8",),
}
# Grey, RGB, and RGB with transparency.
IMAGE_CHANNELS = (1, 3, 4)
INPUT_KINDS = ("text", "number", "integer", "boolean", "choice", "tensor")
OUTPUT_KINDS = ("text", "number", "integer", "boolean", "tensor", "label")

_COMMON = frozenset({"name", "kind", "description"})
_INPUT_COMMON = _COMMON | {"required", "default", "example"}
_INPUT_MEMBERS: Mapping[str, frozenset[str]] = {
    "text": _INPUT_COMMON | {"max_length", "format"},
    "choice": _INPUT_COMMON | {"choices"},
    "number": _INPUT_COMMON | {"minimum", "maximum", "datatype", "allow_nan"},
    "integer": _INPUT_COMMON | {"minimum", "maximum", "datatype"},
    "boolean": _INPUT_COMMON,
    "tensor": _INPUT_COMMON | {"minimum", "maximum", "datatype", "shape", "allow_nan"},
}
_OUTPUT_COMMON = _COMMON | {"hidden"}
_OUTPUT_MEMBERS: Mapping[str, frozenset[str]] = {
    "text": _OUTPUT_COMMON | {"stream"},
    "number": _OUTPUT_COMMON | {"datatype"},
    "integer": _OUTPUT_COMMON | {"datatype"},
    "boolean": _OUTPUT_COMMON,
    "tensor": _OUTPUT_COMMON | {"datatype", "shape", "media_type", "sample_rate_hz"},
    "label": _OUTPUT_COMMON | {"source", "labels", "top"},
}


class _ValueFaultError(Exception):
    """A value that does not fit; the caller knows which input it belongs to."""

    def __init__(self, code: str, detail: str, path: Sequence[int] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.path = "".join(f"/{step}" for step in path)


@dataclass(frozen=True, slots=True)
class Input:
    """One named input. Members that do not belong to its kind keep their defaults.

    A text with a `format` stands for a picture, a sound or any file: the model gets its octets.
    `shape` has no batch axis; -1 is a variable length. An empty shape is one value.
    """

    name: str
    kind: str
    datatype: str
    description: str = ""
    required: bool = True
    default: Any = None
    example: Any = None
    minimum: float | None = None
    maximum: float | None = None
    max_length: int = DEFAULT_TEXT_LENGTH
    choices: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    allow_nan: bool = False
    format: str = ""

    @property
    def wire_shape(self) -> tuple[int, ...]:
        """The shape that Triton sees, without the batch axis: never empty."""
        return self.shape or (1,)

    def to_json(self) -> dict[str, Any]:
        """The shortest description that parses to this input."""
        members: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.description:
            members["description"] = self.description
        if not self.required:
            members["required"] = False
            members["default"] = self.default
        if self.example is not None:
            members["example"] = self.example
        for name in ("minimum", "maximum"):
            if getattr(self, name) is not None:
                members[name] = getattr(self, name)
        if self.format:
            members["format"] = self.format
        if self.kind == "text" and self.max_length != DEFAULT_TEXT_LENGTH:
            members["max_length"] = self.max_length
        if self.choices:
            members["choices"] = list(self.choices)
        members.update(_datatype_json(self.kind, self.datatype, self.shape))
        if self.allow_nan:
            members["allow_nan"] = True
        return members

    def check(self, value: Any) -> Any:
        """The value as it is sent on, or `_ValueFaultError`."""
        return _CHECKS[self.kind](self, value)

    def allows_all(self, elements: list[Any]) -> bool:
        """Whether `check` would pass each of these numbers or truth values."""
        try:
            _check_elements(self, elements)
        except _ValueFaultError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Output:
    """One named output. A label is derived from the tensor output named `source`.

    A text with `stream` can be had piece by piece while the model writes it. A tensor with a
    `media_type` is answered as a file: samples in one channel from -1 to 1 (or INT16) as WAV,
    height x width x channels of UINT8 as PNG.
    """

    name: str
    kind: str
    datatype: str = ""
    description: str = ""
    hidden: bool = False
    shape: tuple[int, ...] = ()
    source: str = ""
    labels: tuple[str, ...] = ()
    top: int = 1
    stream: bool = False
    media_type: str = ""
    sample_rate_hz: int = 0

    @property
    def wire_shape(self) -> tuple[int, ...]:
        """The shape that Triton sends, without the batch axis: never empty."""
        return self.shape or (1,)

    def to_json(self) -> dict[str, Any]:
        """The shortest description that parses to this output."""
        members: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.description:
            members["description"] = self.description
        if self.hidden:
            members["hidden"] = True
        if self.stream:
            members["stream"] = True
        if self.kind == "label":
            members |= {"source": self.source, "labels": list(self.labels)}
            if self.top != 1:
                members["top"] = self.top
            return members
        members.update(_datatype_json(self.kind, self.datatype, self.shape))
        if self.media_type:
            members["media_type"] = self.media_type
        if self.sample_rate_hz:
            members["sample_rate_hz"] = self.sample_rate_hz
        return members


@dataclass(frozen=True, slots=True)
class Batch:
    """How many rows one call may hold, and whether the graph itself has that axis.

    `coalesce` says whether rows of different requests may be in one call.
    """

    max_size: int = 1
    leading_axis: bool = True
    coalesce: bool = True

    def to_json(self) -> dict[str, Any]:
        """The first two members, always; the third where it is not as usual."""
        usual = {"max_size": self.max_size, "leading_axis": self.leading_axis}
        return usual if self.coalesce else {**usual, "coalesce": False}


@dataclass(frozen=True, slots=True)
class Interface:
    """Inputs, outputs and batch of one model version. Build it with `Interface.parse`."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    batch: Batch = Batch()
    # What a consumer is answered, in order.
    visible_outputs: tuple[Output, ...] = field(init=False, repr=False, compare=False)
    # What Triton is asked for: every output but the derived labels.
    wire_outputs: tuple[Output, ...] = field(init=False, repr=False, compare=False)
    # The text that can be had piece by piece.
    streamed_output: Output | None = field(init=False, repr=False, compare=False)
    inputs_by_name: Mapping[str, Input] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Made once: every prediction asks for them.
        derived = {
            "visible_outputs": tuple(one for one in self.outputs if not one.hidden),
            "wire_outputs": tuple(one for one in self.outputs if one.kind != "label"),
            "streamed_output": next((one for one in self.outputs if one.stream), None),
            "inputs_by_name": {one.name: one for one in self.inputs},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, value: Any) -> Interface:
        """Read an interface from decoded JSON.

        Raises:
            InterfaceError: With a JSON pointer to the first fault and its code.
        """
        members = _Members(value, "")
        members.refuse_unknown(frozenset({"inputs", "outputs", "batch"}))
        inputs = tuple(
            _parse_input(one) for one in members.objects("inputs", 1, MAX_INPUTS, "too_many_inputs")
        )
        outputs = tuple(
            _parse_output(one)
            for one in members.objects("outputs", 1, MAX_OUTPUTS, "too_many_outputs")
        )
        _refuse_repeated(inputs, "inputs")
        _refuse_repeated(outputs, "outputs")
        _check_outputs(outputs)
        batch = _parse_batch(members)
        _check_streams(outputs, batch)
        return cls(inputs, outputs, batch)

    def to_json(self) -> dict[str, Any]:
        """The normal form: `Interface.parse(i.to_json()) == i`."""
        return {
            "inputs": [one.to_json() for one in self.inputs],
            "outputs": [one.to_json() for one in self.outputs],
            "batch": self.batch.to_json(),
        }

    def check_input(self, values: Any, *, pointer: str = "/input") -> dict[str, Any]:
        """Check one input and fill in the defaults.

        Args:
            values: Decoded JSON: input name to value. Tensors are nested lists or, if
                at most one axis is variable, one flat list.
            pointer: Where the input stands in the request, for the faults.

        Returns:
            A value for every input, in the order of the interface. Lists are passed on
            as they are, not copied.

        Raises:
            InputError: With every fault, at most `MAX_FAULTS`.
        """
        if not isinstance(values, dict):
            detail = "The input must be an object of names and values."
            raise InputError([Fault(pointer=pointer, detail=detail, code="type_mismatch")])
        checked: dict[str, Any] = {}
        faults: list[Fault] = []
        for one in self.inputs:
            place = f"{pointer}/{escape_pointer(one.name)}"
            if one.name not in values:
                if one.required:
                    faults.append(Fault(pointer=place, detail="Is required.", code="required"))
                else:
                    checked[one.name] = one.default
                continue
            try:
                checked[one.name] = one.check(values[one.name])
            except _ValueFaultError as fault:
                faults.append(
                    Fault(pointer=place + fault.path, detail=fault.detail, code=fault.code)
                )
        if not self.inputs_by_name.keys() >= values.keys():
            faults.extend(self._unknown(values, pointer))
        if faults:
            raise InputError(faults[:MAX_FAULTS])
        return checked

    def _unknown(self, values: Mapping[Any, Any], pointer: str) -> list[Fault]:
        unknown = [str(name)[:64] for name in values if name not in self.inputs_by_name][
            :MAX_FAULTS
        ]
        return [
            Fault(
                pointer=f"{pointer}/{escape_pointer(name)}",
                detail="The model has no such input.",
                code="unknown_input",
            )
            for name in unknown
        ]


def escape_pointer(name: str) -> str:
    """One step of a JSON pointer. Source: RFC 6901 section 3."""
    return name.replace("~", "~0").replace("/", "~1")


# --- Values -----------------------------------------------------------------------


def _check_text(one: Input, value: Any) -> str:
    if type(value) is not str:
        raise _ValueFaultError("type_mismatch", "Must be a text.")
    if one.format:
        return _check_file(one, value)
    if len(value) > one.max_length:
        detail = f"Has {len(value)} characters; {one.max_length} are allowed."
        raise _ValueFaultError("too_long", detail)
    if not value.isascii() and not is_encodable(value):
        raise _ValueFaultError("not_unicode", "Holds half of a surrogate pair.")
    return value


def _check_file(one: Input, value: str) -> str:
    if not value.startswith("data:"):
        if FILE_ID.fullmatch(value) or FILE_URL.fullmatch(value):
            return value
        if value.startswith(("http:", "https:")):
            detail = (
                "Addresses elsewhere are not fetched. Put the file up with POST /v1/files, "
                "and give its id."
            )
            raise _ValueFaultError("url_refused", detail)
        detail = "Must be a data URL in base64, or the id of a file: file_…"
        raise _ValueFaultError("not_a_file", detail)
    if len(value) > MAX_DATA_URL_LENGTH:
        detail = (
            f"Has {len(value)} characters; {MAX_DATA_URL_LENGTH} are allowed. Put it up with "
            "POST /v1/files, and give its id."
        )
        raise _ValueFaultError("too_long", detail)
    read_data_url(one, value)
    return value


def read_data_url(one: Input, value: str) -> bytes:
    """The octets of a data URL, whose type fits the input's format."""
    head = DATA_URL.match(value)
    if head is None:
        raise _ValueFaultError("not_a_file", "Must be a data URL in base64, with a type.")
    if one.format != "file" and not head[1].startswith(f"{one.format}/"):
        detail = f"Is {head[1]}; the model takes {one.format}/…"
        raise _ValueFaultError("type_mismatch", detail)
    try:
        return base64.b64decode(value[head.end() :], validate=True)
    except ValueError:
        raise _ValueFaultError("not_a_file", "What follows is no base64.") from None


def _check_choice(one: Input, value: Any) -> str:
    if type(value) is not str:
        raise _ValueFaultError("type_mismatch", "Must be a text.")
    if value not in one.choices:
        shown = ", ".join(one.choices[:10]) + (", …" if len(one.choices) > 10 else "")
        raise _ValueFaultError("not_a_choice", f"Must be one of: {shown}.")
    return value


def _check_boolean(_: Input, value: Any) -> bool:
    if type(value) is not bool:
        raise _ValueFaultError("type_mismatch", "Must be true or false.")
    return value


def _check_number(one: Input, value: Any) -> float:
    _check_elements(one, [value])
    return float(value)


def _check_integer(one: Input, value: Any) -> int:
    _check_elements(one, [value])
    return int(value)


def _check_tensor(one: Input, value: Any) -> Any:
    if not one.shape:
        _check_elements(one, [value])
        return value
    if type(value) is not list:
        raise _ValueFaultError("type_mismatch", "Must be a list.")
    is_flat = len(one.shape) > 1 and bool(value) and type(value[0]) is not list
    lengths = _check_flat(one, value) if is_flat else None
    if lengths is not None:
        _check_elements(one, value)
        return value
    elements, lengths = _flatten(one, value)
    try:
        _check_elements(one, elements)
    except _ValueFaultError as fault:
        if not fault.path:
            raise
        path = _unravel(int(fault.path[1:]), lengths)
        raise _ValueFaultError(fault.code, fault.detail, path) from None
    return value


def _check_flat(one: Input, value: list[Any]) -> list[int]:
    if one.shape.count(-1) > 1:
        detail = "Must be nested: with two variable axes a flat list has no shape."
        raise _ValueFaultError("shape_mismatch", detail)
    _check_element_count(len(value))
    fixed = math.prod(length for length in one.shape if length != -1)
    fits = len(value) % fixed == 0 if -1 in one.shape else len(value) == fixed
    if not fits:
        detail = f"Has {len(value)} values; the shape is {_show_shape(one.shape)}."
        raise _ValueFaultError("shape_mismatch", detail)
    return [len(value)]


def _flatten(one: Input, value: list[Any]) -> tuple[list[Any], list[int]]:
    """All elements in order, and the length of each axis."""
    level: list[Any] = [value]
    lengths: list[int] = []
    count = 1
    for expected in one.shape:
        if set(map(type, level)) != {list}:
            at = next(i for i, item in enumerate(level) if type(item) is not list)
            raise _ValueFaultError("type_mismatch", "Must be a list.", _unravel(at, lengths))
        length = len(level[0])
        if len(set(map(len, level))) != 1:
            at = next(i for i, item in enumerate(level) if len(item) != length)
            detail = f"Has {len(level[at])} values, the one before it {length}."
            raise _ValueFaultError("ragged", detail, _unravel(at, lengths))
        if length != expected and (expected != -1 or length == 0):
            detail = f"Has {length} values; the shape is {_show_shape(one.shape)}."
            raise _ValueFaultError("shape_mismatch", detail, _unravel(0, lengths))
        count *= length
        _check_element_count(count)
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))
        lengths.append(length)
    return level, lengths


def _check_element_count(count: int) -> None:
    if count > MAX_TENSOR_ELEMENTS:
        detail = f"Has more than {MAX_TENSOR_ELEMENTS} values."
        raise _ValueFaultError("too_large", detail)


def _unravel(index: int, lengths: Sequence[int]) -> list[int]:
    """The path of item `index` in nested lists of these lengths."""
    path: list[int] = []
    for length in reversed(lengths):
        index, step = divmod(index, length)
        path.append(step)
    return path[::-1]


def _check_elements(one: Input, elements: list[Any]) -> None:
    """Types, ranges and finiteness of all elements; the path of a fault is its index."""
    types = set(map(type, elements))
    if one.datatype == "BOOL":
        if types != {bool}:
            _raise_type(one, elements, {bool})
        return
    allowed: set[type] = {int, float} if one.datatype in FLOAT_DATATYPES else {int}
    if not types <= allowed:
        _raise_type(one, elements, allowed)
    if float in types and not _is_sum_finite(elements):
        _check_finite(one, elements)
    low, high = RANGES[one.datatype]
    ordered = elements
    if float in types and one.allow_nan:
        # NaN has no order, and infinity has no range: both were asked for.
        ordered = [value for value in elements if type(value) is int or math.isfinite(value)]
    if ordered:
        _check_range(one, elements, min(ordered), max(ordered), low, high)


def _raise_type(one: Input, elements: list[Any], allowed: set[type]) -> NoReturn:
    at = next(i for i, value in enumerate(elements) if type(value) not in allowed)
    what = "true or false" if allowed == {bool} else "an integer"
    if float in allowed:
        what = "a number"
    raise _ValueFaultError("type_mismatch", f"Must be {what}.", _step(one, at))


def _step(one: Input, at: int) -> list[int]:
    # A single value is its own place; only elements of a tensor have an index.
    return [at] if one.shape else []


def _is_sum_finite(elements: list[Any]) -> bool:
    # NaN and infinity survive a sum, so a finite sum clears every element at C speed.
    # A sum that overflows only costs the slower look.
    try:
        return math.isfinite(sum(elements))
    except OverflowError:
        return False


def _check_finite(one: Input, elements: list[Any]) -> None:
    if one.allow_nan:
        return
    for at, value in enumerate(elements):
        if type(value) is float and not math.isfinite(value):
            raise _ValueFaultError("not_finite", "Must be a finite number.", _step(one, at))


def _check_range(
    one: Input, elements: list[Any], smallest: float, largest: float, low: float, high: float
) -> None:
    fits = f"Does not fit into {one.datatype}."
    if smallest < low:
        code, detail, value = "out_of_range", fits, smallest
    elif largest > high:
        code, detail, value = "out_of_range", fits, largest
    elif one.minimum is not None and smallest < one.minimum:
        code, detail, value = "below_minimum", f"Must be at least {one.minimum}.", smallest
    elif one.maximum is not None and largest > one.maximum:
        code, detail, value = "above_maximum", f"Must be at most {one.maximum}.", largest
    else:
        return
    raise _ValueFaultError(code, detail, _step(one, elements.index(value)))


_CHECKS = {
    "text": _check_text,
    "choice": _check_choice,
    "boolean": _check_boolean,
    "number": _check_number,
    "integer": _check_integer,
    "tensor": _check_tensor,
}


def is_encodable(value: str) -> bool:
    """False for text with half of a surrogate pair, which JSON can carry and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _show_shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(length) for length in shape) + "]"


# --- Descriptions -----------------------------------------------------------------


class _Members:
    """The members of one JSON object, read with their pointer."""

    def __init__(self, value: Any, pointer: str) -> None:
        if not isinstance(value, dict):
            raise InterfaceError(pointer, "type_mismatch", "Must be an object.")
        self.value = value
        self.pointer = pointer

    def at(self, name: str) -> str:
        return f"{self.pointer}/{escape_pointer(name)}"

    def fail(self, name: str, code: str, detail: str) -> NoReturn:
        raise InterfaceError(self.at(name), code, detail)

    def refuse_unknown(self, allowed: frozenset[str]) -> None:
        for name in self.value:
            if name not in allowed:
                self.fail(str(name)[:64], "unknown_member", "This member is not known here.")

    def require(self, name: str) -> Any:
        if name not in self.value:
            self.fail(name, "required", "Is required.")
        return self.value[name]

    def text(self, name: str, maximum: int, default: str = "") -> str:
        value = self.value.get(name, default)
        if type(value) is not str or not is_encodable(value):
            self.fail(name, "type_mismatch", "Must be a text.")
        if len(value) > maximum:
            self.fail(name, "too_long", f"At most {maximum} characters are allowed.")
        return str(value)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self.value.get(name, default)
        if type(value) is not int:
            self.fail(name, "type_mismatch", "Must be an integer.")
        if not low <= value <= high:
            self.fail(name, "out_of_range", f"Must be from {low} to {high}.")
        return int(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.value.get(name, default)
        if type(value) is not bool:
            self.fail(name, "type_mismatch", "Must be true or false.")
        return bool(value)

    def number(self, name: str) -> float | None:
        value = self.value.get(name)
        if value is None:
            return None
        if type(value) not in {int, float} or not -_FLOAT64_MAX <= value <= _FLOAT64_MAX:
            self.fail(name, "type_mismatch", "Must be a finite number.")
        return value

    def items(self, name: str, low: int, high: int, code: str) -> list[Any]:
        value = self.require(name)
        if type(value) is not list:
            self.fail(name, "type_mismatch", "Must be a list.")
        if len(value) > high:
            self.fail(name, code, f"At most {high} are allowed.")
        if len(value) < low:
            self.fail(name, "required", f"At least {low} must be given.")
        return list(value)

    def objects(self, name: str, low: int, high: int, code: str) -> Iterator[_Members]:
        for index, one in enumerate(self.items(name, low, high, code)):
            yield _Members(one, f"{self.at(name)}/{index}")

    def texts(self, name: str, high: int, length: int, code: str) -> tuple[str, ...]:
        """Texts that are neither empty nor repeated."""
        values = self.items(name, 1, high, code)
        for index, one in enumerate(values):
            place = f"{self.at(name)}/{index}"
            if type(one) is not str or not is_encodable(one):
                raise InterfaceError(place, "type_mismatch", "Must be a text.")
            if not 1 <= len(one) <= length:
                raise InterfaceError(place, "too_long", f"Must have 1 to {length} characters.")
        if len(set(values)) != len(values):
            self.fail(name, "repeated", "Must not repeat.")
        return tuple(values)


def _parse_named(members: _Members, kinds: Sequence[str]) -> tuple[str, str]:
    name = members.require("name")
    if type(name) is not str or not NAME.fullmatch(name):
        detail = "Must start with a letter or underscore and have at most 64 of A-Za-z0-9_.:/-."
        members.fail("name", "name_invalid", detail)
    kind = members.require("kind")
    if kind not in kinds:
        members.fail("kind", "kind_unknown", f"Must be one of: {', '.join(kinds)}.")
    return name, kind


def _parse_datatype(members: _Members, kind: str) -> str:
    if kind == "tensor":
        datatype = members.require("datatype")
        allowed: Sequence[str] = sorted(TENSOR_DATATYPES)
    else:
        allowed = KIND_DATATYPES[kind]
        datatype = members.value.get("datatype", allowed[0])
    if datatype not in allowed:
        members.fail("datatype", "datatype_unknown", f"Must be one of: {', '.join(allowed)}.")
    return str(datatype)


def _parse_shape(members: _Members) -> tuple[int, ...]:
    shape = members.items("shape", 0, MAX_RANK, "shape_invalid")
    for index, length in enumerate(shape):
        if type(length) is not int or (length < 1 and length != -1):
            raise InterfaceError(
                f"{members.at('shape')}/{index}",
                "shape_invalid",
                "Must be a positive integer, or -1 for a variable length.",
            )
    if math.prod(length for length in shape if length > 0) > MAX_TENSOR_ELEMENTS:
        detail = f"A tensor has at most {MAX_TENSOR_ELEMENTS} values."
        members.fail("shape", "too_large", detail)
    return tuple(shape)


def _parse_input(members: _Members) -> Input:
    name, kind = _parse_named(members, INPUT_KINDS)
    members.refuse_unknown(_INPUT_MEMBERS[kind])
    choices: tuple[str, ...] = ()
    if kind == "choice":
        choices = members.texts("choices", MAX_CHOICES, MAX_CHOICE_LENGTH, "too_many_choices")
    required = members.boolean("required", "default" not in members.value)
    if required and "default" in members.value:
        members.fail("default", "default_not_allowed", "A required input has no default.")
    if not required:
        members.require("default")
    minimum, maximum = members.number("minimum"), members.number("maximum")
    if minimum is not None and maximum is not None and minimum > maximum:
        members.fail("maximum", "out_of_range", "Must not be below the minimum.")
    described = Input(
        name=name,
        kind=kind,
        datatype=_parse_datatype(members, kind),
        description=members.text("description", MAX_DESCRIPTION_LENGTH),
        required=required,
        default=members.value.get("default"),
        example=members.value.get("example"),
        minimum=minimum,
        maximum=maximum,
        max_length=members.integer("max_length", DEFAULT_TEXT_LENGTH, 1, MAX_TEXT_LENGTH),
        choices=choices,
        shape=_parse_shape(members) if kind == "tensor" else (),
        allow_nan=members.boolean("allow_nan", False),
        format=_parse_format(members),
    )
    for example in ("default", "example"):
        if example in members.value:
            _check_example(members, described, example)
    return described


def _parse_format(members: _Members) -> str:
    if "format" not in members.value:
        return ""
    if members.value["format"] not in FORMATS:
        members.fail("format", "format_unknown", f"Must be one of: {', '.join(FORMATS)}.")
    if "max_length" in members.value:
        members.fail("max_length", "max_length_not_allowed", "Files have a limit of their own.")
    return str(members.value["format"])


def _check_example(members: _Members, described: Input, name: str) -> None:
    try:
        described.check(members.value[name])
    except _ValueFaultError as fault:
        raise InterfaceError(members.at(name) + fault.path, fault.code, fault.detail) from None


def _parse_output(members: _Members) -> Output:
    name, kind = _parse_named(members, OUTPUT_KINDS)
    members.refuse_unknown(_OUTPUT_MEMBERS[kind])
    description = members.text("description", MAX_DESCRIPTION_LENGTH)
    hidden = members.boolean("hidden", False)
    if kind != "label":
        datatype = _parse_datatype(members, kind)
        shape = _parse_shape(members) if kind == "tensor" else ()
        media_type, sample_rate_hz = _parse_media(members, datatype, shape)
        return Output(
            name=name,
            kind=kind,
            datatype=datatype,
            description=description,
            hidden=hidden,
            shape=shape,
            stream=members.boolean("stream", False),
            media_type=media_type,
            sample_rate_hz=sample_rate_hz,
        )
    members.require("source")
    labels = members.texts("labels", MAX_LABELS, MAX_LABEL_LENGTH, "too_many_labels")
    return Output(
        name=name,
        kind=kind,
        description=description,
        hidden=hidden,
        source=members.text("source", 64),
        labels=labels,
        top=members.integer("top", 1, 1, min(MAX_TOP, len(labels))),
    )


def _parse_media(members: _Members, datatype: str, shape: tuple[int, ...]) -> tuple[str, int]:
    """Media type and sample rate; empty and 0 where the output is answered as numbers."""
    if "media_type" not in members.value:
        if "sample_rate_hz" in members.value:
            members.fail("sample_rate_hz", "media_invalid", "Only a sound has a sample rate.")
        return "", 0
    media_type = members.value["media_type"]
    if media_type not in MEDIA_TYPES:
        detail = f"Must be one of: {', '.join(MEDIA_TYPES)}."
        members.fail("media_type", "media_type_unknown", detail)
    if datatype not in MEDIA_DATATYPES[media_type]:
        detail = f"{media_type} is made of {' or '.join(MEDIA_DATATYPES[media_type])}."
        members.fail("datatype", "media_invalid", detail)
    if media_type == AUDIO:
        if len(shape) != 1:
            members.fail("shape", "media_invalid", "A sound has one axis: its samples.")
        members.require("sample_rate_hz")
        rate = members.integer("sample_rate_hz", 0, MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ)
        return AUDIO, rate
    if "sample_rate_hz" in members.value:
        members.fail("sample_rate_hz", "media_invalid", "Only a sound has a sample rate.")
    if len(shape) != 3 or shape[2] not in IMAGE_CHANNELS:
        detail = "A picture has three axes: height, width, and 1, 3 or 4 channels."
        members.fail("shape", "media_invalid", detail)
    return IMAGE, 0


def _parse_batch(members: _Members) -> Batch:
    if "batch" not in members.value:
        return Batch()
    batch = _Members(members.value["batch"], members.at("batch"))
    batch.refuse_unknown(frozenset({"max_size", "leading_axis", "coalesce"}))
    max_size = batch.integer("max_size", 1, 1, MAX_BATCH_SIZE)
    leading_axis = batch.boolean("leading_axis", True)
    if not leading_axis and max_size != 1:
        batch.fail("max_size", "out_of_range", "Must be 1 where the graph has no batch axis.")
    return Batch(max_size, leading_axis, batch.boolean("coalesce", True))


def _refuse_repeated(described: Sequence[Input | Output], member: str) -> None:
    seen: set[str] = set()
    for index, one in enumerate(described):
        if one.name in seen:
            raise InterfaceError(f"/{member}/{index}/name", "repeated", "The name is taken.")
        seen.add(one.name)


def _check_outputs(outputs: Sequence[Output]) -> None:
    if all(one.hidden for one in outputs):
        raise InterfaceError("/outputs", "required", "At least one output must be visible.")
    by_name = {one.name: one for one in outputs}
    for index, one in enumerate(outputs):
        if one.kind != "label":
            continue
        place = f"/outputs/{index}"
        source = by_name.get(one.source)
        if source is None or source.kind != "tensor" or source.datatype not in FLOAT_DATATYPES:
            detail = "Must name an output that is a tensor of FP32 or FP64."
            raise InterfaceError(f"{place}/source", "source_unknown", detail)
        if source.shape != (len(one.labels),):
            detail = f"The source must have the shape [{len(one.labels)}], one score a label."
            raise InterfaceError(f"{place}/labels", "shape_mismatch", detail)


def _check_streams(outputs: Sequence[Output], batch: Batch) -> None:
    streamed = [index for index, one in enumerate(outputs) if one.stream]
    for index in streamed:
        place = f"/outputs/{index}/stream"
        if index != streamed[0]:
            raise InterfaceError(place, "repeated", "Only one output can be streamed.")
        if outputs[index].hidden:
            raise InterfaceError(place, "stream_not_allowed", "A hidden output has no readers.")
        if batch.max_size != 1:
            detail = "A model that streams answers one row at a time: batch.max_size must be 1."
            raise InterfaceError(place, "stream_not_allowed", detail)


def _datatype_json(kind: str, datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    if kind == "tensor":
        return {"datatype": datatype, "shape": list(shape)}
    if datatype != KIND_DATATYPES[kind][0]:
        return {"datatype": datatype}
    return {}
