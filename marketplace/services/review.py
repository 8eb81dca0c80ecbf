"""An admin's word on a version.

The row in the review log and the version's new state are one transaction. What follows
(a deployment, the move of a channel) is onboarding's: it notices the state by itself.
"""

from __future__ import annotations

from django.db import transaction

from marketplace.core import limits
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.models import ModelVersion, Review, User
from marketplace.selectors.access import Actor
from marketplace.services import catalog


def approve_version(*, version: ModelVersion, reviewer: User, reason: str) -> Review:
    """Let a version be sold.

    Raises:
        ForbiddenError: The reviewer is no platform admin.
        InvalidInputError: The reason is missing or too long.
        VersionStateError: The version is not in review (any more).
    """
    return _review(version, reviewer, Review.Decision.APPROVED, reason)


def refuse_version(*, version: ModelVersion, reviewer: User, reason: str) -> Review:
    """Turn a version down; its creator sees the reason. Raises as `approve_version`."""
    return _review(version, reviewer, Review.Decision.REFUSED, reason)


def _review(
    version: ModelVersion, reviewer: User, decision: Review.Decision, reason: str
) -> Review:
    reason = reason.strip()
    if not (reviewer.is_staff and reviewer.is_active):
        raise ForbiddenError("Only platform admins review versions.")
    if not 0 < len(reason) <= limits.REASON_LENGTH_MAX:
        detail = f"A reason has 1 to {limits.REASON_LENGTH_MAX} characters."
        raise InvalidInputError(errors=[{"pointer": "/reason", "detail": detail}])
    move = catalog.approve if decision == Review.Decision.APPROVED else catalog.refuse
    with transaction.atomic():
        move(version=version, actor=Actor(user=reviewer), reason=reason)
        return Review.objects.create(
            version=version, reviewer=reviewer, decision=decision, reason=reason
        )
