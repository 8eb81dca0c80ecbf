"""A mirror of the object store: asked first, believed nothing."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from inference.node import origin as origin_module
from inference.node.errors import ReplicaError
from inference.node.origin import Mirror, Wanted
from marketplace.core.env import SettingError
from tests.inference.node.caches import assign, digests, fetch, version

SIZE = 300_000


@pytest.fixture
def sealed(platform, tmp_path):
    made = assign(platform, tmp_path, os.urandom(SIZE))
    platform.parts_sent.clear()
    platform.ranges.clear()
    return made


def send(handler, data, status=200, **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@contextmanager
def serving(answer):
    """A server; `answer` gets each request's handler. Gives its address and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            with suppress(ConnectionError):
                answer(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def honest(sealed):
    """As a server of files answers: ranges, too."""
    data = sealed.parts[0].read_bytes()

    def answer(handler):
        first = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        send(
            handler,
            data[first:],
            206,
            Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}",
        )

    return answer


def test_a_mirror_that_has_a_part_spares_the_platform(platform, make_cache, sealed):
    with serving(honest(sealed)) as (url, asked):
        artifact = fetch(make_cache(mirror=Mirror(f"{url}/bucket")), sealed)

    assert artifact.parts[0].read_bytes() == sealed.parts[0].read_bytes()
    assert platform.parts_sent == []
    assert [one[0] for one in asked] == [
        f"/bucket/artifacts/{sealed.manifest.artifact_id}/00-000000-ab"
    ]


def test_a_mirror_is_told_no_secret(make_cache, sealed, control_plane):
    token = control_plane.headers()["Authorization"].removeprefix("Bearer ")
    assert len(token) > 20

    with serving(honest(sealed)) as (url, asked):
        fetch(make_cache(mirror=Mirror(url)), sealed)

    assert asked
    for path, headers in asked:
        assert "?" not in path
        assert token not in str(headers)
        assert not {"authorization", "cookie"} & {name.lower() for name in headers}


def test_another_nodes_folder_is_a_mirror(platform, make_cache, sealed, tmp_path):
    """Served by any server of files, by digest."""
    fetch(make_cache(name="theirs"), sealed)
    platform.parts_sent.clear()

    def answer(handler):
        path = tmp_path / "theirs" / handler.path.lstrip("/")
        send(handler, path.read_bytes() if path.is_file() else b"", 200 if path.is_file() else 404)

    with serving(answer) as (url, asked):
        fetch(make_cache(mirror=Mirror(f"{url}/parts/{{sha256}}")), sealed)

    assert platform.parts_sent == []
    assert [one[0] for one in asked] == [f"/parts/{digests(sealed)[0]}"]


def wrong_bit(sealed, handler):
    data = bytearray(sealed.parts[0].read_bytes())
    data[1000] ^= 1
    send(handler, bytes(data))


def other_part(sealed, handler):
    send(handler, os.urandom(sealed.parts[0].stat().st_size))


def too_long(sealed, handler):
    send(handler, sealed.parts[0].read_bytes() + b"x")


def too_short(sealed, handler):
    send(handler, sealed.parts[0].read_bytes()[:-1])


def nothing(sealed, handler):
    send(handler, b"")


def cut(sealed, handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(SIZE * 2))
    handler.end_headers()
    handler.wfile.write(sealed.parts[0].read_bytes()[:1000])
    handler.close_connection = True


def wrong_range(sealed, handler):
    send(handler, sealed.parts[0].read_bytes(), 206, Content_Range="bytes 5-10/11")


def missing(sealed, handler):
    send(handler, b"no", 404)


def broken(sealed, handler):
    send(handler, b"no", 500)


def elsewhere(sealed, handler):
    send(handler, b"", 302, Location="http://169.254.169.254/latest/meta-data")


def no_http(sealed, handler):
    handler.wfile.write(b"\x00" * 100)
    handler.close_connection = True


def packed(sealed, handler):
    send(handler, b"\x1f\x8b" + b"x" * 50, 200, Content_Encoding="gzip")


HOSTILE = [
    *(wrong_bit, other_part, too_long, too_short, nothing, cut, wrong_range, missing),
    *(broken, elsewhere, no_http, packed),
]


@pytest.mark.parametrize("lie", HOSTILE, ids=lambda one: one.__name__)
def test_a_lying_mirror_harms_nothing(platform, make_cache, sealed, tmp_path, lie):
    with serving(lambda handler: lie(sealed, handler)) as (url, asked):
        artifact = fetch(make_cache(mirror=Mirror(url)), sealed)

    assert asked
    assert artifact.parts[0].read_bytes() == sealed.parts[0].read_bytes()
    assert platform.parts_sent
    assert sorted(one.name for one in (tmp_path / "cache/parts").iterdir()) == digests(sealed)


