"""A stretch of network between the command line and the platform, which a test can cut."""

from __future__ import annotations

import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 20
_PART = re.compile(r"/api/uploads/[^/]+/files/(\d+)/parts/(\d+)")
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


class Relay:
    """Passes requests on to the site, and writes down which parts were sent.

    Use it as a context manager.

    Args:
        web_url: The site.
    """

    def __init__(self, web_url: str) -> None:
        self.site = urlsplit(web_url).netloc
        self.sent: list[tuple[int, int]] = []
        self.stuck = threading.Event()
        self._stuck_part: tuple[int, int] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.relay = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def get_stuck_in(self, file_index: int, part: int) -> None:
        """Pass on only the beginning of this part, then nothing; `stuck` tells when."""
        self._stuck_part = (file_index, part)

    def go_on(self) -> None:
        """Forget what was sent, and pass everything on."""
        self._stuck_part = None
        self.sent.clear()

    def note(self, path: str) -> bool:
        """Write a request down; whether its body gets stuck."""
        found = _PART.fullmatch(path)
        if found is None:
            return False
        part = (int(found[1]), int(found[2]))
        self.sent.append(part)
        return part == self._stuck_part


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Headers and body in one packet, or each answer waits for Nagle.

    def log_message(self, *_: object) -> None:
        """A test's output is no access log."""

    def pass_on(self) -> None:
        relay: Relay = self.server.relay
        is_stuck = relay.note(self.path)
        site = http.client.HTTPConnection(relay.site, timeout=120)
        try:
            self._send_head(site)
            left_bytes = int(self.headers.get("Content-Length") or 0)
            while left_bytes:
                chunk = self.rfile.read(min(CHUNK_BYTES, left_bytes))
                if not chunk:
                    raise ConnectionError("The client is gone.")
                site.send(chunk)
                left_bytes -= len(chunk)
                if is_stuck:
                    relay.stuck.set()
                    # Until the client is gone; the site sees a body without its end.
                    while self.rfile.read(CHUNK_BYTES):
                        pass
                    raise ConnectionError("Stuck.")
            self._answer(site.getresponse())
        except OSError:
            self.close_connection = True
        finally:
            site.close()

    do_GET = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815 - http.server's names

    def _send_head(self, site: http.client.HTTPConnection) -> None:
        site.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                site.putheader(name, value)
        site.endheaders()

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        body = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {*_HOP_BY_HOP, "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
