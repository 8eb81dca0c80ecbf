"""The model page in a browser: text while it is written, images, programs, links to runs."""

from __future__ import annotations

import re
import wave
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.e2e.conftest import SignIn
from tests.faults import find_faults
from tests.stack import Stack

PHONE = {"width": 360, "height": 740}


def open_model(page: Page, name: str) -> None:
    page.goto(f"/demo/{name}")
    # Panels fetch themselves; scripts have seen a form that has its cancel button.
    expect(page.locator(".panel[aria-busy=true]")).to_have_count(0)
    page.locator("[data-key-fill]").wait_for()


def run(page: Page) -> str:
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Cost $").wait_for()
    return page.locator("#try-result").inner_text()


def test_text_comes_while_it_is_written_and_can_be_ended(stack: Stack, sign_in: SignIn) -> None:
    page = sign_in("consumer")
    open_model(page, "smollm2")
    page.get_by_label("prompt", exact=True).fill("Tell a long story about a cat.")
    page.get_by_text("More settings").click()
    page.get_by_label("max_new_tokens").fill("512")

    page.get_by_role("button", name="Run", exact=True).click()
    live = page.locator("pre[data-live]")
    expect(live).not_to_be_empty()
    page.get_by_role("button", name="Cancel").click()

    page.get_by_text("What was delivered of it was charged.").wait_for()
    assert page.locator("#try-result pre").inner_text()
    page.get_by_role("link", name="the prediction", exact=True).click()
    assert "$0.002" in page.inner_text("main")


def test_an_example_is_run_and_shared_and_the_link_is_revoked(
    stack: Stack, sign_in: SignIn, new_page
) -> None:
    page = sign_in("consumer")
    open_model(page, "smollm2")
    page.get_by_role("link", name="A fact").click()
    page.locator("[aria-current=true]", has_text="A fact").wait_for()
    assert "Paris" in run(page)

    page.get_by_text("Share this run").click()
    page.get_by_role("button", name="Make a link").click()
    url = page.locator("#run-address").inner_text()
    assert find_faults(page) == []
    stranger = new_page(viewport=PHONE, color_scheme="dark")
    stranger.goto(url)
    assert "Paris" in stranger.inner_text("main")
    assert find_faults(stranger) == []
    assert stranger.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0

    page.goto(url)
    page.get_by_role("link", name="Revoke").click()
    page.get_by_role("button", name="Revoke it").click()
    page.get_by_text("Its address leads nowhere now.").wait_for()
    assert stranger.goto(url).status == 404


def test_programs_follow_the_form_and_the_key_stays_in_the_tab(
    stack: Stack, sign_in: SignIn
) -> None:
    page = sign_in("consumer")
    key = stack.demo["consumer"]["api_key"]
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.post_data or ""))
    open_model(page, "sentence-embeddings")
    page.get_by_text("OpenAI", exact=True).click()
    page.locator("[data-key-fill] summary").click()
    page.get_by_label("API key").fill(key)
    program = page.locator("#code-openai")
    expect(program).to_contain_text(key)

    page.get_by_label("text", exact=True).fill("It's new")
    page.get_by_label("text", exact=True).press("Tab")

    expect(program).to_contain_text("It's new")
    expect(program).to_be_visible()
    expect(program).to_contain_text(key)
    page.get_by_role("button", name="Forget it").click()
    expect(program).not_to_contain_text(key)
    assert any("It" in one for one in sent)
    assert not any(key in one for one in sent)


