"""Inference in the admin console: read, revoke a node, stop a deployment."""

from inference.admin.abuse import AbuseScoreAdmin
from inference.admin.alert import AlertEventAdmin, AlertRuleAdmin
from inference.admin.artifact import (
    ArtifactAdmin,
    OnboardingStepAdmin,
    SigningKeyAdmin,
    UploadAdmin,
)
from inference.admin.batch import BatchAdmin
from inference.admin.drift import DriftBlockAdmin, DriftWatchAdmin
from inference.admin.file import FileAdmin
from inference.admin.job import FinishedJobAdmin, JobAdmin, JobAttemptAdmin, JobFlowAdmin
from inference.admin.metric import MetricCursorAdmin
from inference.admin.node import (
    DeploymentAdmin,
    KeyReleaseAdmin,
    KeyShredAdmin,
    NodeAdmin,
    ReplicaAdmin,
)
from inference.admin.slo import SLOAdmin
from inference.admin.wake import WakeWishAdmin
from inference.admin.webhook import WebhookDeliveryAdmin, WebhookEndpointAdmin, WebhookEventAdmin

__all__ = [
    "AbuseScoreAdmin",
    "AlertEventAdmin",
    "AlertRuleAdmin",
    "ArtifactAdmin",
    "BatchAdmin",
    "DeploymentAdmin",
    "DriftBlockAdmin",
    "DriftWatchAdmin",
    "FileAdmin",
    "FinishedJobAdmin",
    "JobAdmin",
    "JobAttemptAdmin",
    "JobFlowAdmin",
    "KeyReleaseAdmin",
    "KeyShredAdmin",
    "MetricCursorAdmin",
    "NodeAdmin",
    "OnboardingStepAdmin",
    "ReplicaAdmin",
    "SLOAdmin",
    "SigningKeyAdmin",
    "UploadAdmin",
    "WakeWishAdmin",
    "WebhookDeliveryAdmin",
    "WebhookEndpointAdmin",
    "WebhookEventAdmin",
]
