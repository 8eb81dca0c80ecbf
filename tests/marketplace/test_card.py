from __future__ import annotations

import time

import nh3
import pytest

from marketplace.core import card
from marketplace.core.card import render_card


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
