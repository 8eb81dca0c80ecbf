"""Who is a node: joining, certificates, and what the broker makes of a connection.

The broker is a process of its own and speaks TLS; clients are real ones, the node's among them.
"""

from __future__ import annotations

import hashlib
import signal
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.kms import LocalKms
from inference.keybroker.node_ca import NodeAuthority, make_authority
from inference.models import (
    KeyRelease,
    Lease,
    Node,
    NodeIdentity,
    NodeJoinToken,
    PlatformKey,
    Replica,
)
from inference.node.control_plane import KeyBroker
from inference.node.errors import RefusedError, UnreachableError
from inference.node.identity import Identity, IdentityStore
from inference.node_certificate import (
    CERTIFICATE_TTL,
    CLOCK_MARGIN,
    PEM_BYTES_MAX,
    RENEWAL_GRACE,
    NodeCertificate,
    make_request,
)
from inference.services.node import (
    create_join_token,
    create_pool_token,
    revoke_join_tokens,
)
from marketplace.core import keys
from marketplace.core.clock import utc_now
from marketplace.core.env import SettingError
from marketplace.core.ids import new_id
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from tests.inference.keybroker.conftest import (
    LOADER_DIGEST,
    Broker,
    EnrolledNode,
    SealedVersion,
    enrol,
    start_broker,
)

pytestmark = pytest.mark.django_db(transaction=True)

NAME = "gpu-1"


@pytest.fixture
def identities(tmp_path: Path) -> IdentityStore:
    folder = tmp_path / "node"
    folder.mkdir()
    return IdentityStore(folder)


@pytest.fixture
def client(broker: Broker, identities: IdentityStore) -> KeyBroker:
    """The node's own client of the broker."""
    return KeyBroker(broker.url, identities, ca=broker.ca)


def ask_to_join(broker: Broker, token: str, private_key: bytes, name: str = NAME) -> Any:
    body = {"join_token": token, "name": name, "csr": make_request(private_key, name)}
    return broker.post("/v1/nodes/join", body, token=None)


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text


def authority_of(broker: Broker) -> NodeAuthority:
    """The broker's own authority, opened as the broker opens it."""
    row = PlatformKey.objects.get(purpose="node_ca")
    context = {"purpose": "platform-key/node_ca", "kid": row.kid}
    sealed = bytes(row.sealed_private_key)
    return NodeAuthority(
        LocalKms(broker.kms_dir).unwrap("platform", sealed, context), row.certificate
    )


def issue(authority: NodeAuthority, node: EnrolledNode, **changes: Any) -> Identity:
    """What a node shows, as the authority has it."""
    given: dict[str, Any] = {
        "node_id": node.row.pk,
        "name": node.row.name,
        "public_key": signature.derive_public_key(node.private_key),
        "now": utc_now(),
    }
    certificate, _, _ = authority.issue(**given | changes)
    return Identity(node.private_key, str(node.row.pk), "t", certificate)


def ask_for_key(
    broker: Broker, node: EnrolledNode, replica: Replica, shown: Identity | None
) -> httpx.Response:
    """A rightly signed request for a lease, over a connection that shows this certificate."""
    body = node.request(broker, replica)
    with broker.client(shown) as client:
        return client.post("/v1/leases", json=body)


# --- Joining ------------------------------------------------------------------------


def test_a_token_makes_a_node_whose_certificate_says_who_it_is(broker: Broker) -> None:
    token, key = create_join_token(name=NAME), signature.generate_signing_key()

    answer = ask_to_join(broker, token, key)

    assert answer.status_code == 200, answer.text
    joined = answer.json()
    assert joined["ca"] == broker.get("/v1/node-ca")["certificate"]
    read = NodeCertificate.verify(joined["certificate"], joined["ca"])
    assert (str(read.node_id), read.name) == (joined["node_id"], NAME)
    assert decode_base64(read.public_key) == signature.derive_public_key(key)
    assert read.not_after - read.not_before == CERTIFICATE_TTL + CLOCK_MARGIN
    row = NodeIdentity.objects.get()
    assert (str(row.pk), row.name, row.serial) == (joined["node_id"], NAME, read.serial)
    assert (row.certificate_expires_at, row.revoked_at) == (read.not_after, None)
    used = NodeJoinToken.objects.get()
    assert (used.node_id, used.used_at is None) == (row.pk, False)
    assert token not in broker.log_path.read_text()


