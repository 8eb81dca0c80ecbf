"""Read the onboarding of versions."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Exists, OuterRef, Prefetch, QuerySet

from inference.models import OnboardingStep
from marketplace.core.errors import ForbiddenError
from marketplace.models import Account, AIModel, ModelVersion
from marketplace.selectors.access import Actor, access_model

Step = OnboardingStep.Name
State = OnboardingStep.State

# More versions than this are looked at page by page.
VERSIONS_MAX = 100
# States of a version in which something still happens by itself.
MOVING_STATES = (ModelVersion.State.ONBOARDING, ModelVersion.State.APPROVED)


def list_due_versions() -> list[UUID]:
    """Versions whose next step may have something to do, oldest first.

    A version in review waits for a person; it is due again once that person has decided.
    """
    steps = OnboardingStep.objects.filter(version=OuterRef("pk"))
    due = ModelVersion.objects.filter(
        Exists(steps.filter(state__in=(State.PENDING, State.RUNNING))),
        ~Exists(steps.filter(state=State.FAILED)),
    ).exclude(state=ModelVersion.State.IN_REVIEW)
    return list(due.order_by("created_at", "pk").values_list("pk", flat=True))


def list_versions(model: AIModel, *, before: int | None = None) -> QuerySet[ModelVersion]:
    """Versions of a model with steps and channels, newest first."""
    versions = with_steps(ModelVersion.objects.filter(model=model))
    if before is not None:
        versions = versions.filter(number__lt=before)
    return versions.order_by("-number")


def list_recent_versions(account: Account) -> QuerySet[ModelVersion]:
    """Versions of an account whose upload was completed, newest first."""
    complete = OnboardingStep.objects.filter(version=OuterRef("pk"), name=Step.VERIFY)
    versions = ModelVersion.objects.filter(Exists(complete), model__account=account)
    return with_steps(versions).order_by("-pk")


def with_steps(versions: QuerySet[ModelVersion]) -> QuerySet[ModelVersion]:
    """The same versions, with what their pages show fetched in three queries."""
    steps = OnboardingStep.objects.order_by("position")
    return versions.select_related("model__account").prefetch_related(
        Prefetch("onboarding_steps", queryset=steps), "channels"
    )


def access_own_model(actor: Actor, owner: str, name: str) -> AIModel:
    """A model whose inner life the actor may see: a member's, or any for a platform admin."""
    model = access_model(actor, owner, name)
    if not actor.is_admin:
        # Raises for those who see the model in the catalogue and do not belong to its account.
        try:
            return access_model(actor, owner, name, "read")
        except ForbiddenError as error:
            detail = f"The versions of {model} are its account's own business."
            raise ForbiddenError(detail, right="read") from error
    return model


def is_moving(version: ModelVersion) -> bool:
    """Whether the version's steps change by themselves, so that a page should look again."""
    steps = list(version.onboarding_steps.all())
    if not steps or any(step.state == State.FAILED for step in steps):
        return False
    return version.state in MOVING_STATES and any(step.state != State.SUCCEEDED for step in steps)
