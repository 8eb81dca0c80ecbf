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


def test_a_trend_has_its_sign_and_a_tone_of_its_own():
    text = render('{% stat "Errors" 31 trend="+4" tone="bad" spark=values %}', values=[1, None, 3])

    assert 'class="trend" data-tone="bad"' in text
    assert "#trending-up" in text
    assert 'aria-label="Errors, from 1 to 3"' in text
    assert "trend" not in render('{% stat "Errors" 31 %}')


@pytest.mark.parametrize(
    ("name", "initials"),
    [("Olive Owner", "OO"), ("acme", "A"), ("olive@example.com", "O"), ("", "?"), ("<b>", "B")],
)
def test_initials(name, initials):
    assert render("{% avatar name %}", name=name).endswith(f">{initials}</span>")


def test_a_name_keeps_its_colour():
    assert render('{% avatar "acme" %}') == render('{% avatar "acme" %}')


def test_views_of_a_page_keep_the_query_and_leave_its_page():
    request = RequestFactory().get("/usage?model=a%26b&page=7&window=1h")
    options = [("1h", "1 hour"), ("7d", "7 days")]
    text = render('{% segmented "W" "window" options "1h" %}', request=request, options=options)

    assert 'href="?model=a%26b&amp;window=7d"' in text
    assert text.count('aria-current="true"') == 1
    assert "page=7" not in text


@pytest.mark.parametrize(("query", "is_filtered"), [("", False), ("?a=", False), ("?a=1", True)])
def test_filters_can_be_cleared(query, is_filtered):
    request = RequestFactory().get(f"/usage{query}")
    text = render("{% filterbar %}<input>{% endfilterbar %}", request=request)

    assert (">Clear</a>" in text) == is_filtered


@pytest.mark.parametrize(
    ("value", "maximum", "text"), [(42, 100, "42%"), (3, 2, "100%"), (-1, 2, "0%"), (1, 0, "0%")]
)
def test_progress_is_between_nothing_and_all(value, maximum, text):
    assert f">{text}</progress>" in render("{% progress v m %}", v=value, m=maximum)


def test_a_step_says_where_one_is():
    items = [{"title": "<i>", "state": "done"}, {"title": "B", "state": "current"}]
    text = render("{% steps items %}", items=items)

    assert text.count('aria-current="step"') == 1
    assert "&lt;i&gt;" in text
    assert ", done" in text


def test_a_term_can_stand_twice_on_a_page():
    one, two = (render('{% term "TTFT" text %}', text="<b>") for _ in range(2))

    assert one != two
    assert "&lt;b&gt;" in one


def test_what_is_asked_and_undone_is_escaped_and_has_its_token():
    undo = {"url": '/"><script>', "fields": {"version": '"1'}}
    toast = render("{% toast text 'good' undo=undo %}", text="<b>", undo=undo, csrf_token="tok")
    asked = render('{% confirm "/x" question "Remove" %}', question='"?', csrf_token="tok")

    assert "<script>" not in toast
    assert "<b>" not in toast
    assert 'value="&quot;1"' in toast
    assert 'data-confirm="&quot;?"' in asked
    assert toast.count('value="tok"') == asked.count('value="tok"') == 1


def test_code_is_text():
    text = render('{% code "curl" %}\n{{ body }}\n{% endcode %}', body="<script>")

    assert "<code>&lt;script&gt;</code>" in text


def test_bars_have_their_numbers():
    text = render('{% barchart items "Spend" "$" %}', items=[("<i>", 3), ("2 Nov", 0)])

    assert text.count("<rect") == 2
    assert 'aria-label="Spend. 2 bars, 3 $ in all."' in text
    assert "<i>" not in text
    assert "Nothing was measured" in render('{% barchart items "Spend" %}', items=[])
