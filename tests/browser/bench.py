"""A blank page in Chromium, with the site's static files beside it."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
BLANK = b"<!doctype html><title>bench</title><input type=file webkitdirectory multiple>"
# Before each script: every module of the page, and bytes as texts of base64.
PRELUDE = """
const load = (name) => import(`/static/js/push/${name}.js`);
const [floe, canonical, hpke, signature, manifest] = await Promise.all(
  ["floe", "canonical", "hpke", "signature", "manifest"].map(load));
const [inspect, draft, listing, folder] = await Promise.all(
  ["inspect", "draft", "listing", "folder"].map(load));
const read = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const write = (bytes) => {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return btoa(text);
};
const codeOf = async (action) => {
  try { await action(); return null; } catch (error) { return error.code ?? String(error); }
};
"""


class Bench:
    """Runs scripts that use the modules.

    Args:
        page: The blank page.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    def run(self, script: str, given: Any = None) -> Any:
        """What the body of an async function returns; `given` is its argument."""
        return self.page.evaluate(f"async (given) => {{ {PRELUDE} {{ {script} }} }}", given)

    def choose(self, root: Path) -> None:
        """Choose a folder, as a person does; scripts read it with `chosen()`."""
        self.page.set_input_files("input", root)


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """A test's output is no access log."""

    def do_GET(self) -> None:
        if self.path.startswith("/static/"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(BLANK)))
        self.end_headers()
        self.wfile.write(BLANK)


@contextmanager
def open_bench() -> Iterator[Bench]:
    """Serve, start Chromium, and end both."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(ROOT)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    program = next(path for name in NAMES if (path := shutil.which(name)))
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=program, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            yield Bench(page)
            browser.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def encode(data: bytes | bytearray) -> str:
    """Bytes for a script."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """Bytes from a script."""
    return base64.b64decode(text)
