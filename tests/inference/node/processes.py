"""A node as it really runs: its own process, with its own tritonserver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import numpy as np

from embedded import ports
from inference.triton import processes
from inference.triton.control import TritonControl
from inference.triton.server import SECRET_HEADER
from inference.triton.tensors import Tensor
from tests.inference.node.platform import JOIN_TOKEN, Platform, wait_for

ROOT = Path(__file__).resolve().parents[3]


class NodeProcess:
    def __init__(self, folder: Path, platform: Platform, **settings: str) -> None:
        self.folder, self.platform, self.settings = folder, platform, settings
        self.http_port = ports.choose()
        self.grpc_port = ports.choose([self.http_port])
        self.metrics_port = ports.choose([self.http_port, self.grpc_port])
        self.log_path = folder / "node.log"
        self.run_dir = folder / "run"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
            # The key broker of these tests speaks plain HTTP.
            "STRONGROOM_ENV": "development",
            "STRONGROOM_WEB_URL": self.platform.web_url,
            "STRONGROOM_KEYBROKER_URL": self.platform.broker_url,
            "STRONGROOM_NODE_DIR": str(self.folder / "node"),
            "STRONGROOM_NODE_RUN_DIR": str(self.run_dir),
            "STRONGROOM_NODE_NAME": "node-1",
            "STRONGROOM_NODE_JOIN_TOKEN": JOIN_TOKEN,
            "STRONGROOM_NODE_TRITON_HTTP_PORT": str(self.http_port),
            "STRONGROOM_NODE_TRITON_GRPC_PORT": str(self.grpc_port),
            "STRONGROOM_NODE_TRITON_METRICS_PORT": str(self.metrics_port),
            **self.settings,
        }

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "inference.node"],
                env=self.environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def server_pid(self) -> int:
        assert self.process is not None
        return wait_for(
            lambda: next(
                (
                    pid
                    for pid in processes.list_pids()
                    if processes.find_parent_pid(pid) == self.process.pid
                    and processes.command_name(pid) == "tritonserver"
                ),
                0,
            )
        )

    def stub_pid(self, replica_id: str) -> int:
        """The loader of a replica, 0 if there is none."""
        name = f"/r{UUID(replica_id).hex}/"
        for pid in processes.list_stubs(self.server_pid()):
            if any(name in one for one in processes.read_command(pid)):
                return pid
        return 0

    def control(self) -> TritonControl:
        """A client with the secret that this node's server was started with."""
        command = processes.read_command(self.server_pid())
        mark = f"{SECRET_HEADER}="
        secret = next(one.split(mark)[1] for one in command if mark in one)
        return TritonControl(f"127.0.0.1:{self.grpc_port}", secret)

    def infer(self, replica_id: str, x: np.ndarray) -> np.ndarray:
        name = f"r{UUID(replica_id).hex}"
        with self.control() as control:
            tensor = Tensor("x", "FP32", x.shape, x)
            return control.infer(name, [tensor], ["y"], timeout_s=10)["y"]
