from __future__ import annotations

from django.urls import path
from django.views.generic import TemplateView

from inference.api.file import open_link
from inference.views import (
    alert,
    custody,
    drift,
    evidence,
    file,
    metric,
    onboarding,
    platform,
    playground,
    prediction,
    protection,
    push,
    retention,
    run,
    signing_key,
    slo,
    status,
    wake,
    webhook,
)

app_name = "inference"
urlpatterns = [
    path("dashboard/push", push.push, name="push"),
    path(
        "panels/versions/<slug:owner>/<str:name>",
        onboarding.versions_panel,
        name="versions-panel",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/versions/<int:number>/custody",
        custody.custody,
        name="custody",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/versions/<int:number>/release-log",
        custody.export,
        name="release-log",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/versions/<int:number>/shred",
        custody.shred,
        name="shred",
    ),
    path("sealing", TemplateView.as_view(template_name="inference/sealing.html"), name="sealing"),
    path("panels/onboarding", onboarding.onboarding_panel, name="onboarding-panel"),
    path("panels/onboarding/<uuid:version_id>", onboarding.version_panel, name="version-panel"),
    path("panels/try/<slug:owner>/<str:name>", playground.try_panel, name="try-panel"),
    path("panels/try/<slug:owner>/<str:name>/stream", playground.try_stream, name="try-stream"),
    path("panels/try/<slug:owner>/<str:name>/code", playground.try_code, name="try-code"),
    path("panels/cancel/<str:public_id>", playground.try_cancel, name="try-cancel"),
    path("panels/evidence/<slug:owner>/<str:name>", evidence.evidence_panel, name="evidence-panel"),
    path("evidence/<slug:owner>/<str:name>/<int:number>", evidence.evidence_page, name="evidence"),
    path(
        "evidence/<slug:owner>/<str:name>/<int:number>/certificate.json",
        evidence.certificate,
        name="certificate",
    ),
    path("runs", run.shared_runs, name="runs"),
    path("runs/share", run.share, name="run-share"),
    path("runs/<str:token>", run.shared_run, name="run"),
    path("runs/<str:token>/revoke", run.revoke, name="run-revoke"),
    path(
        "dashboard/models/<slug:owner>/<str:name>/protection",
        protection.protection,
        name="protection",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/protection/account",
        protection.account_budget,
        name="account-budget",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/monitoring",
        metric.monitoring,
        name="monitoring",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/monitoring/export",
        metric.export,
        name="monitoring-export",
    ),
    path("dashboard/models/<slug:owner>/<str:name>/monitoring/drift", drift.page, name="drift"),
    path(
        "dashboard/models/<slug:owner>/<str:name>/monitoring/drift/export",
        drift.export,
        name="drift-export",
    ),
    path("dashboard/models/<slug:owner>/<str:name>/monitoring/slo", slo.slo, name="slo"),
    path(
        "dashboard/models/<slug:owner>/<str:name>/monitoring/cold-start",
        wake.cold_start,
        name="cold-start",
    ),
    path("dashboard/models/<slug:owner>/<str:name>/monitoring/alerts", alert.alerts, name="alerts"),
    path(
        "dashboard/models/<slug:owner>/<str:name>/monitoring/alerts/channels",
        alert.add_channel,
        name="alert-channels",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/monitoring/alerts/channels/<uuid:channel_id>",
        alert.channel,
        name="alert-channel",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/monitoring/alerts/rules/<uuid:rule_id>",
        alert.rule,
        name="alert-rule",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/monitoring/alerts/events/<uuid:event_id>",
        alert.event,
        name="alert-event",
    ),
    path("console/files", file.files, name="files"),
    path("console/files/<str:file_id>/delete", file.delete, name="file-delete"),
    path("accounts/<slug:slug>/retention", retention.retention, name="retention"),
    path("v1/files/<str:file_id>/content", open_link, name="file-link"),
    path("console/webhooks", webhook.webhooks, name="webhooks"),
    path("console/webhooks/new", webhook.new, name="webhook-new"),
    path("console/webhooks/secret", webhook.default_secret, name="webhook-secret"),
    path("console/webhooks/deliveries", webhook.deliveries, name="webhook-deliveries"),
    path(
        "console/webhooks/deliveries/<uuid:delivery_id>",
        webhook.delivery,
        name="webhook-delivery",
    ),
    path(
        "console/webhooks/deliveries/<uuid:delivery_id>/replay",
        webhook.replay,
        name="webhook-delivery-replay",
    ),
    path("console/webhooks/<uuid:endpoint_id>", webhook.webhook, name="webhook"),
    path("console/webhooks/<uuid:endpoint_id>/edit", webhook.edit, name="webhook-edit"),
    path("console/webhooks/<uuid:endpoint_id>/do", webhook.do, name="webhook-do"),
    path("console/webhooks/<uuid:endpoint_id>/rotate", webhook.rotate, name="webhook-rotate"),
    path("console/predictions", prediction.predictions, name="predictions"),
    path("panels/predictions", prediction.predictions_panel, name="predictions-panel"),
    path("dashboard/signing-keys", signing_key.signing_keys, name="signing-keys"),
    path(
        "dashboard/signing-keys/<uuid:key_id>/confirm",
        signing_key.confirm,
        name="signing-key-confirm",
    ),
    path(
        "dashboard/signing-keys/<uuid:key_id>/revoke",
        signing_key.revoke,
        name="signing-key-revoke",
    ),
    path("platform/fleet", platform.fleet_map, name="fleet"),
    path("platform/panels/serving", platform.platform_panel, name="platform-panel"),
    path("platform/panels/reviews/<uuid:version_id>", platform.review_panel, name="review-panel"),
    path("predictions/<str:public_id>", prediction.prediction, name="prediction"),
    # After all others: it takes any owner and name.
    path("<slug:owner>/<str:name>/status", status.model_status, name="model-status"),
]
