from __future__ import annotations

import json
import threading

import httpx
import pytest

from inference.node.control_plane import Backoff, ControlPlane, KeyBroker, read_from, retry
from inference.node.errors import CancelledError, RefusedError, UnreachableError
from inference.node.identity import IdentityStore
from inference.node_certificate import CertificateError
from tests.inference.node.platform import JOIN_TOKEN, RefusalError


@pytest.fixture
def identities(tmp_path):
    return IdentityStore(tmp_path)


@pytest.fixture
def broker(platform, identities):
    with KeyBroker(platform.broker_url, identities) as broker:
        yield broker


@pytest.fixture
def control_plane(platform, identities):
    with ControlPlane(platform.web_url, identities) as control_plane:
        yield control_plane


REPORT = {"replicas": []}


@pytest.fixture
def joined(broker):
    broker.join(join_token=JOIN_TOKEN, name="n")


def enrol(control_plane):
    control_plane.enrol(name="n", triton={}, info={})


def test_a_token_becomes_a_certificate_and_that_opens_the_node_api(
    platform, broker, control_plane, identities
):
    with pytest.raises(RefusedError) as caught:
        control_plane.get_desired()
    assert (caught.value.status, caught.value.code) == (401, "unauthenticated")

    broker.join(join_token=JOIN_TOKEN, name="n")
    assert identities.current.has_joined
    enrol(control_plane)

    assert identities.current.node_id == platform.node_id
    assert control_plane.get_desired()["node_id"] == platform.node_id


def test_the_web_is_shown_neither_the_join_token_nor_the_nodes_own(
    platform, joined, control_plane, identities
):
    enrol(control_plane)

    sent = json.dumps(platform.enrolments[-1])
    assert JOIN_TOKEN not in sent
    assert identities.current.token not in sent
    assert json.dumps(platform.joins[-1]).count(JOIN_TOKEN) == 1


def test_a_wrong_join_token_makes_no_node(broker, identities):
    with pytest.raises(RefusedError, match="join_token_invalid"):
        broker.join(join_token="wrong", name="n")

    assert not identities.current.has_joined


def test_a_certificate_that_is_not_ours_is_not_kept(platform, broker, identities, tmp_path):
    other = IdentityStore(tmp_path / "..")
    with KeyBroker(platform.broker_url, other) as other_broker:
        other_broker.join(join_token=JOIN_TOKEN, name="n")

    with pytest.raises(CertificateError):
        identities.join(node_id=other.current.node_id, certificate=other.current.certificate)

    assert not identities.current.has_joined


def test_joining_anew_makes_a_new_token(broker, joined, identities):
    before = identities.current

    broker.join(join_token=JOIN_TOKEN, name="n")

    after = identities.current
    assert after.public_key == before.public_key
    assert (after.node_id, after.token) != (before.node_id, before.token)
    assert after.token not in (before.token, "")


def test_a_certificate_that_ended_is_renewed_by_the_request_that_met_it(
    platform, broker, joined, identities, monkeypatch
):
    ended = identities.current.certificate
    grant = platform._grant

    def refuse_the_old(body):
        if identities.current.certificate == ended:
            raise RefusalError(401, "certificate_expired")
        return grant(body)

    monkeypatch.setattr(platform, "_grant", refuse_the_old)
    body = {"purpose": "serve", "replica_id": "x", "artifact_id": "x"}
    with pytest.raises(RefusedError, match="not_assigned"):
        broker.request_lease(body)
    assert identities.current.certificate != ended

    # Once, and not for ever.
    monkeypatch.setattr(platform, "_grant", lambda _: refuse())
    count = len(platform.certificates)
    with pytest.raises(RefusedError, match="certificate_expired"):
        broker.request_lease(body)
    assert len(platform.certificates) == count + 1


def refuse():
    raise RefusalError(401, "certificate_expired")


def test_two_that_meet_the_same_ended_certificate_renew_it_once(
    platform, broker, joined, identities
):
    ended, count = identities.current.certificate, len(platform.certificates)

    for _ in range(2):
        broker.renew_certificate(ended)

    assert len(platform.certificates) == count + 1


