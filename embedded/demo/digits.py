"""`demo/digits`: a small network that reads handwritten digits, trained here and now.

The data comes with scikit-learn. The graph is written by hand, so that nothing but the
arithmetic of the network is in the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from embedded.demo import folder as folders
from embedded.demo.folder import Built, Card

NAME = "digits"
TITLE = "Handwritten digits"
PRICE_NANOS = 20_000  # $0.00002
SEED = 20_261_121
PIXEL_MAX = 16.0
HIDDEN = 64
VECTORS = 5
TOLERANCE = 1e-4
_OPSET = 17

INTERFACE: dict[str, Any] = {
    "inputs": [
        {
            "name": "image",
            "kind": "tensor",
            "datatype": "FP32",
            "shape": [64],
            "minimum": 0,
            "maximum": 16,
            "description": "8 x 8 pixels row by row, from 0 (paper) to 16 (ink).",
        }
    ],
    "outputs": [
        {
            "name": "digit",
            "kind": "label",
            "source": "probabilities",
            "labels": [str(digit) for digit in range(10)],
            "top": 3,
        },
        {"name": "probabilities", "kind": "tensor", "datatype": "FP32", "shape": [10]},
    ],
    "batch": {"max_size": 64, "leading_axis": True},
}

TEXT = """
Reads one handwritten digit from an image of 8 x 8 pixels. A network with one hidden layer
of 64 units, trained when this marketplace was set up.

The pixels are those of the *Optical Recognition of Handwritten Digits* data of the UCI
repository, as they come with scikit-learn: 1,797 digits, of which a random fifth was never
shown to the model. The accuracy above was measured on that fifth.

Send pixels in the same form: dark ink has high values, and the digit fills the image.
"""


def build(folder: Path) -> Built:
    """Train, export, measure, and keep some held-out digits as test vectors."""
    data = load_digits()
    images = data.data.astype(np.float32)
    train, held_out, train_labels, labels = train_test_split(
        images, data.target, test_size=0.2, random_state=SEED, stratify=data.target
    )
    network = MLPClassifier((HIDDEN,), random_state=SEED, max_iter=1_000)
    network.fit(train / PIXEL_MAX, train_labels)
    onnx.save(to_onnx(network), str(folder / "model.onnx"))
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    probabilities = session.run(["probabilities"], {"image": held_out})[0]
    answers = probabilities.argmax(1)
    accuracy = float((answers == labels).mean())
    # Rows that it reads right, one for each of some digits.
    rows = [int(np.flatnonzero((labels == d) & (answers == d))[0]) for d in range(VECTORS)]
    folders.write(
        folder,
        name=NAME,
        title=TITLE,
        task="image-classification",
        price_nanos=PRICE_NANOS,
        interface=_with_example(held_out[rows[-1]]),
        vectors=[_vector(held_out[row], probabilities[row], int(labels[row])) for row in rows],
        card=Card(
            summary="Which digit is written in an 8 x 8 image.",
            data="UCI Optical Recognition of Handwritten Digits (CC-BY-4.0), from scikit-learn",
            accuracy=f"{accuracy:.1%} of {len(labels)} held-out digits",
            licence="Apache-2.0",
            limits="Single digits, 8 x 8 pixels, in the style of that data.",
            text=TEXT,
            examples=[
                (f"A {labels[row]}", {"image": held_out[row].astype(int).tolist()}) for row in rows
            ],
        ),
    )
    row = rows[-1]
    return Built({"image": held_out[row].astype(int).tolist()}, {"label": str(labels[row])})


def _with_example(image: np.ndarray) -> dict[str, Any]:
    """The interface with a digit that the form shows at first."""
    (one,) = INTERFACE["inputs"]
    return INTERFACE | {"inputs": [one | {"example": image.astype(int).tolist()}]}


def to_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """The trained network as a graph: scale, two layers, softmax."""
    constants = {"pixel_max": np.array(PIXEL_MAX, np.float32)}
    for layer, (weights, bias) in enumerate(
        zip(network.coefs_, network.intercepts_, strict=True), start=1
    ):
        constants[f"weights_{layer}"] = weights.astype(np.float32)
        constants[f"bias_{layer}"] = bias.astype(np.float32)
    nodes = [
        helper.make_node("Div", ["image", "pixel_max"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "weights_1", "bias_1"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "weights_2", "bias_2"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _vector(
    image: np.ndarray, probabilities: np.ndarray, label: int
) -> tuple[dict[str, Any], dict[str, Any], float]:
    expected = {"digit": {"label": str(label)}, "probabilities": probabilities.tolist()}
    return {"image": image.astype(int).tolist()}, expected, TOLERANCE


if __name__ == "__main__":
    folders.run(build)