def test_a_token_is_used_once_by_one_key_and_for_its_name(broker: Broker) -> None:
    token = create_join_token(name=NAME)
    first, thief = (signature.generate_signing_key() for _ in range(2))

    assert_refused(ask_to_join(broker, token, first, "gpu-2"), 401, "join_token_invalid")
    assert not NodeIdentity.objects.exists()
    joined = ask_to_join(broker, token, first).json()
    assert_refused(ask_to_join(broker, token, thief), 401, "join_token_invalid")
    # Whose answer was lost is the same node again.
    again = ask_to_join(broker, token, first).json()

    assert again["node_id"] == joined["node_id"]
    assert again["certificate"] != joined["certificate"]
    assert NodeIdentity.objects.count() == 1


def test_a_token_that_ended_or_never_was_makes_no_node(broker: Broker) -> None:
    token, key = create_join_token(name=NAME), signature.generate_signing_key()
    NodeJoinToken.objects.update(expires_at=utc_now() - timedelta(seconds=1))

    for text in (token, keys.generate(keys.NODE).text, "snt_" + "a" * 38, "x", ""):
        assert_refused(ask_to_join(broker, text, key), 401, "join_token_invalid")
    assert not NodeIdentity.objects.exists()

    NodeJoinToken.objects.update(expires_at=utc_now() + timedelta(minutes=1))
    assert ask_to_join(broker, token, key).status_code == 200


def test_a_request_out_of_its_form_is_refused_and_uses_nothing_up(broker: Broker) -> None:
    token, key = create_join_token(name=NAME), signature.generate_signing_key()
    request = make_request(key, NAME)
    other_kind = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]))
        .sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    right = {"join_token": token, "name": NAME, "csr": request}

    def change(text: str) -> str:
        lines = text.splitlines()
        swap = {"A": "B"}.get(lines[-3][40], "A")
        lines[-3] = lines[-3][:40] + swap + lines[-3][41:]
        return "\n".join(lines)

    for wrong in (
        {"csr": ""},
        {"csr": None},
        {"csr": other_kind},
        {"csr": change(request)},
        {"csr": request + "x" * (PEM_BYTES_MAX + 1 - len(request))},
        {"name": 1},
        {"name": "a\0b"},
        {"pool": None},
        {"pool": "a\0b"},
        {"join_token": None},
    ):
        answer = broker.post("/v1/nodes/join", right | wrong, token=None)
        assert_refused(answer, 422, "validation")
    assert NodeJoinToken.objects.get().used_at is None
    # At the limit, a request with words behind it is still one.
    padded = {"csr": request + "\n" * (PEM_BYTES_MAX - len(request))}
    assert broker.post("/v1/nodes/join", right | padded, token=None).status_code == 200


def test_a_node_that_joins_with_a_new_token_takes_its_name_over(broker: Broker) -> None:
    old_key, new_key = (signature.generate_signing_key() for _ in range(2))
    first, unused = create_join_token(name=NAME), create_join_token(name=NAME)
    old = ask_to_join(broker, first, old_key).json()

    new = ask_to_join(broker, create_join_token(name=NAME), new_key).json()

    assert new["node_id"] != old["node_id"]
    rows = {str(row.pk): row.revoked_at for row in NodeIdentity.objects.all()}
    assert (rows[old["node_id"]] is None, rows[new["node_id"]]) == (False, None)
    # Neither what the old one used, nor what was made for it, lets it in again.
    for token, key in ((first, old_key), (unused, old_key), (unused, new_key)):
        assert_refused(ask_to_join(broker, token, key), 401, "join_token_invalid")


