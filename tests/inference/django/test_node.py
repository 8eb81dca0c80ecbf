"""The node API: who gets in, what each node sees, and what its word is worth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from io import StringIO
from uuid import UUID, uuid4

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from embedded.environment import ROOT
from inference.keybroker.node_ca import make_authority
from inference.models import (
    Node,
    NodeIdentity,
    NodeJoinToken,
    Replica,
    ReplicaWork,
    UploadPart,
)
from inference.node_certificate import NodeCertificate
from inference.selectors.fleet import count_fleet, list_fleet
from inference.services import keybroker_client
from inference.services import node as service
from inference.services.node import note_departures
from marketplace.core import keys
from marketplace.core.clock import utc_now
from marketplace.models import AuditEvent, ModelVersion
from marketplace.selectors.access import Actor
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64
from tests.factories import APIKeyFactory, ModelVersionFactory
from tests.inference.django import node_ca
from tests.inference.django.scripted_node import URLS, ScriptedNode

FILES = {"model.onnx": b"weights" * 1000, "labels.txt": b"zero\none\n"}


@pytest.fixture
def node(db) -> ScriptedNode:
    return make_node("node-1")


@pytest.fixture
def other_node(db) -> ScriptedNode:
    return make_node("node-2")


def make_node(name: str) -> ScriptedNode:
    node = ScriptedNode(name)
    assert node.enrol().status_code == 201
    return node


def make_replica(node: ScriptedNode, version=None, **fields) -> Replica:
    version = version or ModelVersionFactory()
    fields = {"purpose": "serve"} | fields
    return Replica.objects.create(version=version, node_id=node.node_id, **fields)


def said(replica: Replica, state: str, **fields) -> dict:
    return {"id": str(replica.pk), "state": state, "progress": 0.5, **fields}


def assert_refused(answer, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.content


# --- Enrolling --------------------------------------------------------------------


def test_a_node_that_the_broker_certified_is_let_in(db):
    node = ScriptedNode("node-7")

    answer = node.enrol()

    assert answer.status_code == 201
    row = Node.objects.get()
    assert answer.json() == {"node_id": str(row.pk)} == {"node_id": node.node_id}
    assert (row.name, row.public_key, row.info) == ("node-7", node.public_key, {"gpu": "none"})
    assert (row.triton_http_url, row.triton_ready) == (URLS["http_url"], False)
    assert bytes(row.token_digest) == keys.digest(node.token)
    assert AuditEvent.objects.get().action == "node.enrol"
    assert node.call("GET", "desired").status_code == 200


def test_the_command_prints_a_token_and_keeps_its_digest_alone(db):
    out = StringIO()
    call_command("create_join_token", "--name", "node-7", stdout=out)

    row = NodeJoinToken.objects.get()
    assert bytes(row.digest) == keys.digest(out.getvalue().strip())
    assert (row.name, row.used_at) == ("node-7", None)
    assert out.getvalue().strip() not in str(NodeJoinToken.objects.values().get())


def test_the_webs_own_role_makes_no_token(transactional_db, database_urls):
    """The command says whose right it needs; the schema's owner has it."""
    command = [sys.executable, "manage.py", "create_join_token", "--name", "node-7"]

    def run(role):
        env = os.environ | {"STRONGROOM_DATABASE_URL": database_urls[role]}
        env["DJANGO_SETTINGS_MODULE"] = "marketplace.settings"
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60
        )

    refused = run("app")
    assert refused.returncode != 0
    assert "that of the schema's owner" in refused.stderr
    assert not NodeJoinToken.objects.exists()
    assert keys.is_well_formed(run("owner").stdout.strip())


