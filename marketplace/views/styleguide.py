"""What the style guide shows: made up here, read from nowhere."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

from django.core.paginator import Paginator
from django.utils import timezone

from marketplace.core.uptime import Day, fill_days
from marketplace.forms.styleguide import SampleForm
from marketplace.models import Account, User
from marketplace.toast import Undo

MINUTES = 120
# A day in 2026, so that the guide looks the same whenever it is opened.
START_S = 1_767_268_800


def sample_context() -> dict[str, Any]:
    """Everything that the components of the guide are handed."""
    now = timezone.now()
    times = [START_S + 60 * minute for minute in range(MINUTES)]
    calls = [
        40 + 18 * math.sin(minute / 11) + 5 * math.sin(minute / 3) for minute in range(MINUTES)
    ]
    errors = [max(0.0, 3 * math.sin(minute / 7)) for minute in range(MINUTES)]
    undo: Undo = {"url": "#undo", "fields": {"channel": "prod"}}
    return {
        "account": Account(slug="acme", name="Acme"),
        "person": User(email="olive@example.com", name="Olive Owner"),
        "empty_form": SampleForm(auto_id="plain_%s"),
        "faulty_form": SampleForm({"name": "", "task": ""}, auto_id="faulty_%s"),
        "page": Paginator(range(120), 10).page(3),
        "undo": undo,
        "recently": now - timedelta(minutes=7),
        "soon": now + timedelta(hours=5),
        "times": times,
        "series": [
            # An hour in which nothing was measured leaves a gap.
            {"label": "Answered", "values": [*calls[:50], *[None] * 8, *calls[58:]]},
            {"label": "Failed", "values": errors},
        ],
        "markers": [{"time": times[80], "label": "version 4 to prod"}],
        "no_series": [{"label": "Answered", "values": [None] * MINUTES}],
        "spark": calls[::6],
        "days": _sample_days(),
        "bars": [(f"{day} Nov", 100 + day * 13 % 70) for day in range(1, 15)],
        "steps": [
            {"title": "Verify", "state": "done", "text": "Signature and digests are right."},
            {"title": "Validate", "state": "done", "text": "ONNX, 12 operators, all known."},
            {"title": "Benchmark", "state": "current", "text": "Measures time and memory."},
            {"title": "Review", "state": "todo"},
        ],
        "failed_steps": [
            {"title": "Verify", "state": "done"},
            {"title": "Load", "state": "failed", "text": "It needs more memory than there is."},
        ],
        "facts": [("Runtime", "onnx"), ("Sealed size", "1.2 MB"), ("Licence", "Apache-2.0")],
        "windows": [("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days"), ("30d", "30 days")],
        "tones": ("info", "good", "warn", "bad"),
        "states": ("approved", "in_review", "onboarding", "refused", "token", "withdrawn"),
        "icons": ("key", "lock", "box", "wallet", "chart-line", "rocket", "bell", "shield-check"),
        "swatches": SWATCHES,
        "parts": SECTIONS,
    }


SWATCHES = (
    *("page", "surface", "surface-2", "surface-hover", "border", "accent", "accent-soft"),
    *("good", "warn", "bad", "info"),
)
# The guide's sections, in its order: address in the page, and heading.
SECTIONS = (
    ("type", "Type and colour"),
    ("buttons", "Buttons"),
    ("states", "Badges and notices"),
    ("numbers", "Numbers"),
    ("charts", "Charts"),
    ("tables", "Tables and lists"),
    ("forms", "Forms"),
    ("navigation", "Navigation"),
    ("overlays", "Dialogs, toasts, tooltips"),
    ("code", "Code"),
    ("empty", "Empty, loading, progress"),
)


def _sample_days() -> list[Day]:
    """A day of each kind, and good ones around them."""
    last = date(2026, 1, 30)
    whole = {back: Day(last - timedelta(days=back), good=1_440) for back in range(24)}
    odd = {
        3: Day(last - timedelta(days=3), good=1_434, bad=6),
        9: Day(last - timedelta(days=9), good=1_200, degraded=40, bad=200),
        15: Day(last - timedelta(days=15), good=5, least=20),
    }
    return fill_days({day.day: day for day in (whole | odd).values()}, last, 30)
