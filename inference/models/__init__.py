"""Tables of inference, by noun."""

from inference.models.artifact import Artifact, SigningKey, Upload, UploadPart, WrappedKey
from inference.models.extraction import (
    AbuseAlert,
    AbuseScore,
    QueryBudget,
    QuerySample,
    QuerySketch,
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
from inference.models.node import Deployment, Node, NodeJoinToken, Replica, ReplicaWork
from inference.models.onboarding import OnboardingStep
from inference.models.prediction import APIRequest, Prediction
from inference.models.run import SharedRun

__all__ = [
    "APIRequest",
    "AbuseAlert",
    "AbuseScore",
    "Artifact",
    "Deployment",
    "KeyRelease",
    "KeyShred",
    "Lease",
    "LeaseChallenge",
    "ModelKey",
    "Node",
    "NodeIdentity",
    "NodeJoinToken",
    "OnboardingStep",
    "PlatformKey",
    "Prediction",
    "QueryBudget",
    "QuerySample",
    "QuerySketch",
    "Replica",
    "ReplicaWork",
    "SharedRun",
    "SigningKey",
    "Upload",
    "UploadKey",
    "UploadPart",
    "WrappedKey",
]
