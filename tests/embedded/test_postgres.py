import os
import signal
import time
from pathlib import Path

import psycopg
import pytest

from embedded import postgres, spawn
from embedded.errors import StartError
from embedded.system_user import SystemUser, can_enter
from tests import servers

NEEDS_ROOT = os.geteuid() == 0
PASSWORD = "p" * 32


@pytest.fixture(scope="module")
def running():
    return servers.start_postgres()


def test_each_role_connects_with_its_own_password_only(running):
    for role in postgres.ROLES:
        with psycopg.connect(running.database_url(role)) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (role,)
    wrong = postgres.url(running.postgres_port, postgres.APP, running.passwords[postgres.OWNER])
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_no_role_of_the_product_is_powerful(running):
    with psycopg.connect(running.superuser_url) as connection:
        rows = connection.execute(
            "SELECT rolname, rolsuper, rolcreaterole, rolbypassrls, rolreplication"
            " FROM pg_roles WHERE rolname LIKE 'strongroom%' ORDER BY rolname"
        ).fetchall()

    assert rows == [(role, False, False, False, False) for role in sorted(postgres.ROLES)]


def test_only_the_owner_makes_tables(running):
    for role in (postgres.APP, postgres.GATEWAY, postgres.KEYBROKER):
        with (
            psycopg.connect(running.database_url(role)) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("CREATE TABLE mine (id int)")
    with psycopg.connect(running.database_url(postgres.OWNER)) as connection:
        connection.execute("CREATE TABLE mine (id int)")
        connection.rollback()


def test_roles_are_made_again_without_harm(running):
    for _ in range(2):
        postgres.ensure_roles(
            running.postgres_port, running.superuser_password, running.passwords, for_tests=True
        )

    assert postgres.is_ready(running.database_url(postgres.APP))


def test_a_changed_password_takes_effect(running):
    changed = {**running.passwords, postgres.KEYBROKER: "n" * 32}
    port = running.postgres_port

    postgres.ensure_roles(port, running.superuser_password, changed, for_tests=True)
    assert not postgres.is_ready(running.database_url(postgres.KEYBROKER))
    assert postgres.is_ready(postgres.url(port, postgres.KEYBROKER, "n" * 32))

    postgres.ensure_roles(port, running.superuser_password, running.passwords, for_tests=True)
    assert postgres.is_ready(running.database_url(postgres.KEYBROKER))


@pytest.fixture
def bare(running):
    """A database of the owner's, without what the template of the tests has."""
    with psycopg.connect(running.superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE bare TEMPLATE template0 OWNER {postgres.OWNER}")
        yield "bare"
        connection.execute("DROP DATABASE bare WITH (FORCE)")


def test_vectors_can_be_installed_by_the_superuser_only(running, bare):
    with (
        psycopg.connect(running.database_url(postgres.OWNER, bare)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE EXTENSION vector")
    address = postgres.url(
        running.postgres_port, postgres.SUPERUSER, running.superuser_password, bare
    )
    with psycopg.connect(address) as connection:
        connection.execute("CREATE EXTENSION vector")
        row = connection.execute("SELECT '[3,4]'::vector <-> '[0,0]'::vector").fetchone()
        assert row == (5.0,)
        connection.rollback()


def test_it_leaves_nothing_in_shared_memory_or_as_a_socket(running):
    with psycopg.connect(running.superuser_url) as connection:
        settings = dict(
            connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name IN"
                " ('unix_socket_directories', 'dynamic_shared_memory_type', 'listen_addresses')"
            ).fetchall()
        )

    assert settings == {
        "unix_socket_directories": "",
        "dynamic_shared_memory_type": "mmap",
        "listen_addresses": "127.0.0.1",
    }


def start_in(folder: Path, user: SystemUser, tmp_path: Path):
    port = servers.ports.choose()
    process = spawn.start(
        postgres.command(folder, port, durable=False),
        env=postgres.environment(),
        cwd=Path("/"),
        log=tmp_path / "postgres.log",
        user=user,
        death_signal=signal.SIGQUIT,
    )
    address = postgres.url(port, postgres.SUPERUSER, PASSWORD, "postgres")
    deadline = time.monotonic() + 20
    while not postgres.is_ready(address):
        assert process.poll() is None, (tmp_path / "postgres.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, address


@pytest.fixture
def closed_folder(tmp_path):
    """As below /root: only the owner may pass."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folder = closed / "home" / "postgres"
    folder.mkdir(parents=True)
    return folder


def test_it_starts_and_stops_below_a_folder_that_its_user_cannot_enter(closed_folder, tmp_path):
    user = postgres.server_user(closed_folder)
    postgres.prepare(closed_folder, password=PASSWORD, user=user, durable=False)
    process, address = start_in(closed_folder, user, tmp_path)
    try:
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            # A library of the wheel is loaded, from wherever that lies.
            connection.execute("CREATE EXTENSION vector")
        status = Path(f"/proc/{process.pid}/status").read_text()
        process_uid = int(status.split("Uid:")[1].split()[0])
        assert process_uid != 0
        assert process_uid == (user.uid if NEEDS_ROOT else os.geteuid())
    finally:
        process.send_signal(postgres.STOP_SIGNAL)
        assert process.wait(20) == 0
    assert not (closed_folder / "data" / "postmaster.pid").exists()

    # What was there is there again, and nothing is made anew.
    postgres.prepare(closed_folder, password="other", user=user, durable=False)
    process, address = start_in(closed_folder, user, tmp_path)
    try:
        with psycopg.connect(address) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    finally:
        process.send_signal(postgres.STOP_SIGNAL)
        assert process.wait(20) == 0


if NEEDS_ROOT:

    def test_without_its_one_capability_it_could_not(closed_folder):
        user = postgres.server_user(closed_folder)
        assert user.capability >= 0
        assert not can_enter(closed_folder / "data", user.uid, user.gid)
        powerless = SystemUser(user.uid, user.gid)

        with pytest.raises(StartError, match=r"initdb failed: .*Permission denied"):
            postgres.prepare(closed_folder, password=PASSWORD, user=powerless, durable=False)

        assert list(closed_folder.iterdir()) == []

    def test_where_it_can_enter_it_gets_no_capability(tmp_path_factory):
        folder = servers.provide().folder / "open-home" / "postgres"

        assert postgres.server_user(folder).capability == -1

    def test_a_data_folder_of_another_user_is_refused(closed_folder):
        data = closed_folder / "data"
        data.mkdir()
        (data / "PG_VERSION").write_text("18\n")
        user = postgres.server_user(closed_folder)

        with pytest.raises(StartError, match=f"belongs to user 0, not to {user.uid}"):
            postgres.prepare(closed_folder, password=PASSWORD, user=user)


def test_an_interrupted_initdb_is_begun_anew(tmp_path):
    folder = servers.provide().folder / "interrupted"
    user = postgres.server_user(folder)
    half = folder / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")

    postgres.prepare(folder, password=PASSWORD, user=user, durable=False)

    assert (folder / "data" / "global" / "pg_control").exists()
    assert [path.name for path in folder.iterdir()] == ["data"]