def test_without_the_hash_a_lying_mirror_would_be_believed(
    platform, make_cache, sealed, monkeypatch
):
    """The control: nothing but the hash stands between its octets and the folder."""
    monkeypatch.setattr("inference.node.store.Draft.is_right", lambda self: self.left_bytes == 0)
    with serving(lambda handler: wrong_bit(sealed, handler)) as (url, _):
        artifact = fetch(make_cache(mirror=Mirror(url)), sealed)

    assert artifact.parts[0].read_bytes() != sealed.parts[0].read_bytes()
    assert platform.parts_sent == []


def test_the_platform_goes_on_where_a_mirror_ended(platform, make_cache, sealed):
    with serving(lambda handler: cut(sealed, handler)) as (url, _):
        fetch(make_cache(mirror=Mirror(url)), sealed)

    assert platform.ranges == ["bytes=1000-"]


def test_a_mirror_that_lied_is_left_alone(platform, make_cache, sealed, tmp_path):
    second = assign(platform, tmp_path, os.urandom(SIZE))
    with serving(lambda handler: wrong_bit(sealed, handler)) as (url, asked):
        cache = make_cache(mirror=Mirror(url))
        fetch(cache, sealed)
        fetch(cache, second)

    assert len(asked) == 1


def test_a_mirror_that_fails_is_left_alone_for_a_while(platform, make_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(origin_module, "PAUSE_S", 0.3)
    made = [assign(platform, tmp_path, os.urandom(1000)) for _ in range(5)]
    with serving(lambda handler: broken(None, handler)) as (url, asked):
        cache = make_cache(mirror=Mirror(url))
        for one in made[:4]:
            fetch(cache, one)
        assert len(asked) == origin_module.FAILURES_MAX
        time.sleep(0.3)
        fetch(cache, made[4])
        assert len(asked) == origin_module.FAILURES_MAX + 1


def test_a_mirror_that_sends_drop_by_drop_is_given_up(platform, make_cache, sealed, monkeypatch):
    monkeypatch.setattr(origin_module, "RATE_AFTER_S", 0.3)
    over = threading.Event()

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(sealed.parts[0].stat().st_size))
        handler.end_headers()
        while not over.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    try:
        with serving(drip) as (url, _):
            artifact = fetch(make_cache(mirror=Mirror(url)), sealed)
    finally:
        over.set()
    assert artifact.parts[0].read_bytes() == sealed.parts[0].read_bytes()


def test_a_mirror_that_says_nothing_is_given_up(platform, make_cache, sealed, monkeypatch):
    monkeypatch.setattr(origin_module, "SILENCE_S", 0.3)
    over = threading.Event()
    try:
        with serving(lambda _: over.wait(20)) as (url, _):
            artifact = fetch(make_cache(mirror=Mirror(url)), sealed)
    finally:
        over.set()
    assert artifact.parts[0].read_bytes() == sealed.parts[0].read_bytes()


def test_a_mirror_that_is_not_there_is_given_up(platform, make_cache, sealed):
    assert fetch(make_cache(mirror=Mirror("http://127.0.0.1:9")), sealed).parts


def test_a_spoiled_part_is_blamed_on_the_platform_alone(platform, make_cache, sealed):
    """A mirror that lies cannot make a version look corrupt at its source."""
    platform.spoiled_parts = 1000
    try:
        with (
            serving(lambda handler: wrong_bit(sealed, handler)) as (url, _),
            pytest.raises(ReplicaError) as caught,
        ):
            fetch(make_cache(mirror=Mirror(url)), sealed)
    finally:
        platform.spoiled_parts = 0
    assert caught.value.reason_code == "artifact_corrupt"
    # Both attempts were the platform's own.
    assert len(platform.parts_sent) == 2


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://mirror", "mirror", "http://", "http://mirror/{object}?key=1"),
        *("http://user:password@mirror", "http://mirror/#x"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(SettingError, match="STRONGROOM_NODE_MIRROR_URL"):
        Mirror(url)


def test_a_part_whose_object_is_not_known_is_not_asked_for(sealed):
    mirror = Mirror("http://mirror/{object}")
    wanted = Wanted(version(sealed), 0, 0, sealed.manifest.files[0].parts[0])

    assert not mirror.has(wanted)
    assert Mirror("http://mirror/{sha256}").has(wanted)
    odd = Wanted(version(sealed), 0, 0, wanted.part, "b?c=d#e")
    assert mirror.address(odd) == "http://mirror/b%3Fc%3Dd%23e"


@pytest.mark.parametrize("name", ["a/../../admin", "a?key=1", "a#b", "a b", "", 7, None])
def test_a_name_that_could_lead_elsewhere_is_not_asked_for(
    platform, make_cache, sealed, monkeypatch, name
):
    real = platform._artifact

    def rename(version_id, path):
        answer = real(version_id, path)
        return answer if path else {**answer, "objects": {"0-0": name}}

    monkeypatch.setattr(platform, "_artifact", rename)
    with serving(honest(sealed)) as (url, asked):
        fetch(make_cache(mirror=Mirror(url)), sealed)

    assert asked == []
    assert platform.parts_sent
