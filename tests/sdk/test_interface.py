"""The interface: what a description may say, and what an input may be."""

import copy
import json
import math
import time

import pytest

from strongroom import interface as module
from strongroom.errors import InputError, InterfaceError
from strongroom.interface import Batch, Input, Interface

DIGITS = {
    "inputs": [
        {"name": "image", "kind": "tensor", "datatype": "FP32", "shape": [8, 8]},
    ],
    "outputs": [
        {
            "name": "probabilities",
            "kind": "tensor",
            "datatype": "FP32",
            "shape": [3],
            "hidden": True,
        },
        {
            "name": "digit",
            "kind": "label",
            "source": "probabilities",
            "labels": ["0", "1", "2"],
            "top": 2,
        },
    ],
    "batch": {"max_size": 32, "leading_axis": True},
}

EVERYTHING = {
    "inputs": [
        {"name": "prompt", "kind": "text", "max_length": 20, "description": "What to say."},
        {"name": "style", "kind": "choice", "choices": ["plain", "grand"], "default": "plain"},
        {"name": "count", "kind": "integer", "minimum": 1, "maximum": 8, "default": 2},
        {"name": "heat", "kind": "number", "minimum": 0, "maximum": 2, "default": 0.5},
        {"name": "loud", "kind": "boolean", "default": False},
        {"name": "seed", "kind": "integer", "datatype": "INT32", "default": 0, "example": 7},
    ],
    "outputs": [{"name": "text", "kind": "text"}, {"name": "n", "kind": "integer"}],
}


def tensor(datatype="FP32", shape=(4,), **members):
    described = {"name": "x", "kind": "tensor", "datatype": datatype, "shape": list(shape)}
    return Interface.parse(
        {
            "inputs": [described | members],
            "outputs": [{"name": "y", "kind": "number"}],
        }
    )


def refusal(interface, value):
    with pytest.raises(InputError) as refused:
        interface.check_input(value)
    return [(one["pointer"], one["code"]) for one in refused.value.errors]


def parse_refusal(description):
    with pytest.raises(InterfaceError) as refused:
        Interface.parse(description)
    return refused.value.pointer, refused.value.code


def changed(description, path, value):
    """A copy with one member replaced, or removed where `value` is `...`."""
    description = copy.deepcopy(description)
    *steps, last = path
    place = description
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return description


@pytest.mark.parametrize("description", [DIGITS, EVERYTHING])
def test_an_interface_survives_its_own_json(description):
    parsed = Interface.parse(description)

    again = Interface.parse(json.loads(json.dumps(parsed.to_json())))

    assert again == parsed
    assert again.to_json() == parsed.to_json()


def test_json_of_an_interface_is_short():
    assert Interface.parse(DIGITS).to_json() == DIGITS
    assert Interface.parse(EVERYTHING).to_json()["inputs"][1] == {
        "name": "style",
        "kind": "choice",
        "required": False,
        "default": "plain",
        "choices": ["plain", "grand"],
    }


def test_kinds_get_their_datatype_and_shape_on_the_wire():
    by_name = {one.name: one for one in Interface.parse(EVERYTHING).inputs}

    assert [(one.datatype, one.wire_shape) for one in by_name.values()] == [
        ("BYTES", (1,)),
        ("BYTES", (1,)),
        ("INT64", (1,)),
        ("FP32", (1,)),
        ("BOOL", (1,)),
        ("INT32", (1,)),
    ]


def test_visible_and_wire_outputs():
    digits = Interface.parse(DIGITS)

    assert [one.name for one in digits.visible_outputs] == ["digit"]
    assert [one.name for one in digits.wire_outputs] == ["probabilities"]
    assert digits.batch == Batch(max_size=32, leading_axis=True)


