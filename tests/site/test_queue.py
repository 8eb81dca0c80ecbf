"""The pages of the queue in a real browser: they follow it, and give up or revive what is in it."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from inference.models import Deployment, FinishedJob, Job, JobPace, Replica
from inference.services import playground
from inference.services.job import discard_job
from marketplace.core.ids import new_id, to_public
from marketplace.models import ModelVersion
from marketplace.selectors.access import Actor
from tests.factories import ModelVersionFactory
from tests.faults import find_faults
from tests.inference import queued
from tests.inference.django import gateway as gateway_server
from tests.site.conftest import out_of_sight

LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}
COME_BACK = "document.dispatchEvent(new Event('visibilitychange'))"
HIDE = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
SHOW = HIDE.replace("true, c", "false, c")
# Until the page's own timer, which ticks each second, has had its turn to look: each fifth tick.
TURNS = """() => new Promise((done) => {
    let left = 7;
    const timer = setInterval(() => { if (!left--) { clearInterval(timer); done(); } }, 1000);
})"""
# A folder for pictures of what is tested here; none are taken without it.
PICTURES = os.environ.get("STRONGROOM_TEST_PICTURES")


@pytest.fixture
def version(digits) -> ModelVersion:
    return ModelVersionFactory(model=digits, number=3)


@pytest.fixture
def node(site):
    return queued.make_node("node-in-rack-3", last_seen_at=timezone.now())


@pytest.fixture
def busy(account, version, node) -> None:
    """Something of everything: two run, many wait, three are dead, and some are over."""
    deployment = Deployment.objects.create(version=version)
    Replica.objects.create(
        version=version, deployment=deployment, node=node, purpose="serve", state="ready"
    )
    JobPace.objects.create(version=version, mean_us=42_000_000)
    for code in ("node_lost", "triton_unavailable", "node_lost"):
        queued.kill(account, version, node, code, "connection refused " * 12)
    draining = queued.make_node("node-that-drains", drain_requested_at=timezone.now())
    for number, where in enumerate((node, draining)):
        queued.submit(account, version, tag="a-campaign-with-a-long-name-of-its-own")
        job = queued.claim(where, [version], slot=number)
        if not number:
            queued.start(job)
    for number in range(60):
        queued.submit(account, version, priority=number % 3, tag="nightly" if number % 2 else "")
    for number in range(40):
        at = timezone.now() - timedelta(minutes=9 * number)
        FinishedJob.objects.create(
            pk=new_id(),
            account_id=account.pk,
            version_id=version.pk,
            state="failed" if number % 7 == 3 else "succeeded",
            priority=1,
            attempt=1,
            created_at=at,
            finished_at=at,
        )


def picture(page: Page, name: str, look: str) -> None:
    if PICTURES:
        path = Path(PICTURES) / f"{name}-{look}.png".replace(" ", "-")
        page.screenshot(path=path, full_page=True)


def check(page: Page, url: str, look: str, name: str) -> None:
    page.goto(url)
    picture(page, name, look)
    assert find_faults(page) == [], url
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, url


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_have_no_fault(visit, owner, platform_admin, busy, look):
    page = visit(owner, **LOOKS[look])
    running = Job.objects.filter(state="running").get()
    waiting = Job.objects.filter(state="queued").order_by("-pk").first()
    dead = to_public(Job.objects.filter(state="dead").first().pk)
    for name, url in {
        "queue": "/console/queue",
        "queue-cancel": "/console/queue/cancel?tag=nightly",
        "queue-none": "/console/queue?tag=none",
        "job-running": f"/predictions/{to_public(running.pk)}",
        "job-waiting": f"/predictions/{to_public(waiting.pk)}",
        "job-dead": f"/predictions/{dead}",
        "model-queue": "/dashboard/models/acme/digits/monitoring/queue",
    }.items():
        check(page, url, look, name)
    page = visit(platform_admin, **LOOKS[look])
    for name, url in {
        "platform-queue": "/platform/queue",
        "dead": "/platform/queue/dead",
        "dead-one": f"/platform/queue/dead/{dead}",
        "dead-replay": f"/platform/queue/dead/replay?job={dead}",
    }.items():
        check(page, url, look, name)
    page.get_by_label("reason").fill("Power is back.")
    page.get_by_role("button", name="Run it again").click()
    expect(page.get_by_text("1 of 1 waits in the queue again.")).to_be_visible()
    picture(page, "dead-replayed", look)
    assert find_faults(page) == []


@pytest.mark.parametrize("is_broken", [False, True])
def test_on_a_phone_the_dead_are_seen_as_a_whole(visit, platform_admin, busy, is_broken):
    given_up, kept = Job.objects.filter(state="dead").order_by("pk")[:2]
    discard_job(actor=Actor(), job_id=given_up.pk, reason="It is not needed any more. " * 9)
    page = visit(platform_admin, **LOOKS["dark phone"])
    for url in (
        "/platform/queue/dead",
        f"/platform/queue/dead/{to_public(kept.pk)}",
        "/platform/queue/dead/discarded",
    ):
        page.goto(url)
        if is_broken:
            page.locator(".table td").evaluate_all(
                "all => { for (const one of all) one.style.whiteSpace = 'nowrap'; }"
            )
        assert len(found := out_of_sight(page)) == 1, url
        assert any(found) is is_broken, url


def test_a_dead_one_is_discarded_by_the_keyboard(visit, platform_admin, account, version, node):
    first, second = (queued.kill(account, version, node) for _ in range(2))
    page = visit(platform_admin)
    page.goto("/platform/queue/dead")
    page.get_by_label(f"Choose {to_public(first)}").press("Space")
    page.get_by_role("button", name="Discard the chosen ones …").press("Enter")
    expect(page.get_by_role("heading", name="Discard 1 dead prediction")).to_be_visible()
    # Whoever thinks again has lost nothing.
    page.get_by_role("link", name="Cancel").press("Enter")
    expect(page.get_by_role("heading", name="Dead predictions")).to_be_visible()
    assert Job.objects.filter(state="dead").count() == 2

    page.goto(f"/platform/queue/dead/{to_public(first)}")
    page.get_by_role("link", name="Discard it …").press("Enter")
    page.get_by_label("reason").fill("Its consumer wrote that it is not needed.")
    page.get_by_role("button", name="Discard it").press("Enter")
    expect(page.get_by_text("1 of 1 is discarded.")).to_be_visible()
    assert find_faults(page) == []
    assert list(Job.objects.values_list("pk", flat=True)) == [second]

    page.get_by_role("link", name="To the discarded ones").press("Enter")
    expect(page.get_by_text("Its consumer wrote that it is not needed.")).to_be_visible()
    assert find_faults(page) == []


@pytest.mark.parametrize("look", LOOKS)
def test_the_tabs_of_predictions_are_one_tab_and_a_row_of_their_own(visit, owner, digits, look):
    page = visit(owner, **LOOKS[look])
    page.goto("/console/keys")
    tabs = page.get_by_role("navigation", name="Consumer")
    row = page.get_by_role("navigation", name="Predictions")
    expect(row).to_have_count(0)
    tabs.get_by_role("link", name="Predictions").press("Enter")
    for name in ("All", "Queue", "Batches", "Files", "Webhooks", "Shared runs"):
        row.get_by_role("link", name=name, exact=True).press("Enter")
        expect(row.locator("[aria-current]")).to_have_text(name)
        expect(tabs.locator("[aria-current]")).to_have_text("Predictions")
        boxes = [one.bounding_box() for one in row.get_by_role("link").all()]
        width = page.viewport_size["width"]
        # None has to be looked for beyond the edge.
        assert all(one["x"] >= 0 and one["x"] + one["width"] <= width for one in boxes), name


@pytest.mark.parametrize("look", LOOKS)
def test_empty_pages_have_no_fault(visit, owner, digits, platform_admin, look):
    page = visit(owner, **LOOKS[look])
    check(page, "/console/queue", look, "queue-empty")
    check(page, "/dashboard/models/acme/digits/monitoring/queue", look, "model-queue-empty")
    page = visit(platform_admin, **LOOKS[look])
    check(page, "/platform/queue", look, "platform-queue-empty")
    check(page, "/platform/queue/dead", look, "dead-empty")


def test_the_queue_follows_while_somebody_sees_it(visit, owner, account, version, node):
    queued.submit(account, version)
    page = visit(owner)
    page.goto("/console/queue")
    expect(page.get_by_role("cell", name="next")).to_be_visible()

    job = queued.claim(node, [version])
    queued.start(job)

    # By itself, without a hand on the page.
    expect(page.get_by_role("heading", name="Runs now")).to_be_visible(timeout=60_000)
    # The control: a page that nobody sees does not ask, however long it stands there.
    page.evaluate(HIDE)
    page.wait_for_load_state("networkidle")
    queued.finish(job)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(TURNS)
    assert asked == []
    page.evaluate(SHOW)
    page.evaluate(COME_BACK)
    expect(page.get_by_text("Nothing waits or runs")).to_be_visible(timeout=60_000)


def test_the_page_of_one_follows_it_to_its_end(visit, owner, account, version, node):
    job_id = queued.submit(account, version)
    page = visit(owner)
    page.goto(f"/predictions/{to_public(job_id)}")
    steps = page.get_by_role("list", name="Progress")
    expect(steps).to_contain_text("Next in its queue")

    job = queued.claim(node, [version])
    queued.start(job)
    expect(steps.locator("[aria-current=step]")).to_contain_text(["Running"], timeout=20_000)
    queued.finish(job)

    expect(page.get_by_role("heading", name="Output")).to_be_visible(timeout=20_000)
    expect(page.get_by_text("Succeeded.", exact=True)).to_be_visible()
    # It is over, and asks no more.
    expect(page.locator("#prediction[data-look]")).to_have_count(0)


def test_one_is_canceled_by_the_keyboard_once_it_was_asked_for_twice(
    visit, owner, account, version
):
    job_id = queued.submit(account, version)
    page = visit(owner)
    page.goto("/console/queue")
    button = page.get_by_role("button", name=f"Cancel {to_public(job_id)}")

    button.press("Enter")
    dialog = page.get_by_role("alertdialog", name="Give this prediction up?")
    expect(dialog).to_be_visible()
    assert find_faults(page) == []
    page.keyboard.press("Escape")
    assert Job.objects.get().state == "queued"
    button.press("Enter")
    dialog.get_by_role("button", name="Give it up").press("Enter")

    expect(page.get_by_text("Canceled. It costs nothing.")).to_be_visible()
    expect(page.get_by_text("Nothing waits or runs")).to_be_visible()
    assert Job.objects.get().state == "canceled"


def test_all_that_wait_are_canceled_after_their_number_was_named(visit, owner, account, version):
    for _ in range(5):
        queued.submit(account, version)
    page = visit(owner)
    page.goto("/console/queue")
    page.get_by_role("link", name="Cancel all …").press("Enter")
    page.get_by_role("button", name="Cancel 5 predictions").press("Enter")

    expect(page.get_by_text("5 predictions canceled.")).to_be_visible()
    assert set(Job.objects.values_list("state", flat=True)) == {"canceled"}


def test_chosen_dead_ones_run_again(visit, platform_admin, account, version, node):
    first, second, third = (queued.kill(account, version, node) for _ in range(3))
    page = visit(platform_admin)
    page.goto("/platform/queue/dead")
    for one in (first, third):
        page.get_by_label(f"Choose {to_public(one)}").press("Space")
    page.get_by_role("button", name="Run the chosen ones again …").press("Enter")
    expect(page.get_by_role("heading", name="Run 2 predictions again")).to_be_visible()
    assert set(Job.objects.values_list("state", flat=True)) == {"dead"}

    page.get_by_label("reason").fill("The rack has power again.")
    page.get_by_role("button", name="Run 2 again").press("Enter")

    expect(page.get_by_text("2 of 2 wait in the queue again.")).to_be_visible()
    found = dict(Job.objects.values_list("pk", "state"))
    assert found == {first: "queued", second: "dead", third: "queued"}


def test_the_try_form_runs_in_the_background_and_leads_to_its_page(
    visit, owner, account, version, digits, settings
):
    job_id = queued.submit(account, version)
    page = visit(owner)
    with gateway_server.serve(settings.PLAYGROUND_SECRET) as gateway:
        settings.GATEWAY_URL = gateway.url
        gateway.status, gateway.document = 202, {"id": to_public(job_id), "status": "starting"}
        page.goto("/acme/digits")
        page.get_by_label("x", exact=True).fill("4")
        page.get_by_role("button", name="Run in the background").press("Enter")

        page.wait_for_url(f"**/predictions/{to_public(job_id)}")
        expect(page.get_by_role("list", name="Progress")).to_contain_text("Next in its queue")
        [(_, _, body)] = gateway.calls
        assert body == {"input": {"x": 4}}
        assert gateway.preferences == ["respond-async"]
    playground._client().close()
    playground._client.cache_clear()
