"""Inference in the admin console: read, revoke a node, stop a deployment."""

from inference.admin.artifact import (
    ArtifactAdmin,
    OnboardingStepAdmin,
    SigningKeyAdmin,
    UploadAdmin,
)
from inference.admin.node import DeploymentAdmin, KeyReleaseAdmin, NodeAdmin, ReplicaAdmin

__all__ = [
    "ArtifactAdmin",
    "DeploymentAdmin",
    "KeyReleaseAdmin",
    "NodeAdmin",
    "OnboardingStepAdmin",
    "ReplicaAdmin",
    "SigningKeyAdmin",
    "UploadAdmin",
]