@pytest.mark.parametrize(
    ("_case", "path", "value", "pointer", "code"),
    [
        ("no inputs", ["inputs"], [], "/inputs", "required"),
        ("inputs missing", ["inputs"], ..., "/inputs", "required"),
        ("inputs an object", ["inputs"], {}, "/inputs", "type_mismatch"),
        ("input a text", ["inputs", 0], "image", "/inputs/0", "type_mismatch"),
        ("unknown member", ["inputs", 0, "shpae"], [1], "/inputs/0/shpae", "unknown_member"),
        (
            "other kind's member",
            ["inputs", 0, "choices"],
            [],
            "/inputs/0/choices",
            "unknown_member",
        ),
        ("unknown top member", ["version"], 1, "/version", "unknown_member"),
        ("name missing", ["inputs", 0, "name"], ..., "/inputs/0/name", "required"),
        ("name starts with digit", ["inputs", 0, "name"], "1x", "/inputs/0/name", "name_invalid"),
        ("name with newline", ["inputs", 0, "name"], "x\n", "/inputs/0/name", "name_invalid"),
        ("name of 65", ["inputs", 0, "name"], "x" * 65, "/inputs/0/name", "name_invalid"),
        ("kind unknown", ["inputs", 0, "kind"], "image", "/inputs/0/kind", "kind_unknown"),
        ("kind not hashable", ["inputs", 0, "kind"], [], "/inputs/0/kind", "kind_unknown"),
        ("label as input", ["inputs", 0, "kind"], "label", "/inputs/0/kind", "kind_unknown"),
        ("datatype missing", ["inputs", 0, "datatype"], ..., "/inputs/0/datatype", "required"),
        (
            "datatype unknown",
            ["inputs", 0, "datatype"],
            "FP16",
            "/inputs/0/datatype",
            "datatype_unknown",
        ),
        ("shape missing", ["inputs", 0, "shape"], ..., "/inputs/0/shape", "required"),
        ("zero length", ["inputs", 0, "shape"], [8, 0], "/inputs/0/shape/1", "shape_invalid"),
        ("minus two", ["inputs", 0, "shape"], [-2], "/inputs/0/shape/0", "shape_invalid"),
        ("true as length", ["inputs", 0, "shape"], [True], "/inputs/0/shape/0", "shape_invalid"),
        ("nine axes", ["inputs", 0, "shape"], [1] * 9, "/inputs/0/shape", "shape_invalid"),
        (
            "one element too many",
            ["inputs", 0, "shape"],
            [module.MAX_TENSOR_ELEMENTS + 1],
            "/inputs/0/shape",
            "too_large",
        ),
        (
            "long description",
            ["inputs", 0, "description"],
            "x" * 501,
            "/inputs/0/description",
            "too_long",
        ),
        ("optional, no default", ["inputs", 0, "required"], False, "/inputs/0/default", "required"),
        (
            "required as text",
            ["inputs", 0, "required"],
            "yes",
            "/inputs/0/required",
            "type_mismatch",
        ),
        ("bad default", ["inputs", 0, "default"], [[1]], "/inputs/0/default", "shape_mismatch"),
        ("bad example", ["inputs", 0, "example"], "x", "/inputs/0/example", "type_mismatch"),
        ("all hidden", ["outputs", 1, "hidden"], True, "/outputs", "required"),
        ("same name", ["outputs", 1, "name"], "probabilities", "/outputs/1/name", "repeated"),
        ("no source", ["outputs", 1, "source"], "logits", "/outputs/1/source", "source_unknown"),
        (
            "label of itself",
            ["outputs", 1, "source"],
            "digit",
            "/outputs/1/source",
            "source_unknown",
        ),
        (
            "label too few",
            ["outputs", 1, "labels"],
            ["a", "b"],
            "/outputs/1/labels",
            "shape_mismatch",
        ),
        ("label twice", ["outputs", 1, "labels"], ["a", "a", "b"], "/outputs/1/labels", "repeated"),
        (
            "label empty",
            ["outputs", 1, "labels"],
            ["a", "", "b"],
            "/outputs/1/labels/1",
            "too_long",
        ),
        (
            "label a surrogate",
            ["outputs", 1, "labels"],
            ["a", "\ud800", "b"],
            "/outputs/1/labels/1",
            "type_mismatch",
        ),
        ("top above labels", ["outputs", 1, "top"], 4, "/outputs/1/top", "out_of_range"),
        (
            "integer source",
            ["outputs", 0, "datatype"],
            "INT64",
            "/outputs/1/source",
            "source_unknown",
        ),
        ("batch of none", ["batch", "max_size"], 0, "/batch/max_size", "out_of_range"),
        ("batch too large", ["batch", "max_size"], 1025, "/batch/max_size", "out_of_range"),
        ("coalesce of what", ["batch", "coalesce"], "yes", "/batch/coalesce", "type_mismatch"),
        ("batch true", ["batch", "max_size"], True, "/batch/max_size", "type_mismatch"),
        ("no batch axis", ["batch", "leading_axis"], False, "/batch/max_size", "out_of_range"),
    ],
)
def test_a_faulty_description_is_refused_with_its_place(_case, path, value, pointer, code):
    assert parse_refusal(changed(DIGITS, path, value)) == (pointer, code)


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_a_description_must_be_an_object(value):
    assert parse_refusal(value) == ("", "type_mismatch")


