from __future__ import annotations

from datetime import timedelta

import pytest
from django.template import Context, Template
from django.test import RequestFactory
from django.utils import timezone

from marketplace.templatetags import ui


def render(source: str, **context: object) -> str:
    return Template("{% load ui %}" + source).render(Context(context)).strip()


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=5), "in a minute"),
        (timedelta(minutes=-5, seconds=-1), "5 min ago"),
        (timedelta(hours=-3, seconds=-1), "3 h ago"),
        (timedelta(hours=3, seconds=1), "in 3 h"),
        (timedelta(days=7), "in 7 d"),
        (timedelta(days=-2, seconds=-1), "2 d ago"),
    ],
)
def test_how_long_ago(delta, expected):
    assert f">{expected}</time>" in render("{% ago moment %}", moment=timezone.now() + delta)


def test_long_ago_is_a_date_and_never_is_a_word():
    moment = timezone.now() - timedelta(days=400)

    assert f">{moment.day} " in render("{% ago moment %}", moment=moment)
    assert render("{% ago moment %}", moment=None) == '<span class="fine">never</span>'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "1 second"),
        (30, "30 seconds"),
        (60, "1 minute"),
        (900, "15 minutes"),
        (3_601, "2 hours"),
    ],
)
def test_waiting_times(seconds, text):
    assert ui.duration(seconds) == text


def test_a_badge_says_its_state_and_colours_it():
    assert (
        render('{% badge "in_review" %}') == '<span class="badge" data-tone="warn">In review</span>'
    )
    assert "data-busy" in render('{% badge "onboarding" %}')
    assert render('{% badge "odd" text %}', text="<b>") == '<span class="badge">&lt;b&gt;</span>'


def test_blocks_escape_what_they_are_given_and_keep_their_content():
    text = render("{% card title %}<p>{{ inner }}</p>{% endcard %}", title="<i>", inner="<b>")

    assert "<h2>&lt;i&gt;</h2>" in text
    assert "<p>&lt;b&gt;</p>" in text
    assert 'role="region" aria-label="Keys"' in render(
        '{% datatable "Keys" %}<tbody></tbody>{% enddatatable %}'
    )


def test_amounts_and_sizes():
    assert render("{{ n|money }}", n=500_000) == "$0.0005"
    assert render("{{ n|money }}", n=None) == "—"
    assert render("{{ n|size }}", n=0) == "—"


@pytest.mark.parametrize(
    ("path", "exact", "is_current"),
    [
        ("/console", False, True),
        ("/console/keys", False, True),
        ("/console/keys", True, False),
        ("/consoles", False, False),
    ],
)
def test_a_link_is_marked_on_its_page_and_below(path, exact, is_current):
    request = RequestFactory().get(path)
    text = render(f'{{% navlink "/console" "Console" exact={exact} %}}', request=request)

    assert ('aria-current="page"' in text) == is_current
