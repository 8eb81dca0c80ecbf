"""What the socket believes and what not, with peers of the test's own.

The peers run as children of a stand-in for tritonserver, with command lines of their own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from inference.node import stub_socket
from inference.node.errors import RefusedError, UnreachableError
from inference.node.stub_socket import LoadSession, StubSocket
from inference.serving.session import NodeSession
from inference.triton import processes
from inference.triton.repository import model_name
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from tests.inference.node.platform import wait_for

DIGEST = "0" * 64
# Says what its arguments say, one line each, and writes down what it is told in between.
PEER = """
import json, socket, sys, array
path, lines = sys.argv[1], sys.argv[2:-1]
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(path)
    peer.settimeout(10)
    handles = []
    for line in lines:
        peer.sendall(line.encode() + b"\\n")
        if '"phase"' in line and 'ready' not in line or "final" in line:
            continue
        data = b""
        while not data.endswith(b"\\n"):
            chunk, ancillary, _, _ = peer.recvmsg(65536, socket.CMSG_SPACE(4 * 253))
            for _, _, content in ancillary:
                handles.extend(array.array("i", content))
            data += chunk
            if not chunk:
                break
        print(data.decode().strip(), flush=True)
        if "fds" in data.decode():
            print(json.dumps([open(one, "rb").read().decode() for one in handles]), flush=True)