def test_a_required_input_has_no_default():
    description = changed(EVERYTHING, ["inputs", 2, "required"], True)

    assert parse_refusal(description) == ("/inputs/2/default", "default_not_allowed")


def test_minimum_above_maximum_is_refused():
    description = changed(EVERYTHING, ["inputs", 2, "minimum"], 9)

    assert parse_refusal(description) == ("/inputs/2/maximum", "out_of_range")


def test_nan_as_minimum_is_refused():
    description = changed(EVERYTHING, ["inputs", 3, "minimum"], math.nan)

    assert parse_refusal(description) == ("/inputs/3/minimum", "type_mismatch")


def test_an_integer_beyond_all_floats_is_refused_as_minimum():
    description = changed(EVERYTHING, ["inputs", 3, "minimum"], -(10**400))

    assert parse_refusal(description) == ("/inputs/3/minimum", "type_mismatch")


def test_members_of_rare_use_survive_json():
    description = {
        "inputs": [
            {
                "name": "x",
                "kind": "tensor",
                "datatype": "FP64",
                "shape": [],
                "allow_nan": True,
                "description": "One number.",
            }
        ],
        "outputs": [
            {"name": "y", "kind": "integer", "datatype": "INT32", "description": "Its floor."}
        ],
        "batch": {"max_size": 1, "leading_axis": False},
    }

    parsed = Interface.parse(description)

    assert parsed.to_json() == description
    assert (parsed.inputs[0].wire_shape, parsed.outputs[0].wire_shape) == ((1,), (1,))
    assert str(InterfaceError("/x", "required", "No.")) == "required at /x: No."


@pytest.mark.parametrize("member", ["inputs", "outputs"])
def test_number_of_inputs_and_outputs_is_limited(member):
    def description(count):
        many = [{"name": f"x{i}", "kind": "number"} for i in range(count)]
        return changed(EVERYTHING, [member], many)

    assert len(getattr(Interface.parse(description(32)), member)) == 32
    assert parse_refusal(description(33)) == (f"/{member}", f"too_many_{member}")


def test_number_of_labels_is_limited():
    def description(count):
        many = changed(DIGITS, ["outputs", 1, "labels"], [str(i) for i in range(count)])
        return changed(many, ["outputs", 0, "shape"], [count])

    assert len(Interface.parse(description(4096)).outputs[1].labels) == 4096
    assert parse_refusal(description(4097)) == ("/outputs/1/labels", "too_many_labels")


def test_limits_are_reached_exactly():
    description = changed(DIGITS, ["inputs", 0, "shape"], [module.MAX_TENSOR_ELEMENTS])
    description = changed(description, ["inputs", 0, "description"], "x" * 500)
    description = changed(description, ["inputs", 0, "name"], "x" * 64)
    description = changed(description, ["batch", "max_size"], 1024)

    assert Interface.parse(description).batch.max_size == 1024


def test_defaults_are_filled_in_and_order_is_the_interfaces():
    checked = Interface.parse(EVERYTHING).check_input({"loud": True, "prompt": "hi"})

    assert list(checked.items()) == [
        ("prompt", "hi"),
        ("style", "plain"),
        ("count", 2),
        ("heat", 0.5),
        ("loud", True),
        ("seed", 0),
    ]


