"""A hostile creator's texts on the model's page: in a browser nothing of them happens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import ConsoleMessage, Dialog, Page, expect, sync_playwright

from billing.services.price import set_price
from inference.models import SharedRun
from inference.services import playground
from marketplace.core import card as cards
from marketplace.core.ids import new_id
from marketplace.models import ModelVersion
from marketplace.selectors.access import Actor
from marketplace.views import catalog
from tests.browser.bench import NAMES
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory
from tests.inference.django import gateway as gateway_server
from tests.inference.django.gateway import PREDICTION_ID, Gateway
from tests.marketplace.test_card import ATTACKS

pytestmark = pytest.mark.django_db(transaction=True)

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 }}</textarea></pre>"
OUTSIDE = "http://127.0.0.1:9/pixel.png"
CARD = (
    f"---\nlicense: '{SCRIPT}'\ntags: ['{SCRIPT}']\n"
    f"examples:\n- title: '{SCRIPT}'\n  input: {{text: '{SCRIPT}', size: '1'}}\n---\n"
    + "\n\n".join(ATTACKS)
    + f"\n\n![a]({OUTSIDE})\n\n<img src='{OUTSIDE}'>\n\n<video src='{OUTSIDE}'></video>\n\n"
    f"<p style=\"background:url('{OUTSIDE}')\">x</p>\n\n"
    "```python\nprint('<script>alert(3)</script>')\n```\n\n"
    "<a href='https://example.com' target=_blank>out</a>\n\nThe end of the card\n"
)
INTERFACE = {
    "inputs": [
        {"name": "text", "kind": "text", "description": SCRIPT, "example": SCRIPT},
        {"name": "size", "kind": "choice", "choices": ["1", SCRIPT]},
    ],
    "outputs": [
        {"name": "y", "kind": "text", "description": SCRIPT},
    ],
}


@pytest.fixture
def hostile(account, owner) -> ModelVersion:
    model = AIModelFactory(
        account=account,
        name="hostile",
        title=SCRIPT,
        summary=SCRIPT,
        card=CARD,
        task=SCRIPT[:40],
        licence=SCRIPT[:64],
        industry=SCRIPT[:40],
    )
    ModelVersionFactory(model=model, number=1)
    version = ModelVersionFactory(
        model=model, number=2, interface=INTERFACE, certificate={"node": SCRIPT}, runtime="onnx"
    )
    ChannelFactory(version=version)
    set_price(Actor(user=owner), model, nanos_per_prediction=20_000)
    return version


@dataclass
class Seen:
    """What a page did that nobody asked for."""

    dialogs: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def watch(self, page: Page, origin: str) -> None:
        """Note all of it from now on."""
        page.on("dialog", self._on_dialog)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("request", lambda request: self._on_request(request.url, origin))

    def _on_dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console.append(message.text)

    def _on_request(self, url: str, origin: str) -> None:
        if not url.startswith((f"{origin}/", "data:", "blob:")):
            self.foreign.append(url)


@contextmanager
def open_page(origin: str, session: str) -> Iterator[tuple[Page, Seen]]:
    """A signed-in person's page. The database is not asked from here while it is open."""
    with sync_playwright() as playwright:
        path = next(found for name in NAMES if (found := shutil.which(name)))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context(base_url=origin)
        context.add_cookies([{"name": "sessionid", "value": session, "url": origin}])
        page, seen = context.new_page(), Seen()
        seen.watch(page, origin)
        yield page, seen
        browser.close()


@pytest.fixture
def session(client, owner, account) -> str:
    client.force_login(owner)
    return client.cookies["sessionid"].value


@pytest.fixture
def gateway(settings) -> Iterator[Gateway]:
    with gateway_server.serve(settings.PLAYGROUND_SECRET) as gateway:
        settings.GATEWAY_URL = gateway.url
        output = {"y": SCRIPT}
        gateway.document = {"id": PREDICTION_ID, "status": "succeeded", "output": output}
        yield gateway
    playground._client().close()
    playground._client.cache_clear()


def open_model(page: Page) -> None:
    page.goto("/acme/hostile")
    expect(page.locator(".panel[aria-busy=true]")).to_have_count(0, timeout=30_000)
    page.locator("[data-key-fill]").wait_for()


def test_script_in_every_field_of_a_model_does_nothing(hostile, gateway, session, live_server):
    SharedRun.objects.create(
        token="t" * 24,
        account=hostile.model.account,
        version=hostile,
        prediction_id=new_id(),
        input={"text": SCRIPT, SCRIPT: SCRIPT},
        output={"y": SCRIPT},
        size_bytes=9,
        expires_at=timezone.now() + timedelta(days=1),
    )

    with open_page(live_server.url, session) as (page, seen):
        open_model(page)
        assert "The end of the card" in page.inner_text("main")
        page.locator(".presets a").click()
        page.locator(".presets [aria-current]").wait_for()
        page.get_by_role("button", name="Run", exact=True).click()
        page.locator("#try-result h3").wait_for()
        assert "alert(1)" in page.locator("#try-result").inner_text()
        for path in ("/runs/" + "t" * 24, "/evidence/acme/hostile/2", "/runs?account=acme"):
            page.goto(path)
            assert page.locator("h1").is_visible()

    assert seen == Seen()


def test_without_the_allow_list_it_would_be_seen(hostile, session, live_server, monkeypatch):
    """The control: the browser's own rules stop the scripts, and the watcher tells of them."""
    monkeypatch.setattr(cards.nh3, "clean", lambda html, **_: html)
    monkeypatch.setattr(catalog, "_card", lambda found: cards.render_card(found.card))

    with open_page(live_server.url, session) as (page, seen):
        page.goto("/acme/hostile")
        page.wait_for_timeout(500)

    assert seen.console
    assert seen.dialogs == []


def test_code_in_a_card_has_colours_and_no_styles(hostile, session, live_server):
    with open_page(live_server.url, session) as (page, seen):
        open_model(page)
        keyword = page.locator(".prose pre span.nb").first
        plain = page.locator(".prose").first

        assert keyword.inner_text() == "print"
        colour = "element => getComputedStyle(element).color"
        assert keyword.evaluate(colour) != plain.evaluate(colour)

    assert seen == Seen()


def test_links_of_a_card_lead_out_without_a_word_of_where_from(hostile, session, live_server):
    with open_page(live_server.url, session) as (page, _):
        open_model(page)
        link = page.locator(".prose a", has_text="out")

        assert link.get_attribute("rel") == "nofollow noopener noreferrer"
        assert link.get_attribute("target") is None


def test_the_calculator_follows_its_numbers(hostile, session, live_server):
    with open_page(live_server.url, session) as (page, seen):
        open_model(page)
        page.get_by_label("Predictions a month").fill("3000000")

        expect(page.locator("#estimate-result")).to_contain_text("$60.00")
        page.get_by_label("Predictions a month").fill("-1")
        expect(page.locator("#estimate-result")).to_contain_text("greater than or equal to 1")

    assert [one for one in seen.console if "422" not in one] == []
