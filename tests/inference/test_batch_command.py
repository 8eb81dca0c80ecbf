"""`strongroom batch`, against the site itself."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from inference.models import Batch, BatchLine
from inference.services import batch_run
from marketplace.core.ids import new_id
from strongroom.cli import main
from tests.factories import AccountFactory, AIModelFactory, APIKeyFactory, ChannelFactory
from tests.factories import ModelVersionFactory as VersionFactory
from tests.inference.storing import use_store


@pytest.fixture
def shell(transactional_db, live_server, settings, tmp_path):
    """Runs the command line with a key of a consumer."""
    use_store(settings, tmp_path / "objects")
    model = AIModelFactory(account=AccountFactory(slug="maker"), name="echo", visibility="public")
    ChannelFactory(version=VersionFactory(model=model, number=1))
    key = APIKeyFactory(account=AccountFactory(slug="buyer"))
    environment = {"STRONGROOM_API_KEY": key.text, "STRONGROOM_WEB_URL": live_server.url}

    def run(*words: str):
        return CliRunner().invoke(main, ["batch", *words], env=environment)

    return run


def test_a_batch_from_its_file_to_its_results(shell, tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text('{"custom_id":"a","input":{}}\n{"custom_id":"b","input":{}}\nnonsense\n')

    made = shell("create", "maker/echo", str(file), "--tag", "nightly")

    assert made.exit_code == 0, made.output
    batch = Batch.objects.get()
    assert made.stdout.strip() == str(batch.pk)
    assert (batch.name, batch.tag) == ("lines.jsonl", "nightly")
    batch_run.advance_batches()
    shown = json.loads(shell("status", str(batch.pk)).stdout)
    assert (shown["status"], shown["counts"]["total"]) == ("running", 3)
    late = shell("wait", str(batch.pk), "--timeout", "1")
    assert (late.exit_code, "deadline" in late.output) == (1, True)

    # As if they had run.
    for line in BatchLine.objects.filter(batch=batch, state="waiting"):
        BatchLine.objects.filter(pk=line.pk).update(
            state="succeeded", prediction_id=new_id(), output={"y": 1}, cost_nanos=5
        )
    batch_run.advance_batches()

    over = shell("wait", str(batch.pk))
    assert over.exit_code == 0, over.output
    assert "3 of 3 lines" in over.output
    out = tmp_path / "out.jsonl"
    assert shell("output", str(batch.pk), "-o", str(out)).exit_code == 0
    assert [json.loads(one)["custom_id"] for one in out.read_text().splitlines()] == ["a", "b"]
    wrong = shell("output", str(batch.pk), "--errors").stdout
    assert json.loads(wrong)["error"]["code"] == "bad_json"
    refused = shell("cancel", str(batch.pk))
    assert (refused.exit_code, "batch_over" in refused.output) == (1, True)


def test_a_batch_that_was_canceled_ends_the_wait_with_an_error(shell, tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text('{"input":{}}\n')
    batch_id = shell("create", "maker/echo", str(file)).stdout.strip()
    batch_run.advance_batches()
    assert shell("resume", batch_id).exit_code == 0

    assert shell("cancel", batch_id).exit_code == 0
    batch_run.advance_batches()

    over = shell("wait", batch_id)
    assert (over.exit_code, "batch_canceled" in over.output) == (1, True)


def test_wrong_use_is_told(shell, tmp_path):
    assert shell("create", "maker/echo", str(tmp_path / "none")).exit_code == 2
    assert shell("status", str(new_id())).exit_code == 1
    for command in ("create", "status", "wait", "output", "cancel", "resume"):
        assert shell(command, "--help").exit_code == 0
