"""Whether an ONNX graph takes and gives what the version's interface promises."""

from __future__ import annotations

from collections.abc import Sequence

from inference.artifact.errors import ArtifactError, shown
from inference.artifact.onnx import GraphValue, OnnxModel
from strongroom.interface import Input, Interface, Output


def check_interface(model: OnnxModel, interface: Interface) -> None:
    """Compare names, types and shapes.

    Every input of the graph must be in the interface and the other way round. The
    interface may leave outputs of the graph out; they are then not computed.

    Raises:
        ArtifactError: `interface_mismatch`.
    """
    graph_inputs = {value.name: value for value in model.inputs}
    graph_outputs = {value.name: value for value in model.outputs}
    for name in graph_inputs.keys() - {one.name for one in interface.inputs}:
        _fail(f"The graph needs the input {shown(name)}, which the interface does not have.")
    for one in interface.inputs:
        if one.name not in graph_inputs:
            _fail(f"The graph has no input {shown(one.name)}.")
        _check_value(one, graph_inputs[one.name], interface)
    if interface.streamed_output is not None:
        _fail(f"A graph gives {shown(interface.streamed_output.name)} at once: it has no stream.")
    for output in interface.wire_outputs:
        if output.name not in graph_outputs:
            _fail(f"The graph has no output {shown(output.name)}.")
        _check_value(output, graph_outputs[output.name], interface)


def _check_value(promised: Input | Output, found: GraphValue, interface: Interface) -> None:
    if found.datatype != promised.datatype:
        _fail(f"{shown(found.name)} is {found.datatype} in the graph, not {promised.datatype}.")
    if found.shape is None:
        # Not stated; ONNX Runtime finds out, and the loader checks every answer.
        return
    shapes = _wire_shapes(promised.shape, found.shape, interface)
    is_input = isinstance(promised, Input)
    if not any(_fits(shape, found.shape, is_input=is_input) for shape in shapes):
        wanted = " or ".join(_show(shape) for shape in shapes)
        _fail(f"{shown(found.name)} has the shape {_show(found.shape)}, not {wanted}.")


def _wire_shapes(
    promised: tuple[int, ...], found: tuple[int | None, ...], interface: Interface
) -> list[tuple[int, ...]]:
    """The shapes that the graph may have; -1 is free. A single value may lose its axis."""
    batch: tuple[int, ...] = ()
    if interface.batch.leading_axis:
        # A graph fixed to one row is fine for an interface that sends one at a time.
        is_single = bool(found) and found[0] == 1 and interface.batch.max_size == 1
        batch = (1,) if is_single else (-1,)
    shapes = [(*batch, *promised)]
    if promised == ():
        shapes.append((*batch, 1))
    return shapes


def _fits(promised: Sequence[int], found: Sequence[int | None], *, is_input: bool) -> bool:
    if len(promised) != len(found):
        return False
    for wanted, length in zip(promised, found, strict=True):
        if length is None or wanted == length:
            continue
        # A free length may be promised only by a graph that takes any; what comes out
        # may be narrower than promised.
        if is_input or wanted != -1:
            return False
    return True


def _show(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if one in (None, -1) else str(one) for one in shape) + "]"


def _fail(detail: str) -> None:
    raise ArtifactError("interface_mismatch", detail)