def test_a_token_for_a_pool_says_for_how_many_and_how_long(db):
    out = StringIO()
    words = ("--pool", "gpu", "--uses", "10000", "--hours", "2160")
    call_command("create_join_token", *words, stdout=out)

    row = NodeJoinToken.objects.get()
    assert bytes(row.digest) == keys.digest(out.getvalue().strip())
    assert (row.name, row.pool, row.use_count, row.use_count_max) == ("", "gpu", 0, 10_000)
    assert timedelta(days=89) < row.expires_at - utc_now() <= timedelta(days=90)

    out = StringIO()
    call_command("list_join_tokens", stdout=out)
    assert "pool gpu" in out.getvalue()
    assert "0 of 10000 used" in out.getvalue()
    call_command("revoke_join_token", "--pool", "gpu", stdout=out)
    out = StringIO()
    call_command("list_join_tokens", stdout=out)
    assert "No join token is good" in out.getvalue()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Give a --name"),
        (("--pool", "gpu"), "--uses"),
        (("--name", "a", "--uses", "2"), "used once"),
        (("--pool", "gpu", "--uses", "0"), "1 to 10000 nodes"),
        (("--pool", "gpu", "--uses", "10001"), "1 to 10000 nodes"),
        (("--pool", "GPU", "--uses", "1"), "Lowercase"),
        (("--pool", "gpu", "--uses", "1", "--hours", "2161"), "up to 90 days"),
        (("--name", "a", "--hours", "0"), "up to 90 days"),
    ],
)
def test_a_token_out_of_bounds_is_not_made(db, words, said):
    with pytest.raises(CommandError, match=said):
        call_command("create_join_token", *words)
    assert not NodeJoinToken.objects.exists()


@pytest.mark.parametrize("name", ["", "Node", "-a", "a-", "a" * 64, "a_b", "a b", "a/b"])
def test_a_name_out_of_its_form_gets_no_token(db, name):
    with pytest.raises(CommandError):
        call_command("create_join_token", "--name", name)

    assert not NodeJoinToken.objects.exists()


def test_the_authority_is_fetched_from_the_broker(db, broker):
    node = ScriptedNode("node-1")
    node.join()
    keybroker_client._node_ca = None

    answer = node.call("POST", "enrol", node.sign_enrolment())

    assert answer.status_code == 201
    assert broker.calls == ["/v1/node-ca"]
    # It is kept: a broker that is away keeps no node out.
    broker.broken_status = 503
    assert node.call("POST", "enrol", node.sign_enrolment()).status_code == 201
    keybroker_client._node_ca = None
    answer = node.call("POST", "enrol", node.sign_enrolment())
    assert_refused(answer, 503, "keybroker_unavailable")


def test_a_node_may_repeat_itself(node):
    replica = make_replica(node, state="ready")

    assert node.enrol().status_code == 201

    assert Node.objects.count() == 1
    replica.refresh_from_db()
    assert replica.state == "ready"
    assert node.call("GET", "desired").status_code == 200


def test_whoever_repeats_a_nodes_request_gets_nothing_by_it(db):
    node = ScriptedNode("node-1")
    node.join()
    sent = node.sign_enrolment()

    answers = [node.call("POST", "enrol", sent) for _ in range(2)]

    assert [one.status_code for one in answers] == [201, 201]
    assert node.token not in json.dumps(sent) + answers[1].content.decode()
    for text in (sent["token_sha256"], sent["certificate"], sent["signature"]):
        thief = ScriptedNode("node-1", token=text)
        assert_refused(thief.call("GET", "desired"), 401, "unauthenticated")
    # Nor can it be told another token to listen to.
    other = keys.generate(keys.NODE)
    changed = sent | {"token_sha256": other.digest.hex()}
    assert_refused(node.call("POST", "enrol", changed), 401, "certificate_invalid")


@pytest.mark.parametrize("offset_s", [-240, 240])
def test_a_node_whose_clock_is_off_is_let_in(db, offset_s):
    node = ScriptedNode("node-1")
    node.join()
    with time_machine.travel(timezone.now() + timedelta(seconds=offset_s), tick=False):
        sent = node.sign_enrolment()

    assert node.call("POST", "enrol", sent).status_code == 201


@pytest.mark.parametrize("offset_s", [-330, 330])
def test_an_old_enrolment_is_not_taken(db, offset_s):
    node = ScriptedNode("node-1")
    node.join()
    with time_machine.travel(timezone.now() + timedelta(seconds=offset_s), tick=False):
        sent = node.sign_enrolment()

    assert_refused(node.call("POST", "enrol", sent), 401, "enrolment_stale")
    assert not Node.objects.exists()


