from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.serving import session as sessions
from inference.serving.errors import SessionError
from inference.serving.session import NodeSession, check_parts


@pytest.fixture
def ends() -> Iterator[tuple[NodeSession, socket.socket]]:
    ours, theirs = socket.socketpair()
    with NodeSession(ours) as session, theirs:
        yield session, theirs


@pytest.fixture
def handles(tmp_path) -> list[int]:
    """A few files, opened for reading."""
    opened = []
    for index in range(3):
        path = tmp_path / str(index)
        path.write_bytes(b"x" * (index + 1))
        opened.append(os.open(path, os.O_RDONLY))
    return opened


def send(end: socket.socket, message: object, handles: list[int] | None = None) -> None:
    data = (json.dumps(message) if not isinstance(message, str) else message).encode() + b"\n"
    ancillary = []
    if handles:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))]
    sent = end.sendmsg([data], ancillary)
    end.sendall(data[sent:])


def refuse(call) -> str:
    with pytest.raises(SessionError) as caught:
        call()
    return caught.value.reason_code


def count_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_artifact_comes_with_its_descriptors(ends, handles):
    session, node = ends
    send(node, {"artifact": "{}", "fds": 3}, handles)

    manifest, received = session.receive_artifact()

    assert manifest == "{}"
    assert [os.read(one, 10) for one in received] == [b"x", b"xx", b"xxx"]


def test_hundreds_of_descriptors_come_in_several_messages(ends, handles):
    session, node = ends
    node.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    send(node, {"artifact": "{}", "fds": 450}, handles[:1] * 200)
    send(node, {"fds": 200}, handles[:1] * 200)
    send(node, {"fds": 50}, handles[:1] * 50)
    send(node, {"lease": {"lease_id": "x"}})

    _, received = session.receive_artifact()

    assert len(received) == 450
    assert session.receive_lease() == {"lease_id": "x"}
    for one in received:
        os.close(one)


def test_what_we_say_is_one_line_each(ends):
    session, node = ends

    session.say_hello(replica_id="r", public_key="k", loader_digest="d")
    session.report_progress("decrypting", 1 / 3)
    session.report_failure("tampered", "x" * 1000)

    lines = [json.loads(line) for line in node.recv(65536).splitlines()]
    assert lines[0] == {
        "hello": "r",
        "ephemeral_public_key": "k",
        "loader_digest": "d",
        "pid": os.getpid(),
    }
    assert lines[1] == {"phase": "decrypting", "progress": 0.333}
    assert lines[2]["failed"]["reason_code"] == "tampered"
    assert len(lines[2]["failed"]["detail"]) == sessions.MAX_DETAIL_LENGTH


_BROKEN = {
    "no_json": "nope",
    "no_object": [1],
    "no_manifest": {"fds": 1, "x": 1},
    "manifest_is_no_text": {"artifact": {}, "fds": 1},
    "no_count": {"artifact": "{}"},
    "count_is_true": {"artifact": "{}", "fds": True},
    "no_descriptors": {"artifact": "{}", "fds": 0},
    "too_many_descriptors": {"artifact": "{}", "fds": sessions.MAX_DESCRIPTORS + 1},
    "fewer_announced_than_sent": {"artifact": "{}", "fds": 2},
    "odd_refusal": {"refused": "no way!"},
}


@pytest.mark.parametrize("_case", _BROKEN)
def test_broken_message_ends_the_conversation(ends, handles, _case):
    session, node = ends
    before = count_open()
    send(node, _BROKEN[_case], handles)

    assert refuse(session.receive_artifact) == "protocol_error"
    session.close()
    # The socket is closed, and so is every descriptor that had come.
    assert count_open() == before - 1


def test_refusal_keeps_its_code(ends):
    session, node = ends
    send(node, {"refused": "version_not_approved"})

    assert refuse(session.receive_lease) == "version_not_approved"


@pytest.mark.parametrize("_lease", [{"lease": "text"}, {"lease": None}, {"other": 1}])
def test_lease_must_be_an_object(ends, _lease):
    session, node = ends
    send(node, _lease)

    assert refuse(session.receive_lease) == "protocol_error"


def test_descriptors_after_the_artifact_are_refused(ends, handles):
    session, node = ends
    send(node, {"lease": {}}, handles)

    assert refuse(session.receive_lease) == "protocol_error"


def test_line_has_a_limit(ends, monkeypatch):
    session, node = ends
    monkeypatch.setattr(sessions, "MAX_LINE_BYTES", 1000)
    node.sendall(b" " * 1001)

    assert refuse(session.receive_artifact) == "protocol_error"


def test_silence_has_an_end(ends, monkeypatch):
    session, node = ends
    monkeypatch.setattr(sessions, "ARTIFACT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(sessions, "LEASE_TIMEOUT_S", 0.05)
    node.sendall(b'{"artifact"')

    assert refuse(session.receive_artifact) == "node_timeout"
    assert refuse(session.receive_lease) == "node_timeout"


def test_drops_of_bytes_do_not_prolong_the_wait(ends, monkeypatch, handles):
    session, node = ends
    monkeypatch.setattr(sessions, "ARTIFACT_TIMEOUT_S", 0.05)
    # The line is complete, but a descriptor is missing for good.
    send(node, {"artifact": "{}", "fds": 4}, handles)

    assert refuse(session.receive_artifact) == "node_timeout"


def test_node_that_goes_away_is_noticed(ends):
    session, node = ends
    node.close()

    assert refuse(session.receive_artifact) == "node_lost"
    assert refuse(lambda: session.report_progress("loading", 0)) == "node_lost"
    session.report_failure("tampered", "nobody listens")


def test_socket_that_is_not_there(tmp_path):
    assert refuse(lambda: NodeSession.connect(str(tmp_path / "none.sock"))) == "node_unreachable"


# --- Parts ---


def test_parts_of_the_promised_sizes_are_accepted(handles):
    check_parts(handles, [1, 2, 3])


@pytest.mark.parametrize(
    ("_sizes", "_reason_code"),
    [
        ([1, 2], "protocol_error"),
        ([1, 2, 3, 4], "protocol_error"),
        ([1, 2, 4], "part_size_mismatch"),
        ([2, 1, 3], "part_size_mismatch"),
    ],
)
def test_other_parts_are_refused(handles, _sizes, _reason_code):
    assert refuse(lambda: check_parts(handles, _sizes)) == _reason_code


def test_parts_must_be_files_for_reading(tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"x")
    writable = os.open(path, os.O_RDWR)
    pipe, other = os.pipe()

    assert refuse(lambda: check_parts([writable], [1])) == "protocol_error"
    assert refuse(lambda: check_parts([pipe], [0])) == "protocol_error"
    for one in (writable, pipe, other):
        os.close(one)