def test_each_request_to_the_broker_has_a_nonce_of_its_own(platform, broker, joined):
    body = {"purpose": "serve", "replica_id": "x", "artifact_id": "x"}
    for _ in range(2):
        with pytest.raises(RefusedError, match="not_assigned"):
            broker.request_lease(body)

    first, second = platform.lease_requests[-2:]
    assert first["nonce"] != second["nonce"]
    assert first["node_id"] == platform.node_id


def test_what_a_model_brought_into_a_report_does_not_stop_it(platform, joined, control_plane):
    enrol(control_plane)
    # JSON can write half of a surrogate pair; no encoding can send it.
    control_plane.call("POST", "/report", REPORT | {"note": json.loads('"\\ud800"')})

    assert platform.reports[-1]["note"] == "?"
    with pytest.raises(RefusedError, match="report_invalid"):
        control_plane.call("POST", "/report", REPORT | {"note": float("nan")})


def test_a_server_that_is_away_is_unreachable(platform, control_plane, identities):
    platform.is_web_down = platform.is_broker_down = True
    try:
        with pytest.raises(UnreachableError):
            control_plane.get_desired()
        with KeyBroker(platform.broker_url, identities) as broker, pytest.raises(UnreachableError):
            broker.release_lease("x")
    finally:
        platform.is_web_down = platform.is_broker_down = False
    with ControlPlane("http://127.0.0.1:9", identities) as nobody, pytest.raises(UnreachableError):
        nobody.get_desired()


@pytest.mark.parametrize("answer", [b"[]", b"not JSON", "text", ["a"]])
def test_an_answer_that_is_no_object_is_no_answer(
    platform, joined, control_plane, monkeypatch, answer
):
    enrol(control_plane)
    monkeypatch.setattr(platform, "_desired", lambda: answer)

    with pytest.raises(UnreachableError, match="no JSON object"):
        control_plane.get_desired()


def test_an_endless_answer_is_cut(platform, joined, control_plane, monkeypatch):
    enrol(control_plane)
    monkeypatch.setattr(platform, "_desired", lambda: {"x": "y" * (9 << 20)})

    with pytest.raises(UnreachableError, match="larger"):
        control_plane.get_desired()


def test_retry_goes_on_until_it_works():
    failures = iter([UnreachableError("1"), UnreachableError("2")])

    def call():
        error = next(failures, None)
        if error:
            raise error
        return "done"

    assert retry(call, timeout_s=5, cancelled=threading.Event(), first_s=0.01) == "done"


def test_retry_ends_with_its_time_its_reason_or_its_use():
    def refuse():
        raise RefusedError(403, "no", "")

    def fail():
        raise UnreachableError("away")

    never, now = threading.Event(), threading.Event()
    now.set()
    with pytest.raises(RefusedError):
        retry(refuse, timeout_s=5, cancelled=never)
    with pytest.raises(UnreachableError):
        retry(fail, timeout_s=0.05, cancelled=never, first_s=0.01)
    with pytest.raises(CancelledError):
        retry(fail, timeout_s=5, cancelled=now, first_s=0.01)


def test_waits_double_up_to_their_limit():
    backoff = Backoff(1.0, 8.0)

    waits = [backoff.next_s() for _ in range(6)]

    for wait_s, limit in zip(waits, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.75 * limit <= wait_s <= limit
    backoff.reset()
    assert backoff.next_s() <= 1.0


@pytest.mark.parametrize(
    ("status", "headers", "sent", "read"),
    [
        (206, {"Content-Range": "bytes 3-6/7"}, b"defg", b"defg"),
        # It knows no ranges, and sends all.
        (200, {}, b"abcdefg", b"defg"),
        (206, {"Content-Range": "bytes 30-33/70"}, b"defg", None),
        (206, {}, b"defg", None),
    ],
)
def test_a_range_is_what_was_asked_for_or_refused(status, headers, sent, read):
    # In drops, so that the beginning of it ends within one and across them.
    chunks = (sent[index : index + 2] for index in range(0, len(sent), 2))
    answer = httpx.Response(status, headers=headers, content=chunks)

    if read is None:
        with pytest.raises(UnreachableError):
            list(read_from(answer, 3))
    else:
        assert b"".join(read_from(answer, 3, 2)) == read
