from __future__ import annotations

import time

import nh3
import pytest

from marketplace.core import card, limits
from marketplace.core.card import render_card
from tests.factories import AIModelFactory


def test_markdown_becomes_html():
    html = render_card("# One\n\nsome **bold** `code`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n").html

    assert "<h2>One</h2>" in html  # The page has its own first-level heading.
    assert "<strong>bold</strong>" in html
    assert "<td>1</td>" in html


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><circle/></svg>",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt&colon;alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "<a href='javascript:alert(1)'>click</a>",
    "<a href=' &#106;avascript:alert(1)'>click</a>",
    "<iframe src=https://example.com></iframe>",
    "<div style='position:fixed;inset:0'>cover</div>",
    "<form action=/login><input name=password></form>",
    "<button formaction=javascript:alert(1)>x</button>",
    "<p onclick=alert(1)>x</p>",
    "<math><mtext><script>alert(1)</script></mtext></math>",
    "<div hx-get=/accounts/x/members hx-trigger=load>x</div>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "```<script>\nalert(1)\n```",
    "<base href=https://evil.example>",
    "<meta http-equiv=refresh content=0;url=https://evil.example>",
]
FORBIDDEN = ["<script", "onerror", "onload", "onclick", "style=", "<iframe", "<form", "<input"]
FORBIDDEN += ["<svg", "<math", "<base", "<meta", "<button", "hx-get", "<img"]


def find_dangers(html: str) -> list[str]:
    text = html.lower()
    found = [word for word in FORBIDDEN if word in text.replace("&lt;", "")]
    links = [part.split('"')[0] for part in text.split('href="')[1:]]
    return found + [link for link in links if not link.startswith(("http://", "https://"))]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_in_a_card_is_harmless(attack):
    html = render_card(f"# Title\n\n{attack}\n\nend").html

    assert find_dangers(html) == []
    assert "end" in html


def test_the_check_for_dangers_finds_them_without_the_allow_list(monkeypatch):
    monkeypatch.setattr(nh3, "clean", lambda html, **_: html)

    found = [attack for attack in ATTACKS if find_dangers(render_card(attack).html)]

    assert len(found) >= 12


def test_links_are_marked():
    html = render_card("[x](https://example.com)").html

    assert 'rel="nofollow noopener noreferrer"' in html


def test_front_matter_becomes_facts():
    text = "---\nlicense: mit\ntags:\n- a\n- b\nmodel-index: [{name: x}]\n---\nBody"

    made = render_card(text)

    assert made.facts == (("Licence", "mit"), ("Tags", "a, b"))
    assert made.html == "<p>Body</p>\n"


@pytest.mark.parametrize(
    ("_case", "front"),
    [
        ("an alias bomb", "a: &a [x, x]\nb: &b [*a, *a]\nlicense: *b"),
        ("a Python object", "license: !!python/object/apply:os.system [id]\nx: *y"),
        ("broken", "license: [mit"),
        ("a list", "- license"),
        ("deep", "license: " + "[" * 4_000),
        ("long", "license: mit\nx: " + "y" * card.FRONT_MATTER_LENGTH_MAX),
    ],
)
def test_hostile_front_matter_gives_no_facts(_case, front):
    made = render_card(f"---\n{front}\n---\nBody")

    assert made.facts == ()
    assert made.html == "<p>Body</p>\n"


def test_a_long_fact_is_cut():
    made = render_card("---\nlicense: " + "m" * 500 + "\n---\n")

    assert made.facts == (("Licence", "m" * 199 + "…"),)


@pytest.mark.parametrize("piece", ["[", "![", "> ", "- ", "*a **b ", "|a|b|\n", "`", "<a "])
def test_a_hostile_card_costs_seconds_at_most(piece):
    text = (piece * 65_536)[:65_536]

    started = time.monotonic()
    render_card(text)

    # A parser with quadratic brackets needs minutes for the first of these.
    assert time.monotonic() - started < 10


