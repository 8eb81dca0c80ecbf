"""No process starts on a schema that it was not made for, and each says both numbers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from marketplace.core import schema
from marketplace.core.schema import CODE_NUMBER, CODE_NUMBER_MIN, Fit, SchemaError, SchemaNumber
from marketplace.services import migration
from tests import servers
from tests.deploy.test_settings_refused import COMMANDS, ROOT, make_environments

pytestmark = pytest.mark.django_db(transaction=True)
PROCESSES = {
    "web": ("app", "STRONGROOM_DATABASE_URL"),
    "worker": ("app", "STRONGROOM_DATABASE_URL"),
    "beat": ("app", "STRONGROOM_DATABASE_URL"),
    "gateway": ("gateway", "STRONGROOM_GATEWAY_DATABASE_URL"),
    "keybroker": ("keybroker", "STRONGROOM_KEYBROKER_DATABASE_URL"),
}
NOTED = "UPDATE marketplace_schemanumber SET number = %s, code_number_min = %s"
SetNumber = Callable[[int, int], None]


@pytest.fixture
def set_number(database_urls) -> Iterator[SetNumber]:
    """What the schema says of itself; it is as it was afterwards."""

    def write(number: int, code_number_min: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute(NOTED, [number, code_number_min])

    yield write
    write(CODE_NUMBER, CODE_NUMBER_MIN)


def start(name: str, database_url: str, folder, wait_s: int = 0) -> subprocess.Popen:
    variable = PROCESSES[name][1]
    environment = make_environments(folder)[name] | {
        variable: database_url,
        "STRONGROOM_REDIS_URL": servers.provide().redis_url,
        "STRONGROOM_STATE_DIR": str(folder / "state"),
        "STRONGROOM_SCHEMA_WAIT_S": str(wait_s),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT}:{ROOT}/sdk",
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *COMMANDS[name]],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("number", "code_number_min", "fit"),
    [
        (CODE_NUMBER, CODE_NUMBER, Fit.FINE),
        (CODE_NUMBER + 1, CODE_NUMBER, Fit.FINE),
        (CODE_NUMBER - 1, 0, Fit.TOO_OLD),
        (CODE_NUMBER + 1, CODE_NUMBER + 1, Fit.TOO_NEW),
    ],
)
def test_old_code_may_run_on_a_newer_schema_until_it_says_otherwise(number, code_number_min, fit):
    assert schema.judge(SchemaNumber(number, code_number_min)) is fit


@pytest.mark.parametrize("name", PROCESSES)
def test_a_schema_that_is_too_new_ends_it_at_once(name, set_number, database_urls, tmp_path):
    set_number(CODE_NUMBER + 7, CODE_NUMBER + 5)
    url = database_urls[PROCESSES[name][0]]
    process = start(name, url, tmp_path, wait_s=600)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == Fit.TOO_NEW.value
    assert f"{name}: the schema has number {CODE_NUMBER + 7}" in out
    assert f"{CODE_NUMBER + 5} or more, this code has {CODE_NUMBER}" in out


@pytest.mark.parametrize("name", ["gateway", "keybroker"])
def test_a_schema_that_is_too_old_ends_it(name, set_number, database_urls, tmp_path):
    set_number(CODE_NUMBER - 1, 0)
    process = start(name, database_urls[PROCESSES[name][0]], tmp_path)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == Fit.TOO_OLD.value
    assert f"the schema has number {CODE_NUMBER - 1}, this code needs {CODE_NUMBER}" in out


def test_it_is_waited_for_while_it_is_migrated(set_number, database_urls):
    set_number(CODE_NUMBER - 1, 0)

    def migrate() -> None:
        time.sleep(0.3)
        with psycopg.connect(database_urls["owner"]) as session:
            session.execute(NOTED, [CODE_NUMBER, CODE_NUMBER_MIN])

    thread = threading.Thread(target=migrate)
    thread.start()
    found = schema.check(database_urls["gateway"], wait_s=30)
    thread.join()
    assert found == SchemaNumber(CODE_NUMBER, CODE_NUMBER_MIN)


def test_a_database_from_before_numbers_has_none(database_urls):
    empty = servers.provide().database_url("strongroom_owner", "postgres")
    with pytest.raises(SchemaError, match="the schema has number 0") as refusal:
        schema.check(empty)
    assert refusal.value.fit is Fit.TOO_OLD


def test_a_database_that_is_away_is_not_guessed_about():
    with pytest.raises(SchemaError, match=r"does not answer \(OperationalError\)") as refusal:
        schema.check("postgresql://who:secret@127.0.0.1:1/none")
    assert refusal.value.fit is Fit.UNKNOWN
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("role", ["app", "gateway", "keybroker"])
def test_each_role_may_read_it_and_none_may_write_it(role, database_urls):
    assert schema.check(database_urls[role]).number == CODE_NUMBER
    privilege = pytest.raises(psycopg.errors.InsufficientPrivilege)
    with psycopg.connect(database_urls[role]) as session, privilege:
        session.execute(NOTED, [0, 0])


def test_whoever_migrates_notes_the_number(set_number):
    set_number(CODE_NUMBER - 1, 0)
    call_command("migrate", verbosity=0)
    assert migration.read_number() == SchemaNumber(CODE_NUMBER, CODE_NUMBER_MIN)


def test_old_code_that_migrates_again_says_nothing_of_a_newer_schema(set_number):
    set_number(CODE_NUMBER + 1, CODE_NUMBER)
    call_command("migrate", verbosity=0)
    assert migration.read_number() == SchemaNumber(CODE_NUMBER + 1, CODE_NUMBER)

    set_number(CODE_NUMBER + 2, CODE_NUMBER + 1)
    with pytest.raises(CommandError, match=f"takes code of number {CODE_NUMBER + 1} or more"):
        call_command("migrate", verbosity=0)


def test_a_schema_that_is_not_whole_has_not_the_number(set_number, monkeypatch):
    monkeypatch.setattr(migration, "is_whole", lambda: False)
    migration.note_number()
    assert migration.read_number() == SchemaNumber(CODE_NUMBER - 1, CODE_NUMBER - 1)
