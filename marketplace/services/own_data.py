"""What the marketplace keeps of an account, for the archive of its data."""

from __future__ import annotations

from collections.abc import Iterator

from marketplace.models import (
    Account,
    AIModel,
    APIKey,
    CardRevision,
    Channel,
    ModelVersion,
    Notice,
    Notification,
    Report,
    Review,
    Takedown,
)
from marketplace.selectors.account import PLATFORM_ACTIONS, list_events, list_members
from marketplace.services.exporter import Exporter, Row

# Rows that are fetched at once: what of a large table lies in memory.
FETCH = 2_000


def read_profile(account: Account) -> Iterator[Row]:
    """The account itself."""
    yield (
        *(account.slug, account.name, account.kind, account.bio, account.created_at),
        *(account.suspended_at, account.frozen_at, account.closes_at),
        *(account.requests_per_minute, account.units_per_minute, account.concurrency_max),
    )


def read_members(account: Account) -> Iterator[Row]:
    """Who belongs to it."""
    columns = ("user__email", "user__name", "role", "created_at", "user__last_login")
    yield from list_members(account).values_list(*columns).iterator(FETCH)


def read_keys(account: Account) -> Iterator[Row]:
    """Its keys: what they may do, never what opens anything."""
    columns = (
        *("id", "name", "mode", "hint", "scopes", "created_by__email", "created_at"),
        *("expires_at", "revoked_at", "last_used_at", "budget_day_nanos", "budget_month_nanos"),
        *("budget_total_nanos", "allowed_models", "allowed_networks"),
    )
    keys = APIKey.objects.filter(account=account).order_by("created_at", "id")
    yield from keys.values_list(*columns).iterator(FETCH)


def read_models(account: Account) -> Iterator[Row]:
    """Its models with their cards, and the versions that their channels name."""
    models = AIModel.objects.filter(account=account).order_by("name").prefetch_related("channels")
    for model in models.iterator(100):
        yield (
            *(model.name, model.title, model.summary, model.card, model.task, model.licence),
            *(model.industry, model.visibility, model.suspended_at, model.created_at),
            model.updated_at,
            dict(Channel.objects.filter(model=model).values_list("name", "version__number")),
        )


def read_versions(account: Account) -> Iterator[Row]:
    """All versions of its models, without their files."""
    columns = (
        *("model__name", "number", "state", "runtime", "interface", "output_policy"),
        *("manifest_sha256", "size_bytes", "certificate", "refusal_reason", "created_at"),
    )
    versions = ModelVersion.objects.filter(model__account=account)
    yield from versions.order_by("model__name", "number").values_list(*columns).iterator(FETCH)


def read_reviews(account: Account) -> Iterator[Row]:
    """What reviewers decided about its versions."""
    columns = ("version__model__name", "version__number", "decision", "reason", "created_at")
    reviews = Review.objects.filter(version__model__account=account).order_by("created_at", "id")
    yield from reviews.values_list(*columns).iterator(FETCH)


def read_reports(account: Account) -> Iterator[Row]:
    """Reports about its models; who made them, and in which words, is theirs."""
    columns = ("model__name", "cause", "state", "created_at", "decided_at", "decision_reason")
    reports = Report.objects.filter(model__account=account).order_by("created_at", "id")
    yield from reports.values_list(*columns).iterator(FETCH)


def read_takedowns(account: Account) -> Iterator[Row]:
    """Warnings and suspensions of its models, with appeals."""
    columns = (
        *("model__name", "kind", "reason", "created_at", "appeal", "appealed_at"),
        *("answer", "answered_at", "lifted_at"),
    )
    takedowns = Takedown.objects.filter(model__account=account).order_by("created_at", "id")
    yield from takedowns.values_list(*columns).iterator(FETCH)


def read_notices(account: Account) -> Iterator[Row]:
    """Mails of the platform to its owners."""
    notices = Notice.objects.filter(account=account).order_by("created_at", "id")
    columns = ("created_at", "mailed_at", "subject", "text")
    yield from notices.values_list(*columns).iterator(FETCH)