"""


class Broker:
    node_id = "node-1"

    def __init__(self):
        self.requests = []
        self.failures = []

    def request_lease(self, body):
        self.requests.append(body)
        if self.failures:
            raise self.failures.pop(0)
        return {"lease_id": str(new_id()), "expires_at": utc_now().isoformat(), "sealed_dek": "x"}


class Artifact:
    manifest_text = '{"a manifest":"ä"}'
    manifest = SimpleNamespace(artifact_id=str(new_id()))

    def __init__(self, parts):
        self.parts = parts

    def open_parts(self):
        return [os.open(one, os.O_RDONLY) for one in self.parts]


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def stubs(broker, tmp_path, monkeypatch):
    # The peers are Pythons; what a stub's program is called is another test's matter.
    monkeypatch.setattr(processes, "find_program", lambda _: processes.STUB_PROGRAM)
    stubs = StubSocket(
        tmp_path / "stub.sock",
        broker=broker,
        find_server_pid=os.getpid,
        repository_dir=tmp_path / "repository",
    )
    stubs.start()
    yield stubs
    stubs.close()
    assert not (tmp_path / "stub.sock").exists()


@pytest.fixture
def phases():
    return []


@pytest.fixture
def session(tmp_path, phases):
    part = tmp_path / "0-0.part"
    part.write_text("ciphertext")
    replica_id = new_id()
    return LoadSession(
        replica_id=replica_id,
        model_name=model_name(replica_id),
        purpose="serve",
        artifact=Artifact([part]),
        on_phase=lambda phase, share: phases.append((phase, share)),
        cancelled=threading.Event(),
    )


def speak(tmp_path, session, *messages, folder=None):
    """Run a peer that says these messages; returns the lines it was answered."""
    lines = [one if isinstance(one, str) else json.dumps(one) for one in messages]
    own = folder or f"{tmp_path / 'repository' / session.model_name}/1/model.py"
    command = [sys.executable, "-c", PEER, str(tmp_path / "stub.sock"), *lines, own]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.splitlines()


def hello(session, **changes):
    return {
        "hello": str(session.replica_id),
        "ephemeral_public_key": "key",
        "loader_digest": DIGEST,
    } | changes


READY = {"ready_for_key": True, "phase": "sandboxed"}


def test_a_loader_gets_artifact_descriptors_and_lease(tmp_path, stubs, session, phases, broker):
    stubs.expect(session)

    artifact, parts, lease = speak(
        tmp_path,
        session,
        hello(session),
        READY,
        {"phase": "decrypting", "progress": 0.5},
        {"validation": {"nodes": 1}, "final": 1},
        {"loaded": {"threads": 2}, "final": 1},
    )

    assert json.loads(artifact) == {"artifact": Artifact.manifest_text, "fds": 1}
    assert json.loads(parts) == ["ciphertext"]
    assert json.loads(lease)["lease"]["node_id"] == "node-1"
    assert session.over.wait(5)
    assert broker.requests == [
        {
            "purpose": "serve",
            "replica_id": str(session.replica_id),
            "artifact_id": Artifact.manifest.artifact_id,
            "loader_digest": DIGEST,
            "ephemeral_public_key": "key",
        }
    ]
    assert (session.validation, session.loaded) == ({"nodes": 1}, {"threads": 2})
    assert phases == [("starting", 0.0), ("sandboxed", 0.0), ("decrypting", 0.5)]
    assert session.failure is None
    assert session.lease is not None


def test_the_socket_is_for_us_alone(stubs, tmp_path):
    assert (tmp_path / "stub.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("server_pid", "program", "code"),
    [(1 << 22, processes.STUB_PROGRAM, "peer_refused"), (None, "python", "peer_refused")],
)
def test_who_is_no_loader_of_ours_is_refused(
    tmp_path, stubs, session, broker, monkeypatch, server_pid, program, code
):
    stubs.expect(session)
    if server_pid is not None:
        stubs._find_server_pid = lambda: server_pid
    monkeypatch.setattr(processes, "find_program", lambda _: program)

    answers = speak(tmp_path, session, hello(session), READY)

    assert json.loads(answers[0]) == {"refused": code}
    assert broker.requests == []
    assert not session.over.is_set()


def test_an_unreadable_program_is_vouched_for_by_its_descent(tmp_path, stubs, session, monkeypatch):
    monkeypatch.setattr(processes, "find_program", lambda _: None)
    stubs.expect(session)

    answers = speak(tmp_path, session, hello(session), READY)

    assert "lease" in json.loads(answers[-1])


def test_a_loader_of_another_folder_is_refused(tmp_path, stubs, session, broker):
    stubs.expect(session)
    other = f"{tmp_path / 'repository' / model_name(new_id())}/1/model.py"

    answers = speak(tmp_path, session, hello(session), READY, folder=other)

    assert json.loads(answers[0]) == {"refused": "peer_refused"}
    assert broker.requests == []


def test_a_replica_that_is_not_loading_is_refused(tmp_path, stubs, session, broker):
    answers = speak(tmp_path, session, hello(session), READY)
    assert json.loads(answers[0]) == {"refused": "replica_not_loading"}

    stubs.expect(session)
    stubs.forget(session)
    answers = speak(tmp_path, session, hello(session), READY)
    assert json.loads(answers[0]) == {"refused": "replica_not_loading"}
    assert broker.requests == []


def test_each_replica_has_one_conversation(tmp_path, stubs, session, broker):
    stubs.expect(session)
    speak(tmp_path, session, hello(session), READY, {"loaded": {}, "final": 1})
    assert session.over.wait(5)

    answers = speak(tmp_path, session, hello(session), READY)

    assert json.loads(answers[0]) == {"refused": "replica_not_loading"}
    assert len(broker.requests) == 1


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"hello":"x"}'])
def test_nonsense_is_refused(tmp_path, stubs, session, broker, line):
    stubs.expect(session)

    answers = speak(tmp_path, session, line)

    assert json.loads(answers[0]) == {"refused": "protocol_error"}
    assert broker.requests == []
    assert not session.over.is_set()


def test_an_endless_hello_is_cut(tmp_path, stubs, session, broker):
    stubs.expect(session)

    # The connection is closed under it; whether the refusal still arrives is chance.
    speak(tmp_path, session, '"' + "x" * 70_000)

    assert broker.requests == []
    assert session.stub_pid == 0


def test_a_refusal_of_the_broker_reaches_the_loader_and_us(tmp_path, stubs, session, broker):
    broker.failures = [RefusedError(403, "not_assigned", "No.")]
    stubs.expect(session)

    answers = speak(tmp_path, session, hello(session), READY)

    assert json.loads(answers[-1]) == {"refused": "not_assigned"}
    assert session.over.wait(5)
    assert session.failure.reason_code == "not_assigned"
    assert session.lease is None


def test_an_outage_of_the_broker_is_bridged(tmp_path, stubs, session, broker, monkeypatch):
    broker.failures = [UnreachableError("away"), UnreachableError("away")]
    stubs.expect(session)
    assert "lease" in json.loads(speak(tmp_path, session, hello(session), READY)[-1])


def test_a_long_outage_of_the_broker_is_told(tmp_path, stubs, session, broker, monkeypatch):
    monkeypatch.setattr(stub_socket, "LEASE_TIMEOUT_S", 0.5)
    broker.failures = [UnreachableError("away") for _ in range(50)]
    stubs.expect(session)

    answers = speak(tmp_path, session, hello(session), READY)

    assert json.loads(answers[-1]) == {"refused": "keybroker_unavailable"}
    assert session.over.wait(5)
    assert session.failure.is_infrastructure


def test_a_loader_that_does_not_say_which_code_it_runs_gets_no_key(
    tmp_path, stubs, session, broker
):
    stubs.expect(session)

    speak(tmp_path, session, hello(session, loader_digest="x"), READY)

    assert session.over.wait(5)
    assert broker.requests == []
    assert session.lease is None


@pytest.mark.parametrize(
    ("failed", "code", "detail"),
    [
        ({"reason_code": "onnx_malformed", "detail": "d" * 900}, "onnx_malformed", "d" * 500),
        ({"reason_code": "Not A Code", "detail": "x"}, "internal_error", "x"),
        ({"reason_code": "node_timeout", "detail": "x"}, "session_broken", "x"),
        ({}, "internal_error", ""),
    ],
)
def test_a_failure_is_taken_with_care(tmp_path, stubs, session, failed, code, detail):
    stubs.expect(session)

    speak(tmp_path, session, hello(session), READY, {"failed": failed, "final": 1})

    assert session.over.wait(5)
    assert (session.failure.reason_code, session.failure.detail) == (code, detail)


@pytest.mark.parametrize(
    "report", [["no object"], {"deep": {"a": {"b": {"c": {"d": {"e": 1}}}}}}, {"x": "y" * 40000}]
)
def test_a_report_that_the_platform_could_not_take_is_left_out(tmp_path, stubs, session, report):
    stubs.expect(session)

    speak(tmp_path, session, hello(session), READY, {"validation": report, "final": 1})

    assert session.over.wait(5)
    assert session.validation == {"left_out": True}


def test_a_loader_that_hangs_up_ends_its_session(tmp_path, stubs, session):
    stubs.expect(session)

    speak(tmp_path, session, hello(session))

    assert session.over.wait(5)
    assert session.loaded is None


def test_a_loader_that_is_given_up_is_killed(tmp_path, stubs, session, broker):
    broker.failures = [UnreachableError("away") for _ in range(100)]
    stubs.expect(session)
    killed = []
    thread = threading.Thread(
        target=lambda: killed.append(speak(tmp_path, session, hello(session), READY))
    )
    thread.start()
    wait_for(lambda: session.stub_pid)
    pid = session.stub_pid

    session.cancelled.set()
    stubs.abort(session)

    wait_for(lambda: not processes.is_alive(pid))
    thread.join(10)
    assert session.over.wait(5)


def test_many_descriptors_come_in_several_messages(tmp_path, session):
    """More than one message takes; the stub's own reader counts them."""
    parts = []
    for index in range(450):
        part = tmp_path / f"{index}.part"
        part.write_text(str(index))
        parts.append(part)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, NodeSession(theirs) as reader:
        sender = threading.Thread(
            target=stub_socket._send_artifact,
            args=[stub_socket._Conversation(ours), Artifact(parts)],
        )
        sender.start()
        text, handles = reader.receive_artifact()
        sender.join(5)
    try:
        assert text == Artifact.manifest_text
        assert [os.pread(one, 10, 0).decode() for one in handles] == [
            str(index) for index in range(450)
        ]
    finally:
        for handle in handles:
            os.close(handle)


def test_a_socket_that_was_left_behind_is_replaced(tmp_path, broker):
    path = Path(tmp_path / "stub.sock")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert path.exists()

    stubs = StubSocket(path, broker=broker, find_server_pid=os.getpid, repository_dir=tmp_path)
    stubs.start()
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
    finally:
        stubs.close()
