"""Calls to addresses of tenants: none of ours, none that changes in between, none for long."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from inference.services import outgoing
from inference.services.outgoing import OutgoingError, check_url, is_allowed, post
from marketplace.core.errors import InvalidInputError


@pytest.fixture
def production(settings) -> None:
    settings.DEVELOPMENT = False


@pytest.fixture
def server():
    """Notes what comes; answers what is asked of it."""
    seen: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        status = 204

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(self.status)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/other")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.handler = seen, Handler
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


PRIVATE = [
    *("127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
    *("100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
    # Those of IPv4 in dress.
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("2002:7f00:1::", "2002:a00:1::"),
]


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_public_are_refused(production, text: str) -> None:
    assert not is_allowed(ipaddress.ip_address(text))
    host = f"[{text}]" if ":" in text else text
    with pytest.raises(InvalidInputError):
        check_url(f"https://{host}/hook")


@pytest.mark.parametrize(
    "text", ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"]
)
def test_public_addresses_are_not(production, text: str) -> None:
    assert is_allowed(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://x/",
        "//x/",
        "https://",
        "https:///x",
        "https://user@example.com/",
        "https://a:b@example.com/",
        "https://example.com:99999/",
        "https://exa mple.com/",
        "https://example.com/\r\nX: 1",
        "https://ex\u00e4mple.com/",
        "https://[::1/",
        "",
        "javascript:alert(1)",
    ],
)
def test_other_addresses_are_refused(production, url: str) -> None:
    with pytest.raises(InvalidInputError):
        check_url(url)


def test_length_at_the_limit_and_one_past_it(production) -> None:
    url = "https://example.com/" + "x" * (outgoing.URL_LENGTH_MAX - 20)
    assert len(url) == outgoing.URL_LENGTH_MAX
    assert check_url(url).host == "example.com"
    with pytest.raises(InvalidInputError):
        check_url(url + "x")


def test_a_name_that_leads_inside_is_not_called(production, monkeypatch) -> None:
    def resolve(*_: object, **__: object):
        # One public address beside a private one is no better.
        return [(2, 1, 6, "", ("93.184.216.34", 443)), (2, 1, 6, "", ("10.0.0.5", 443))]

    def connect(*_: object, **__: object):
        raise AssertionError("it was called")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(OutgoingError, match="not a public one"):
        post("https://rebind.example/", body=b"{}", headers={})


def test_the_checked_address_is_the_called_one(production, monkeypatch) -> None:
    asked, called = [], []

    def resolve(host: str, *_: object, **__: object):
        asked.append(host)
        # A second question would be answered with an address of ours.
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(2, 1, 6, "", (address, 443))]

    def connect(address: tuple[str, int], **_: object):
        called.append(address)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(OutgoingError):
        post("https://hooks.example/x", body=b"{}", headers={})
    assert asked == ["hooks.example"]
    assert called == [("93.184.216.34", 443)]


def test_loopback_is_for_development(settings, server) -> None:
    url = f"http://127.0.0.1:{server.server_port}/hook?a=1"
    post(url, body=json.dumps({"a": 1}).encode(), headers={"webhook-id": "m"})

    ((path, headers, body),) = server.seen
    assert (path, json.loads(body), headers["webhook-id"]) == ("/hook?a=1", {"a": 1}, "m")
    assert headers["content-type"] == "application/json"
    settings.DEVELOPMENT = False
    with pytest.raises(OutgoingError):
        post(url, body=b"{}", headers={})
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(server, status: int) -> None:
    server.handler.status = status
    with pytest.raises(OutgoingError, match=str(status)):
        post(f"http://127.0.0.1:{server.server_port}/hook", body=b"{}", headers={})
    assert [path for path, _, _ in server.seen] == ["/hook"]


def test_a_server_that_drips_is_cut(monkeypatch) -> None:
    monkeypatch.setattr(outgoing, "CALL_LIMIT_S", 0.5)
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        peer, _ = listener.accept()
        try:
            for _ in range(100):
                peer.sendall(b"H")
                time.sleep(0.1)
        except OSError:
            pass

    threading.Thread(target=drip, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(OutgoingError):
        post(f"http://127.0.0.1:{listener.getsockname()[1]}/", body=b"{}", headers={})
    assert time.monotonic() - began < 4
    listener.close()
