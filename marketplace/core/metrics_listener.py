"""Serve the numbers of a process that has no HTTP server of its own.

One address, `/metrics`, of one thread for each scrape, of which there are few at a time. The
other end is not trusted: it has a few seconds for a head of a few kilobytes, and what comes
behind the head is not read.
"""

from __future__ import annotations

import hmac
import io
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from marketplace.core.env import SettingError, env_secret
from marketplace.core.exposition import CONTENT_TYPE
from marketplace.core.logs import describe_error

logger = logging.getLogger(__name__)

TOKEN_SETTING = "STRONGROOM_METRICS_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_LENGTH_MIN = 32
PATH = "/metrics"
CONNECTIONS_MAX = 8
HEAD_BYTES_MAX = 8 * 1024
# For the whole head, however slowly its octets come, and for each write of the answer.
HEAD_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
# How often it looks whether it was told to stop.
STOP_LOOK_S = 0.1
# Headers by which a proxy says that it has passed a request on.
FORWARDED = frozenset(
    ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
)


def read_token(env: Mapping[str, str] | None = None) -> str:
    """The token of the metrics; empty where none is set.

    Raises:
        SettingError: It is short enough to be guessed.
    """
    source = os.environ if env is None else env
    if not source.get(TOKEN_SETTING) and not source.get(f"{TOKEN_SETTING}_FILE"):
        return ""
    token = env_secret(TOKEN_SETTING, env=source)
    if len(token) < TOKEN_LENGTH_MIN:
        raise SettingError(f"{TOKEN_SETTING} must have at least {TOKEN_LENGTH_MIN} characters")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SettingError(f"{TOKEN_SETTING} must be printable ASCII without spaces")
    return token


def read_listen(name: str, env: Mapping[str, str] | None = None) -> tuple[str, int] | None:
    """Host and port of the setting `name`; None where it is not set.

    Raises:
        SettingError: It is not `host:port`.
    """
    text = (os.environ if env is None else env).get(name, "")
    if not text:
        return None
    host, _, port = text.rpartition(":")
    is_number = port.isascii() and port.isdecimal()
    is_bracketed = host.startswith("[") == host.endswith("]") == (":" in host)
    if not host or not is_number or not 0 < int(port) < 65536 or not is_bracketed:
        raise SettingError(f"{name} must be host:port, not {text!r}")
    return host.strip("[]"), int(port)


def is_allowed(
    token: str, *, authorization: str | None, peer_host: str, is_forwarded: bool
) -> bool:
    """Whether a request may see the numbers.

    Args:
        token: The one that is set. With one nobody sees them without it; without one only this
            machine does.
        authorization: The header.
        peer_host: Address of the other end, without a port.
        is_forwarded: Whether a proxy says that it has passed the request on.
    """
    if token:
        scheme, _, given = (authorization or "").partition(" ")
        # In octets: compare_digest takes no text beyond ASCII.
        is_same = hmac.compare_digest(given.strip().encode(errors="replace"), token.encode())
        return scheme.lower() == "bearer" and is_same
    return not is_forwarded and is_loopback(peer_host)


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine; a name never is."""
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


class MetricsListener:
    """Serves in threads of its own until `stop`.

    Args:
        address: Host and port; port 0 takes a free one.
        render: Makes the page; called for each scrape.
        token: See `is_allowed`.

    Raises:
        OSError: The address is taken, or not of this machine.
    """

    def __init__(
        self, address: tuple[str, int], render: Callable[[], bytes], *, token: str
    ) -> None:
        self._server = _Server(address, render, token)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[STOP_LOOK_S], name="metrics", daemon=True
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin."""
        host = str(self._server.server_address[0])
        if not self._server.token and not is_loopback(host):
            logger.warning("metrics: %s is not set, so only this machine sees them", TOKEN_SETTING)
        self._thread.start()
        logger.info("metrics are served on %s:%s", host, self.port)

    def close_here(self) -> None:
        """In a child of the process that serves: let go of what the child has inherited."""
        self._server.socket.close()

    def stop(self) -> None:
        """End; a scrape under way may outlast this."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(timeout=1.0)
        self._server.server_close()


def start_listener(
    setting: str, render: Callable[[], bytes], env: Mapping[str, str] | None = None
) -> MetricsListener | None:
    """Serve where `setting` says; None where it says nothing.

    Raises:
        SettingError: It, or the token, has a form that is not accepted.
        OSError: The address cannot be had.
    """
    address, token = read_listen(setting, env), read_token(env)
    if address is None:
        return None
    listener = MetricsListener(address, render, token=token)
    listener.start()
    return listener


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], render: Callable[[], bytes], token: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.render = render
        self.token = token
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for it, if there are not too many already."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to say of an end that went away."""

    def server_bind(self) -> None:
        """Without the look-up of our own name that the parent does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    """One request of a connection, which is closed behind it."""

    server: _Server

    def setup(self) -> None:
        """Read the head as a whole, within its time and size."""
        super().setup()
        head = _read_head(self.connection)
        self.rfile = io.BufferedReader(io.BytesIO(head))
        self.connection.settimeout(ANSWER_TIMEOUT_S)

    def do_GET(self) -> None:
        """The page, for who may see it."""
        headers = self.headers
        if not is_allowed(
            self.server.token,
            authorization=headers.get("Authorization"),
            peer_host=str(self.client_address[0]),
            is_forwarded=any(name in headers for name in FORWARDED),
        ):
            self._answer(401, b"", {"WWW-Authenticate": "Bearer"})
        elif self.path.partition("?")[0] != PATH:
            self._answer(404, b"")
        else:
            self._answer_page()

    def _answer_page(self) -> None:
        try:
            page = self.server.render()
        except Exception as error:  # noqa: BLE001 - the process has other work to do
            logger.warning("the metrics cannot be rendered: %s", describe_error(error))
            self._answer(500, b"")
        else:
            self._answer(200, page)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Without the page that quotes what was sent."""
        self.command, self.request_version = "GET", "HTTP/1.0"
        self._answer(int(code), b"")

    def version_string(self) -> str:
        """Nothing of what runs underneath."""
        return "strongroom"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Scrapes are not events."""


def _read_head(connection: socket.socket) -> bytes:
    """The octets up to the empty line; none of one that is too long, too slow or cut off."""
    ends_at = time.monotonic() + HEAD_TIMEOUT_S
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) < HEAD_BYTES_MAX:
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            return b""
        connection.settimeout(left_s)
        try:
            octets = connection.recv(HEAD_BYTES_MAX - len(head))
        except OSError:
            return b""
        if not octets:
            return b""
        head += octets
    return head if b"\r\n\r\n" in head or b"\n\n" in head else b""
