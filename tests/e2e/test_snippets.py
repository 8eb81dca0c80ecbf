"""Each program that a model's page shows is run as it stands there, with a key and nothing else."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from embedded.environment import ROOT
from tests.e2e.conftest import ARGUMENTS, find_program
from tests.e2e.test_playground import open_model
from tests.stack import Stack

QUESTION = "What is the capital of France?"
# What stands in the answer of each model, whichever client asks.
ANSWERS = {
    "digits": r"probabilities|'4'|\"4\"",
    "sentence-embeddings": r"-?\d\.\d{3}",
    "smollm2": r"Paris",
}
EVERYWHERE = ("curl", "strongroom", "replicate", "tritonclient", "javascript")
PROGRAMS = [(model, client) for model in ANSWERS for client in EVERYWHERE]
PROGRAMS += [("sentence-embeddings", "openai"), ("smollm2", "openai")]


@pytest.fixture(scope="module")
def programs(stack: Stack, browser: Browser) -> dict[tuple[str, str], str]:
    """What the pages show to somebody who has not signed in, with the first example."""
    page = browser.new_page(base_url=stack.demo["web_url"])
    found = {}
    for model in ANSWERS:
        open_model(page, model)
        for block in page.locator("pre[data-slot]").all():
            client = str(block.get_attribute("id")).removeprefix("code-")
            found[model, client] = html.unescape(block.inner_html())
    page.close()
    return found


def test_every_program_is_shown(programs: dict[tuple[str, str], str]) -> None:
    assert set(programs) == set(PROGRAMS)


@pytest.mark.parametrize(("model", "client"), PROGRAMS)
def test_a_program_runs_as_it_is(
    stack: Stack,
    programs: dict[tuple[str, str], str],
    run_script: Callable[[str, str], str],
    tmp_path: Path,
    model: str,
    client: str,
) -> None:
    program = programs[model, client]
    if model == "smollm2":
        # The page's own first text is none that has one answer.
        program = program.replace("Some text", QUESTION)
    key = stack.demo["consumer"]["api_key"]

    if client == "javascript":
        shown = run_script(program, key)
    else:
        command = ["sh", "-c"] if client == "curl" else [sys.executable, "-c"]
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "sdk"),
            "STRONGROOM_API_KEY": key,
        }
        done = subprocess.run(
            [*command, program],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        shown = done.stdout

    assert re.search(ANSWERS[model], shown), shown[:500]


@pytest.fixture(scope="module")
def run_script(browser: Browser) -> Iterator[Callable[[str, str], str]]:
    """JavaScript with what Node has and a page has not: an environment, and no origin."""
    chromium = browser.browser_type.launch(
        executable_path=find_program(), args=[*ARGUMENTS, "--disable-web-security"]
    )
    page = chromium.new_page()

    def run(program: str, key: str) -> str:
        script = program.replace("process.env.STRONGROOM_API_KEY", repr(key))
        script = script.replace("console.log(", "return JSON.stringify(")
        return str(page.evaluate(f"(async () => {{ {script} }})()"))

    yield run
    chromium.close()


def test_a_program_with_a_wrong_key_fails(
    stack: Stack, programs: dict[tuple[str, str], str]
) -> None:
    """The control: an answer is not there by itself."""
    done = subprocess.run(
        ["sh", "-c", programs["smollm2", "curl"]],
        env={"PATH": os.environ["PATH"], "STRONGROOM_API_KEY": "sk_live_none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "unauthenticated" in done.stdout
    assert "Paris" not in done.stdout