@pytest.mark.parametrize(
    ("_case", "values", "faults"),
    [
        ("missing", {}, [("/input/prompt", "required")]),
        ("not an object", [], [("/input", "type_mismatch")]),
        ("null", {"prompt": None}, [("/input/prompt", "type_mismatch")]),
        ("number for text", {"prompt": 1}, [("/input/prompt", "type_mismatch")]),
        ("long", {"prompt": "x" * 21}, [("/input/prompt", "too_long")]),
        ("surrogate", {"prompt": "\ud800"}, [("/input/prompt", "not_unicode")]),
        ("choice", {"prompt": "", "style": "wild"}, [("/input/style", "not_a_choice")]),
        ("choice list", {"prompt": "", "style": ["plain"]}, [("/input/style", "type_mismatch")]),
        ("true as integer", {"prompt": "", "count": True}, [("/input/count", "type_mismatch")]),
        ("float as integer", {"prompt": "", "count": 2.0}, [("/input/count", "type_mismatch")]),
        ("below", {"prompt": "", "count": 0}, [("/input/count", "below_minimum")]),
        ("above", {"prompt": "", "count": 9}, [("/input/count", "above_maximum")]),
        ("int32", {"prompt": "", "seed": 2**31}, [("/input/seed", "out_of_range")]),
        ("true as number", {"prompt": "", "heat": False}, [("/input/heat", "type_mismatch")]),
        ("nan", {"prompt": "", "heat": math.nan}, [("/input/heat", "not_finite")]),
        ("infinity", {"prompt": "", "heat": -math.inf}, [("/input/heat", "not_finite")]),
        ("huge integer", {"prompt": "", "heat": 10**400}, [("/input/heat", "out_of_range")]),
        ("too large for FP32", {"prompt": "", "heat": 1e39}, [("/input/heat", "out_of_range")]),
        ("one as boolean", {"prompt": "", "loud": 1}, [("/input/loud", "type_mismatch")]),
        ("unknown", {"prompt": "", "a/b~c": 1}, [("/input/a~1b~0c", "unknown_input")]),
        (
            "several",
            {"count": 0, "what": 1},
            [
                ("/input/prompt", "required"),
                ("/input/count", "below_minimum"),
                ("/input/what", "unknown_input"),
            ],
        ),
    ],
)
def test_a_faulty_input_is_refused_with_every_place(_case, values, faults):
    assert refusal(Interface.parse(EVERYTHING), values) == faults


def test_text_at_its_limit_and_numbers_at_theirs_pass():
    values = {"prompt": "é" * 20, "count": 8, "heat": 2, "seed": -(2**31)}

    checked = Interface.parse(EVERYTHING).check_input(values)

    assert checked["prompt"] == "é" * 20
    assert (checked["count"], checked["seed"]) == (8, -(2**31))
    assert type(checked["heat"]) is float


def test_the_answer_to_a_flood_of_unknown_inputs_stays_small():
    flood = {"n" * 1000 + str(i): 1 for i in range(10_000)}

    faults = refusal(Interface.parse(EVERYTHING), flood)

    assert len(faults) == module.MAX_FAULTS
    assert max(len(pointer) for pointer, _ in faults) < 100


def test_the_pointer_prefix_is_the_callers():
    with pytest.raises(InputError) as refused:
        Interface.parse(EVERYTHING).check_input({}, pointer="/rows/3")

    assert refused.value.errors[0]["pointer"] == "/rows/3/prompt"


@pytest.mark.parametrize(
    ("_case", "shape", "value"),
    [
        ("flat of a vector", [4], [1, 2.5, 3, 4]),
        ("nested", [2, 2], [[1, 2], [3, 4]]),
        ("flat of a matrix", [2, 2], [1, 2, 3, 4]),
        ("variable", [-1], [1.0] * 7),
        ("variable rows nested", [-1, 2], [[1, 2]] * 5),
        ("variable rows flat", [-1, 2], [1, 2] * 5),
        ("two variable axes nested", [-1, -1], [[1, 2, 3], [4, 5, 6]]),
        ("no axis", [], 3.5),
        ("one of one", [1, 1, 1], [[[1]]]),
    ],
)
def test_tensors_that_fit(_case, shape, value):
    checked = tensor(shape=shape).check_input({"x": value})

    assert checked["x"] is value