def test_an_image_a_grid_and_a_file_become_tensors(
    stack: Stack, sign_in: SignIn, tmp_path: Path
) -> None:
    from PIL import Image, ImageDraw

    drawn = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(drawn).line((100, 20, 100, 180), fill=0, width=30)
    drawn.save(tmp_path / "one.png")
    (tmp_path / "noise.png").write_bytes(b"no image")
    (tmp_path / "large.png").write_bytes(bytes(10 * 1024 * 1024 + 1))
    page = sign_in("consumer")
    open_model(page, "digits")
    page.get_by_role("button", name="From an image").click()
    picker = page.locator("input[type=file]")
    before = page.get_by_label("image", exact=True).input_value()

    picker.set_input_files(tmp_path / "noise.png")
    page.get_by_text("This file is no image").wait_for()
    picker.set_input_files(tmp_path / "large.png")
    page.get_by_text("The file has more than 10 MB.").wait_for()
    assert page.get_by_label("image", exact=True).input_value() == before
    picker.set_input_files(tmp_path / "one.png")
    page.get_by_text(re.compile("8 . 8 pixels, from 0 to 16")).wait_for()
    # Dark on white paper is turned around.
    assert page.get_by_label("Dark is high").is_checked()
    page.get_by_role("button", name="Grid").click()
    first = page.get_by_label("Row 1, column 1", exact=True)
    first.focus()
    page.keyboard.press("Control+ArrowDown")
    assert page.evaluate("document.activeElement.ariaLabel") == "Row 2, column 1"
    first.fill("7")
    first.press("Tab")
    assert page.get_by_label("image", exact=True).input_value().startswith("[7,")
    first.fill("0")
    first.press("Tab")
    assert find_faults(page) == []
    assert run(page).split()[2] == "1"

    open_model(page, "file-type")
    page.get_by_role("button", name="From a file").click()
    page.locator("input[type=file]").set_input_files(__file__)
    page.get_by_text(re.compile(r"of \d+ bytes\.")).wait_for()
    assert "python" in run(page)


def test_sound_becomes_samples(stack: Stack, new_page, tmp_path: Path) -> None:
    """No model of the demo listens: the module by itself, on a page of the site."""
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(b"\x00\x40\x00\x40" * 4_000)
    page = new_page(base_url=stack.demo["web_url"])
    page.goto("/sealing")
    page.evaluate(
        """async () => {
            const area = document.createElement("textarea");
            area.id = "sound";
            area.dataset.tensor = "-1";
            area.dataset.datatype = "FP32";
            document.querySelector("main").append(area);
            const { enhanceTensor } = await import("/static/js/playground-tensor.js");
            enhanceTensor(area);
        }"""
    )

    page.get_by_role("button", name="From sound").click()
    page.locator("input[type=file]").set_input_files(tmp_path / "tone.wav")

    page.get_by_text("8000 samples, 0.5 s, one channel.").wait_for()
    samples = page.evaluate("JSON.parse(document.getElementById('sound').value)")
    assert len(samples) == 8_000
    assert abs(sorted(samples)[4_000] - 0.5) < 0.01


def test_the_form_works_by_keyboard_on_a_phone(stack: Stack, sign_in: SignIn) -> None:
    page = sign_in("consumer")
    page.set_viewport_size(PHONE)
    open_model(page, "sentence-embeddings")
    page.get_by_label("text", exact=True).focus()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("By hand")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Run"

    page.keyboard.press("Enter")

    page.get_by_text("Cost $").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_without_scripts_a_form_runs_one_prediction(
    stack: Stack, sign_in: SignIn, new_page
) -> None:
    state = sign_in("consumer").context.storage_state()
    page = new_page(base_url=stack.demo["web_url"], storage_state=state, java_script_enabled=False)
    page.goto("/demo/smollm2")
    page.get_by_role("link", name="Try it").click()
    page.get_by_role("link", name="A fact").click()

    page.get_by_role("button", name="Run", exact=True).click()

    assert "Paris" in page.inner_text("main")
    assert "Cost $0.002" in page.inner_text("main")


def test_the_calculator_follows_its_numbers(stack: Stack, new_page) -> None:
    page = new_page(base_url=stack.demo["web_url"])
    open_model(page, "digits")

    page.get_by_label("Predictions a month").fill("3000000")

    expect(page.locator("#estimate-result")).to_contain_text("$60.00")