@pytest.mark.parametrize("by", ["web", "operator"])
def test_a_revoked_node_needs_a_token_that_was_made_afterwards(broker: Broker, by: str) -> None:
    key, used = signature.generate_signing_key(), create_join_token(name=NAME)
    joined = ask_to_join(broker, used, key).json()
    unused = create_join_token(name=NAME)
    if by == "operator":
        assert broker.run("revoke-node", NAME).returncode == 0
        assert broker.run("revoke-node", NAME).returncode == 1
    else:
        Node.objects.create(
            pk=joined["node_id"], name=NAME, token_digest=bytes(32), revoked_at=utc_now()
        )

    for token in (used, unused):
        assert_refused(ask_to_join(broker, token, key), 401, "join_token_invalid")
    assert ask_to_join(broker, create_join_token(name=NAME), key).status_code == 200


# --- Connections --------------------------------------------------------------------


def test_the_nodes_own_certificate_opens_the_way_to_a_key(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    answer = ask_for_key(broker, node, replica, node.certify(broker))

    assert answer.status_code == 200, answer.text
    lease = answer.json()
    opened = wrap.unseal(decode_base64(lease["sealed_dek"]), node.ephemeral, lease["info"])
    assert opened == sealed.dek


def test_no_certificate_no_key(broker: Broker, node: EnrolledNode, replica: Replica) -> None:
    assert_refused(ask_for_key(broker, node, replica, None), 401, "certificate_required")
    assert KeyRelease.objects.get().reason_code == "certificate_required"
    assert not Lease.objects.exists()


def test_a_certificate_that_ended_is_told_so(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    authority = authority_of(broker)
    ended = issue(authority, node, now=utc_now() - CERTIFICATE_TTL - timedelta(seconds=2))
    early = issue(authority, node, now=utc_now() + CLOCK_MARGIN + timedelta(minutes=1))

    for shown in (ended, early):
        assert_refused(ask_for_key(broker, node, replica, shown), 401, "certificate_expired")
    assert not Lease.objects.exists()
    # The control: by a minute the other way it is good.
    good = issue(authority, node, now=utc_now() - CERTIFICATE_TTL + timedelta(minutes=1))
    assert ask_for_key(broker, node, replica, good).status_code == 200


def test_a_connection_lasts_no_longer_than_its_certificate(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    """Not only the handshake looks at the time: each request does."""
    left = timedelta(seconds=6)
    shown = issue(authority_of(broker), node, now=utc_now() - CERTIFICATE_TTL + left)
    ends_at = NodeCertificate.parse(shown.certificate).not_after
    codes = []
    with broker.client(shown) as client:
        while utc_now() < ends_at + timedelta(seconds=2):
            answer = client.post("/v1/leases", json=node.request(broker, replica))
            codes.append(answer.json().get("code"))
    assert codes[0] is None
    assert codes[-1] == "certificate_expired"


def test_a_certificate_of_another_node_is_not_taken(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    authority, other = authority_of(broker), enrol("node-2")
    another_id = issue(authority, node, node_id=other.row.pk)
    earlier_key = EnrolledNode(node.row, signature.generate_signing_key())

    for shown in (other.certify(broker), another_id, issue(authority, earlier_key)):
        assert_refused(ask_for_key(broker, node, replica, shown), 401, "certificate_mismatch")
    assert not Lease.objects.exists()


@pytest.mark.parametrize("kind", ["another authority", "by itself", "the server's authority"])
def test_a_certificate_that_the_broker_did_not_issue_ends_the_handshake(
    broker: Broker, node: EnrolledNode, kind: str
) -> None:
    stranger = make_authority(signature.generate_signing_key(), utc_now())
    if kind == "by itself":
        stranger = make_authority(node.private_key, utc_now())
    if kind == "the server's authority":
        # The right name, and the wrong key behind it.
        stranger = NodeAuthority(stranger.private_key, authority_of(broker).certificate)
    shown = issue(stranger, node)

    with broker.client(shown) as client, pytest.raises(httpx.TransportError):
        client.get("/health")
    # The control: the same connection with the right certificate.
    with broker.client(issue(authority_of(broker), node)) as client:
        assert client.get("/health").status_code == 200


def test_nobody_believes_another_server(
    broker: Broker, identities: IdentityStore, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    strange = start_broker(
        other,
        broker.environment["STRONGROOM_KEYBROKER_DATABASE_URL"],
        STRONGROOM_KEYBROKER_KMS_DIR=str(broker.kms_dir),
    )
    try:
        mistaken = KeyBroker(strange.url, identities, ca=broker.ca)
        with pytest.raises(UnreachableError, match="ConnectError"):
            mistaken.join(join_token=create_join_token(name=NAME), name=NAME)
        assert NodeJoinToken.objects.get().used_at is None
    finally:
        strange.stop()


def test_an_older_protocol_is_refused(broker: Broker) -> None:
    context = ssl.create_default_context(cafile=broker.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{broker.url}/health", verify=context, trust_env=False)


@pytest.mark.parametrize("action", ["renew", "release"])
def test_leases_are_kept_and_given_back_by_the_node_alone(
    broker: Broker, node: EnrolledNode, replica: Replica, action: str
) -> None:
    lease = ask_for_key(broker, node, replica, node.certify(broker)).json()
    other = enrol("node-2").certify(broker)

    def act(shown: Identity | None) -> httpx.Response:
        body = {"node_id": str(node.row.pk), "nonce": node.nonce(broker)}
        with broker.client(shown) as client:
            return client.post(f"/v1/leases/{lease['lease_id']}/{action}", json=node.sign(body))

    assert_refused(act(None), 401, "certificate_required")
    assert_refused(act(other), 401, "certificate_mismatch")
    assert Lease.objects.get().ended_at is None
    assert act(node.certify(broker)).status_code == 200


# --- Renewing -----------------------------------------------------------------------


def test_a_renewed_certificate_and_the_one_before_it_are_good(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    first = node.certify(broker)
    node.certificate = ""
    second = node.certify(broker)
    assert first is not None
    assert second is not None
    assert first.certificate != second.certificate

    for shown in (second, first):
        assert ask_for_key(broker, node, replica, shown).status_code == 200
    assert NodeIdentity.objects.get().serial == NodeCertificate.parse(second.certificate).serial


def test_a_certificate_is_renewed_for_a_week_after_its_end(
    broker: Broker, node: EnrolledNode
) -> None:
    def renew() -> httpx.Response:
        body = {"node_id": str(node.row.pk), "nonce": node.nonce(broker)}
        return broker.post("/v1/nodes/renew", node.sign_renewal(body))

    late = utc_now() - RENEWAL_GRACE
    NodeIdentity.objects.update(certificate_expires_at=late - timedelta(seconds=1))
    assert_refused(renew(), 401, "certificate_expired")
    NodeIdentity.objects.update(certificate_expires_at=late + timedelta(minutes=1))
    assert renew().status_code == 200


def test_nobody_else_renews_it(broker: Broker, node: EnrolledNode) -> None:
    def body() -> dict[str, Any]:
        return {"node_id": str(node.row.pk), "nonce": node.nonce(broker)}

    right = node.sign_renewal(body())
    thief = enrol("node-2")
    lease_request = node.sign(body())
    for wrong, status, code in (
        (thief.sign_renewal(body()), 401, "signature_invalid"),
        # What was signed for a lease is no request for a certificate.
        (lease_request, 401, "signature_invalid"),
        (right | {"nonce": "another"}, 401, "signature_invalid"),
        (node.sign_renewal(body() | {"nonce": thief.nonce(broker)}), 409, "nonce_replayed"),
        (node.sign_renewal(body() | {"node_id": str(new_id())}), 401, "signature_invalid"),
        (node.sign_renewal({"nonce": "x"}), 422, "validation"),
    ):
        assert_refused(broker.post("/v1/nodes/renew", wrong, token=None), status, code)
    assert broker.post("/v1/nodes/renew", right, token=None).status_code == 200
    assert_refused(broker.post("/v1/nodes/renew", right, token=None), 409, "nonce_replayed")


def test_a_revoked_node_renews_nothing_and_gets_nothing(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    shown = node.certify(broker)
    lease = ask_for_key(broker, node, replica, shown).json()
    assert broker.run("revoke-node", node.row.name).returncode == 0

    body = {"node_id": str(node.row.pk), "nonce": node.nonce(broker)}
    answer = broker.post("/v1/nodes/renew", node.sign_renewal(body))
    assert_refused(answer, 403, "node_revoked")
    assert_refused(ask_for_key(broker, node, replica, shown), 403, "node_revoked")
    path = f"/v1/leases/{lease['lease_id']}/renew"
    body = {"node_id": str(node.row.pk), "nonce": node.nonce(broker)}
    assert_refused(broker.post(path, node.sign(body), peer=node), 403, "node_revoked")


# --- Pools --------------------------------------------------------------------------


def join_pool(broker: Broker, token: str, name: str, key: bytes | None = None, **more: str) -> Any:
    """Ask as a new machine of a pool, or as the one with this key."""
    key = key or signature.generate_signing_key()
    body = {"join_token": token, "name": name, "csr": make_request(key, name)} | more
    return broker.post("/v1/nodes/join", body, token=None)


def test_a_pools_token_makes_so_many_nodes_of_whatever_names(broker: Broker) -> None:
    token = create_pool_token(pool="gpu", use_count_max=2)
    key = signature.generate_signing_key()

    first = join_pool(broker, token, "gpu-a", key).json()
    # Whose answer was lost is the same node again, and uses nothing up.
    assert join_pool(broker, token, "gpu-a", key).json()["node_id"] == first["node_id"]
    assert join_pool(broker, token, "gpu-b").status_code == 200
    assert_refused(join_pool(broker, token, "gpu-c"), 401, "join_token_invalid")
    # Also when it is used up.
    assert join_pool(broker, token, "gpu-a", key).json()["node_id"] == first["node_id"]

    assert NodeJoinToken.objects.get().use_count == 2
    assert set(NodeIdentity.objects.values_list("name", "pool")) == {
        ("gpu-a", "gpu"),
        ("gpu-b", "gpu"),
    }


def test_as_many_at_once_as_the_token_is_good_for(broker: Broker) -> None:
    token = create_pool_token(pool="gpu", use_count_max=5)
    with ThreadPoolExecutor(12) as threads:
        answers = threads.map(lambda index: join_pool(broker, token, f"gpu-{index}"), range(12))
        codes = [answer.status_code for answer in answers]
    assert sorted(codes) == [200] * 5 + [401] * 7
    assert NodeIdentity.objects.count() == NodeJoinToken.objects.get().use_count == 5


def test_a_token_is_for_its_pool(broker: Broker) -> None:
    of_pool, of_name = create_pool_token(pool="gpu", use_count_max=9), create_join_token(name=NAME)
    for token in (of_pool, of_name):
        answer = join_pool(broker, token, NAME, pool="cpu")
        assert_refused(answer, 401, "join_token_invalid")
    assert not NodeIdentity.objects.exists()
    assert join_pool(broker, of_pool, "gpu-a", pool="gpu").status_code == 200
    assert join_pool(broker, of_name, NAME, pool="default").status_code == 200


@pytest.mark.parametrize("name", ["", "Gpu", "-a", "a" * 64, "a.b"])
def test_a_node_of_a_pool_has_a_nodes_name(broker: Broker, name: str) -> None:
    token = create_pool_token(pool="gpu", use_count_max=9)
    request = make_request(signature.generate_signing_key(), "x")
    body = {"join_token": token, "name": name, "csr": request}
    assert_refused(broker.post("/v1/nodes/join", body, token=None), 401, "join_token_invalid")
    assert NodeJoinToken.objects.get().use_count == 0


def test_a_machine_of_the_same_name_follows_in_its_pool_alone(broker: Broker) -> None:
    """Otherwise any machine of a pool could take the place of any node there is."""
    gpu = create_pool_token(pool="gpu", use_count_max=9)
    cpu = create_pool_token(pool="cpu", use_count_max=9)
    assert join_pool(broker, create_join_token(name=NAME, pool="gpu"), NAME).status_code == 200
    before = join_pool(broker, gpu, "gpu-a").json()

    assert_refused(join_pool(broker, cpu, "gpu-a"), 401, "join_token_invalid")
    # That one has a token of its own, though it is in the pool.
    assert_refused(join_pool(broker, gpu, NAME), 401, "join_token_invalid")
    after = join_pool(broker, gpu, "gpu-a").json()

    replaced = NodeIdentity.objects.get(pk=before["node_id"])
    assert replaced.revoked_at == replaced.replaced_at is not None
    assert NodeIdentity.objects.get(pk=after["node_id"]).revoked_at is None
    # Nothing was said against the machine that lost its name: the pool goes on.
    Node.objects.create(
        pk=before["node_id"], name="gpu-a", token_digest=bytes(32), revoked_at=utc_now()
    )
    assert join_pool(broker, gpu, "gpu-b").status_code == 200


@pytest.mark.parametrize("by", ["web", "operator"])
def test_putting_one_machine_out_puts_out_the_token_that_it_holds(broker: Broker, by: str) -> None:
    used, other = (create_pool_token(pool="gpu", use_count_max=9) for _ in range(2))
    cpu = create_pool_token(pool="cpu", use_count_max=9)
    stays = join_pool(broker, used, "gpu-a").json()
    joined = join_pool(broker, used, "gpu-b").json()
    if by == "operator":
        assert broker.run("revoke-node", "gpu-b").returncode == 0
    else:
        Node.objects.create(
            pk=joined["node_id"], name="gpu-b", token_digest=bytes(32), revoked_at=utc_now()
        )

    # Not under another name, and not with what it may have been given since.
    for token in (used, other):
        assert_refused(join_pool(broker, token, "gpu-c"), 401, "join_token_invalid")
    assert join_pool(broker, cpu, "cpu-a").status_code == 200
    assert NodeIdentity.objects.get(pk=stays["node_id"]).revoked_at is None
    fresh = create_pool_token(pool="gpu", use_count_max=9)
    assert join_pool(broker, fresh, "gpu-c").status_code == 200


def test_without_that_rule_it_would_come_back(broker: Broker) -> None:
    """The control: a machine that only lost its name to another one comes back."""
    token = create_pool_token(pool="gpu", use_count_max=9)
    joined = join_pool(broker, token, "gpu-b").json()
    now = utc_now()
    NodeIdentity.objects.filter(pk=joined["node_id"]).update(revoked_at=now, replaced_at=now)
    assert join_pool(broker, token, "gpu-c").status_code == 200


def test_revoked_tokens_let_nobody_in_and_put_nobody_out(broker: Broker) -> None:
    gpu = create_pool_token(pool="gpu", use_count_max=9)
    cpu = create_pool_token(pool="cpu", use_count_max=9)
    named = create_join_token(name=NAME, pool="gpu")
    joined = join_pool(broker, gpu, "gpu-a").json()

    assert (revoke_join_tokens(pool="gpu"), revoke_join_tokens(pool="gpu")) == (1, 0)

    assert_refused(join_pool(broker, gpu, "gpu-b"), 401, "join_token_invalid")
    assert NodeIdentity.objects.get(pk=joined["node_id"]).revoked_at is None
    assert join_pool(broker, cpu, "cpu-a").status_code == 200
    assert revoke_join_tokens(name=NAME) == 1
    assert_refused(join_pool(broker, named, NAME), 401, "join_token_invalid")


# --- The node's own client ----------------------------------------------------------


def prepare_replica(identities: IdentityStore, sealed: SealedVersion) -> Replica:
    """The web's part, for a node that has joined: it enrolled and was given a replica."""
    identity = identities.current
    row = Node.objects.create(
        pk=identity.node_id,
        name=NAME,
        public_key=identity.public_key,
        token_digest=hashlib.sha256(identity.token.encode()).digest(),
        triton_http_url="http://127.0.0.1:1",
        triton_grpc_url="127.0.0.1:2",
    )
    return Replica.objects.create(version=sealed.version, node=row, purpose="scan")


def lease_body(replica: Replica, ephemeral: bytes) -> dict[str, Any]:
    return {
        "purpose": "scan",
        "replica_id": str(replica.pk),
        "artifact_id": str(replica.version_id),
        "loader_digest": LOADER_DIGEST,
        "ephemeral_public_key": encode_base64(wrap.derive_public_key(ephemeral)),
        "evidence": {"type": "none-dev"},
    }


@pytest.mark.parametrize("offset_s", [0, -240, 240])
def test_a_node_comes_by_a_key_though_its_clock_is_off(
    client: KeyBroker, identities: IdentityStore, sealed: SealedVersion, offset_s: int
) -> None:
    ephemeral = wrap.generate_private_key()
    token = create_join_token(name=NAME)
    with time_machine.travel(utc_now() + timedelta(seconds=offset_s), tick=True):
        client.join(join_token=token, name=NAME)
        # At once it is not due, whatever the clock says.
        assert utc_now() < identities.current.renew_at
    replica = prepare_replica(identities, sealed)
    with time_machine.travel(utc_now() + timedelta(seconds=offset_s), tick=True):
        lease = client.request_lease(lease_body(replica, ephemeral))
        client.renew_lease(lease["lease_id"])
        client.renew_certificate()
        client.release_lease(lease["lease_id"])

    assert wrap.unseal(decode_base64(lease["sealed_dek"]), ephemeral, lease["info"]) == sealed.dek


def test_a_node_that_slept_renews_its_certificate_by_itself(
    broker: Broker, client: KeyBroker, identities: IdentityStore, sealed: SealedVersion
) -> None:
    client.join(join_token=create_join_token(name=NAME), name=NAME)
    replica = prepare_replica(identities, sealed)
    ended, _, _ = authority_of(broker).issue(
        node_id=UUID(identities.current.node_id),
        name=NAME,
        public_key=decode_base64(identities.current.public_key),
        now=utc_now() - timedelta(days=2),
    )
    identities.renew(ended)

    lease = client.request_lease(lease_body(replica, wrap.generate_private_key()))

    assert UUID(lease["lease_id"])
    assert NodeCertificate.parse(identities.current.certificate).not_after > utc_now()
    # The refusal stands in the log, and so does the lease.
    codes = KeyRelease.objects.order_by("id").values_list("reason_code", flat=True)
    assert list(codes) == ["certificate_expired", ""]


def test_a_lease_outlives_the_broker(
    broker: Broker,
    client: KeyBroker,
    identities: IdentityStore,
    sealed: SealedVersion,
    tmp_path: Path,
) -> None:
    client.join(join_token=create_join_token(name=NAME), name=NAME)
    replica = prepare_replica(identities, sealed)
    lease = client.request_lease(lease_body(replica, wrap.generate_private_key()))

    broker.process.send_signal(signal.SIGKILL)
    broker.process.wait()
    with pytest.raises(UnreachableError):
        client.renew_lease(lease["lease_id"])
    port = broker.environment["STRONGROOM_KEYBROKER_LISTEN"]
    again = start_broker(
        tmp_path,
        broker.environment["STRONGROOM_KEYBROKER_DATABASE_URL"],
        STRONGROOM_KEYBROKER_LISTEN=port,
    )
    try:
        # The same address, the same authority: nothing has to be said twice.
        before = lease["expires_at"]
        assert client.renew_lease(lease["lease_id"])["expires_at"] >= before
        with pytest.raises(RefusedError, match="lease_lost"):
            client.renew_lease(str(new_id()))
    finally:
        assert again.stop() == 0


# --- The process --------------------------------------------------------------------


def test_it_ends_when_it_is_told_to_and_says_why_it_cannot_start(broker: Broker) -> None:
    other = broker.run("serve")
    assert other.returncode == 2
    assert "address already in use" in other.stderr

    with broker.client() as idle:
        assert idle.get("/health").json() == {"status": "ok"}
        assert broker.stop() == 0


def test_without_tls_it_says_so_and_checks_no_certificate(
    broker: Broker, node: EnrolledNode, replica: Replica, tmp_path: Path
) -> None:
    settings = dict.fromkeys(("STRONGROOM_KEYBROKER_TLS_CERT", "STRONGROOM_KEYBROKER_TLS_KEY"), "")
    plain = start_broker(
        tmp_path, broker.environment["STRONGROOM_KEYBROKER_DATABASE_URL"], **settings
    )
    try:
        assert "for development only" in plain.log_path.read_text()
        answer = httpx.post(f"{plain.url}/v1/leases", json=node.request(plain, replica))
        assert answer.status_code == 200
    finally:
        plain.stop()


SETTINGS = {
    "STRONGROOM_KEYBROKER_DATABASE_URL": "postgresql:///x",
    "STRONGROOM_KEYBROKER_TOKEN": "t" * 32,
    "STRONGROOM_KEYBROKER_KMS": "local",
    "STRONGROOM_KEYBROKER_KMS_DIR": "kms",
}
FILES = {"STRONGROOM_KEYBROKER_TLS_CERT": __file__, "STRONGROOM_KEYBROKER_TLS_KEY": __file__}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "STRONGROOM_KEYBROKER_TLS_CERT"),
        ({"STRONGROOM_KEYBROKER_TLS_CERT": __file__}, "STRONGROOM_KEYBROKER_TLS_KEY"),
        (FILES | {"STRONGROOM_KEYBROKER_TLS_KEY": "/nowhere"}, "STRONGROOM_KEYBROKER_TLS_KEY"),
        (FILES | {"STRONGROOM_KEYBROKER_LISTEN": "x"}, "STRONGROOM_KEYBROKER_LISTEN"),
        (FILES | {"STRONGROOM_KEYBROKER_LISTEN": "x:0"}, "STRONGROOM_KEYBROKER_LISTEN"),
        (FILES | {"STRONGROOM_KEYBROKER_LISTEN": "x:65536"}, "STRONGROOM_KEYBROKER_LISTEN"),
        (
            {"STRONGROOM_ENV": "development", "STRONGROOM_KEYBROKER_TLS_CERT": __file__},
            "STRONGROOM_KEYBROKER_TLS_KEY",
        ),
    ],
)
def test_production_has_tls_or_does_not_start(changes: dict[str, str], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        KeyBrokerConfig.from_env(SETTINGS | changes)


def test_what_is_accepted_of_the_settings() -> None:
    config = KeyBrokerConfig.from_env(
        SETTINGS | FILES | {"STRONGROOM_KEYBROKER_LISTEN": "[::1]:65535"}
    )
    assert (config.host, config.port) == ("::1", 65535)
    assert config.tls == (Path(__file__), Path(__file__))
    assert KeyBrokerConfig.from_env(SETTINGS | {"STRONGROOM_ENV": "development"}).tls is None
