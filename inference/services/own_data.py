"""What is kept of an account's runs and keys, for the archive of its data."""

from __future__ import annotations

from collections.abc import Iterator

from inference.models import (
    AlertChannel,
    AlertRule,
    Batch,
    BatchLine,
    Deployment,
    File,
    FinishedJob,
    Job,
    Prediction,
    SharedRun,
    SigningKey,
    WebhookDelivery,
    WebhookEndpoint,
)
from inference.selectors.webhook import name_url
from marketplace.core.ids import to_public
from marketplace.models import Account
from marketplace.services.exporter import Exporter, Row

# Rows that are fetched at once; a prediction may carry what went in and came out.
FETCH = 500


def read_predictions(account: Account) -> Iterator[Row]:
    """Its predictions, oldest first; contents only where they are still kept."""
    columns = (
        *("id", "version__model__account__slug", "version__model__name", "version__number"),
        *("state", "source", "protocol", "rows", "cost_nanos", "predict_time_us", "error"),
        *("created_at", "completed_at", "api_key_id", "input", "output"),
    )
    predictions = Prediction.objects.filter(account_id=account.pk).order_by("id")
    for row in predictions.values_list(*columns).iterator(FETCH):
        yield (to_public(row[0]), f"{row[1]}/{row[2]}:{row[3]}", *row[4:])


def read_jobs(account: Account) -> Iterator[Row]:
    """Predictions that wait or run, with their inputs; the path of a webhook may be a secret."""
    columns = (
        *("id", "version__model__account__slug", "version__model__name", "version__number"),
        *("state", "priority", "attempt", "error", "created_at", "deadline_at", "webhook_url"),
        "input__input",
    )
    jobs = Job.objects.filter(account_id=account.pk).order_by("id")
    for row in jobs.values_list(*columns).iterator(FETCH):
        url = name_url(row[10]) if row[10] else ""
        yield (to_public(row[0]), f"{row[1]}/{row[2]}:{row[3]}", *row[4:10], url, row[11])


def read_finished_jobs(account: Account) -> Iterator[Row]:
    """How its predictions that ran later were run."""
    columns = ("id", "state", "priority", "attempt", "error", "created_at", "finished_at")
    jobs = FinishedJob.objects.filter(account_id=account.pk).order_by("id")
    for row in jobs.values_list(*columns).iterator(FETCH):
        yield (to_public(row[0]), *row[1:])


def read_shared_runs(account: Account) -> Iterator[Row]:
    """Runs that it shares by a link; the link itself opens them and stays here."""
    columns = (
        *("prediction_id", "version__model__account__slug", "version__model__name"),
        *("version__number", "created_at", "expires_at", "input", "output"),
    )
    runs = SharedRun.objects.filter(account=account).order_by("created_at", "id")
    for row in runs.values_list(*columns).iterator(FETCH):
        yield (to_public(row[0]), f"{row[1]}/{row[2]}:{row[3]}", *row[4:])


def read_batches(account: Account) -> Iterator[Row]:
    """Its batches; the path of a webhook may be a secret."""
    batches = Batch.objects.filter(account=account).order_by("id")
    columns = (
        *("id", "version__model__account__slug", "version__model__name", "version__number"),
        *("name", "tag", "state", "reason", "total_count", "succeeded_count", "failed_count"),
        *("canceled_count", "cost_nanos", "created_at", "finished_at", "webhook_url"),
    )
    for row in batches.values_list(*columns).iterator(FETCH):
        url = name_url(row[-1]) if row[-1] else ""
        yield (row[0], f"{row[1]}/{row[2]}:{row[3]}", *row[4:-1], url)


def read_batch_lines(account: Account) -> Iterator[Row]:
    """The lines of its batches; inputs of those that wait, outputs until they are in a file."""
    lines = BatchLine.objects.filter(batch__account=account).order_by("batch_id", "number")
    columns = (
        *("batch_id", "number", "custom_id", "state", "prediction_id", "code", "detail"),
        *("cost_nanos", "input", "output"),
    )
    for row in lines.values_list(*columns).iterator(FETCH):
        yield (*row[:4], to_public(row[4]) if row[4] else "", *row[5:])


def read_files(account: Account) -> Iterator[Row]:
    """Its files by name and checksum; their contents are fetched one by one while they live."""
    for one in File.objects.filter(account=account).order_by("id").iterator(FETCH):
        yield (
            *(one.public_id, one.name, one.purpose, one.content_type, one.size_bytes, one.sha256),
            *(to_public(one.prediction_id) if one.prediction_id else "", one.created_at),
            one.expires_at,
        )


def read_signing_keys(account: Account) -> Iterator[Row]:
    """Public keys that sign its models."""
    columns = (
        *("fingerprint", "public_key", "registered_by", "created_at", "confirmed_at"),
        *("trusted_at", "revoked_at"),
    )
    keys = SigningKey.objects.filter(account=account).order_by("created_at", "id")
    yield from keys.values_list(*columns).iterator(FETCH)


