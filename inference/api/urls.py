from __future__ import annotations

from django.urls import URLPattern, URLResolver, path, register_converter
from django.urls.converters import IntConverter

from inference.api import (
    artifact,
    batch,
    budget,
    file,
    node,
    retention,
    upload,
    version,
    wake,
    webhook,
)


class IndexConverter(IntConverter):
    """A small number from 0; what is longer would not fit the columns behind it."""

    regex = "[0-9]{1,6}"


register_converter(IndexConverter, "index")

app_name = "inference-api"
urlpatterns: list[URLPattern | URLResolver] = [
    path("platform", version.PlatformView.as_view(), name="platform"),
    path("signing-keys", upload.SigningKeysView.as_view(), name="signing-keys"),
    path("signing-keys/<uuid:key_id>", upload.SigningKeyView.as_view(), name="signing-key"),
    path("manifest-checks", upload.ManifestChecksView.as_view(), name="manifest-checks"),
    path("models/<str:owner>/<str:name>/uploads", upload.UploadsView.as_view(), name="uploads"),
    path("models/<str:owner>/<str:name>/versions", version.VersionsView.as_view(), name="versions"),
    path(
        "models/<str:owner>/<str:name>/versions/<index:number>/artifact",
        artifact.ArtifactView.as_view(),
        name="artifact",
    ),
    path(
        "models/<str:owner>/<str:name>/versions/<index:number>"
        "/artifact/files/<index:file_index>/parts/<index:part>",
        artifact.ArtifactPartView.as_view(),
        name="artifact-part",
    ),
    path(
        "models/<str:owner>/<str:name>/versions/<index:number>/shred",
        version.ShredVersionView.as_view(),
        name="shred-version",
    ),
    path(
        "models/<str:owner>/<str:name>/shred",
        version.ShredModelView.as_view(),
        name="shred-model",
    ),
    path("models/<str:owner>/<str:name>/budgets", budget.BudgetsView.as_view(), name="budgets"),
    path(
        "models/<str:owner>/<str:name>/budgets/<str:account>",
        budget.BudgetView.as_view(),
        name="budget",
    ),
    path(
        "models/<str:owner>/<str:name>/deployments",
        wake.DeploymentsView.as_view(),
        name="deployments",
    ),
    path(
        "models/<str:owner>/<str:name>/deployments/<index:number>",
        wake.DeploymentView.as_view(),
        name="deployment",
    ),
    path("versions/<uuid:version_id>", version.VersionView.as_view(), name="version"),
    path(
        "versions/<uuid:version_id>/release-log",
        version.ReleaseLogView.as_view(),
        name="release-log",
    ),
    path("uploads/<uuid:upload_id>", upload.UploadView.as_view(), name="upload"),
    path("uploads/<uuid:upload_id>/complete", upload.CompleteView.as_view(), name="complete"),
    path(
        "uploads/<uuid:upload_id>/files/<index:file_index>/parts/<index:part>",
        upload.PartView.as_view(),
        name="part",
    ),
    path("batches", batch.BatchesView.as_view(), name="batches"),
    path("batches/<uuid:batch_id>", batch.BatchView.as_view(), name="batch"),
    path("batches/<uuid:batch_id>/cancel", batch.BatchCancelView.as_view(), name="batch-cancel"),
    path("batches/<uuid:batch_id>/resume", batch.BatchResumeView.as_view(), name="batch-resume"),
    path("batches/<uuid:batch_id>/output", batch.BatchOutputView.as_view(), name="batch-output"),
    path("batches/<uuid:batch_id>/errors", batch.BatchErrorsView.as_view(), name="batch-errors"),
    path("webhooks", webhook.WebhooksView.as_view(), name="webhooks"),
    path("webhooks/<uuid:endpoint_id>", webhook.WebhookView.as_view(), name="webhook"),
    path(
        "webhooks/<uuid:endpoint_id>/secret",
        webhook.WebhookRotateView.as_view(),
        name="webhook-rotate",
    ),
    path(
        "webhooks/<uuid:endpoint_id>/test", webhook.WebhookTestView.as_view(), name="webhook-test"
    ),
    path(
        "webhooks/<uuid:endpoint_id>/replay",
        webhook.WebhookReplayView.as_view(),
        name="webhook-replay",
    ),
    path("webhook-secret", webhook.DefaultSecretView.as_view(), name="webhook-secret"),
    path("webhook-deliveries", webhook.DeliveriesView.as_view(), name="webhook-deliveries"),
    path(
        "webhook-deliveries/<uuid:delivery_id>",
        webhook.DeliveryView.as_view(),
        name="webhook-delivery",
    ),
    path(
        "webhook-deliveries/<uuid:delivery_id>/replay",
        webhook.DeliveryReplayView.as_view(),
        name="webhook-delivery-replay",
    ),
    path("files", file.FilesView.as_view(), name="files"),
    path("files/<str:file_id>", file.FileView.as_view(), name="file"),
    path("files/<str:file_id>/content", file.FileContentView.as_view(), name="file-content"),
    path("retention", retention.RetentionView.as_view(), name="retention"),
    path("gateway/outputs/<str:file_id>", file.OutputView.as_view(), name="gateway-output"),
    path("node/enrol", node.EnrolView.as_view(), name="node-enrol"),
    path("node/desired", node.DesiredView.as_view(), name="node-desired"),
    path("node/prefetch", node.PrefetchView.as_view(), name="node-prefetch"),
    path("node/report", node.ReportView.as_view(), name="node-report"),
    path("node/artifacts/<uuid:version_id>", node.ArtifactView.as_view(), name="node-artifact"),
    path(
        "node/artifacts/<uuid:version_id>/files/<index:file_index>/parts/<index:part>",
        node.PartView.as_view(),
        name="node-part",
    ),
    path("node/work/<uuid:work_id>", node.WorkView.as_view(), name="node-work"),
]