def test_a_certificate_counts_from_five_minutes_before_it_was_made_to_its_end(db):
    node = ScriptedNode("node-1")
    node.join()
    made_at = NodeCertificate.parse(node.certificate).issued_at
    cases = {
        timedelta(minutes=-5, seconds=-1): "certificate_expired",
        timedelta(minutes=-5): None,
        timedelta(hours=24): None,
        timedelta(hours=24, seconds=1): "certificate_expired",
    }
    for age, code in cases.items():
        with time_machine.travel(made_at + age, tick=False):
            assert node.enrol().json().get("code") == code, age


def test_a_certificate_of_another_authority_is_worth_nothing(db):
    node = ScriptedNode("node-1")
    node.join()
    stranger = make_authority(signature.generate_signing_key(), timezone.now())
    public_key = decode_base64(node.public_key)
    forged, _, _ = stranger.issue(
        node_id=UUID(node.node_id), name="node-1", public_key=public_key, now=timezone.now()
    )

    for certificate in (forged, stranger.certificate, node_ca.AUTHORITY.certificate, "x"):
        answer = node.enrol(certificate=certificate)
        assert_refused(answer, 401, "certificate_invalid")
    assert not Node.objects.exists()
    assert node.enrol().status_code == 201


def test_a_certificate_without_its_key_is_worth_nothing(db):
    node, thief = ScriptedNode("node-1"), ScriptedNode("node-1")
    node.join()
    thief.certificate, thief.token = node.certificate, keys.generate(keys.NODE).text

    assert_refused(thief.enrol(), 401, "certificate_invalid")
    assert not Node.objects.exists()


def test_a_certificate_is_for_one_name(node, other_node):
    other_node.certificate = other_node.certify(name="node-1")
    assert_refused(other_node.enrol(), 401, "certificate_mismatch")

    before = Node.objects.get(name="node-1")
    assert (before.public_key, before.revoked_at) == (node.public_key, None)


def test_whom_the_broker_has_put_out_the_web_does_not_let_in(db):
    node, unknown = ScriptedNode("node-1"), ScriptedNode("node-2")
    for one in (node, unknown):
        one.join()
    NodeIdentity.objects.filter(name="node-1").update(revoked_at=timezone.now())
    NodeIdentity.objects.filter(name="node-2").delete()

    for one in (node, unknown):
        assert_refused(one.enrol(), 403, "node_revoked")
    assert not Node.objects.exists()


def test_a_node_that_was_set_up_anew_takes_its_old_name_over(node):
    replica = make_replica(node, state="ready")
    again = make_node("node-1")

    assert again.node_id != node.node_id
    old, new = Node.objects.get(pk=node.node_id), Node.objects.get(pk=again.node_id)
    assert (old.revoked_at is None, new.revoked_at) == (False, None)
    assert_refused(node.call("GET", "desired"), 401, "unauthenticated")
    assert_refused(node.enrol(), 403, "node_revoked")
    replica.refresh_from_db()
    assert replica.state == "lost"


@pytest.mark.parametrize(
    ("_case", "changes", "code"),
    [
        ("no digest", {"token_sha256": "AAAA"}, "validation"),
        ("a token for a digest", {"token_sha256": "snt_" + "a" * 60}, "validation"),
        ("a large certificate", {"certificate": "x" * 4097}, "validation"),
        ("no time", {"signed_at": "now"}, "validation"),
        ("no port", {"triton": URLS | {"http_url": "http://host"}}, "triton_url_invalid"),
        ("a file", {"triton": URLS | {"http_url": "file:///etc/passwd"}}, "triton_url_invalid"),
        ("credentials", {"triton": URLS | {"grpc_url": "a:b@host:1"}}, "triton_url_invalid"),
        ("missing", {"triton": {"http_url": "host:1"}}, "triton_url_invalid"),
        ("no object", {"triton": []}, "validation"),
        ("info is a list", {"info": []}, "validation"),
        ("name", {"name": "../x"}, "node_name_invalid"),
    ],
)
def test_an_enrolment_out_of_its_form_is_refused(db, _case, changes, code):
    answer = ScriptedNode("node-1").enrol(**changes)

    assert_refused(answer, 422, code)
    assert not Node.objects.exists()


