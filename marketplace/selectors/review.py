"""What a reviewer looks at: the version beside the one that was approved before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q
from django.template.defaultfilters import filesizeformat

from marketplace.core.describe import Member, describe_inputs, describe_outputs, describe_policy
from marketplace.core.line_diff import LinePair, compare_lines
from marketplace.models import Account, AIModel, ModelVersion, Review

State = ModelVersion.State

REVIEWS_SHOWN = 10

LISTING_LABELS = {
    "title": "Title",
    "summary": "Summary",
    "task": "Task",
    "licence": "Licence",
    "industry": "Industry",
    "visibility": "Visibility",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One thing of both versions; empty where a side has nothing."""

    label: str
    before: str
    after: str

    @property
    def is_changed(self) -> bool:
        """Whether the two sides differ."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that belong together; `note` says what is not there."""

    title: str
    rows: list[Row]
    note: str = ""

    @property
    def change_count(self) -> int:
        """How many rows differ."""
        return sum(row.is_changed for row in self.rows)


@dataclass(frozen=True, slots=True)
class OwnerHistory:
    """What is known of who pushed the version."""

    counts: list[tuple[str, int]]
    refusals: list[Review]
    report_count: int
    takedown_count: int


def listing_of(model: AIModel) -> dict[str, str]:
    """What the listing says, as a review keeps it."""
    return {name: getattr(model, name) for name in (*LISTING_LABELS, "card")}


def find_previous(version: ModelVersion) -> ModelVersion | None:
    """The last version before this one that was approved, also if it is withdrawn by now."""
    return (
        ModelVersion.objects.filter(
            model=version.model_id,
            number__lt=version.number,
            reviews__decision=Review.Decision.APPROVED,
        )
        .order_by("-number")
        .first()
    )


def compare(version: ModelVersion, previous: ModelVersion | None) -> list[Section]:
    """Everything of the version that the marketplace knows, beside the previous one."""
    return [
        Section("Version", _compare_facts(version, previous)),
        Section(
            "Inputs",
            _compare_members(
                describe_inputs(previous.interface) if previous else [],
                describe_inputs(version.interface),
            ),
        ),
        Section(
            "Outputs",
            _compare_members(
                describe_outputs(previous.interface) if previous else [],
                describe_outputs(version.interface),
            ),
        ),
        _compare_listing(version.model, previous),
    ]


def compare_cards(version: ModelVersion, previous: ModelVersion | None) -> list[LinePair]:
    """The changed lines of the model card with some around them; a gap is an empty pair."""
    return compare_lines(_listing_at(previous).get("card", ""), version.model.card)


def describe_owner(account: Account, version: ModelVersion) -> OwnerHistory:
    """The account's versions by state, what was refused, and what others said of its models."""
    versions = ModelVersion.objects.filter(model__account=account).exclude(pk=version.pk)
    by_state = dict(
        versions.order_by().values_list("state").annotate(count=Count("pk")).order_by("state")
    )
    refusals = (
        Review.objects.filter(version__model__account=account, decision=Review.Decision.REFUSED)
        .select_related("version__model__account", "reviewer")
        .order_by("-created_at")
    )
    told = AIModel.objects.filter(account=account).aggregate(
        reports=Count("reports", distinct=True),
        takedowns=Count("takedowns", filter=Q(takedowns__isnull=False), distinct=True),
    )
    return OwnerHistory(
        counts=[(State(name).label, count) for name, count in by_state.items()],
        refusals=list(refusals[:REVIEWS_SHOWN]),
        report_count=told["reports"],
        takedown_count=told["takedowns"],
    )


def _compare_facts(version: ModelVersion, previous: ModelVersion | None) -> list[Row]:
    def show(one: ModelVersion | None) -> dict[str, str]:
        if one is None:
            return {}
        batch = one.interface.get("batch") or {}
        return {
            "Number": str(one.number),
            "Runtime": one.runtime,
            "Sealed size": filesizeformat(one.size_bytes) if one.size_bytes else "",
            "Digest": one.manifest_sha256,
            "Rows in one call": str(batch.get("max_size", "")),
            "Answers": describe_policy(one.output_policy) or "Everything, unrounded.",
            "Goes to": one.publish_channel or "no channel",
        }

    left, right = show(previous), show(version)
    return [Row(label, left.get(label, ""), text) for label, text in right.items()]


def _compare_members(before: Sequence[Member], after: Sequence[Member]) -> list[Row]:
    left = {one.name: _show_member(one) for one in before}
    right = {one.name: _show_member(one) for one in after}
    names = [*right, *(name for name in left if name not in right)]
    return [Row(name, left.get(name, ""), right.get(name, "")) for name in names]


def _show_member(one: Member) -> str:
    return " · ".join(part for part in (one.type, one.rules, one.description) if part)


def _compare_listing(model: AIModel, previous: ModelVersion | None) -> Section:
    before = _listing_at(previous)
    now = listing_of(model)
    rows = [Row(label, before.get(name, ""), now[name]) for name, label in LISTING_LABELS.items()]
    note = ""
    if previous is not None and not before:
        note = f"What the listing said when version {previous.number} was approved was not kept."
    return Section("Listing", rows, note)


def _listing_at(previous: ModelVersion | None) -> Mapping[str, Any]:
    if previous is None:
        return {}
    review = previous.reviews.filter(decision=Review.Decision.APPROVED).order_by("created_at")
    last = review.last()
    return last.listing if last is not None else {}
