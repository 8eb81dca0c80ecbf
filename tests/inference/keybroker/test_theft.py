"""What somebody who has taken the web over can do to get a data key by themselves: nothing.

That a node of their own gets none either stands in `test_taken_over_web.py`. Where all parts run
as one user, as under `bin/up`, the broker's folder can be read: a known limit, not tried here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings

from embedded import environment
from embedded.environment import Place
from strongroom.sealing.canonical import encode_base64
from tests.embedded.places import make_place
from tests.inference.keybroker.conftest import TOKEN, Broker, SealedVersion

pytestmark = pytest.mark.django_db(transaction=True)

PRIVATE = {
    "inference_uploadkey",
    "inference_modelkey",
    "inference_leasechallenge",
    "inference_platformkey",
    "inference_nodejointoken",
}
BROKER_TABLES = PRIVATE | {
    "inference_lease",
    "inference_keyrelease",
    "inference_keyshred",
    "inference_nodeidentity",
}
DENIED = "permission denied for table inference_uploadkey"

Steal = Callable[..., dict[str, Any]]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The environments that `bin/up` makes."""
    return make_place(tmp_path, person={})


@pytest.fixture
def steal(
    place: Place, broker: Broker, sealed: SealedVersion, database_urls: dict[str, str]
) -> Steal:
    """Run the thief with a process's own environment, on this test's database and broker."""
    roles = {"web": "app", "worker": "app", "beat": "app", "gateway": "gateway"}

    def run(process: str, **more: str) -> dict[str, Any]:
        env = environment.for_process(place, process)
        for name in [name for name in env if name.endswith("DATABASE_URL")]:
            env[name] = database_urls[roles.get(process, process)]
        if "STRONGROOM_KEYBROKER_URL" in env:
            env["STRONGROOM_KEYBROKER_URL"] = broker.url
            env["STRONGROOM_KEYBROKER_CA"] = str(broker.ca)
        if "STRONGROOM_KEYBROKER_TOKEN" in env:
            env["STRONGROOM_KEYBROKER_TOKEN"] = TOKEN
        if "STRONGROOM_KEYBROKER_KMS_DIR" in env:
            env["STRONGROOM_KEYBROKER_KMS_DIR"] = str(broker.kms_dir)
        command = [sys.executable, "-m", "tests.inference.keybroker.thief", str(sealed.version.pk)]
        done = subprocess.run(
            command, env=env | more, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_the_web_cannot_unwrap(steal: Steal, sealed: SealedVersion) -> None:
    found = steal("web")

    assert found["dek"] is None
    assert DENIED in found["met_with"]
    assert {one for one in found["met_with"] if one.startswith("/v1")} == {
        "/v1/upload-keys 409",  # Not even the public half of another's upload.
        "/v1/upload-keys/check 200",
        "/v1/leases/challenge 200",
        "/v1/leases 401",
        "/v1/unwrap 404",
    }
    for form in (sealed.dek.hex(), encode_base64(sealed.dek), "sealed_dek"):
        assert form not in found["said"]
    # Nor do its settings name a key store.
    assert [name for name in dir(settings) if "KMS" in name or "KEK" in name] == []


@pytest.mark.parametrize("process", ["worker", "beat", "gateway", "node"])
def test_no_other_process_can_either(steal: Steal, process: str) -> None:
    found = steal(process)

    assert found["dek"] is None
    # The node has no database to ask.
    assert (DENIED in found["met_with"]) == (process != "node")


def test_with_what_the_broker_has_the_thief_gets_the_key(
    steal: Steal, sealed: SealedVersion
) -> None:
    """The control: what is tried above does open it, in the right place."""
    assert steal("keybroker")["dek"] == sealed.dek.hex()


def test_neither_half_of_what_the_broker_has_is_enough(
    steal: Steal, broker: Broker, sealed: SealedVersion, database_urls: dict[str, str]
) -> None:
    key_store = {"STRONGROOM_KEYBROKER_KMS_DIR": str(broker.kms_dir)}
    rows = {"STRONGROOM_DATABASE_URL": database_urls["keybroker"]}

    assert steal("web", **rows)["dek"] is None
    assert DENIED not in steal("web", **rows)["met_with"]
    assert steal("web", **key_store)["dek"] is None
    assert steal("web", **key_store, **rows)["dek"] == sealed.dek.hex()


# --- The roles ---

ATTEMPTS = [
    "SELECT sealed_private_key FROM inference_uploadkey",
    "SELECT count(*) FROM inference_uploadkey",
    "SELECT nonce FROM inference_leasechallenge",
    "TABLE inference_uploadkey",
    "COPY inference_uploadkey TO STDOUT",
    "COPY (SELECT kek_ref FROM inference_uploadkey) TO PROGRAM 'cat'",
    "EXPLAIN ANALYZE SELECT * FROM inference_uploadkey",
    "UPDATE inference_uploadkey SET artifact_id = gen_random_uuid() RETURNING sealed_private_key",
    "DELETE FROM inference_uploadkey RETURNING sealed_private_key",
    "INSERT INTO inference_lease SELECT * FROM inference_lease",
    "UPDATE inference_lease SET expires_at = now() + interval '1 year'",
    "DELETE FROM inference_keyrelease",
    "SELECT sealed_private_key FROM inference_platformkey",
    "UPDATE inference_platformkey SET state = 'retired'",
    "SELECT digest FROM inference_nodejointoken",
    "INSERT INTO inference_nodejointoken SELECT * FROM inference_nodejointoken",
    "UPDATE inference_nodejointoken SET used_at = NULL",
    "INSERT INTO inference_nodeidentity SELECT * FROM inference_nodeidentity",
    "UPDATE inference_nodeidentity SET revoked_at = NULL",
    "DELETE FROM inference_nodeidentity",
    "BEGIN; LOCK TABLE inference_uploadkey",
    "GRANT SELECT ON inference_uploadkey TO PUBLIC",
    "ALTER TABLE inference_uploadkey OWNER TO CURRENT_USER",
    "CREATE TABLE public.child () INHERITS (inference_uploadkey)",
    "CREATE VIEW public.look AS SELECT * FROM inference_uploadkey",
    "CREATE TRIGGER t BEFORE INSERT ON inference_uploadkey EXECUTE FUNCTION upper()",
    "SET ROLE strongroom_keybroker",
    "SET ROLE strongroom_owner",
    "SET SESSION AUTHORIZATION strongroom_keybroker",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT lo_import('/etc/hostname')",
]


@pytest.mark.parametrize("role", ["app", "gateway"])
def test_the_roles_beside_the_broker_are_refused(
    transactional_db: None, database_urls: dict[str, str], role: str
) -> None:
    outcomes = {one: attempt(database_urls[role], one) for one in ATTEMPTS}

    assert {one: met for one, met in outcomes.items() if met != "InsufficientPrivilege"} == {}


def test_the_brokers_role_is_not(transactional_db: None, database_urls: dict[str, str]) -> None:
    """The control: reading is refused for want of a right, not of a table or a word."""
    for statement in ATTEMPTS[:4]:
        assert attempt(database_urls["keybroker"], statement) == "done"


def attempt(database_url: str, statement: str) -> str:
    """What becomes of a statement: "done", or the class of its error."""
    with psycopg.connect(database_url, autocommit=True) as database:
        try:
            database.execute(statement)
        except psycopg.Error as error:
            return type(error).__name__
    return "done"


def test_nothing_is_learned_from_the_statistics(
    sealed: SealedVersion, database_urls: dict[str, str]
) -> None:
    with psycopg.connect(database_urls["owner"], autocommit=True) as database:
        database.execute("ANALYZE inference_uploadkey")
    seen = {}
    for role in ("app", "gateway", "owner"):
        with psycopg.connect(database_urls[role], autocommit=True) as database:
            sql = "SELECT count(*) FROM pg_stats WHERE tablename = 'inference_uploadkey'"
            seen[role] = database.execute(sql).fetchone()[0]

    assert (seen["app"], seen["gateway"]) == (0, 0)
    assert seen["owner"] > 0


def rights(database_url: str, *kinds: str) -> dict[str, set[str]]:
    """By kind of right: the tables, and views, on which a role has it, in part or as a whole."""
    sql = """SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname = 'public' AND relkind IN ('r', 'p', 'v', 'm', 'f') AND
            (has_table_privilege(pg_class.oid, %(kind)s) OR (%(kind)s <> 'DELETE'
                AND has_any_column_privilege(pg_class.oid, nullif(%(kind)s, 'DELETE'))))"""
    with psycopg.connect(database_url, autocommit=True) as database:
        return {kind: {row[0] for row in database.execute(sql, {"kind": kind})} for kind in kinds}


def test_which_tables_the_broker_alone_reads(
    transactional_db: None, database_urls: dict[str, str]
) -> None:
    kinds = ("SELECT", "INSERT", "UPDATE", "DELETE")
    app, gateway, broker, owner = (
        rights(database_urls[role], *kinds) for role in ("app", "gateway", "keybroker", "owner")
    )

    # All there is, the web reads, but for these; a further secret table would stand here.
    assert owner["SELECT"] - app["SELECT"] == PRIVATE
    assert broker["SELECT"] & BROKER_TABLES == BROKER_TABLES
    assert not gateway["SELECT"] & BROKER_TABLES
    for kind in kinds[1:]:
        assert not app[kind] & BROKER_TABLES
        assert not gateway[kind] & BROKER_TABLES


def test_no_function_and_no_membership_lends_the_brokers_rights(
    transactional_db: None, database_urls: dict[str, str]
) -> None:
    lent = """SELECT proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
        WHERE nspname = 'public' AND prosecdef
            AND prosrc ~ 'inference_(uploadkey|modelkey|leasechallenge|lease|key(release|shred)'
                '|platformkey|node)'"""
    powers = """SELECT rolsuper OR rolcreaterole OR rolbypassrls OR rolreplication
            OR pg_has_role('strongroom_keybroker', 'MEMBER')
            OR pg_has_role('strongroom_owner', 'MEMBER')
            OR pg_has_role('pg_read_all_data', 'MEMBER')
            OR pg_has_role('pg_read_server_files', 'MEMBER')
            OR has_schema_privilege('public', 'CREATE')
        FROM pg_roles WHERE rolname = current_user"""
    for role in ("app", "gateway"):
        with psycopg.connect(database_urls[role], autocommit=True) as database:
            assert database.execute(lent).fetchall() == []
            assert database.execute(powers).fetchone() == (False,)
    with psycopg.connect(database_urls["owner"], autocommit=True) as database:
        assert database.execute(powers).fetchone() == (True,)
