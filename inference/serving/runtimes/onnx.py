"""ONNX graphs, run by ONNX Runtime from memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from inference.artifact import tokenizer
from inference.artifact.onnx import GraphValue, OnnxModel, parse_model
from inference.artifact.onnx_interface import check_interface
from inference.serving import memory
from inference.serving.decryption import PlainFile
from inference.serving.errors import LoadError, RequestError
from inference.serving.runtimes.base import SINGLE_THREAD_BYTES, Arrays, IsCancelled
from strongroom.interface import Input, Interface, Output

# Fatal errors only: the library's messages quote names out of the graph.
_LOG_FATAL = 4


class OnnxRuntime:
    """One graph on the CPU."""

    can_batch = True

    def __init__(self, *, threads: int) -> None:
        self._threads = threads
        self._session: Any = None
        self._onnxruntime: Any = None
        self._files: Mapping[str, list[PlainFile]] = {}
        self._model: OnnxModel | None = None
        self._interface: Interface | None = None
        self._input_names: list[str] = []
        self._output_names: list[str] = []
        self._prepare: list[Callable[[np.ndarray], np.ndarray]] = []

    def import_libraries(self) -> None:
        """Import ONNX Runtime; it loads nothing later."""
        import onnxruntime

        onnxruntime.set_default_logger_severity(_LOG_FATAL)
        self._onnxruntime = onnxruntime

    def validate(self, files: Sequence[PlainFile], interface: Interface) -> dict[str, Any]:
        """Check graph, external data and labels against the interface.

        Raises:
            ArtifactError: A file may not be served.
        """
        by_kind: dict[str, list[PlainFile]] = {}
        for one in files:
            by_kind.setdefault(one.kind, []).append(one)
        for one in by_kind.get("labels", []):
            tokenizer.check_labels(one.data)
        graph = by_kind["onnx"][0]
        sizes = {one.path: len(one.data) for one in by_kind.get("external_data", [])}
        model = parse_model(graph.data, path=graph.path, external_sizes=sizes)
        check_interface(model, interface)
        self._files, self._model, self._interface = by_kind, model, interface
        return {
            "nodes": model.node_count,
            "parameters": model.parameter_count,
            "opsets": dict(model.opsets),
            "external_files": len(model.external),
        }

    def build(self) -> None:
        """Make the session from bytes; the plain files are overwritten afterwards.

        Raises:
            LoadError: `model_invalid`: ONNX Runtime refuses the graph.
        """
        assert self._model is not None
        assert self._interface is not None
        graph = self._files["onnx"][0]
        external = {one.path: one for one in self._files.get("external_data", [])}
        options = self._options(sum(len(one.data) for one in (graph, *external.values())))
        # The library takes bytes and nothing else, and copies them.
        copies = {
            location: bytes(external[path].data) for location, path in self._model.external.items()
        }
        content = bytes(graph.data)
        if copies:
            options.add_external_initializers_from_files_in_memory(
                list(copies), list(copies.values()), [len(one) for one in copies.values()]
            )
        try:
            self._session = self._onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - the library has no common base
            detail = f"ONNX Runtime refuses the graph ({type(error).__name__})."
            raise LoadError("model_invalid", detail) from None
        finally:
            for one in (content, *copies.values()):
                memory.wipe_bytes(one)
            for one_file in (graph, *external.values()):
                one_file.buffer.wipe()
        # The library keeps the bytes for starting over with other hardware.
        vars(self._session)["_model_bytes"] = b""
        self._bind(self._model, self._interface)

    def run(self, inputs: Arrays, is_cancelled: IsCancelled) -> Arrays:
        """Run rows; see `Runtime.run`."""
        assert self._interface is not None
        feeds = {
            name: prepare(array)
            for name, prepare, array in zip(self._input_names, self._prepare, inputs, strict=True)
        }
        try:
            outputs = self._session.run(self._output_names, feeds)
        except Exception as error:  # noqa: BLE001 - the library has no common base
            # Its text can quote values of another request in the batch.
            detail = f"The model failed on this input ({type(error).__name__})."
            raise RequestError("model_failed", detail) from None
        rows = len(inputs[0])
        return [
            _restore(output, promised, rows, has_batch=self._interface.batch.leading_axis)
            for output, promised in zip(outputs, self._interface.wire_outputs, strict=True)
        ]

    def close(self) -> None:
        """Let go of the session."""
        self._session = None
        self._files = {}

    def _options(self, size_bytes: int) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if size_bytes < SINGLE_THREAD_BYTES else self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_FATAL
        # Threads that spin while they wait take the cores from everybody else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options

    def _bind(self, model: OnnxModel, interface: Interface) -> None:
        """Decide once how arrays reach the graph."""
        by_name = {one.name: one for one in model.inputs}
        for one in interface.inputs:
            self._input_names.append(one.name)
            self._prepare.append(_find_prepare(one, by_name[one.name], interface))
        self._output_names = [one.name for one in interface.wire_outputs]


def _find_prepare(
    promised: Input, found: GraphValue, interface: Interface
) -> Callable[[np.ndarray], np.ndarray]:
    """From the wire's form, which always has a row axis and no scalars, to the graph's."""
    is_text = promised.datatype == "BYTES"
    has_batch = interface.batch.leading_axis
    # A single value may be [1] or nothing in the graph; the wire has [1].
    rank = len(promised.wire_shape) if found.shape is None else len(found.shape) - int(has_batch)
    drops_axis = rank < len(promised.wire_shape)

    def prepare(array: np.ndarray) -> np.ndarray:
        if is_text:
            array = _decode_texts(array)
        if not has_batch:
            array = array[0]
        return array[..., 0] if drops_axis else array

    if not is_text and has_batch and not drops_axis:
        return _unchanged
    return prepare


def _unchanged(array: np.ndarray) -> np.ndarray:
    return array


def _decode_texts(array: np.ndarray) -> np.ndarray:
    try:
        texts = [one.decode() for one in array.ravel()]
    except UnicodeDecodeError:
        detail = "A text is not UTF-8."
        raise RequestError("input_invalid", detail, is_input_fault=True) from None
    return np.array(texts, dtype=object).reshape(array.shape)


def _restore(output: Any, promised: Output, rows: int, *, has_batch: bool) -> np.ndarray:
    """From the graph's form to the wire's, or an error if the graph broke its promise."""
    array = np.asarray(output)
    if not has_batch:
        array = array[np.newaxis]
    if not promised.shape and array.shape == (rows,):
        array = array[:, np.newaxis]
    expected = (rows, *promised.wire_shape)
    fits = len(array.shape) == len(expected) and all(
        wanted in (length, -1) for wanted, length in zip(expected, array.shape, strict=True)
    )
    if not fits:
        detail = f"The output {promised.name} has another shape than the interface says."
        raise RequestError("output_invalid", detail)
    if promised.datatype == "BYTES":
        texts = [str(one).encode() for one in array.ravel()]
        return np.array(texts, dtype=object).reshape(array.shape)
    return array
