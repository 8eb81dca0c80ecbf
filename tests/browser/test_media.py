"""Sounds and pictures that a model answers, on its page, in a real browser."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from billing.services.price import set_price
from inference.services import playground
from inference.triton.media import to_png, to_wav
from marketplace.models import ModelVersion
from marketplace.selectors.access import Actor
from tests.browser.test_model_page import open_page
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory
from tests.inference.django import gateway as gateway_server
from tests.inference.django.gateway import PREDICTION_ID, Gateway

pytestmark = pytest.mark.django_db(transaction=True)

RATE_HZ = 8_000
INTERFACE = {
    "inputs": [{"name": "text", "kind": "text", "example": "Hello"}],
    "outputs": [
        {
            "name": "speech",
            "kind": "tensor",
            "datatype": "FP32",
            "shape": [-1],
            "media_type": "audio/wav",
            "sample_rate_hz": RATE_HZ,
        },
        {
            "name": "drawing",
            "kind": "tensor",
            "datatype": "UINT8",
            "shape": [-1, -1, 3],
            "media_type": "image/png",
        },
    ],
}
WIDTH = 600
# What the player knows of its file once it has read it, or that it could not read it.
READ_PLAYER = """async (player) => {
    if (player.error) return "refused";
    if (player.readyState >= 1) return player.duration;
    return await new Promise((resolve) => {
        player.addEventListener("loadedmetadata", () => resolve(player.duration));
        player.addEventListener("error", () => resolve("refused"));
        player.load();
    });
}"""


@pytest.fixture
def artist(account, owner) -> ModelVersion:
    model = AIModelFactory(account=account, name="artist")
    version = ModelVersionFactory(model=model, number=1, interface=INTERFACE)
    ChannelFactory(version=version)
    set_price(Actor(user=owner), model, nanos_per_prediction=20_000)
    return version


@pytest.fixture
def session(client, owner, account) -> str:
    client.force_login(owner)
    return client.cookies["sessionid"].value


@pytest.fixture
def gateway(settings) -> Iterator[Gateway]:
    sound = to_wav(np.sin(np.arange(RATE_HZ // 2)), RATE_HZ)
    picture = to_png(np.zeros((4, WIDTH, 3), np.uint8))
    output = {
        "speech": "data:audio/wav;base64," + base64.b64encode(sound).decode(),
        "drawing": "data:image/png;base64," + base64.b64encode(picture).decode(),
    }
    with gateway_server.serve(settings.PLAYGROUND_SECRET) as gateway:
        settings.GATEWAY_URL = gateway.url
        gateway.document = {"id": PREDICTION_ID, "status": "succeeded", "output": output}
        yield gateway
    playground._client().close()
    playground._client.cache_clear()


def run(page: Page) -> None:
    page.goto("/acme/artist")
    expect(page.locator(".panel[aria-busy=true]")).to_have_count(0, timeout=60_000)
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("audio").wait_for(timeout=60_000)


def test_a_sound_can_be_played_and_a_picture_is_seen(artist, gateway, session, live_server):
    with open_page(live_server.url, session) as (page, seen):
        page.set_viewport_size({"width": 390, "height": 800})
        run(page)

        assert page.locator("audio").evaluate(READ_PLAYER) == pytest.approx(0.5, abs=0.01)
        assert page.locator("audio").get_attribute("aria-label") == "speech"
        picture = page.get_by_alt_text("drawing: a picture that the model made")
        assert picture.evaluate("(one) => one.decode().then(() => one.naturalWidth)") == WIDTH
        # Neither is wider than a telephone.
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").first.click()
        assert download.value.suggested_filename == "speech.wav"
        assert download.value.path().read_bytes()[:4] == b"RIFF"

    assert (seen.dialogs, seen.console, seen.foreign) == ([], [], [])


def test_the_site_has_to_allow_it(artist, gateway, session, live_server, settings):
    """What the test above believes is not so on a page that allows no sounds in itself."""
    policy = copy.deepcopy(settings.CONTENT_SECURITY_POLICY)
    del policy["DIRECTIVES"]["media-src"]
    settings.CONTENT_SECURITY_POLICY = policy

    with open_page(live_server.url, session) as (page, seen):
        run(page)

        assert page.locator("audio").evaluate(READ_PLAYER) == "refused"

    assert any("Content Security Policy" in one for one in seen.console)
