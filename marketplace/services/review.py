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
from marketplace.services import catalog, doubt


def approve_version(
    *, version: ModelVersion, reviewer: User, reason: str, is_confirmed: bool = False
) -> Review:
    """Let a version be sold.

    Args:
        version: The version in review.
        reviewer: Who decides.
        reason: Why; kept for good.
        is_confirmed: The reviewer made sure of what `marketplace.services.doubt` asks.

    Raises:
        ForbiddenError: The reviewer is no platform admin.
        InvalidInputError: The reason is missing or too long.
        VersionStateError: The version is not in review (any more).
        MarketplaceError: A doubt about the version is not settled.
    """
    reason = _check(reviewer, reason)
    with transaction.atomic():
        # The locks of all who write here come in this order: the version, what it is in doubt
        # for, the audit log. Settled behind the approval, two would wait for each other.
        ModelVersion.objects.select_for_update(no_key=True).get(pk=version.pk)
        doubt.settle_doubts(version, reviewer, is_confirmed=is_confirmed)
        return _review(version, reviewer, Review.Decision.APPROVED, reason)


def refuse_version(*, version: ModelVersion, reviewer: User, reason: str) -> Review:
    """Turn a version down; its creator sees the reason. Raises as `approve_version`."""
    return _review(version, reviewer, Review.Decision.REFUSED, _check(reviewer, reason))


def _check(reviewer: User, reason: str) -> str:
    reason = reason.strip()
    if not (reviewer.is_staff and reviewer.is_active):
        raise ForbiddenError("Only platform admins review versions.")
    if not 0 < len(reason) <= limits.REASON_LENGTH_MAX:
        detail = f"A reason has 1 to {limits.REASON_LENGTH_MAX} characters."
        raise InvalidInputError(errors=[{"pointer": "/reason", "detail": detail}])
    return reason


def _review(
    version: ModelVersion, reviewer: User, decision: Review.Decision, reason: str
) -> Review:
    move = catalog.approve if decision == Review.Decision.APPROVED else catalog.refuse
    with transaction.atomic():
        move(version=version, actor=Actor(user=reviewer), reason=reason)
        return Review.objects.create(
            version=version, reviewer=reviewer, decision=decision, reason=reason
        )
