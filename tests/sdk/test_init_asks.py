"""`init` at a terminal: it asks for what no file and no flag says, as the README promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from strongroom.listing import Listing
from tests.sdk.command_line import INIT_FLAGS, run
from tests.sdk.screen import Ended, run_on_terminal

README = Path(__file__).resolve().parents[2] / "sdk" / "README.md"
# What the README calls it, and the question.
QUESTIONS = {
    "account": "Account",
    "name": "Name",
    "title": "Title",
    "task": "Task",
    "licence": "Licence",
    "price": "Dollars per prediction",
    "summary": "Summary",
    "industry": "Industry",
    "test vectors": "File of test vectors",
}
VECTOR = {"input": {"x": [1, 2, 3]}, "expected": {"scores": [1, 2, 3]}, "tolerance": 0.01}

pytestmark = pytest.mark.usefixtures("config")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps([VECTOR]))
    return path


def init(folder: Path, *flags: str, answers: list[str]) -> Ended:
    typed = "".join(f"{one}\n" for one in answers)
    return run_on_terminal("init", str(folder), *flags, typed=typed)


def find_questions(shown: str) -> list[str]:
    """What was asked, as the README calls it, in this order and once for each time."""
    names = {question: name for name, question in QUESTIONS.items()}
    asked = re.findall(rf"({'|'.join(names)})[^\n:]*: ", shown)
    return [names[one] for one in asked]


def test_the_readme_names_what_is_asked() -> None:
    [listed] = re.findall(r"On a terminal it asks for: (.*?)\.", README.read_text(), re.DOTALL)

    assert " ".join(listed.split()).split(", ") == list(QUESTIONS)


def test_a_person_is_asked_for_everything(folder: Path, vectors: Path) -> None:
    answers = [
        "acme", "", "Small digits", "image-classification", "MIT", "0.25", "Reads digits",
        "logistics", str(vectors),
    ]  # fmt: skip

    ended = init(folder, answers=answers)

    assert ended.code == 0, ended.shown
    assert find_questions(ended.shown) == list(QUESTIONS)
    listing = Listing.load(folder)
    assert (listing.owner, listing.name, listing.title) == ("acme", "digits", "Small digits")
    assert (listing.task, listing.licence) == ("image-classification", "MIT")
    assert listing.price_nanos == 250_000_000
    assert (listing.summary, listing.industry) == ("Reads digits", "logistics")
    assert [one.to_json() for one in listing.test_vectors] == [VECTOR]
    assert "No test vectors" not in ended.shown


def test_what_a_flag_says_is_not_asked(folder: Path, vectors: Path) -> None:
    flags = [*INIT_FLAGS, "--summary=x", "--industry=y", f"--test-vectors-file={vectors}"]

    ended = init(folder, *flags, answers=[])

    assert ended.code == 0, ended.shown
    assert find_questions(ended.shown) == []


def test_what_must_be_said_is_asked_again_and_the_rest_may_be_empty(folder: Path) -> None:
    broken, wrong = folder.parent / "broken.json", folder.parent / "wrong.json"
    broken.write_text("[")
    wrong.write_text(json.dumps([VECTOR | {"expected": {"nothing": 1}}]))
    answers = [
        "acme", "No Name", "digits", "", "Digits", "ocr", "", "MIT", "cheap", "-1", "0.01",
        "", "", "nowhere.json", str(broken), str(wrong), "",
    ]  # fmt: skip

    ended = init(folder, answers=answers)

    assert ended.code == 0, ended.shown
    asked = find_questions(ended.shown)
    counts = {name: asked.count(name) for name in QUESTIONS}
    again = {"name": 2, "title": 2, "licence": 2, "price": 3, "test vectors": 4}
    assert counts == dict.fromkeys(QUESTIONS, 1) | again
    listing = Listing.load(folder)
    assert (listing.summary, listing.industry, listing.test_vectors) == ("", "", ())
    # That nothing will be compared is said.
    assert "No test vectors" in ended.shown


def test_where_nobody_can_answer_what_must_be_said_is_named(folder: Path) -> None:
    for missing in INIT_FLAGS:
        flags = [one for one in INIT_FLAGS if one != missing]
        name = missing.partition("=")[0]
        if name == "--name":  # The folder's name stands in.
            continue

        assert f"Missing option {name}." in run("init", folder, *flags, code=2).stderr
        assert not (folder / "strongroom.toml").exists()

    assert "No test vectors" in run("init", folder, *INIT_FLAGS).stderr
