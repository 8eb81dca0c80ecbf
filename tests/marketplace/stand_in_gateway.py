"""A server that answers what guides send as the gateway would, and refuses what it would not take.

Every request must be in the gateway's document, with a body that its schema allows and a key
where one is needed. So the programs of the guides are run with the real clients, and need no
model.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jsonschema

from marketplace.selectors.docs import GATEWAY_STAND_IN
from tests.marketplace.guides import DOCUMENTS, find_operation

DOCUMENT = DOCUMENTS[GATEWAY_STAND_IN]
KEY = "sk_live_of_the_test"
PREDICTION = {
    "id": "abuh6ggfhmp3r3t6pvu6fagwcf",
    "model": "demo/smollm2",
    "version": "ff17",
    "status": "succeeded",
    "source": "api",
    "input": {"prompt": "x"},
    "output": {"text": "Paris"},
    "logs": "",
    "error": None,
    "data_removed": False,
    "created_at": "2026-11-21T05:34:08.063723Z",
    "started_at": "2026-11-21T05:34:08.063723Z",
    "completed_at": "2026-11-21T05:34:08.070419Z",
    "deadline": "2026-11-21T05:35:08.063723Z",
    "metrics": {"cost_nano_usd": 20000, "predict_time": 0.1, "total_time": 0.1},
    "urls": {"get": "http://x/1", "cancel": "http://x/2", "web": "http://x/3"},
}
CHAT = {"id": "x", "created": 1, "model": "demo/smollm2"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def answer(path: str, body: dict[str, Any]) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    if body.get("stream"):
        return 200, "text/event-stream", _stream(path)
    if path.endswith("/infer"):
        return 200, "application/octet-stream", b""
    return (201 if path.endswith("/predictions") else 200), "application/json", _json(path)


def _json(path: str) -> bytes:
    if path.endswith("/chat/completions"):
        choice = {"index": 0, "finish_reason": "stop", "message": _say("Paris")}
        made = {**CHAT, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    elif path.endswith("/embeddings"):
        row = {"object": "embedding", "embedding": [0.5, 0.25]}
        rows = [row | {"index": 0}, row | {"index": 1}]
        made = {"object": "list", "model": "m", "data": rows, "usage": USAGE}
    else:
        made = PREDICTION
    return json.dumps(made).encode()


def _say(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _stream(path: str) -> bytes:
    if "/openai/" not in path:
        return b'event: output\ndata: Paris\n\nevent: done\ndata: {"output": {}}\n\n'
    chunk = {**CHAT, "object": "chat.completion.chunk"}
    begin = chunk | {"choices": [{"index": 0, "delta": _say("Paris"), "finish_reason": None}]}
    end = chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return f"data: {json.dumps(begin)}\n\ndata: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _take(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        fault = self._find_fault(path, content)
        self.server.calls.append((self.command, path))
        if fault:
            self.server.faults.append(f"{self.command} {path}: {fault}")
            self._send(400, "application/json", json.dumps({"detail": fault}).encode())
        elif path.endswith("/infer"):
            self._send_tensors()
        else:
            self._send(*answer(path, json.loads(content or b"{}")))

    def _find_fault(self, path: str, content: bytes) -> str:
        operation = find_operation(DOCUMENT, path, self.command.lower())
        if operation is None:
            return "no such operation"
        given = self.headers.get("Authorization", "")
        if operation.get("security") != [] and given.partition(" ")[2] != KEY:
            return "no key"
        length = self.headers.get("Inference-Header-Content-Length")
        body = content[: int(length)] if length else content
        if not body:
            return ""
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        try:
            whole = schema | {"components": DOCUMENT["components"]}
            jsonschema.validate(json.loads(body), whole)
        except (ValueError, jsonschema.ValidationError) as error:
            return str(error)[:300]
        return ""

    def _send_tensors(self) -> None:
        values = struct.pack("<2f", 0.5, 0.25)
        tensor = {"name": "scores", "datatype": "FP32", "shape": [1, 2]}
        tensor["parameters"] = {"binary_data_size": len(values)}
        head = {"model_name": "demo/digits", "model_version": "1", "outputs": [tensor]}
        text = json.dumps(head).encode()
        more = {"Inference-Header-Content-Length": str(len(text))}
        self._send(200, "application/octet-stream", text + values, more)

    def _send(self, status: int, kind: str, content: bytes, more: dict | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), **(more or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _take  # noqa: N815 - the names that the server calls

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[ThreadingHTTPServer]:
    """A running server with `url`, `calls` and `faults`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.calls, server.faults = [], []
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
