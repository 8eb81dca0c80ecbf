"""Tables of inference, by noun."""

from inference.models.artifact import Artifact, SigningKey, Upload, UploadPart, WrappedKey
from inference.models.keybroker import KeyRelease, Lease, LeaseChallenge, UploadKey
from inference.models.node import Deployment, Node, NodeJoinToken, Replica, ReplicaWork
from inference.models.onboarding import OnboardingStep
from inference.models.prediction import APIRequest, Prediction

__all__ = [
    "APIRequest",
    "Artifact",
    "Deployment",
    "KeyRelease",
    "Lease",
    "LeaseChallenge",
    "Node",
    "NodeJoinToken",
    "OnboardingStep",
    "Prediction",
    "Replica",
    "ReplicaWork",
    "SigningKey",
    "Upload",
    "UploadKey",
    "UploadPart",
    "WrappedKey",
]
