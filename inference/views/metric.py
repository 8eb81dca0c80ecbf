"""What a model did over time, as charts and as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from inference.selectors import metric
from inference.selectors import slo as slos
from inference.selectors.alert import list_open_events
from inference.selectors.metric import Point, Window
from inference.selectors.onboarding import access_own_model
from inference.views.table_file import answer_file, read_format
from marketplace.context import actor_of
from marketplace.models import AIModel
from marketplace.selectors.access import has_right

ERRORS = (
    ("failed_input", "Input"),
    ("failed_model", "Model"),
    ("failed_timeout", "Time-out"),
    ("failed_capacity", "Capacity"),
    ("failed_platform", "Platform"),
    ("canceled", "Given up"),
)
REFUSALS = (
    ("refused_input", "Bad request"),
    ("refused_limit", "Limits"),
    ("refused_credit", "No credit"),
    ("refused_capacity", "No capacity"),
)
PERCENTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))

Chart = dict[str, Any]
Measure = Callable[[Point], float | None]


@login_required
@require_safe
def monitoring(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The Monitoring page of an own model."""
    actor = actor_of(request)
    model = access_own_model(actor, owner, name)
    window, numbers = _read(request, model)
    slo = slos.find_slo(model)
    context = {
        "model": model,
        "window": window,
        "ranges": metric.RANGES.values(),
        "numbers": metric.list_numbers(model),
        "compared": numbers,
        "query": _make_query(window, numbers),
        "charts": [] if window.is_empty else list_charts(window, is_compared=bool(numbers)),
        "system_charts": list_system_charts(window),
        "markers": _list_markers(window),
        "stats": _list_stats(window),
        "cost_nanos": _shorten(window.total.nanos_per_prediction),
        "slo": slos.read_state(slo) if slo else None,
        "alerts": list_open_events(model),
        "can_push": has_right(actor, model.account, "push"),
        "little": metric.LITTLE,
        "consumers_shown": metric.CONSUMERS_SHOWN,
    }
    return render(request, "inference/monitoring.html", context)