def read_deployments(account: Account) -> Iterator[Row]:
    """When its versions were served, and how often at once."""
    columns = (
        *("version__model__name", "version__number", "replica_count", "created_at"),
        "stopped_at",
    )
    deployments = Deployment.objects.filter(version__model__account=account)
    yield from deployments.order_by("created_at", "id").values_list(*columns).iterator(FETCH)


def read_alerts(account: Account) -> Iterator[Row]:
    """Rules and channels of alerts; the address of a webhook is a secret and stays here."""
    rules = AlertRule.objects.filter(model__account=account).order_by("model__name", "id")
    columns = ("model__name", "kind", "threshold", "window_s", "created_at")
    for name, kind, threshold, window_s, created_at in rules.values_list(*columns).iterator(FETCH):
        yield ("rule", name, kind, threshold, window_s, "", created_at)
    channels = AlertChannel.objects.filter(model__account=account).order_by("model__name", "id")
    for channel in channels.select_related("model").iterator(FETCH):
        is_mail = channel.kind == AlertChannel.Kind.MAIL
        target = channel.target if is_mail else ""
        yield ("channel", channel.model.name, channel.kind, "", "", target, channel.created_at)


def read_webhooks(account: Account) -> Iterator[Row]:
    """Endpoints of webhooks; the path of an address may be a secret, and stays here."""
    endpoints = WebhookEndpoint.objects.filter(account=account).order_by("created_at", "id")
    for one in endpoints.iterator(FETCH):
        yield (
            *(name_url(one.url), one.description, " ".join(one.events), one.is_enabled),
            *(one.disabled_reason, one.created_at, one.last_success_at),
        )


def read_webhook_deliveries(account: Account) -> Iterator[Row]:
    """What was told of its predictions, and how that went."""
    columns = (
        *("type", "prediction_id", "endpoint__description", "state", "attempts", "last_error"),
        *("created_at", "ended_at"),
    )
    deliveries = WebhookDelivery.objects.filter(account=account).order_by("id")
    for row in deliveries.values_list(*columns).iterator(FETCH):
        yield (row[0], to_public(row[1]) if row[1] else "", *row[2:])


EXPORTERS = (
    Exporter(
        "predictions",
        "Predictions you ran; what went in and came out only while it is kept for a retry.",
        (
            *("id", "version", "state", "source", "protocol", "rows", "cost_nanos"),
            *("predict_time_us", "error", "created_at", "completed_at", "api_key", "input"),
            "output",
        ),
        read_predictions,
    ),
    Exporter(
        "queue",
        "Predictions of yours that wait, run, or ended a moment ago.",
        (
            *("id", "version", "state", "priority", "attempt", "error", "created_at"),
            *("deadline_at", "webhook_server", "input"),
        ),
        read_jobs,
    ),
    Exporter(
        "finished-jobs",
        "How your predictions that ran later were run, for 30 days.",
        ("id", "state", "priority", "attempt", "error", "created_at", "finished_at"),
        read_finished_jobs,
    ),
    Exporter(
        "shared-runs",
        "Runs that you share by a link.",
        ("prediction", "version", "created_at", "expires_at", "input", "output"),
        read_shared_runs,
        is_json=True,
    ),
    Exporter(
        "batches",
        "Batches of yours, until they are forgotten.",
        (
            *("id", "version", "name", "tag", "state", "reason", "lines", "succeeded", "failed"),
            *("canceled", "cost_nanos", "created_at", "finished_at", "webhook_server"),
        ),
        read_batches,
    ),
    Exporter(
        "batch-lines",
        "Lines of your batches. Outputs of those that are over stand in their files.",
        (
            *("batch", "line", "custom_id", "state", "prediction", "code", "detail"),
            *("cost_nanos", "input", "output"),
        ),
        read_batch_lines,
        is_json=True,
    ),
    Exporter(
        "files",
        "Files of yours; fetch their contents one by one while they live.",
        (
            *("id", "name", "purpose", "content_type", "size_bytes", "sha256", "prediction"),
            *("created_at", "expires_at"),
        ),
        read_files,
    ),
    Exporter(
        "signing-keys",
        "Public halves of the keys that sign your models.",
        (
            *("fingerprint", "public_key", "registered_by", "created_at", "confirmed_at"),
            *("trusted_at", "revoked_at"),
        ),
        read_signing_keys,
    ),
    Exporter(
        "deployments",
        "When your versions were served.",
        ("model", "version", "replicas", "created_at", "stopped_at"),
        read_deployments,
    ),
    Exporter(
        "alerts",
        "Rules and channels of alerts about your models.",
        ("what", "model", "kind", "threshold", "window_s", "address", "created_at"),
        read_alerts,
    ),
    Exporter(
        "webhooks",
        "Endpoints that are told of your predictions; of their addresses only the server.",
        (
            *("server", "description", "events", "is_enabled", "disabled_reason", "created_at"),
            "last_success_at",
        ),
        read_webhooks,
    ),
    Exporter(
        "webhook-deliveries",
        "What was told of your predictions in the last 30 days, and how that went.",
        (
            *("event", "prediction", "endpoint", "state", "attempts", "last_error", "created_at"),
            "ended_at",
        ),
        read_webhook_deliveries,
    ),
)
