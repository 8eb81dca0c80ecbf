"""An insider with rights on the database hides that a key was released.

Two logs: of the releases of keys, signed by the key broker, and of what people changed.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import transaction

from inference.models import KeyRelease, Replica
from inference.selectors import release_log as entries
from inference.services import platform
from inference.services import release_log as services
from marketplace.models import AuditEvent
from marketplace.services import audit
from strongroom.sealing import release_log, signature
from strongroom.sealing.canonical import decode_base64
from tests.factories import AccountFactory
from tests.inference.keybroker.conftest import Broker, EnrolledNode, SealedVersion
from tests.inference.keybroker.test_release_log import as_insider
from tests.threats.conftest import ask

pytestmark = pytest.mark.django_db(transaction=True)

RELEASES, AUDIT = "inference_keyrelease", "marketplace_auditevent"
RENAME = "UPDATE inference_keyrelease SET node_name = %s WHERE seq = %s"


@pytest.fixture
def releases(
    broker: Broker, web: Any, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> SealedVersion:
    """A version whose key was released three times."""
    for _ in range(3):
        assert ask(broker, node.request(broker, replica)).status_code == 200
    call_command("release_log_check")
    return sealed


@pytest.fixture
def changes(transactional_db: None) -> list[AuditEvent]:
    """What people did, in the audit log."""
    account = AccountFactory()
    with transaction.atomic():
        return [audit.record("user:a@example.com", "thing.change", account) for _ in range(3)]


def platform_keys() -> list[bytes]:
    return [decode_base64(platform.get_platform()["platform_key"]["public_key"])]


def test_no_process_of_the_product_may_change_what_was_logged(
    transactional_db: None, database_urls: dict[str, str]
) -> None:
    for role in ("app", "gateway", "keybroker"):
        with psycopg.connect(database_urls[role], autocommit=True) as database:
            for table in (RELEASES, AUDIT):
                for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET seq = seq + 1"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        database.execute(statement)
    # The control: the owner has the right, and is held up by a trigger alone.
    for table in (RELEASES, AUDIT):
        as_insider(table, f"DELETE FROM {table}")


def test_a_release_that_is_hidden_is_named_by_its_place(
    releases: SealedVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    as_insider(RELEASES, RENAME, "other", "2")
    assert_broken_at_2(releases, capsys)
    # The control: it was only that.
    as_insider(RELEASES, RENAME, "node-1", "2")
    call_command("release_log_check")

    as_insider(RELEASES, "DELETE FROM inference_keyrelease WHERE seq = 2")
    assert_broken_at_2(releases, capsys)


def assert_broken_at_2(releases: SealedVersion, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("release_log_check")
    assert "BROKEN at entry 2" in capsys.readouterr().out
    with pytest.raises(release_log.ReleaseLogError) as found:
        release_log.verify_export(services.export(releases.version), platform_keys())
    assert found.value.seq == 2


def test_a_log_that_is_chained_anew_lacks_the_platforms_signature(
    releases: SealedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The insider deletes an entry, numbers the rest anew and computes every hash again."""
    document = services.export(releases.version)
    chain_anew(releases.version.pk)

    rewritten = services.export(releases.version)
    with pytest.raises(release_log.ReleaseLogError) as found:
        release_log.verify_export(rewritten, platform_keys())
    assert found.value.code == "signature_invalid"
    # A creator who kept an export sees it, too, whatever the platform signs.
    with pytest.raises(release_log.ReleaseLogError) as found:
        release_log.check_continues(rewritten, document)
    assert (found.value.code, found.value.seq) == ("history_changed", 2)
    # The control: where only hashes are compared, it is a log of two releases.
    monkeypatch.setattr(signature, "is_signed", lambda *_: True)
    assert release_log.verify_export(rewritten, platform_keys()).released == 2


def chain_anew(artifact_id: Any) -> None:
    as_insider(RELEASES, "DELETE FROM inference_keyrelease WHERE seq = 2")
    as_insider(RELEASES, "UPDATE inference_keyrelease SET seq = 2 WHERE seq = 3")
    previous = release_log.genesis(str(artifact_id))
    for row in entries.list_entries(artifact_id):
        members = {name: getattr(row, name, None) for name in release_log.MEMBERS}
        described = release_log.describe(members)
        previous = release_log.entry_hash(str(artifact_id), described, previous)
        as_insider(
            RELEASES,
            "UPDATE inference_keyrelease SET hash = %s WHERE id = %s",
            previous.hex(),
            str(row.pk),
        )


def test_entries_cut_off_the_end_are_missed_by_the_anchor(
    releases: SealedVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    services.anchor()
    as_insider(RELEASES, "DELETE FROM inference_keyrelease WHERE seq = 3")

    # The control: the chain alone has no complaint.
    assert entries.find_first_break() is None
    assert KeyRelease.objects.count() == 2
    with pytest.raises(SystemExit):
        call_command("release_log_check")
    assert "CUT OFF at entry 3" in capsys.readouterr().out


def test_a_change_that_is_hidden_breaks_the_audit_log(
    changes: list[AuditEvent], capsys: pytest.CaptureFixture[str]
) -> None:
    rename = "UPDATE marketplace_auditevent SET actor = %s WHERE seq = %s"
    # The control: before it, the log is whole.
    call_command("audit_check")

    as_insider(AUDIT, rename, "user:nobody@example.com", str(changes[1].seq))
    assert_broken_at(changes[1], capsys)

    as_insider(AUDIT, rename, "user:a@example.com", str(changes[1].seq))
    call_command("audit_check")
    as_insider(AUDIT, "DELETE FROM marketplace_auditevent WHERE seq = %s", str(changes[1].seq))
    assert_broken_at(changes[2], capsys)


def assert_broken_at(event: AuditEvent, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("audit_check")
    assert f"BROKEN at event {event.seq}" in capsys.readouterr().out
