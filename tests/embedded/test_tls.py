"""The certificate of the key broker under `bin/up`: made once, believed by its own home alone."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import time_machine
from cryptography import x509

from embedded import home, prepare, processes, tls
from embedded.home import Home
from inference.keybroker.node_ca import make_authority
from inference.node.identity import IdentityStore
from inference.node_certificate import CERTIFICATE_TTL, RENEWAL_GRACE
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64


@pytest.fixture
def place(tmp_path: Path) -> Home:
    made = home.make(tmp_path / "home")
    tls.ensure(made)
    return made


def read(place: Home) -> list[bytes]:
    return [path.read_bytes() for path in (place.tls_ca, place.tls_certificate, place.tls_key)]


@contextmanager
def serve(place: Home) -> Iterator[str]:
    """A server with the home's certificate."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place.tls_certificate, place.tls_key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_it_is_made_once_for_its_owner_alone(place: Home) -> None:
    made = read(place)

    tls.ensure(place)

    assert read(place) == made
    assert {path.stat().st_mode & 0o777 for path in place.tls_ca.parent.iterdir()} == {0o600}
    assert {path.name for path in place.tls_ca.parent.iterdir()} == {
        "ca.pem",
        "keybroker.pem",
        "keybroker.key",
    }
    # The authority's key is nowhere: nobody signs another certificate with it.
    assert b"PRIVATE KEY" not in made[0] + made[1]


def test_a_home_believes_its_own_server_and_no_other(place: Home, tmp_path: Path) -> None:
    other = home.make(tmp_path / "other")
    tls.ensure(other)

    with serve(place) as url:
        assert processes.answers(url, place.tls_ca)("")
        assert not processes.answers(url, other.tls_ca)("")


@pytest.mark.parametrize("name", ["ca.pem", "keybroker.pem", "keybroker.key"])
def test_what_is_missing_or_damaged_is_made_anew(place: Home, name: str) -> None:
    made = read(place)
    path = place.tls_ca.parent / name
    path.unlink()
    tls.ensure(place)
    again = read(place)
    assert all(one != other for one, other in zip(made, again, strict=True))
    if name != "keybroker.key":
        path.write_text("x")
        tls.ensure(place)
        assert read(place)[0] != again[0]


def test_it_is_made_anew_before_its_end(place: Home) -> None:
    made = read(place)
    end = x509.load_pem_x509_certificate(made[1]).not_valid_after_utc

    with time_machine.travel(end - tls.RENEW_BEFORE - timedelta(minutes=1), tick=False):
        tls.ensure(place)
        assert read(place) == made
    with time_machine.travel(end - tls.RENEW_BEFORE, tick=False):
        tls.ensure(place)
        assert read(place)[1] != made[1]


def test_a_node_gets_a_new_token_when_it_cannot_stay_one_without(place: Home) -> None:
    assert not prepare.has_joined(place)
    store, node_id, now = IdentityStore(place / "node"), new_id(), utc_now().replace(microsecond=0)
    assert not prepare.has_joined(place)
    authority = make_authority(signature.generate_signing_key(), now)
    public_key = decode_base64(store.current.public_key)
    certificate, _, end = authority.issue(node_id=node_id, name="n", public_key=public_key, now=now)
    store.join(node_id=str(node_id), certificate=certificate)

    assert end == now + CERTIFICATE_TTL
    assert prepare.has_joined(place)
    last = end + RENEWAL_GRACE - prepare.START_MARGIN
    with time_machine.travel(last - timedelta(seconds=1), tick=False):
        assert prepare.has_joined(place)
    with time_machine.travel(last, tick=False):
        assert not prepare.has_joined(place)
    # One of before there were certificates has to join as well.
    path = place / "node" / "identity.json"
    earlier = {**json.loads(path.read_text()), "certificate": ""}
    path.write_text(json.dumps(earlier))
    assert not prepare.has_joined(place)
