"""Narrow the catalogue down: what may be chosen, how many models each choice leaves.

Choices of one facet are alternatives; facets are joined by "and". A facet's counts leave its
own choices aside, so that they say what choosing another would give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from django.db.models import Case, CharField, Count, F, Q, QuerySet, Value, When

from marketplace.core import limits
from marketplace.core.industries import title_of
from marketplace.models import AIModel

Choices = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A range that can be chosen; the first that fits is a model's own."""

    value: str
    label: str
    condition: Q


@dataclass(frozen=True, slots=True)
class Facet:
    """One way to narrow down.

    Args:
        name: Of the parameter in the address.
        label: For people.
        column: Whose values are the choices; empty where `buckets` are.
        buckets: Ranges, in their order.
        title: What a value is called.
    """

    name: str
    label: str
    column: str = ""
    buckets: tuple[Bucket, ...] = ()
    title: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A choice as it is shown."""

    value: str
    label: str
    count: int
    is_chosen: bool


def _title_task(value: str) -> str:
    return value.replace("-", " ").capitalize()


_PLAIN = Q(entry__price_is_plain=True)
PRICES = (
    Bucket(
        "metered", "Metered (tokens, tiers, free quota)", ~_PLAIN & Q(entry__price_nanos__gte=0)
    ),
    Bucket("free", "Free", Q(entry__price_nanos=0)),
    Bucket("to-0.0001", "Up to $0.0001", Q(entry__price_nanos__lte=100_000)),
    Bucket("to-0.001", "$0.0001 to $0.001", Q(entry__price_nanos__lte=1_000_000)),
    Bucket("to-0.01", "$0.001 to $0.01", Q(entry__price_nanos__lte=10_000_000)),
    Bucket("over-0.01", "Above $0.01", Q(entry__price_nanos__gt=10_000_000)),
)
LATENCIES = (
    Bucket("to-5", "Up to 5 ms", Q(entry__p50_ms__lte=5)),
    Bucket("to-25", "5 to 25 ms", Q(entry__p50_ms__lte=25)),
    Bucket("to-100", "25 to 100 ms", Q(entry__p50_ms__lte=100)),
    Bucket("to-1000", "100 ms to 1 s", Q(entry__p50_ms__lte=1_000)),
    Bucket("over-1000", "Above 1 s", Q(entry__p50_ms__gt=1_000)),
)
FACETS = (
    Facet("task", "Task", column="task", title=_title_task),
    Facet("industry", "Industry", column="industry", title=title_of),
    Facet("price", "Price of a prediction", buckets=PRICES),
    Facet("latency", "Measured latency", buckets=LATENCIES),
    Facet("hardware", "Measured on", column="entry__hardware"),
    Facet("licence", "Licence", column="licence"),
)
_BY_NAME = {one.name: one for one in FACETS}
# No value of any column is longer.
_VALUE_LENGTH_MAX = 80


def clean_choices(name: str, values: list[str]) -> tuple[str, ...]:
    """What of an address can be a choice; ranges that are not known are no choice."""
    facet = _BY_NAME[name]
    known = {one.value for one in facet.buckets}
    kept = dict.fromkeys(
        one
        for one in values[: 10 * limits.FACET_CHOICES_MAX]
        if 0 < len(one) <= _VALUE_LENGTH_MAX and (not known or one in known)
    )
    return tuple(kept)[: limits.FACET_CHOICES_MAX]


def label_of(name: str, value: str) -> str:
    """What a choice is called."""
    facet = _BY_NAME[name]
    labels = {one.value: one.label for one in facet.buckets}
    return labels.get(value) or facet.title(value)


def narrow(models: QuerySet[AIModel], choices: Choices, *, but: str = "") -> QuerySet[AIModel]:
    """Those that fit the choices of all facets, or of all but one."""
    for facet in FACETS:
        chosen = choices.get(facet.name, ())
        if chosen and facet.name != but:
            alias = f"of_{facet.name}"
            models = models.alias(**{alias: _value_of(facet)}).filter(**{f"{alias}__in": chosen})
    return models


def count_values(models: QuerySet[AIModel], choices: Choices, facet: Facet) -> list[FacetValue]:
    """A facet's choices with the number of models; those that are chosen stay, also at 0."""
    alias = f"of_{facet.name}"
    rows = (
        narrow(models, choices, but=facet.name)
        .annotate(**{alias: _value_of(facet)})
        .exclude(**{alias: ""})
        .order_by()
        .values_list(alias)
        .annotate(count=Count("pk"))
        .order_by("-count", alias)
    )
    counts: dict[str, int] = dict(rows[: limits.FACET_VALUES_MAX])
    chosen = choices.get(facet.name, ())
    if facet.buckets:
        order = [one.value for one in facet.buckets if one.value in counts or one.value in chosen]
    else:
        order = [*counts, *(one for one in chosen if one not in counts)]
    return [
        FacetValue(one, label_of(facet.name, one), counts.get(one, 0), one in chosen)
        for one in order
    ]


def _value_of(facet: Facet) -> Case | F:
    if facet.column:
        return F(facet.column)
    cases = [When(one.condition, then=Value(one.value)) for one in facet.buckets]
    return Case(*cases, default=Value(""), output_field=CharField())