# --- Whose it is ------------------------------------------------------------------


@pytest.fixture
def version(creator, model) -> ModelVersion:
    return ModelVersion.objects.get(pk=creator.push("acme/digits", FILES)["id"])


def test_a_node_reaches_what_is_assigned_to_it_and_nothing_else(version, node, other_node):
    make_replica(node, version)
    paths = [f"artifacts/{version.pk}", f"artifacts/{version.pk}/files/0/parts/0"]

    for path in paths:
        assert node.call("GET", path).status_code == 200
        assert_refused(other_node.call("GET", path), 404, "not_found")

    Replica.objects.update(wanted=False)
    for path in paths:
        assert_refused(node.call("GET", path), 404, "not_found")


def test_a_part_is_streamed_as_it_was_sent(version, node, store):
    make_replica(node, version)
    row = UploadPart.objects.get(file_index=1)

    answer = node.call("GET", f"artifacts/{version.pk}/files/1/parts/0")

    assert answer.streaming
    assert b"".join(answer.streaming_content) == (store / row.storage_name).read_bytes()
    assert answer["Content-Length"] == str(row.size_bytes)
    assert answer["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("path", ["files/2/parts/0", "files/0/parts/1", "files/999999/parts/0"])
def test_a_part_that_does_not_exist_is_not_found(version, node, path):
    make_replica(node, version)

    assert_refused(node.call("GET", f"artifacts/{version.pk}/{path}"), 404, "not_found")


def test_a_part_that_is_gone_from_the_store_is_not_found(version, node, store):
    make_replica(node, version)
    (store / UploadPart.objects.get(file_index=0).storage_name).unlink()

    answer = node.call("GET", f"artifacts/{version.pk}/files/0/parts/0")

    assert_refused(answer, 404, "not_found")


def test_the_creators_own_wrap_stays_with_us(version, node):
    make_replica(node, version)

    body = node.call("GET", f"artifacts/{version.pk}").json()

    assert [one["recipient"] for one in body["wrapped_keys"]] == ["platform"]
    assert sorted(body) == [
        *("manifest", "objects", "signature", "signing_public_key", "wrapped_keys")
    ]


CALLS = [
    ("GET", "desired"),
    ("GET", "prefetch"),
    ("POST", "report"),
    ("GET", f"artifacts/{uuid4()}"),
    ("GET", f"artifacts/{uuid4()}/files/0/parts/0"),
    ("POST", f"work/{uuid4()}"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_only_nodes_call_the_node_api(node, owner_client, owner, account, method, path):
    creator_token = APIKeyFactory(account=account, mode="token", created_by=owner).text
    stranger = ScriptedNode("node-1", token=keys.generate(keys.NODE).text)
    person = ScriptedNode("node-1", token=creator_token)

    assert_refused(stranger.call(method, path, {}), 401, "unauthenticated")
    assert_refused(person.call(method, path, {}), 401, "unauthenticated")
    assert_refused(Client().generic(method, f"/api/node/{path}"), 401, "unauthenticated")
    in_session = owner_client.generic(method, f"/api/node/{path}")
    assert_refused(in_session, 401, "unauthenticated")


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_revoked_node_is_nobody(node, platform_admin, method, path):
    service.revoke_node(node=Node.objects.get(), actor=Actor(user=platform_admin))

    assert_refused(node.call(method, path, {}), 401, "unauthenticated")


def test_a_revoked_node_does_not_let_itself_in_again(node, platform_admin):
    service.revoke_node(node=Node.objects.get(), actor=Actor(user=platform_admin))

    assert_refused(node.enrol(), 403, "node_revoked")
    assert Node.objects.get().revoked_at is not None

    # Only who joins anew is let in, as another node.
    again = make_node("node-1")
    assert Node.objects.get(revoked_at=None).pk == UUID(again.node_id)


def test_revoking_a_node_takes_its_replicas_out_of_service(node, platform_admin):
    replica = make_replica(node, state="ready")
    actor = Actor(user=platform_admin)

    service.revoke_node(node=Node.objects.get(), actor=actor)
    service.revoke_node(node=Node.objects.get(), actor=actor)

    replica.refresh_from_db()
    assert replica.state == "lost"
    assert Node.objects.get().revoked_at is not None
    assert AuditEvent.objects.filter(action="node.revoke").count() == 1


def test_a_nodes_token_opens_nothing_of_the_management_api(node, version):
    for path in ("/api/models/acme/digits/versions", f"/api/versions/{version.pk}"):
        answer = Client(headers={"Authorization": f"Bearer {node.token}"}).get(path)
        assert_refused(answer, 401, "unauthenticated")


# --- The desired state ------------------------------------------------------------


def test_desired_lists_wanted_replicas_with_one_piece_of_work(node, other_node):
    replica = make_replica(node, purpose="scan", state="ready")
    make_replica(node, wanted=False)
    make_replica(node, state="failed")
    make_replica(other_node)
    first = ReplicaWork.objects.create(replica=replica, kind="test")
    ReplicaWork.objects.create(replica=replica, kind="benchmark")

    body = node.call("GET", "desired").json()

    assert body == {
        "node_id": node.node_id,
        "replicas": [
            {
                "id": str(replica.pk),
                "version_id": str(replica.version_id),
                "purpose": "scan",
                "triton_name": f"r{replica.pk.hex}",
                "work": {"id": str(first.pk), "kind": "test"},
            }
        ],
    }


def test_desired_costs_the_same_for_many_replicas(node, django_assert_num_queries):
    for _ in range(5):
        replica = make_replica(node)
        ReplicaWork.objects.create(replica=replica, kind="test")

    # The node by its token, its replicas, their work.
    with django_assert_num_queries(3):
        answer = node.call("GET", "desired")

    assert len(answer.json()["replicas"]) == 5


# --- Reports ----------------------------------------------------------------------


def test_a_report_is_written_to_node_and_replica(node):
    replica = make_replica(node)
    known = {"validation": {"nodes": 3}, "load": {"load_time_s": 1.5}, "canary": {"right": 1}}
    report = {**known, "other": {"x": 1}}

    answer = node.report(
        replicas=[said(replica, "loading", phase="loading", report=report)],
        info={"gpu": "H200", "memory_bytes": 1},
    )

    assert (answer.status_code, answer.json()) == (200, {})
    replica.refresh_from_db()
    assert (replica.state, replica.progress, replica.detail) == ("loading", 0.5, "loading")
    assert replica.report == known
    row = Node.objects.get()
    assert row.triton_ready
    assert row.info == {"gpu": "H200", "memory_bytes": 1, "triton_version": "2.51.0"}
    assert timezone.now() - row.last_seen_at < timedelta(seconds=10)


def test_a_report_that_repeats_itself_writes_no_replica_and_wakes_no_gateway(node):
    replica = make_replica(node)
    body = [said(replica, "ready")]
    node.report(replicas=body)
    before = Replica.objects.values().get()

    with CaptureQueriesContext(
        connection,
    ) as queries:
        node.report(replicas=body)

    assert Replica.objects.values().get() == before
    written = [one["sql"] for one in queries if one["sql"].startswith("UPDATE")]
    assert len(written) == 1
    assert written[0].startswith('UPDATE "inference_node" SET "last_seen_at"')
    assert "triton" not in written[0]


@pytest.mark.parametrize("url", ["http_url", "grpc_url"])
def test_a_triton_that_moved_is_written_once(node, url):
    node.report()
    body = {"ready": True, **URLS, url: "127.0.0.1:9999"}

    node.report(triton=body)
    with CaptureQueriesContext(connection) as queries:
        node.report(triton=body)

    assert getattr(Node.objects.get(), f"triton_{url}") == "127.0.0.1:9999"
    assert not any("9999" in one["sql"] and "UPDATE" in one["sql"] for one in queries)


def test_what_a_node_does_not_mention_is_not_loaded(node):
    ready = make_replica(node, state="ready", progress=1.0)
    leaving = make_replica(node, state="ready", wanted=False)

    node.report(replicas=[])

    ready.refresh_from_db()
    leaving.refresh_from_db()
    assert (ready.state, ready.progress) == ("assigned", 0.0)
    assert leaving.state == "unloaded"


def test_a_failure_stays_even_when_the_node_forgets_it(node):
    replica = make_replica(node)
    node.report(replicas=[said(replica, "failed", reason_code="out_of_memory", detail="Too big.")])

    node.report(replicas=[])
    node.report(replicas=[said(replica, "ready")])

    replica.refresh_from_db()
    assert (replica.state, replica.reason_code) == ("failed", "out_of_memory")
    assert replica.detail == "Too big."


def test_a_node_says_nothing_about_anothers_replica(node, other_node):
    replica = make_replica(other_node)

    assert node.report(replicas=[said(replica, "ready")]).status_code == 200
    assert node.report(replicas=[said(Replica(pk=uuid4()), "ready")]).status_code == 200

    replica.refresh_from_db()
    assert replica.state == "assigned"


@pytest.mark.parametrize(
    ("_case", "changes"),
    [
        ("no triton", {"triton": None}),
        ("replicas no list", {"replicas": {}}),
        ("replica no object", {"replicas": ["x"]}),
        ("unknown state", {"replicas": [{"id": str(uuid4()), "state": "sleeping"}]}),
        ("lost is for us to say", {"replicas": [{"id": str(uuid4()), "state": "lost"}]}),
        ("no id", {"replicas": [{"state": "ready"}]}),
        ("odd id", {"replicas": [{"id": "r1", "state": "ready"}]}),
        ("257 replicas", {"replicas": [{"id": str(uuid4()), "state": "ready"}] * 257}),
        ("info no object", {"info": [1]}),
        (
            "info too deep",
            {"info": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {}}}}}}}}}}},
        ),
        ("info too long", {"info": {"a": list(range(5000))}}),
        ("odd url", {"triton": {"ready": True, **URLS, "http_url": "javascript:alert(1)"}}),
    ],
)
def test_a_report_out_of_its_form_writes_nothing(node, _case, changes):
    replica = make_replica(node)
    before = Replica.objects.values().get(), Node.objects.values().get()

    answer = node.report(**{"replicas": [said(replica, "ready")], **changes})

    assert answer.status_code == 422
    assert (Replica.objects.values().get(), Node.objects.values().get()) == before


