"""Bring the database to what this code expects: roles, migrations, rights, the node's token.

Run by the supervisor as a child once Postgres answers: `python -m embedded.prepare HOME`.
Everything here is safe to run again, and what is up to date costs nothing: the state of
the schema is noted in the database itself, so that it can never be wrong about another.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import psycopg
from psycopg import sql

from embedded import postgres
from embedded.environment import NODE_NAME, ROOT
from embedded.home import Home, load_secrets
from inference.node_certificate import RENEWAL_GRACE, CertificateError, NodeCertificate
from marketplace.core.clock import utc_now

# From here to the node's first renewal; a token too many does no harm.
START_MARGIN = timedelta(hours=1)

_SCHEMA_PATTERNS = (
    "*/migrations/*.py",
    "*/sql/*.sql",
    "marketplace/management/commands/grant_roles.py",
    "requirements.txt",  # Django's own migrations come with its version.
)


def main(home: Home) -> None:
    """Do what is missing."""
    secrets = load_secrets(home)
    port = int(json.loads((home / "ports.json").read_text())["postgres"])
    superuser_password = secrets["postgres_superuser"]
    postgres.ensure_roles(port, superuser_password, secrets)
    address = postgres.url(port, postgres.SUPERUSER, superuser_password, postgres.DATABASE)
    with psycopg.connect(address, autocommit=True) as superuser:
        expected = schema_digest(ROOT)
        if _noted_digest(superuser) != expected:
            superuser.execute("CREATE EXTENSION IF NOT EXISTS vector")
            manage("migrate", "--no-input")
            manage("grant_roles")
            _note_digest(superuser, expected)
    if not has_joined(home):
        write_join_token(home)


def schema_digest(root: Path) -> str:
    """Changes whenever a migration, its SQL or the table of rights changes."""
    digest = hashlib.sha256()
    for pattern in _SCHEMA_PATTERNS:
        for path in sorted(root.glob(pattern)):
            digest.update(str(path.relative_to(root)).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def manage(*arguments: str) -> str:
    """Run a management command with our environment; returns what it printed.

    Raises:
        subprocess.CalledProcessError: It failed; its errors stand in our own log.
    """
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    outcome = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return outcome.stdout


def has_joined(home: Home) -> bool:
    """Whether the node is one and can stay it: then it needs no token."""
    try:
        document = json.loads((home / "node" / "identity.json").read_text())
        certificate = NodeCertificate.parse(document["certificate"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CertificateError):
        return False
    # A home that slept for longer than its node may renew needs a new one.
    return utc_now() < certificate.not_after + RENEWAL_GRACE - START_MARGIN


def write_join_token(home: Home) -> None:
    """Let the one node of this home join; it uses the token once."""
    token = manage("create_join_token", "--name", NODE_NAME).strip().splitlines()[-1]
    descriptor = os.open(home.join_token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")


def _noted_digest(connection: psycopg.Connection) -> str | None:
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
    row = connection.execute(query, [postgres.DATABASE]).fetchone()
    return row[0] if row else None


def _note_digest(connection: psycopg.Connection, digest: str) -> None:
    statement = sql.SQL("COMMENT ON DATABASE {} IS {}")
    name = sql.Identifier(postgres.DATABASE)
    connection.execute(statement.format(name, sql.Literal(digest)))


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])))
