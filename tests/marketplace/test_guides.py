"""Guides: rendered safely, and true in what they tell readers to type."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from django.conf import settings

from marketplace.core.errors import InvalidInputError
from marketplace.core.guide import GuideError, make_anchor, render_guide
from marketplace.core.problem import problem
from marketplace.selectors.docs import FOLDER, SECTIONS, fill_addresses, fill_lists
from marketplace.templatetags.docs import guide_html
from strongroom.interface import Interface
from strongroom.sealing.policy import Policy
from tests.marketplace import guides
from tests.marketplace.guides import WrongGuideError, check_guide, read_guide

HEAD = "---\ntitle: A title\ndescription: A sentence.\n---\n"
# The stand-ins, and what others run.
HOSTS = {"gateway.example", "strongroom.example", "www.standardwebhooks.com", "strongroom.dev"}


# --- What readers type


@pytest.mark.parametrize("path", guides.GUIDES, ids=lambda path: path.stem)
def test_what_a_guide_tells_to_type_is_there(path):
    check_guide(path.read_text())


def test_guides_have_commands_to_check():
    lines = [line for block in guides.all_blocks() for line in guides.list_lines(block)]

    assert sum(line.startswith("strongroom ") for line in lines) >= 25
    assert sum(line.startswith("curl ") for line in lines) >= 8
    assert sum(line.startswith("python manage.py ") for line in lines) >= 8


@pytest.mark.parametrize(
    "wrong",
    [
        "strongroom pushh ./model",
        "strongroom push ./model --waiting",
        "strongroom keys",
        "strongroom publish acme/digits",
        "strongroom publish acme/digits 1 2",
        "strongroom receipt fetch PREDICTION_ID --out",
        "curl https://gateway.example/v1/nowhere",
        "curl -X DELETE https://gateway.example/v1/predictions",
        "curl https://elsewhere.example/v1/predictions",
        "curl -X POST https://gateway.example/v1/predictions -d '{\"inputs\": {}}'",
        "curl -X POST https://gateway.example/v1/predictions -d '{'",
        "curl -X POST https://gateway.example/v1/predictions/ID/cancel -d '{}'",
        "python manage.py audit_chek",
        "python manage.py reset_second_factor a@example.com",
        "python manage.py reconcile --fix",
        "rm -rf model",
    ],
)
def test_control_a_guide_that_tells_what_is_not_there_is_caught(wrong):
    with pytest.raises(WrongGuideError):
        check_guide(f"{HEAD}\n```bash\n{wrong}\n```\n")


@pytest.mark.parametrize("span", ["strongroom bush", "strongroom push --wate"])
def test_control_prose_that_names_what_is_not_there_is_caught(span):
    with pytest.raises(WrongGuideError):
        check_guide(f"{HEAD}\nRun `{span}` now.")


def test_control_code_in_a_language_that_nobody_checks_is_caught():
    with pytest.raises(WrongGuideError):
        check_guide(f"{HEAD}\n```ruby\nputs 1\n```\n")


def test_the_policy_of_the_guide_is_one():
    block = next(
        one
        for one in guides.list_blocks(read_guide("creators/70-sealing"))
        if one.language == "toml"
    )
    interface = Interface.parse(
        {
            "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [4]}],
            "outputs": [{"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [10]}],
        }
    )
    policy = Policy.parse(tomllib.loads(block.text)["policy"], interface)

    assert policy.sandbox == "landlock"


def test_the_refusal_of_the_guide_is_one():
    blocks = guides.list_blocks(read_guide("consumers/50-errors"))
    shown = json.loads(next(one.text for one in blocks if one.language == "json"))
    error = InvalidInputError(errors=[{"pointer": "/input/image", "detail": "Is required."}])

    assert shown == problem(error, request_id=shown["request_id"])


def test_guides_name_no_address_but_stand_ins():
    for path in guides.GUIDES:
        text = path.read_text()
        for host in re.findall(r"https?://([\w.-]+)", text):
            assert host in HOSTS, path
        assert "sk_live_" not in re.sub(r"sk_live_(\.\.\.|`)", "", text), path


def test_addresses_are_the_platforms_own():
    text = "https://gateway.example/v1 https://strongroom.example/x"
    text += " gateway.example:8002 gateway.example"

    assert fill_addresses(text, "https://g.org:444", "https://w.org") == (
        "https://g.org:444/v1 https://w.org/x g.org:8002 g.org:444"
    )


def test_every_folder_of_guides_is_in_the_navigation():
    assert {path.name for path in (FOLDER / "guides").iterdir()} == set(SECTIONS)
    assert settings.BASE_DIR in FOLDER.parents


def test_every_list_of_a_guide_is_filled():
    for path in guides.GUIDES:
        assert "{{" not in fill_lists(path.read_text()), path


# --- How they are rendered

HOSTILE = """
## Hello <script>alert(1)</script>

<script>alert(2)</script><img src=x onerror=alert(3)>

<p id="content" onclick="alert(4)" style="color: red" class="card">text</p>

<h2 id="x" onmouseover="alert(5)">raw</h2>

[link](javascript:alert(6)) ![a](https://elsewhere.example/pixel.png)

```bash <b>label</b>
echo "</code></pre><script>alert(7)</script>"
```
"""


def test_a_guide_with_script_in_it_is_sanitised():
    guide = render_guide(HEAD + HOSTILE)
    html = guide_html(guide)

    for part in (guide.html, html):
        assert "<script" not in part
        assert "javascript:" not in part.replace("[link](javascript:alert(6))", "")
        assert not re.search(r"<[^>]*\son\w+=", part)
        assert "style=" not in part
        assert "<img" not in part
    assert 'id="content"' not in html
    assert "<b>label</b>" not in html


def test_control_without_the_allow_list_script_would_come_through(monkeypatch):
    monkeypatch.setattr("marketplace.core.guide.clean_html", lambda html, **_: html)

    with pytest.raises(AssertionError):
        test_a_guide_with_script_in_it_is_sanitised()


@pytest.mark.parametrize(
    "text", ["No front matter.", "---\ntitle: Only\n---\n", "---\ndescription: Only\n---\n"]
)
def test_a_guide_without_title_or_description_is_refused(text):
    with pytest.raises(GuideError):
        render_guide(text)


def test_headings_have_ids_and_links_to_themselves():
    guide = render_guide(
        f"{HEAD}\nBefore.\n\n## One `two`\n\nText\nof it.\n\n### One two\n\n## !!\n"
    )

    assert [(one.id, one.title, one.level, one.text) for one in guide.sections] == [
        ("", "", 1, "Before."),
        ("one-two", "One two", 2, "Text of it."),
        ("one-two-2", "One two", 3, ""),
        ("section", "!!", 2, ""),
    ]
    assert [one.id for one in guide.contents] == ["one-two", "section"]
    assert '<a class="anchor" href="#one-two-2"' in guide_html(guide)


def test_code_can_be_copied_and_says_what_it_is():
    html = guide_html(
        render_guide(f"{HEAD}\n```bash Shell: curl\necho 1\n```\n\n```json\n{{}}\n```\n")
    )

    assert html.count("data-copy") == 2
    assert 'aria-label="Shell: curl"' in html
    assert 'aria-label="JSON"' in html


def test_an_anchor_is_taken_once():
    assert make_anchor("Über Geld!") == "ber-geld"
    assert make_anchor("a b", ["a-b", "a-b-2"]) == "a-b-3"