def test_a_loaders_report_that_is_too_large_does_not_silence_the_node(node):
    replica = make_replica(node)
    report = {"validation": {"nodes": list(range(5000))}, "load": {"load_s": 1}}

    answer = node.report(replicas=[said(replica, "ready", report=report)])

    assert answer.status_code == 200
    replica.refresh_from_db()
    assert replica.state == "ready"
    assert replica.report == {
        "validation": {"note": "The report was too large to be kept."},
        "load": {"load_s": 1},
    }


def test_a_report_over_its_size_is_refused(node):
    answer = node.report(info={"text": "x" * (512 * 1024)})

    assert_refused(answer, 413, "payload_too_large")


def test_what_a_node_writes_is_made_fit_to_store_and_show(node):
    replica = make_replica(node)

    answer = node.report(
        replicas=[
            said(
                replica,
                "failed",
                reason_code="<script>",
                detail="a\0b\x1bc" + "x" * 3000,
                progress=7,
                report={"load": {"a\0": "\0", "big": 10**30, "list": [1.5, True, None]}},
            )
        ]
    )

    assert answer.status_code == 200, answer.content
    replica.refresh_from_db()
    assert replica.reason_code == "reason_unknown"
    assert replica.detail.startswith("a�b�cxxx")
    assert len(replica.detail) == 2000
    assert replica.progress == 1.0
    assert replica.report == {"load": {"a�": "�", "big": 2**53, "list": [1.5, True, None]}}


