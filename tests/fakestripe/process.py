"""The stand-in as a process, and a receiver for what it sends."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import requests

from embedded import ports

ROOT = Path(__file__).resolve().parents[2]
SECRET_KEY = "sk_test_fakestripe"
WEBHOOK_SECRET = "whsec_test"


class FakeStripeProcess:
    """`python -m fakestripe` with its state in a folder; can be killed and started again."""

    def __init__(self, folder: Path, *, name: str = "state", webhook_url: str | None = None):
        self.port = ports.choose()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {
            **os.environ,
            "FAKESTRIPE_PORT": str(self.port),
            "FAKESTRIPE_STATE": str(folder / f"{name}.sqlite3"),
            "FAKESTRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        }
        if webhook_url:
            self._env["FAKESTRIPE_WEBHOOK_URL"] = webhook_url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start and wait until it answers; returns the seconds that took."""
        begin = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fakestripe"],
            cwd=ROOT,
            env=self._env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._is_healthy, 20)
        return time.monotonic() - begin

    def _is_healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "fakestripe ended"
        try:
            return requests.get(f"{self.url}/health", timeout=1).ok
        except requests.ConnectionError:
            return False

    def kill(self) -> None:
        """SIGKILL: no farewell, no clean-up."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(10)

    def request(self, method: str, path: str, data=None, **headers: str) -> requests.Response:
        """A bare request to Stripe's API, without the SDK."""
        return requests.request(
            method,
            f"{self.url}{path}",
            data=data,
            headers={
                "Authorization": f"Bearer {SECRET_KEY}",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
            timeout=10,
        )

    def order(self, path: str, /, **body):
        """Tell the control plane something."""
        answer = requests.post(f"{self.url}/_test/{path}", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def state(self):
        return requests.get(f"{self.url}/_test/state", timeout=10).json()

    def count(self, kind: str) -> int:
        return self.state()["counts"].get(kind, 0)

    def reset(self) -> None:
        assert requests.delete(f"{self.url}/_test/state", timeout=10).ok


@dataclass
class Delivery:
    """A webhook as it arrived."""

    payload: bytes
    signature: str


@dataclass
class Receiver:
    """An HTTP server that keeps what it gets; answers `statuses` in turn, then 200."""

    statuses: list[int] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)

    def start(self) -> None:
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.deliveries.append(Delivery(body, self.headers["Stripe-Signature"]))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/webhooks/stripe"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def clear(self) -> None:
        self.statuses.clear()
        self.deliveries.clear()

    def wait_for(self, count: int, timeout_s: float = 10) -> list[Delivery]:
        wait_until(lambda: len(self.deliveries) >= count, timeout_s)
        return self.deliveries


def wait_until(condition, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
