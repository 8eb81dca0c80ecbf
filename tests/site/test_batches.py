"""The pages of batches in a real browser: readable everywhere, and worked by the keyboard."""

from __future__ import annotations

from datetime import timedelta

import pytest
from playwright.sync_api import expect

from inference.models import Batch, BatchLine
from inference.services import batch_run
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory
from tests.faults import find_faults
from tests.inference.storing import use_store
from tests.site.conftest import out_of_sight

LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture
def version(site, account, settings, tmp_path):
    use_store(settings, tmp_path / "objects")
    version = ModelVersionFactory(
        model=AIModelFactory(account=account, name="echo"),
        number=1,
        interface={
            "inputs": [{"name": "text", "kind": "text", "default": "", "max_length": 20}],
            "outputs": [{"name": "y", "kind": "text"}],
            "batch": {"max_size": 4},
        },
    )
    ChannelFactory(version=version)
    return version


def make(account, version, **fields) -> Batch:
    now = utc_now()
    given = {
        "name": f"{'a-long-name-' * 9}.jsonl",
        "next_at": now,
        "deadline_at": now + timedelta(days=1),
        "ready_at": now - timedelta(minutes=5),
        "state": "running",
        "tag": "nightly",
    }
    batch = Batch.objects.create(account=account, version=version, **(given | fields))
    for number in range(1, 9):
        is_failed = number % 3 == 0
        BatchLine.objects.create(
            batch=batch,
            number=number,
            custom_id="no-break-in-sight" * 3,
            state="failed" if is_failed else "succeeded" if number < 5 else "waiting",
            code="validation" if is_failed else "",
            detail="/x: Must have 4 elements. " * 5 if is_failed else "",
            prediction_id=new_id() if number < 5 and not is_failed else None,
        )
    return batch


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_have_no_fault(visit, owner, account, version, look):
    page = visit(owner, **LOOKS[look])
    running = make(account, version)
    paused = make(
        *(account, version),
        state="paused",
        paused_at=utc_now(),
        detail="No credit.",
        reason="insufficient_credit",
    )
    over = make(account, version, state="completed", finished_at=utc_now(), total_count=8)
    for url in (
        "/console/batches",
        "/console/batches/new",
        *(f"/console/batches/{one.pk}" for one in (running, paused, over)),
    ):
        page.goto(url)
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")

        assert find_faults(page) == [], url
        assert width <= 0, url
        assert not any(out_of_sight(page)), url


def test_a_batch_is_begun_looked_at_and_canceled_by_the_keyboard(visit, owner, version, tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text('{"custom_id":"a","input":{}}\nnonsense\n')
    page = visit(owner, **LOOKS["dark phone"])
    page.goto("/console/batches")
    page.get_by_role("link", name="Begin a batch").press("Enter")
    page.get_by_role("textbox", name="Model").fill(str(version.model))
    page.locator("#id_file").set_input_files(file)
    page.get_by_role("button", name="Look at the file").press("Enter")
    expect(page.get_by_text("bad_json")).to_be_visible()
    assert find_faults(page) == []
    assert not Batch.objects.exists()
    page.get_by_role("button", name="Begin the batch").press("Enter")
    expect(page.get_by_text("The batch has begun.")).to_be_visible()

    # It looks again by itself.
    batch_run.advance_batches()
    expect(page.get_by_text("1 of 2 lines are over")).to_be_visible(timeout=20_000)

    # Nothing is canceled before it was asked for twice.
    page.get_by_text("Cancel …").press("Enter")
    page.get_by_role("button", name="Cancel the batch").press("Enter")
    expect(page.get_by_text("What waits is canceled")).to_be_visible()
    batch_run.advance_batches()
    expect(page.get_by_text("2 of 2 lines are over")).to_be_visible(timeout=20_000)
