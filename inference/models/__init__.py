"""Tables of inference, by noun."""

from inference.models.alert import AlertChannel, AlertDelivery, AlertEvent, AlertRule
from inference.models.artifact import Artifact, SigningKey, Upload, UploadPart, WrappedKey
from inference.models.batch import Batch, BatchLine
from inference.models.drift import DriftBaseline, DriftBlock, DriftPart, DriftWatch
from inference.models.extraction import (
    AbuseAlert,
    AbuseScore,
    QueryBudget,
    QuerySample,
    QuerySketch,
)
from inference.models.file import File
from inference.models.job import (
    FinishedJob,
    Job,
    JobAttempt,
    JobClock,
    JobFlow,
    JobInput,
    JobPace,
)
from inference.models.keybroker import (
    KeyRelease,
    KeyShred,
    Lease,
    LeaseChallenge,
    ModelKey,
    NodeIdentity,
    PlatformKey,
    UploadKey,
)
from inference.models.metric import (
    ConsumerMetric,
    GatewayCounter,
    Metric,
    MetricCursor,
    NodeMetric,
    Resolution,
)
from inference.models.node import Deployment, Node, NodeJoinToken, Replica, ReplicaWork
from inference.models.onboarding import OnboardingStep
from inference.models.prediction import APIRequest, Prediction
from inference.models.run import SharedRun
from inference.models.slo import SLO
from inference.models.wake import WakeWish
from inference.models.webhook import (
    EventType,
    SigningSecret,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookSecret,
)

__all__ = [
    "SLO",
    "APIRequest",
    "AbuseAlert",
    "AbuseScore",
    "AlertChannel",
    "AlertDelivery",
    "AlertEvent",
    "AlertRule",
    "Artifact",
    "Batch",
    "BatchLine",
    "ConsumerMetric",
    "Deployment",
    "DriftBaseline",
    "DriftBlock",
    "DriftPart",
    "DriftWatch",
    "EventType",
    "File",
    "FinishedJob",
    "GatewayCounter",
    "Job",
    "JobAttempt",
    "JobClock",
    "JobFlow",
    "JobInput",
    "JobPace",
    "KeyRelease",
    "KeyShred",
    "Lease",
    "LeaseChallenge",
    "Metric",
    "MetricCursor",
    "ModelKey",
    "Node",
    "NodeIdentity",
    "NodeJoinToken",
    "NodeMetric",
    "OnboardingStep",
    "PlatformKey",
    "Prediction",
    "QueryBudget",
    "QuerySample",
    "QuerySketch",
    "Replica",
    "ReplicaWork",
    "Resolution",
    "SharedRun",
    "SigningKey",
    "SigningSecret",
    "Upload",
    "UploadKey",
    "UploadPart",
    "WakeWish",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookEvent",
    "WebhookSecret",
    "WrappedKey",
]