@pytest.mark.parametrize("progress", [-1, "0.5", None, True, [], 1e400])
def test_a_progress_that_is_none_is_zero_or_in_range(node, progress):
    replica = make_replica(node)
    body = said(replica, "loading") | {"progress": progress}

    # JSON has no infinity; what Python writes for it is refused by the parser.
    answer = node.report(replicas=[body])

    expected = 400 if progress == float("inf") else 200
    assert answer.status_code == expected
    replica.refresh_from_db()
    assert replica.progress == 0.0


# --- Work -------------------------------------------------------------------------


def test_the_first_result_of_a_work_counts(node):
    work = ReplicaWork.objects.create(replica=make_replica(node, purpose="scan"), kind="test")
    path = f"work/{work.pk}"

    first = node.call("POST", path, {"state": "succeeded", "result": {"vectors": 1}})
    second = node.call("POST", path, {"state": "failed", "reason_code": "test_vector_mismatch"})

    assert (first.status_code, second.status_code) == (200, 200)
    work.refresh_from_db()
    assert (work.state, work.result, work.reason_code) == ("succeeded", {"vectors": 1}, "")
    assert work.finished_at is not None


def test_a_node_has_no_say_in_anothers_work(node, other_node):
    work = ReplicaWork.objects.create(replica=make_replica(other_node), kind="test")

    answer = node.call("POST", f"work/{work.pk}", {"state": "succeeded"})

    assert_refused(answer, 404, "not_found")
    work.refresh_from_db()
    assert work.state == "waiting"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"state": "waiting"},
        {"state": "succeeded", "result": []},
        {"state": "succeeded", "result": {"a": [0] * 5000}},
    ],
)
def test_a_result_out_of_its_form_is_refused(node, body):
    work = ReplicaWork.objects.create(replica=make_replica(node), kind="test")

    answer = node.call("POST", f"work/{work.pk}", body)

    assert_refused(answer, 422, "validation")
    work.refresh_from_db()
    assert (work.state, work.result) == ("waiting", {})


