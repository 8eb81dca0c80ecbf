"""An admin's word on a version.

The row in the review log and the version's new state are one transaction. What follows
(a deployment, the move of a channel) is onboarding's: it notices the state by itself.
"""

from __future__ import annotations

from django.db import transaction
from django.urls import reverse

from marketplace.core.errors import ForbiddenError
from marketplace.errors import VersionStateError
from marketplace.models import ModelVersion, Notification, Review, User
from marketplace.selectors.access import Actor
from marketplace.selectors.review import listing_of
from marketplace.services import catalog, doubt
from marketplace.services.admin import check_reason
from marketplace.services.notification import notify


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
        _lock(version)
        doubt.settle_doubts(version, reviewer, is_confirmed=is_confirmed)
        return _review(version, reviewer, Review.Decision.APPROVED, reason)


def refuse_version(*, version: ModelVersion, reviewer: User, reason: str) -> Review:
    """Turn a version down; its creator sees the reason. Raises as `approve_version`."""
    reason = _check(reviewer, reason)
    with transaction.atomic():
        _lock(version)
        return _review(version, reviewer, Review.Decision.REFUSED, reason)


def describe_decision(review: Review) -> str:
    """Who decided, when and what, for who came later."""
    word = review.get_decision_display().lower()
    return (
        f"{review.reviewer} {word} {review.version} on {review.created_at:%d %B, %H:%M} UTC. "
        "You changed nothing."
    )


def _lock(version: ModelVersion) -> None:
    """Of two who decide at once the second waits, and is told who was quicker."""
    locked = ModelVersion.objects.select_for_update(no_key=True).get(pk=version.pk)
    reviews = locked.reviews.select_related("reviewer", "version__model__account")
    decided = reviews.order_by("created_at").last()
    if locked.state != ModelVersion.State.IN_REVIEW and decided is not None:
        raise VersionStateError(describe_decision(decided))


def _check(reviewer: User, reason: str) -> str:
    if not (reviewer.is_staff and reviewer.is_active):
        raise ForbiddenError("Only platform admins review versions.")
    return check_reason(reason)


def _review(
    version: ModelVersion, reviewer: User, decision: Review.Decision, reason: str
) -> Review:
    move = catalog.approve if decision == Review.Decision.APPROVED else catalog.refuse
    with transaction.atomic():
        move(version=version, actor=Actor(user=reviewer), reason=reason)
        review = Review.objects.create(
            version=version,
            reviewer=reviewer,
            decision=decision,
            reason=reason,
            listing=listing_of(version.model),
        )
        model = version.model
        notify(
            Notification.Kind.REVIEW,
            model.account,
            key=f"review:{review.pk}",
            title=f"{version} was {review.get_decision_display().lower()}",
            # Which of the platform's admins it was is the platform's own business.
            text=reason,
            path=reverse("marketplace:model-versions", args=[model.account.slug, model.name]),
        )
        return review
