"""Warn about a model, suspend it, hear its owner, and let it be served again."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.urls import reverse

from marketplace.core.clock import utc_now
from marketplace.core.errors import ConflictError
from marketplace.errors import AlreadyDecidedError
from marketplace.models import AIModel, Notification, Takedown
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.admin import check_reason, require_admin
from marketplace.services.notice import owe_notice

Kind = Takedown.Kind


def impose(*, actor: Actor, model: AIModel, kind: str, reason: str) -> Takedown:
    """Warn the owner, or suspend the model: gateways and nodes drop it within seconds.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: The reason is missing or too long.
        AlreadyDecidedError: It is suspended already.
    """
    admin = require_admin(actor)
    reason = check_reason(reason)
    with transaction.atomic():
        locked = _lock(model)
        if kind == Kind.SUSPENSION and locked.suspended_at is not None:
            raise AlreadyDecidedError(f"{locked} is suspended already.")
        made = Takedown.objects.create(model=locked, kind=kind, reason=reason, decided_by=admin)
        if kind == Kind.SUSPENSION:
            locked.suspended_at = utc_now()
            locked.save(update_fields=["suspended_at"])
        action = "model.suspend" if kind == Kind.SUSPENSION else "model.warn"
        _record(actor, action, locked, reason)
        _tell("model_suspended" if kind == Kind.SUSPENSION else "model_warned", made, locked)
    model.suspended_at = locked.suspended_at
    return made


def reinstate(*, actor: Actor, model: AIModel, reason: str) -> None:
    """Let a suspended model be shown and served again.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: The reason is missing or too long.
        AlreadyDecidedError: It is not suspended.
    """
    admin = require_admin(actor)
    reason = check_reason(reason)
    with transaction.atomic():
        locked = _lock(model)
        if locked.suspended_at is None:
            raise AlreadyDecidedError(f"{locked} is not suspended.")
        locked.suspended_at = None
        locked.save(update_fields=["suspended_at"])
        standing = locked.takedowns.filter(kind=Kind.SUSPENSION, lifted_at=None).first()
        if standing is not None:
            standing.lifted_at = utc_now()
            if standing.answered_at is None:
                standing.answer, standing.answered_by = reason, admin
                standing.answered_at = standing.lifted_at
            standing.save(update_fields=["lifted_at", "answer", "answered_by", "answered_at"])
        _record(actor, "model.reinstate", locked, reason)
        _owe("model_reinstated", {"model": locked, "reason": reason}, locked)
    model.suspended_at = None


def appeal(*, actor: Actor, takedown: Takedown, text: str) -> None:
    """The owner answers to a warning or suspension, once.

    Args:
        actor: Who answers; the caller has checked the right to publish.
        takedown: To what.
        text: The answer.

    Raises:
        InvalidInputError: The text is missing or too long.
        ConflictError: It was answered to already, or does not stand any more.
    """
    text = check_reason(text, name="text")
    with transaction.atomic():
        locked = Takedown.objects.select_for_update(no_key=True).get(pk=takedown.pk)
        if locked.appealed_at is not None or locked.answered_at is not None:
            raise ConflictError("You have answered to this already, or it is over.")
        locked.appeal, locked.appealed_by, locked.appealed_at = text, actor.user, utc_now()
        locked.save(update_fields=["appeal", "appealed_by", "appealed_at"])
        model = takedown.model
        audit.record(
            actor.label,
            "model.appeal",
            locked,
            account_id=model.account_id,
            payload={"model": str(model)},
        )


def answer_appeal(*, actor: Actor, takedown: Takedown, is_upheld: bool, reason: str) -> None:
    """Answer an appeal: the decision stands, or it is lifted.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: The reason is missing or too long.
        AlreadyDecidedError: Somebody else was quicker; nothing was changed.
    """
    admin = require_admin(actor)
    reason = check_reason(reason)
    with transaction.atomic():
        model = _lock(takedown.model)
        locked = Takedown.objects.select_for_update(no_key=True).get(pk=takedown.pk)
        if locked.answered_at is not None:
            raise AlreadyDecidedError(
                f"{locked.answered_by} answered this on {locked.answered_at:%d %B, %H:%M} UTC. "
                "You changed nothing."
            )
        if locked.appealed_at is None:
            raise ConflictError("Nobody has appealed.")
        locked.answer, locked.answered_by, locked.answered_at = reason, admin, utc_now()
        if not is_upheld:
            locked.lifted_at = locked.answered_at
        locked.save(update_fields=["answer", "answered_by", "answered_at", "lifted_at"])
        outcome = "stands" if is_upheld else "lifted"
        audit.record(
            actor.label,
            "appeal.answer",
            locked,
            account_id=model.account_id,
            payload={"model": str(model), "outcome": outcome, "reason": reason},
        )
        if not is_upheld and locked.kind == Kind.SUSPENSION and model.suspended_at is not None:
            reinstate(actor=actor, model=model, reason=reason)
        else:
            context = {"model": model, "takedown": locked, "outcome": outcome}
            _owe("appeal_answered", context, model)


def _lock(model: AIModel) -> AIModel:
    return (
        AIModel.objects.select_for_update(no_key=True, of=("self",))
        .select_related("account")
        .get(pk=model.pk)
    )


def _record(actor: Actor, action: str, model: AIModel, reason: str) -> None:
    payload = {"model": str(model), "reason": reason}
    audit.record(actor.label, action, model, account_id=model.account_id, payload=payload)


def _tell(template: str, made: Takedown, model: AIModel) -> None:
    _owe(template, {"model": model, "takedown": made}, model)


def _owe(template: str, context: dict[str, Any], model: AIModel) -> None:
    path = reverse("marketplace:model-versions", args=[model.account.slug, model.name])
    kind = Notification.Kind.MODERATION
    owe_notice(template, context, kind=kind, path=path, account=model.account)