# --- Code, images, examples -------------------------------------------------------


def test_code_is_coloured_by_classes_alone():
    html = render_card("```python\nimport os\nprint('x')\n```\n").html

    assert '<span class="kn">import</span>' in html
    assert "style" not in html


@pytest.mark.parametrize("language", ["", "perl", "html", "python3 x", "../x", "<b>"])
def test_code_of_another_language_is_shown_as_it_is(language):
    html = render_card(f"```{language}\nif x:\n```\n").html

    assert "<span" not in html
    assert "if x:" in html


@pytest.mark.parametrize("size", [0, 1])
def test_long_code_is_shown_without_colours(size):
    code = "x" * (card.HIGHLIGHTED_LENGTH_MAX - 1 + size)

    assert ("<span" in render_card(f"```python\n{code}\n```\n").html) is not bool(size)


@pytest.mark.parametrize("count", [card.HIGHLIGHTED_COUNT_MAX, card.HIGHLIGHTED_COUNT_MAX + 1])
def test_so_many_pieces_of_code_are_coloured(count):
    html = render_card("```python\nimport os\n```\n\n" * count).html

    assert html.count('class="kn"') == card.HIGHLIGHTED_COUNT_MAX
    assert html.count("<pre") == count


@pytest.mark.parametrize("language", sorted(card.HIGHLIGHTED_LANGUAGES))
@pytest.mark.parametrize("piece", ["(", '"', "'''", "{", "\\", "$((", "- ", "[[", "/*", "`${"])
def test_hostile_code_costs_seconds_at_most(language, piece):
    code = (piece * card.HIGHLIGHTED_LENGTH_MAX)[: card.HIGHLIGHTED_LENGTH_MAX - 1]

    started = time.monotonic()
    render_card(f"```{language}\n{code}\n```\n")

    assert time.monotonic() - started < 5


def test_only_classes_of_code_are_kept():
    html = render_card('<span class="button primary">a</span><span class="k">b</span>').html

    assert "button" not in html


@pytest.mark.parametrize(
    "image",
    ["![a dog](https://example.com/x.png)", "![a dog](data:image/svg+xml;base64,PHN2Zz4=)"],
)
def test_an_image_is_its_text(image):
    html = render_card(f"See {image} here").html

    assert "<img" not in html
    assert "example.com" not in html
    assert "[a dog]" in html


def test_examples_are_read_as_text():
    text = '---\nexamples:\n- title: A\n  input: {"x": [1, "2"], y: true}\n- input: {}\n---\n'

    first, second = card.read_examples(text)

    assert (first.title, first.values) == ("A", {"x": ["1", "2"], "y": "true"})
    assert second.title == "Example 2"


@pytest.mark.parametrize("count", [card.EXAMPLE_COUNT_MAX, card.EXAMPLE_COUNT_MAX + 1])
def test_so_many_examples_are_read(count):
    text = "---\nexamples:\n" + "- input: {x: 1}\n" * count + "---\n"

    assert len(card.read_examples(text)) == card.EXAMPLE_COUNT_MAX


@pytest.mark.parametrize(
    "front",
    ["", "examples: 3", "examples: [1, {input: 3}, {title: x}]", "examples: &a [*a]", "- examples"],
)
def test_broken_examples_are_none(front):
    assert card.read_examples(f"---\n{front}\n---\n") == []
    assert card.read_examples(front) == []


@pytest.mark.parametrize(
    ("length", "status"),
    [(limits.CARD_LENGTH_MAX, 302), (limits.CARD_LENGTH_MAX + 1, 422), (10 * 1024 * 1024, 413)],
)
def test_a_card_has_a_limit(account, owner_client, length, status):
    model = AIModelFactory(account=account, name="digits", card="before")
    form = {"text": "x" * length, "base": "0"}

    answer = owner_client.post("/dashboard/models/acme/digits/card", form)

    assert answer.status_code == status
    model.refresh_from_db()
    assert len(model.card) == (length if status == 302 else len("before"))
