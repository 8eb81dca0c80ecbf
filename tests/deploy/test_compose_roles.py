"""The roles that Compose makes are those of `bin/up`, on a real server, up to the last grant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from embedded import ports, postgres, spawn
from embedded.environment import ROOT

pytestmark = [pytest.mark.timeout(600), pytest.mark.django_db(transaction=True)]
FOLDER = ROOT / "k8s/compose"
SCRIPT = FOLDER / "postgres/roles.sql"
PASSWORD = "of-the-superuser"
# What roles are, and what each may do with what; a fresh database and that of the tests agree.
ROLES = """
    SELECT rolname, rolsuper, rolcreaterole, rolbypassrls, rolcanlogin FROM pg_roles
    WHERE rolname LIKE 'strongroom%' ORDER BY 1"""
TABLES = """
    SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants
    WHERE grantee LIKE 'strongroom%' AND grantee <> 'strongroom_owner' AND table_schema = 'public'
    ORDER BY 1, 2, 3"""
COLUMNS = TABLES.replace("role_table_grants", "role_column_grants").replace(
    "table_name,", "table_name || '.' || column_name,"
)
FUNCTIONS = (
    TABLES.replace("role_table_grants", "role_routine_grants")
    .replace("table_name", "routine_name")
    .replace("table_schema", "routine_schema")
)


@dataclass
class Compose:
    """A server as Compose starts it, and its secrets."""

    port: int
    secrets: Path

    def url(self, role: str) -> str:
        """As the secret has it, with the address of this server."""
        text = (self.secrets / f"database_url_{role}").read_text().strip()
        assert "@postgres:5432/" in text
        return text.replace("@postgres:5432/", f"@127.0.0.1:{self.port}/")

    def run_script(self) -> subprocess.CompletedProcess[str]:
        """As the official image does: by psql, as its superuser, until the first error."""
        script = SCRIPT.read_text().replace("/run/secrets", str(self.secrets))
        address = postgres.url(self.port, postgres.SUPERUSER, PASSWORD, "postgres")
        return subprocess.run(
            [postgres.programs() / "psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", address],
            env=postgres.environment(),
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )

    def manage(self, *words: str) -> None:
        env = os.environ | {
            "DJANGO_SETTINGS_MODULE": "marketplace.settings",
            "STRONGROOM_DATABASE_URL": self.url("owner"),
        }
        outcome = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=ROOT,
            env=env,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert outcome.returncode == 0, outcome.stderr[-3000:]


@pytest.fixture(scope="module")
def compose(tmp_path_factory) -> Iterator[Compose]:
    folder = tmp_path_factory.mktemp("compose")
    folder.chmod(0o711)
    secrets, data = folder / "secrets", folder / "postgres"
    subprocess.run([FOLDER / "make-secrets", secrets], check=True, capture_output=True)
    port, user = ports.choose(), postgres.server_user(data)
    postgres.prepare(data, password=PASSWORD, user=user, durable=False)
    process = spawn.start(
        postgres.command(data, port, durable=False),
        env=postgres.environment(),
        cwd=Path("/"),
        log=folder / "postgres.log",
        user=user,
        death_signal=signal.SIGQUIT,
    )
    deadline = time.monotonic() + 60
    while not postgres.is_ready(postgres.url(port, postgres.SUPERUSER, PASSWORD, "postgres")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    made = Compose(port, secrets)
    try:
        outcome = made.run_script()
        assert outcome.returncode == 0, outcome.stderr
        yield made
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def fetch(url: str, query: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def test_its_roles_are_those_of_bin_up(compose, database_urls):
    ours, theirs = fetch(compose.url("owner"), ROLES), fetch(database_urls["owner"], ROLES)

    assert [row[0] for row in ours] == sorted(postgres.ROLES)
    assert ours == theirs


def test_each_process_may_do_what_it_may_elsewhere(compose, database_urls):
    compose.manage("migrate", "--no-input")
    compose.manage("grant_roles")
    # Twice is as good as once.
    compose.manage("grant_roles")

    for query in (TABLES, COLUMNS, FUNCTIONS):
        ours = fetch(compose.url("owner"), query)
        assert ours == fetch(database_urls["owner"], query)
        assert {row[0] for row in ours} >= {"strongroom_app", "strongroom_gateway"}
    for role in ("app", "gateway", "keybroker"):
        assert fetch(compose.url(role), "SELECT count(*) FROM marketplace_schemanumber") == [(1,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        fetch(compose.url("gateway"), "SELECT * FROM inference_uploadkey")
    fetch(compose.url("keybroker"), "SELECT * FROM inference_uploadkey")
    # The control: a right too many is seen.
    extra = "GRANT SELECT ON inference_uploadkey TO strongroom_gateway"
    with psycopg.connect(compose.url("owner")) as connection:
        connection.execute(extra)
    assert fetch(compose.url("owner"), TABLES) != fetch(database_urls["owner"], TABLES)


def test_a_second_run_stops_at_the_first_role_and_changes_nothing(compose):
    before = fetch(compose.url("owner"), ROLES)

    outcome = compose.run_script()

    assert outcome.returncode == 3
    assert 'role "strongroom_owner" already exists' in outcome.stderr
    assert fetch(compose.url("owner"), ROLES) == before