@pytest.mark.parametrize(
    ("_case", "shape", "value", "pointer", "code"),
    [
        ("a number", [4], 1, "/input/x", "type_mismatch"),
        ("a text", [4], "1234", "/input/x", "type_mismatch"),
        ("an object", [4], {"0": 1}, "/input/x", "type_mismatch"),
        ("empty", [4], [], "/input/x", "shape_mismatch"),
        ("empty variable", [-1], [], "/input/x", "shape_mismatch"),
        ("empty rows", [-1, -1], [[], []], "/input/x/0", "shape_mismatch"),
        ("one short", [4], [1, 2, 3], "/input/x", "shape_mismatch"),
        ("one long", [4], [1, 2, 3, 4, 5], "/input/x", "shape_mismatch"),
        ("flat, one short", [2, 2], [1, 2, 3], "/input/x", "shape_mismatch"),
        ("flat, not whole rows", [-1, 2], [1, 2, 3], "/input/x", "shape_mismatch"),
        ("flat, two variable", [-1, -1], [1, 2, 3], "/input/x", "shape_mismatch"),
        ("ragged", [2, 2], [[1, 2], [3]], "/input/x/1", "ragged"),
        ("ragged variable", [-1, -1], [[1], [2], [3, 4]], "/input/x/2", "ragged"),
        ("row not a list", [2, 2], [[1, 2], 3], "/input/x/1", "type_mismatch"),
        ("too deep", [2, 2], [[1, 2], [3, [4]]], "/input/x/1/1", "type_mismatch"),
        ("flat with a list", [2, 2], [1, 2, 3, [4]], "/input/x/3", "type_mismatch"),
        ("text inside", [2, 2], [[1, 2], ["3", 4]], "/input/x/1/0", "type_mismatch"),
        ("null inside", [4], [1, 2, None, 4], "/input/x/2", "type_mismatch"),
        ("true inside", [4], [1, 2, True, 4], "/input/x/2", "type_mismatch"),
        ("nan inside", [2, 2], [[1, 2], [3, math.nan]], "/input/x/1/1", "not_finite"),
        ("infinities that cancel", [4], [math.inf, -math.inf, 1, 1], "/input/x/0", "not_finite"),
        ("too large inside", [4], [1, 2, 3, 1e39], "/input/x/3", "out_of_range"),
        ("huge integer inside", [4], [1.0, 2, 3, -(10**400)], "/input/x/3", "out_of_range"),
    ],
)
def test_tensors_that_do_not_fit(_case, shape, value, pointer, code):
    assert refusal(tensor(shape=shape), {"x": value}) == [(pointer, code)]


def test_a_sum_that_overflows_is_not_taken_for_infinity():
    value = [1.7e308, 1.7e308, 0.0, 0.0]

    assert tensor("FP64").check_input({"x": value}) == {"x": value}


@pytest.mark.parametrize("datatype", sorted(set(module.RANGES) - module.FLOAT_DATATYPES))
def test_integers_fit_their_datatype_exactly(datatype):
    low, high = module.RANGES[datatype]
    interface = tensor(datatype, [2])

    assert interface.check_input({"x": [low, high]}) == {"x": [low, high]}
    assert refusal(interface, {"x": [low - 1, 0]}) == [("/input/x/0", "out_of_range")]
    assert refusal(interface, {"x": [0, high + 1]}) == [("/input/x/1", "out_of_range")]
    assert refusal(interface, {"x": [0, 1.0]}) == [("/input/x/1", "type_mismatch")]


def test_booleans_are_not_numbers_and_numbers_not_booleans():
    assert tensor("BOOL", [2]).check_input({"x": [True, False]}) == {"x": [True, False]}
    assert refusal(tensor("BOOL", [2]), {"x": [True, 0]}) == [("/input/x/1", "type_mismatch")]


def test_nan_passes_only_where_it_is_allowed_and_ranges_still_hold():
    interface = tensor("FP32", [3], allow_nan=True, maximum=9)

    assert interface.check_input({"x": [math.nan, math.inf, 9]})["x"][2] == 9
    assert refusal(interface, {"x": [math.nan, 1, 9.5]}) == [("/input/x/2", "above_maximum")]
    assert interface.check_input({"x": [math.nan] * 3})["x"][0] != 0


def test_tensor_elements_keep_their_bounds():
    interface = tensor("INT32", [2, 2], minimum=0, maximum=256)

    assert refusal(interface, {"x": [[0, 256], [257, 1]]}) == [("/input/x/1/0", "above_maximum")]
    assert refusal(interface, {"x": [[0, 256], [256, -1]]}) == [("/input/x/1/1", "below_minimum")]


def test_variable_tensors_have_a_largest_size(monkeypatch):
    monkeypatch.setattr(module, "MAX_TENSOR_ELEMENTS", 12)
    interface = tensor(shape=[-1, 3])

    assert interface.check_input({"x": [1, 2, 3] * 4})
    assert interface.check_input({"x": [[1, 2, 3]] * 4})
    assert refusal(interface, {"x": [1, 2, 3] * 5}) == [("/input/x", "too_large")]
    assert refusal(interface, {"x": [[1, 2, 3]] * 5}) == [("/input/x", "too_large")]


