"""Write the folders that Triton loads models from.

A folder holds two files, both of our making: a complete config.pbtxt, written out of the
model's interface, and model.py, a copy of the loader's entry. Weights are never in it: the
loader is handed their ciphertext over a socket. The folder's name is the replica's id, so
no text of a user reaches Triton's control API, which 2.51 does not survive.

Source: triton-inference-server/common, model_config.proto; CVE-2025-23316.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inference.triton.errors import RepositoryError
from strongroom.interface import Batch, Input, Interface, Output

MODEL_NAME = re.compile(r"r[0-9a-f]{32}")
MODEL_VERSION = "1"
# Of a server, as many as jobs may run there at once; see `inference.triton.server`.
SLOT_RESOURCE = "GPU_SLOT"

_ROOT = Path(__file__).resolve().parents[2]
_STUB_SOURCE = _ROOT / "inference/serving/model_stub.py"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the loader learns from its configuration; all else comes over the socket."""

    replica_id: uuid.UUID
    socket_path: Path
    purpose: str = "serve"
    root: Path = _ROOT

    def as_texts(self) -> dict[str, str]:
        return {
            "replica_id": str(self.replica_id),
            "socket": str(self.socket_path),
            "purpose": self.purpose,
            # Where the loader's packages lie; `sdk` below it holds the sealing format.
            "root": str(self.root),
        }


def model_name(replica_id: uuid.UUID) -> str:
    """The name under which Triton knows a replica."""
    return f"r{replica_id.hex}"


def replica_id_of(name: str) -> uuid.UUID:
    """The replica that a model's name stands for.

    Raises:
        RepositoryError: The name is not one of ours.
    """
    _check_name(name)
    return uuid.UUID(hex=name[1:])


def write_model(
    repository_dir: Path,
    interface: Interface,
    parameters: Parameters,
    *,
    model_source: Path = _STUB_SOURCE,
) -> str:
    """Write the folder of a replica, complete or not at all, and return the model's name.

    Args:
        repository_dir: What tritonserver was started with.
        interface: Decides names, types and shapes of all tensors.
        parameters: For the loader.
        model_source: The python that Triton runs.

    Raises:
        RepositoryError: The folder exists: the model may still be loaded.
    """
    name = model_name(parameters.replica_id)
    target = repository_dir / name
    if target.exists():
        raise RepositoryError(f"there is a folder for {name} already")
    # Triton scans the folder for names; a dot keeps it off one that is half written.
    draft = repository_dir / f".{name}.new"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / MODEL_VERSION).mkdir(parents=True, mode=0o700)
    (draft / "config.pbtxt").write_text(render_config(name, interface, parameters))
    shutil.copyfile(model_source, draft / MODEL_VERSION / "model.py")
    draft.rename(target)
    return name


def remove_model(repository_dir: Path, name: str) -> None:
    """Remove a replica's folder; call it once Triton has let the model go."""
    _check_name(name)
    shutil.rmtree(repository_dir / name, ignore_errors=True)


def clear(repository_dir: Path) -> list[str]:
    """Remove what an earlier run left; only while no tritonserver reads the folder."""
    removed = []
    with suppress(FileNotFoundError):
        for entry in sorted(repository_dir.iterdir()):
            if MODEL_NAME.fullmatch(entry.name.strip(".").removesuffix(".new")):
                shutil.rmtree(entry, ignore_errors=True)
                removed.append(entry.name)
    return removed


def render_config(name: str, interface: Interface, parameters: Parameters) -> str:
    """The complete config.pbtxt; nothing is left for Triton to fill in."""
    _check_name(name)
    lines = [
        f"name: {_quote(name)}",
        'backend: "python"',
        f"max_batch_size: {interface.batch.max_size}",
        *_tensor_lines("input", interface.inputs),
        *_tensor_lines("output", interface.wire_outputs),
        *_batching_lines(interface.batch),
        *_transaction_lines(interface),
        f"instance_group [ {{ kind: KIND_CPU count: 1{_slot_text(interface)} }} ]",
    ]
    for key, value in parameters.as_texts().items():
        lines.append(
            f"parameters {{ key: {_quote(key)} value {{ string_value: {_quote(value)} }} }}"
        )
    return "\n".join(lines) + "\n"


def _batching_lines(batch: Batch) -> list[str]:
    """Merging of calls, without a queue policy: with one, Triton's batcher misses wake-ups.

    A call that finds the model idle runs at once; batches form while it is busy. The gateway
    sends no more calls than that takes, and keeps the queue; see docs/adr/0004.
    """
    if batch.max_size == 1 or not batch.coalesce:
        return []
    return ["dynamic_batching { max_queue_delay_microseconds: 0 }"]


def _transaction_lines(interface: Interface) -> list[str]:
    """Several responses to one request, which Triton takes over gRPC's stream only."""
    if interface.streamed_output is None:
        return []
    return ["model_transaction_policy { decoupled: true }"]


def _slot_text(interface: Interface) -> str:
    """The slot that a run holds, of a model that writes, speaks or paints for a long time.

    Nothing of the queue relies on it: it keeps two such runs from each other should more be sent
    to a server than it has slots for. Models whose calls are merged take milliseconds; they share
    the machine as they always have.
    """
    is_long = interface.streamed_output is not None or any(
        one.media_type for one in interface.outputs
    )
    if not is_long:
        return ""
    resource = f'{{ name: "{SLOT_RESOURCE}" global: true count: 1 }}'
    return f" rate_limiter {{ resources [ {resource} ] }}"


def _tensor_lines(member: str, tensors: Iterable[Input | Output]) -> list[str]:
    lines = []
    for one in tensors:
        dims = ", ".join(str(length) for length in one.wire_shape)
        # Only the protocol calls texts BYTES; the configuration says STRING.
        kind = "STRING" if one.datatype == "BYTES" else one.datatype
        lines.append(
            f"{member} [ {{ name: {_quote(one.name)} data_type: TYPE_{kind} dims: [ {dims} ] }} ]"
        )
    return lines


def _quote(text: str) -> str:
    """A string of protobuf's text format; every byte beyond plain ASCII is escaped."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{escaped}"'


def _check_name(name: str) -> None:
    if not MODEL_NAME.fullmatch(name):
        raise RepositoryError("not a model name of ours")