@login_required
@require_safe
def export(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The numbers of the page, with `format=csv` or `json`."""
    model = access_own_model(actor_of(request), owner, name)
    kind = read_format(request)
    window, _ = _read(request, model)
    return answer_file(
        kind,
        f"{owner}-{name}-{window.range.name}",
        columns=metric.EXPORT_COLUMNS,
        rows=metric.list_export(window),
        about={
            "model": str(model),
            "range": window.range.name,
            "step_s": window.range.step_s,
            "time_zone": "UTC",
        },
    )


def _read(request: HttpRequest, model: AIModel) -> tuple[Window, list[int]]:
    found = metric.find_range(request.GET.get("range", ""))
    numbers = metric.read_numbers(request.GET.getlist("version"))
    return metric.read_window(model, found, numbers=numbers), numbers


def _make_query(window: Window, numbers: Sequence[int]) -> str:
    return f"range={window.range.name}" + "".join(f"&version={number}" for number in numbers)


# --- Charts -----------------------------------------------------------------------


def list_charts(window: Window, *, is_compared: bool) -> list[Chart]:
    """What the predictions tell; with versions side by side where they are compared."""
    draw = _Drawer(window, is_compared=is_compared)
    step_s = window.range.step_s
    charts = [
        draw.count("requests", "Requests", "a second", lambda point: point.predictions / step_s),
        draw.errors(),
        draw.percentiles("latency", "Latency"),
        draw.percentiles("queue", "Waiting for a place"),
        draw.percentiles("first_token", "Time to first token"),
        draw.refusals(),
        draw.one("cost", "Cost per prediction", "$", _cost),
        draw.count("revenue", "Revenue", "$", lambda point: point.creator_nanos / 1e9),
    ]
    if not is_compared:
        # Of whom no version is kept.
        charts.append(
            _chart(
                "consumers",
                "Consumers",
                "accounts",
                [{"label": "Consumers", "values": _drop_running(list(window.consumer_counts))}],
            )
        )
    return charts


def list_system_charts(window: Window) -> list[Chart]:
    """What nodes and copies tell."""
    nodes = window.nodes
    return [
        _chart(
            "cold",
            "Cold starts",
            "copies loaded",
            [{"label": "Cold starts", "values": window.cold_starts}],
        ),
        _chart(
            "memory",
            "Memory in use",
            "%",
            [{"label": one.name, "values": _percents(one.memory_share)} for one in nodes],
        ),
        _chart("gpu", "GPU in use", "%", _measured(nodes, "gpu_share")),
        _chart("gpu-memory", "GPU memory in use", "%", _measured(nodes, "gpu_memory_share")),
    ]


def _measured(nodes: Sequence[metric.NodeLine], name: str) -> list[dict[str, Any]]:
    """Without a GPU there is no line, rather than one at zero."""
    return [
        {"label": one.name, "values": _percents(getattr(one, name))}
        for one in nodes
        if any(value is not None for value in getattr(one, name))
    ]


def _drop_running(values: list[float | None]) -> list[float | None]:
    """Without the last point, whose span still runs: it would look like a fall.

    Where it is all there is, it is drawn.
    """
    return [*values[:-1], None] if any(values[:-1]) else values


def _percents(shares: Sequence[float | None]) -> list[float | None]:
    return [None if share is None else round(share * 100, 1) for share in shares]


def _chart(name: str, title: str, unit: str, series: list[dict[str, Any]]) -> Chart:
    return {"id": f"chart-{name}", "title": title, "unit": unit, "series": series}


def _cost(point: Point) -> float | None:
    nanos = point.nanos_per_prediction
    return None if nanos is None else nanos / 1e9


def _error_percent(point: Point) -> float | None:
    share = point.error_share
    return None if share is None else round(share * 100, 3)


def _quantile(name: str, share: float) -> Measure:
    def measure(point: Point) -> float | None:
        value = point.quantile_ms(name, share)
        return None if value is None else float(f"{value:.3g}")

    return measure


class _Drawer:
    """Makes charts of a window: of all together, or a line for each version."""

    def __init__(self, window: Window, *, is_compared: bool) -> None:
        self.window = window
        self.is_compared = is_compared

    def one(self, name: str, title: str, unit: str, measure: Measure) -> Chart:
        """One number of each point."""
        return _chart(name, title, unit, self._lines(title, measure))

    def count(self, name: str, title: str, unit: str, measure: Measure) -> Chart:
        """One that grows while the span of a point runs."""
        series = self._lines(title, measure)
        for line in series:
            line["values"] = _drop_running(line["values"])
        return _chart(name, title, unit, series)

    def errors(self) -> Chart:
        """By their class; compared, how many of a hundred."""
        if self.is_compared:
            return self.one("errors", "Errors", "% of predictions", _error_percent)
        return _chart("errors", "Errors by class", "predictions", self._classes(ERRORS, "Errors"))

    def refusals(self) -> Chart:
        """What was refused before it became a prediction."""
        if self.is_compared:
            names = [name for name, _ in REFUSALS]

            def measure(point: Point) -> float:
                return sum(point.sums[name] for name in names)

            return self.count("refused", "Refused requests", "requests", measure)
        total = self.window.total
        # Without a word of the gateways nobody knows that nothing was refused.
        is_measured = total.histograms["queue"] or any(total.sums[name] for name, _ in REFUSALS)
        series = self._classes(REFUSALS, "Refused") if is_measured else []
        return _chart("refused", "Refused requests", "requests", series)

    def percentiles(self, name: str, title: str) -> Chart:
        """p50, p95 and p99; compared, p95 alone."""
        if self.is_compared:
            return self.one(name, f"{title}, p95", "ms", _quantile(name, 0.95))
        series = [
            {"label": label, "values": [_quantile(name, share)(one) for one in self.window.points]}
            for label, share in PERCENTILES
        ]
        return _chart(name, title, "ms", series)

    def _lines(self, title: str, measure: Measure) -> list[dict[str, Any]]:
        if not self.is_compared:
            return [{"label": title, "values": [measure(one) for one in self.window.points]}]
        return [
            {"label": f"version {number}", "values": [measure(one) for one in points]}
            for number, points in self.window.by_version.items()
        ]

    def _classes(self, classes: Sequence[tuple[str, str]], none: str) -> list[dict[str, Any]]:
        total = self.window.total.sums
        return [
            {
                "label": label,
                "values": _drop_running([one.sums[name] for one in self.window.points]),
            }
            for name, label in classes
            if total[name]
        ] or [{"label": none, "values": [0 for _ in self.window.points]}]


def _list_markers(window: Window) -> list[dict[str, Any]]:
    return [
        {"time": int(one.at.astimezone(UTC).timestamp()), "label": one.label}
        for one in window.events
    ]


def _list_stats(window: Window) -> list[tuple[str, str, str]]:
    total = window.total
    share = total.error_share
    p50, p95, p99 = (total.quantile_ms("latency", share) for _, share in PERCENTILES)
    return [
        ("Predictions", f"{total.predictions:,}", f"{total.succeeded:,} succeeded"),
        (
            "Errors",
            "—" if share is None else f"{share * 100:.2f} %",
            f"{total.failed:,} failed, {total.canceled:,} given up",
        ),
        ("Latency p95", _ms(p95), f"p50 {_ms(p50)}, p99 {_ms(p99)}"),
        ("Consumers", f"{window.consumer_total:,}", "accounts, by month"),
    ]


def _shorten(nanos: int | None) -> int | None:
    """Three digits say what a mean says."""
    return None if nanos is None else int(float(f"{nanos:.3g}"))


def _ms(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value / 1000:.3g} s" if value >= 1000 else f"{value:.3g} ms"
