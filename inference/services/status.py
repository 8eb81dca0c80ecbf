"""What the status page is told of serving; see `marketplace.services.status`."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db.models import Count, Exists, OuterRef, Q

from inference.models import Node, OnboardingStep
from inference.selectors.node import QUIET_AFTER
from inference.services import scan
from inference.services.keybroker_client import is_answering
from marketplace.core.clock import utc_now
from marketplace.models import ModelVersion, StatusDay
from marketplace.services.status import ask_address, probe_site

State = StatusDay.State
Step = OnboardingStep.State

# A step is looked at every few seconds; one that waits so long waits for us.
STEP_LATE_AFTER = timedelta(minutes=10)


def probe_gateway() -> StatusDay.State:
    """Whether a gateway at the public address of the API says that it is ready."""
    return ask_address(f"{settings.GATEWAY_URL}/health/ready")


def probe_serving() -> StatusDay.State:
    """How many of the nodes serve. Where the site is away nobody could hear them."""
    heard = Q(last_seen_at__gt=utc_now() - QUIET_AFTER)
    nodes = Node.objects.filter(revoked_at=None, left_at=None).aggregate(
        all=Count("pk"),
        heard=Count("pk", filter=heard),
        ready=Count("pk", filter=heard & Q(triton_ready=True)),
    )
    if not nodes["all"]:
        return State.UNKNOWN
    if not nodes["heard"] and probe_site() is not State.UP:
        return State.UNKNOWN
    if not nodes["ready"]:
        return State.DOWN
    return State.UP if nodes["ready"] == nodes["all"] else State.DEGRADED


def probe_onboarding() -> StatusDay.State:
    """Whether versions can come in: keys can be made, and no step waits for us too long."""
    if not is_answering():
        return State.DOWN
    return State.DEGRADED if _has_late_step() else State.UP


def _has_late_step() -> bool:
    """A step that should have begun long ago, or that waits for a node since then."""
    late = utc_now() - STEP_LATE_AFTER
    before = OnboardingStep.objects.filter(
        version=OuterRef("version"), position=OuterRef("position") - 1
    )
    pending = Q(state=Step.PENDING) & Exists(
        before.filter(state=Step.SUCCEEDED, finished_at__lt=late)
    )
    waiting = Q(state=Step.RUNNING, started_at__lt=late, detail__waiting_for=scan.NODE_UNAVAILABLE)
    return OnboardingStep.objects.filter(
        pending | waiting, version__state=ModelVersion.State.ONBOARDING
    ).exists()