def test_a_result_is_made_fit_to_store(node):
    work = ReplicaWork.objects.create(replica=make_replica(node), kind="test")
    body = {"state": "failed", "reason_code": "Odd Code!", "result": {"detail": "a\0b"}}

    assert node.call("POST", f"work/{work.pk}", body).status_code == 200

    work.refresh_from_db()
    assert (work.reason_code, work.result) == ("reason_unknown", {"detail": "a�b"})


def test_ids_of_replicas_are_read_in_any_spelling(node):
    replica = make_replica(node)

    node.report(replicas=[{"id": replica.pk.hex.upper(), "state": "ready"}])

    replica.refresh_from_db()
    assert (replica.state, replica.pk) == ("ready", UUID(replica.pk.hex))


# --- Pools --------------------------------------------------------------------------


def test_a_node_is_in_the_pool_that_the_broker_let_it_in_for(db, broker):
    node = ScriptedNode("node-7")
    node.join()
    NodeIdentity.objects.update(pool="gpu")
    assert node.enrol().status_code == 201
    assert Node.objects.get().pool == "gpu"


def test_a_node_that_says_goodbye_has_left_until_it_is_heard_again(db, node):
    row = Node.objects.get(pk=node.node_id)
    for leaving, has_left in ((True, True), (True, True), (False, False), ("yes", False)):
        node.report(leaving=leaving)
        row.refresh_from_db()
        assert (row.left_at is not None) is has_left, leaving


def test_a_silent_machine_of_a_pool_has_left_after_an_hour(db):
    now = utc_now()

    def make(name, pool, silent, **more):
        return Node.objects.create(
            name=name, pool=pool, token_digest=name.encode(), last_seen_at=now - silent, **more
        )

    hour = timedelta(hours=1)
    gone = make("gone", "gpu", hour + timedelta(seconds=1))
    make("here", "gpu", hour - timedelta(minutes=1))
    make("fixed", "default", hour * 100)
    make("revoked", "gpu", hour * 2, revoked_at=now)

    assert (note_departures(), note_departures()) == (1, 0)
    assert list(Node.objects.exclude(left_at=None)) == [gone]


def test_the_fleet_forgets_who_left(db):
    now = utc_now()
    for name, left in (("long-ago", timedelta(hours=2)), ("just-now", timedelta(minutes=5))):
        Node.objects.create(
            name=name, pool="gpu", token_digest=name.encode(), last_seen_at=now, left_at=now - left
        )
    [shown] = list_fleet()
    assert (shown.node.name, shown.condition, shown.tone) == ("just-now", "left", "info")
    assert count_fleet().nodes == 0
