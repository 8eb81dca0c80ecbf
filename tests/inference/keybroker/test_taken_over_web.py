"""Somebody who has taken the web over makes a node of their own, and asks for a key.

Every step is tried with the rights of the web's database role. The control takes the same
steps with those of the schema's owner, as an operator may, and gets the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from inference.models import KeyRelease, Lease, Node, NodeIdentity, Replica
from inference.node.identity import Identity
from inference.node_certificate import make_request
from marketplace.core import keys
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from tests.inference.keybroker.conftest import LOADER_DIGEST, Broker, EnrolledNode, SealedVersion

pytestmark = pytest.mark.django_db(transaction=True)

NAME = "gpu-7"
TOKEN = """INSERT INTO inference_nodejointoken (digest, name, created_at, expires_at)
    VALUES (%s, %s, now(), now() + interval '1 hour')"""
IDENTITY = """INSERT INTO inference_nodeidentity (node_id, name, public_key, serial,
    certificate_expires_at, joined_at) VALUES (%s, %s, %s, '', now(), now())"""
TAKE_IDENTITY = "UPDATE inference_nodeidentity SET public_key = %s WHERE revoked_at IS NULL"
NODE = """INSERT INTO inference_node (id, name, public_key, token_digest, triton_http_url,
    triton_grpc_url, triton_metrics_url, triton_ready, info, enrolled_at)
    VALUES (%s, %s, %s, %s, 'x:1', 'x:2', '', true, '{}', now())"""
TAKE_NODE = "UPDATE inference_node SET public_key = %s, revoked_at = NULL"
REPLICA = """INSERT INTO inference_replica (id, version_id, node_id, purpose, wanted, state,
    progress, reason_code, detail, report, created_at, changed_at)
    VALUES (%s, %s, %s, 'scan', true, 'assigned', 0, '', '', '{}', now(), now())"""


@dataclass
class Thief:
    """What it has: a database role, the broker's address, and keys of its own."""

    broker: Broker
    database_url: str
    artifact_id: UUID
    identity: Identity = field(default_factory=lambda: Identity(signature.generate_signing_key()))
    ephemeral: bytes = field(default_factory=wrap.generate_private_key)
    node_id: UUID = field(default_factory=new_id)
    met_with: dict[str, str] = field(default_factory=dict)

    def write(self, step: str, sql: str, *values: Any) -> None:
        with psycopg.connect(self.database_url, autocommit=True) as database:
            try:
                database.execute(sql, values)
            except psycopg.Error as error:
                self.met_with[step] = type(error).__name__
            else:
                self.met_with[step] = "done"

    def ask(self, step: str, path: str, body: dict[str, Any], identity: Any = None) -> Any:
        with self.broker.client(identity) as client:
            answer = client.post(path, json=body).json()
        self.met_with[step] = answer.get("code", "answered")
        return answer

    def join(self) -> None:
        """Become a node by a token that it writes itself."""
        secret = keys.generate(keys.NODE)
        self.write("token", TOKEN, secret.digest, NAME)
        request = make_request(self.identity.private_key, NAME)
        body = {"join_token": secret.text, "name": NAME, "csr": request}
        answer = self.ask("join", "/v1/nodes/join", body)
        if "node_id" in answer:
            self.node_id = UUID(answer["node_id"])
            self.identity = Identity(
                self.identity.private_key, answer["node_id"], "t", answer["certificate"]
            )

    def ask_for_key(self, step: str) -> bytes | None:
        """A lease for a replica that it assigns to itself."""
        replica_id = new_id()
        self.write("replica", REPLICA, replica_id, self.artifact_id, self.node_id)
        challenge = self.ask("nonce", "/v1/leases/challenge", {"node_id": str(self.node_id)})
        body = {
            "node_id": str(self.node_id),
            "nonce": challenge["nonce"],
            "purpose": "scan",
            "replica_id": str(replica_id),
            "artifact_id": str(self.artifact_id),
            "loader_digest": LOADER_DIGEST,
            "ephemeral_public_key": encode_base64(wrap.derive_public_key(self.ephemeral)),
            "evidence": {"type": "none-dev"},
        }
        signed = self.identity.sign(signature.LEASE_REQUEST_TYPE, body)
        shown = self.identity if self.identity.certificate else None
        answer = self.ask(step, "/v1/leases", signed, shown)
        if "sealed_dek" not in answer:
            return None
        return wrap.unseal(decode_base64(answer["sealed_dek"]), self.ephemeral, answer["info"])


def test_a_web_that_was_taken_over_gets_no_key_by_a_node_of_its_own(
    broker: Broker, sealed: SealedVersion, database_urls: dict[str, str]
) -> None:
    thief = Thief(broker, database_urls["app"], sealed.version.pk)
    key = thief.identity.public_key

    thief.join()
    thief.write("identity", IDENTITY, thief.node_id, NAME, key)
    thief.write("node", NODE, thief.node_id, NAME, key, bytes(32))

    assert thief.ask_for_key("lease") is None
    assert thief.met_with == {
        "token": "InsufficientPrivilege",
        "join": "join_token_invalid",
        "identity": "InsufficientPrivilege",
        # This is the web's to write, and worth nothing at the broker.
        "node": "done",
        "replica": "done",
        "nonce": "answered",
        "lease": "signature_invalid",
    }
    assert not Lease.objects.exists()
    assert KeyRelease.objects.get().reason_code == "signature_invalid"


def test_nor_does_it_in_the_name_of_a_node_that_there_is(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, database_urls: dict[str, str]
) -> None:
    thief = Thief(broker, database_urls["app"], sealed.version.pk, node_id=node.row.pk)

    thief.write("node", TAKE_NODE, thief.identity.public_key)
    thief.write("identity", TAKE_IDENTITY, thief.identity.public_key)

    assert Node.objects.get().public_key == thief.identity.public_key
    assert thief.ask_for_key("lease") is None
    assert thief.met_with["identity"] == "InsufficientPrivilege"
    assert thief.met_with["lease"] == "signature_invalid"


def test_nor_can_it_give_a_right_back_that_it_took(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    Node.objects.update(revoked_at=utc_now())
    refused = broker.post("/v1/leases", node.request(broker, replica), token=None)
    assert refused.json()["code"] == "node_revoked"

    Node.objects.update(revoked_at=None)
    again = broker.post("/v1/leases", node.request(broker, replica), token=None)

    assert again.json()["code"] == "node_revoked"
    assert NodeIdentity.objects.get().revoked_at > utc_now() - timedelta(minutes=10)


def test_with_the_owners_rights_the_same_steps_give_the_key(
    broker: Broker, sealed: SealedVersion, database_urls: dict[str, str]
) -> None:
    """The control: nothing but the rights was missing."""
    thief = Thief(broker, database_urls["owner"], sealed.version.pk)

    thief.join()
    thief.write("node", NODE, thief.node_id, NAME, thief.identity.public_key, bytes(32))

    assert thief.ask_for_key("lease") == sealed.dek
    assert set(thief.met_with.values()) == {"done", "answered"}


def test_a_key_that_the_brokers_table_knows_is_not_enough_without_a_certificate(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, database_urls: dict[str, str]
) -> None:
    """The second lock: a signature alone opens nothing."""
    thief = Thief(broker, database_urls["owner"], sealed.version.pk, node_id=node.row.pk)

    thief.write("identity", TAKE_IDENTITY, thief.identity.public_key)

    assert thief.ask_for_key("lease") is None
    assert thief.met_with["identity"] == "done"
    assert thief.met_with["lease"] == "certificate_required"
