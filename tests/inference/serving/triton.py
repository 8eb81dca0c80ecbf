"""One real tritonserver for the tests of the loader."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as client

from embedded import ports
from inference.triton import processes, repository
from inference.triton.server import SECRET_HEADER, TritonConfig, TritonServer
from marketplace.core.ids import new_id
from tests.inference.serving.peer import Peer
from tests.inference.serving.sealed import SealedModel

SETTLE_S = 0.3


class LoadFailedError(Exception):
    """Triton could not load the model; the text is Triton's."""


class Triton:
    """Loads sealed models, with a peer that plays the node."""

    def __init__(self, work_dir: Path) -> None:
        self._loaded_at = 0.0
        self.config = TritonConfig(work_dir, ports.choose(), ports.choose(), ports.choose())
        self.server = TritonServer(self.config)
        self.server.start()
        self.server.wait_ready()
        self.client = client.InferenceServerClient(self.config.http_url.removeprefix("http://"))

    def stop(self) -> None:
        self.client.close()
        self.server.stop()

    def prepare(self, sealed: SealedModel, *, purpose: str = "serve") -> tuple[str, Peer]:
        """Write the model's folder, and make the peer that will serve it."""
        replica_id = new_id()
        socket_path = self.config.work_dir / f"{replica_id.hex[-8:]}.sock"
        parameters = repository.Parameters(replica_id, socket_path, purpose)
        name = repository.write_model(
            self.config.repository_dir, sealed.manifest.parsed_interface, parameters
        )
        return name, Peer(socket_path, sealed, str(replica_id))

    def load(self, name: str) -> None:
        self._post(f"/v2/repository/models/{name}/load")
        self._loaded_at = time.monotonic()

    def unload(self, name: str) -> None:
        # Triton 2.51 crashes where a model leaves in the moment in which it has come.
        time.sleep(max(0.0, self._loaded_at + SETTLE_S - time.monotonic()))
        self._post(f"/v2/repository/models/{name}/unload")
        deadline = time.monotonic() + 30
        while self.client.is_model_ready(name) or self.stub_of(name):
            assert time.monotonic() < deadline, "the model does not leave"
            time.sleep(0.05)
        repository.remove_model(self.config.repository_dir, name)

    def stub_of(self, name: str) -> int:
        """The pid of a model's stub, 0 if there is none."""
        for pid in self.server.list_stubs():
            if any(name in argument for argument in processes.read_command(pid)):
                return pid
        return 0

    def infer(self, name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        tensors = []
        for key, value in inputs.items():
            datatype = "BYTES" if value.dtype == object else _DATATYPES[value.dtype.name]
            tensor = client.InferInput(key, list(value.shape), datatype)
            tensor.set_data_from_numpy(value)
            tensors.append(tensor)
        answer = self.client.infer(name, tensors)
        return {
            one["name"]: answer.as_numpy(one["name"]) for one in answer.get_response()["outputs"]
        }

    def log(self) -> str:
        return self.config.log_path.read_text(errors="replace")

    def _post(self, path: str) -> None:
        request = urllib.request.Request(
            self.config.http_url + path,
            b"{}",
            {"Content-Type": "application/json", SECRET_HEADER: self.config.secret},
        )
        try:
            urllib.request.urlopen(request, timeout=120).read()
        except urllib.error.HTTPError as error:
            raise LoadFailedError(json.loads(error.read())["error"]) from None


_DATATYPES: dict[str, Any] = {
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "uint8": "UINT8",
    "bool": "BOOL",
}
