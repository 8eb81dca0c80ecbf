"""Inference in the admin console: read, revoke a node, stop a deployment."""

from inference.admin.abuse import AbuseScoreAdmin
from inference.admin.artifact import (
    ArtifactAdmin,
    OnboardingStepAdmin,
    SigningKeyAdmin,
    UploadAdmin,
)
from inference.admin.node import (
    DeploymentAdmin,
    KeyReleaseAdmin,
    KeyShredAdmin,
    NodeAdmin,
    ReplicaAdmin,
)

__all__ = [
    "AbuseScoreAdmin",
    "ArtifactAdmin",
    "DeploymentAdmin",
    "KeyReleaseAdmin",
    "KeyShredAdmin",
    "NodeAdmin",
    "OnboardingStepAdmin",
    "ReplicaAdmin",
    "SigningKeyAdmin",
    "UploadAdmin",
]
