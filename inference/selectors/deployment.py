"""Read deployments: what should run, what runs, and what is missing."""

from __future__ import annotations

from django.db.models import Exists, OuterRef, Q, QuerySet

from inference.models import Deployment, OnboardingStep, Replica
from inference.selectors.node import ENDED_STATES
from marketplace.models import Channel, ModelVersion


def list_working_replicas(deployment: Deployment) -> QuerySet[Replica]:
    """Replicas that are ready or on their way."""
    return deployment.replicas.filter(wanted=True).exclude(state__in=ENDED_STATES)


def has_ready_replica(version: ModelVersion) -> bool:
    """Whether the version is served right now."""
    return Replica.objects.filter(
        version=version, purpose=Replica.Purpose.SERVE, wanted=True, state=Replica.State.READY
    ).exists()


def list_undeployed_versions() -> QuerySet[ModelVersion]:
    """Versions that a channel names and that nothing runs."""
    return _servable().filter(
        Exists(Channel.objects.filter(version=OuterRef("pk"))),
        ~Exists(Deployment.objects.filter(version=OuterRef("pk"), stopped_at=None)),
    )


def list_unservable_deployments() -> QuerySet[Deployment]:
    """Active deployments whose version may no longer run."""
    return Deployment.objects.filter(stopped_at=None).exclude(version__in=_servable())


def list_active_deployments() -> QuerySet[Deployment]:
    """All that should run, oldest first."""
    return Deployment.objects.filter(stopped_at=None).order_by("pk")


def list_stray_scans() -> QuerySet[Replica]:
    """Scan replicas that no onboarding step waits for any more."""
    waited_for = OnboardingStep.objects.filter(
        version=OuterRef("version"),
        version__state=ModelVersion.State.ONBOARDING,
        state__in=(OnboardingStep.State.PENDING, OnboardingStep.State.RUNNING),
    )
    return Replica.objects.filter(purpose=Replica.Purpose.SCAN, wanted=True).exclude(
        Exists(waited_for)
    )


def _servable() -> QuerySet[ModelVersion]:
    return ModelVersion.objects.filter(
        Q(state=ModelVersion.State.APPROVED),
        model__suspended_at=None,
        model__account__suspended_at=None,
    ).order_by("pk")
