"""Files with a few bytes changed: each is accepted or refused, and nothing else happens."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from inference.artifact.errors import ArtifactError
from inference.artifact.formats import check_content
from inference.artifact.onnx import parse_model
from inference.artifact.safetensors import parse_header
from inference.artifact.transformers_config import parse_config
from tests.inference.artifact.onnx_models import external_tensor, model, value
from tests.inference.artifact.test_transformers_config import LLAMA


def _onnx() -> bytes:
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["b"])], "b", [], [value("b", [1])])
    nodes = [
        helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["e"], value=helper.make_tensor("k", 1, [2], [1, 2])),
        helper.make_node("F", ["x"], ["y"], domain="mine"),
    ]
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    return model(
        nodes,
        [value("x", [None, 4]), value("c", [1], TensorProto.BOOL)],
        [value("y", [None, 4])],
        [
            numpy_helper.from_array(np.ones(3, np.float32), "w"),
            external_tensor("v", [2], location="v.bin", offset="0", length="8"),
        ],
        functions=[function],
    )


_SEEDS = {
    "onnx": (_onnx(), lambda data: parse_model(data, external_sizes={"v.bin": 8})),
    "safetensors": (
        save({"a": np.ones(4, np.float32), "b": np.zeros((2, 2), np.int64)}),
        parse_header,
    ),
    "config": (json.dumps(LLAMA).encode(), parse_config),
    "anything": (_onnx(), lambda data: check_content("onnx", "model.onnx", data)),
}


@pytest.mark.parametrize("_case", _SEEDS)
def test_changed_files_only_raise_refusals(_case):
    seed, check = _SEEDS[_case]
    check(memoryview(seed))
    chance = random.Random(_case)

    refused = 0
    for _ in range(3000):
        changed = bytearray(seed)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(changed))
            kind = chance.randrange(3)
            if kind == 0:
                changed[at] = chance.randrange(256)
            elif kind == 1:
                del changed[at : at + chance.randint(1, 8)]
            else:
                changed[at:at] = chance.randbytes(chance.randint(1, 8))
        try:
            check(memoryview(bytes(changed)))
        except ArtifactError:
            refused += 1

    assert refused > 0 or _case == "anything"