def read_inbox(account: Account) -> Iterator[Row]:
    """What the inboxes of its members were told of it; once, whoever was told."""
    told = Notification.objects.filter(account=account).order_by("key", "id").distinct("key")
    yield from told.values_list("created_at", "kind", "title", "text", "path").iterator(FETCH)


def read_cards(account: Account) -> Iterator[Row]:
    """Earlier states of the cards of its models."""
    columns = ("model__name", "number", "text", "author", "restored_number", "created_at")
    cards = CardRevision.objects.filter(model__account=account).order_by("model__name", "number")
    yield from cards.values_list(*columns).iterator(100)


def read_collections(account: Account) -> Iterator[Row]:
    """Its collections, with the models in their order."""
    for one in account.collections.order_by("slug").prefetch_related("entries__model__account"):
        yield (
            *(one.slug, one.title, one.summary, one.is_public, one.created_at, one.updated_at),
            [str(entry.model) for entry in one.entries.all()],
        )


def read_audit(account: Account) -> Iterator[Row]:
    """What people did in the account, as its own page tells it."""
    for event in list_events(account).order_by("seq").iterator(FETCH):
        who = "platform" if event.action in PLATFORM_ACTIONS else event.actor
        yield (event.seq, event.at, who, event.action, event.object_type, event.payload)


EXPORTERS = (
    Exporter(
        "profile",
        "The account: name, kind, what its page says, its limits.",
        (
            *("slug", "name", "kind", "about", "created_at", "suspended_at", "frozen_at"),
            *("closes_at", "requests_per_minute", "units_per_minute", "concurrency_max"),
        ),
        read_profile,
        is_json=True,
    ),
    Exporter(
        "members",
        "Who belongs to the account, and in which role.",
        ("email", "name", "role", "since", "last_sign_in"),
        read_members,
    ),
    Exporter(
        "keys",
        "API keys and tokens: their beginnings, rights and limits; never the keys.",
        (
            *("id", "name", "mode", "begins_with", "scopes", "made_by", "created_at"),
            *("expires_at", "revoked_at", "last_used_at", "budget_day_nanos"),
            *("budget_month_nanos", "budget_total_nanos", "models", "networks"),
        ),
        read_keys,
    ),
    Exporter(
        "models",
        "Models with their cards, and the version that each channel names.",
        (
            *("name", "title", "summary", "card", "task", "licence", "industry", "visibility"),
            *("suspended_at", "created_at", "updated_at", "channels"),
        ),
        read_models,
        is_json=True,
    ),
    Exporter(
        "versions",
        "Versions of models: interface, certificate, state; without their files.",
        (
            *("model", "number", "state", "runtime", "interface", "output_policy"),
            *("manifest_sha256", "size_bytes", "certificate", "refusal_reason", "created_at"),
        ),
        read_versions,
        is_json=True,
    ),
    Exporter(
        "reviews",
        "What reviewers decided about versions, and why.",
        ("model", "version", "decision", "reason", "at"),
        read_reviews,
    ),
    Exporter(
        "reports",
        "Reports about your models, without who made them.",
        ("model", "cause", "state", "created_at", "decided_at", "decision_reason"),
        read_reports,
    ),
    Exporter(
        "takedowns",
        "Warnings and suspensions of your models, with your appeals.",
        (
            *("model", "kind", "reason", "created_at", "appeal", "appealed_at"),
            *("answer", "answered_at", "lifted_at"),
        ),
        read_takedowns,
    ),
    Exporter(
        "notices",
        "Mails of the platform to the owners.",
        ("created_at", "mailed_at", "subject", "text"),
        read_notices,
    ),
    Exporter(
        "inbox",
        "What members were told in their inboxes.",
        ("created_at", "kind", "title", "text", "page"),
        read_inbox,
    ),
    Exporter(
        "card-history",
        "Earlier states of model cards.",
        ("model", "number", "text", "author", "restored_number", "created_at"),
        read_cards,
        is_json=True,
    ),
    Exporter(
        "collections",
        "Collections of models, in their order.",
        ("name", "title", "summary", "is_public", "created_at", "updated_at", "models"),
        read_collections,
        is_json=True,
    ),
    Exporter(
        "audit-log",
        "What was done in the account, by whom and when.",
        ("seq", "at", "who", "action", "object", "details"),
        read_audit,
    ),
)