def test_the_check_notices_when_finiteness_is_no_longer_looked_at(monkeypatch):
    """Negative control of the fast path: without the sum, NaN would pass."""
    monkeypatch.setattr(module, "_is_sum_finite", lambda elements: True)

    checked = tensor().check_input({"x": [1.0, 2.0, 3.0, math.nan]})

    assert checked["x"][3] != checked["x"][3]


def test_a_long_flat_list_is_checked_fast():
    interface = tensor("INT32", [2048], minimum=0, maximum=256)
    value = {"x": [i % 257 for i in range(2048)]}
    best = math.inf
    for _ in range(20):
        begin = time.perf_counter()
        interface.check_input(value)
        best = min(best, time.perf_counter() - begin)

    # About 0.1 ms on a slow core; a loop over the items in Python takes ten times that.
    assert best < 1e-3


def test_input_is_immutable():
    with pytest.raises(AttributeError):
        Input("x", "number", "FP32").name = "y"


def _telling(*outputs, **batch):
    inputs = [{"name": "prompt", "kind": "text"}]
    return {"inputs": inputs, "outputs": list(outputs), "batch": batch}


_STREAMED = {"name": "text", "kind": "text", "stream": True}


def test_text_may_be_streamed():
    interface = Interface.parse(_telling(_STREAMED, {"name": "count", "kind": "integer"}))

    assert interface.streamed_output == interface.outputs[0]
    assert interface.to_json()["outputs"][0] == _STREAMED
    assert Interface.parse(interface.to_json()) == interface


def test_stream_must_be_asked_for():
    interface = Interface.parse(_telling(_STREAMED | {"stream": False}))

    assert interface.streamed_output is None
    assert "stream" not in interface.to_json()["outputs"][0]


@pytest.mark.parametrize(
    ("_outputs", "_batch", "_code", "_pointer"),
    [
        ([_STREAMED, _STREAMED | {"name": "b"}], {}, "repeated", "/outputs/1/stream"),
        ([_STREAMED], {"max_size": 2}, "stream_not_allowed", "/outputs/0/stream"),
        (
            [_STREAMED | {"hidden": True}, {"name": "b", "kind": "text"}],
            {},
            "stream_not_allowed",
            "/outputs/0/stream",
        ),
        (
            [{"name": "n", "kind": "integer", "stream": True}],
            {},
            "unknown_member",
            "/outputs/0/stream",
        ),
        ([_STREAMED | {"stream": 1}], {}, "type_mismatch", "/outputs/0/stream"),
    ],
)
def test_stream_that_cannot_be_is_refused(_outputs, _batch, _code, _pointer):
    with pytest.raises(InterfaceError) as caught:
        Interface.parse(_telling(*_outputs, **_batch))

    assert (caught.value.code, caught.value.pointer) == (_code, _pointer)


@pytest.mark.parametrize(
    ("datatype", "members", "elements"),
    [
        ("FP32", {}, [1, 2.5, -3e38]),
        ("FP32", {}, [1, math.nan]),
        ("FP32", {}, [1, math.inf]),
        ("FP32", {"allow_nan": True}, [1, math.nan, math.inf]),
        ("FP32", {}, [1, 1e39]),
        ("FP32", {}, [1, "2"]),
        ("FP32", {}, [1, True]),
        ("FP32", {}, [1, None]),
        ("FP32", {}, [1, [2]]),
        ("INT8", {}, [127, -128]),
        ("INT8", {}, [127, 128]),
        ("INT64", {}, [2**63 - 1, 1.0]),
        ("INT64", {}, [2**63, 1]),
        ("INT32", {"minimum": 2, "maximum": 3}, [2, 3]),
        ("INT32", {"minimum": 2, "maximum": 3}, [1, 3]),
        ("INT32", {"minimum": 2, "maximum": 3}, [2, 4]),
        ("BOOL", {}, [True, False]),
        ("BOOL", {}, [True, 0]),
    ],
)
def test_elements_are_allowed_together_as_they_are_one_by_one(datatype, members, elements):
    interface = tensor(datatype, (1,), **members)

    def allows(value):
        try:
            interface.check_input({"x": [value]})
        except InputError:
            return False
        return True

    assert interface.inputs[0].allows_all(elements) == all(map(allows, elements))
