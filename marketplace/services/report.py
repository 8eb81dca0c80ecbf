"""Report a model, and decide on what was reported."""

from __future__ import annotations

from django.db import transaction

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.errors import AlreadyDecidedError, ReportLimitError
from marketplace.models import AIModel, Notification, Report, Takedown, User
from marketplace.selectors.access import Actor
from marketplace.services import audit, takedown
from marketplace.services.admin import check_reason, require_admin
from marketplace.services.notice import owe_notice

State = Report.State

# A decision, the state of the reports after it, and what becomes of the model.
DECISIONS = {
    "dismiss": (State.DISMISSED, None),
    "warn": (State.WARNED, Takedown.Kind.WARNING),
    "suspend": (State.SUSPENDED, Takedown.Kind.SUSPENSION),
}


def report_model(*, user: User, model: AIModel, cause: str, text: str) -> Report:
    """Say that something is wrong with a model.

    Args:
        user: Who says it; one open word on a model is enough, the same again returns it.
        model: One that the person may see.
        cause: One of `Report.Cause`.
        text: What it is.

    Raises:
        InvalidInputError: There is no such cause, or the text is missing or too long.
        ReportLimitError: The person reported as many as one may in a day.
    """
    if cause not in Report.Cause.values:
        detail = f"One of {', '.join(Report.Cause.values)}."
        raise InvalidInputError(errors=[{"pointer": "/cause", "detail": detail}])
    text = check_reason(text, name="text")
    with transaction.atomic():
        # Takes turns per person, so that two at once are both counted.
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        own = Report.objects.filter(reporter=user)
        before = own.filter(model=model, state=State.OPEN).first()
        if before is not None:
            return before
        recent = own.filter(created_at__gt=utc_now() - limits.REPORT_WINDOW)
        if recent.count() >= limits.REPORTS_PER_PERSON_MAX:
            raise ReportLimitError(retry_after_s=int(limits.REPORT_WINDOW.total_seconds()))
        report = Report.objects.create(model=model, reporter=user, cause=cause, text=text)
        # Not in the account's own part of the log: who reports is not the owner's to know.
        audit.record(
            Actor(user=user).label,
            "report.make",
            report,
            payload={"model": str(model), "cause": cause},
        )
    return report


def decide_report(*, actor: Actor, report: Report, decision: str, reason: str) -> Report:
    """Decide on a report, and with it on all others that are open about the same model.

    Args:
        actor: A platform admin.
        report: An open one.
        decision: One of `DECISIONS`.
        reason: Why. The owner reads it, unless the reports are dismissed.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: There is no such decision, or no reason.
        AlreadyDecidedError: Somebody else was quicker; nothing was changed.
    """
    admin = require_admin(actor)
    reason = check_reason(reason)
    if decision not in DECISIONS:
        detail = f"One of {', '.join(DECISIONS)}."
        raise InvalidInputError(errors=[{"pointer": "/decision", "detail": detail}])
    state, kind = DECISIONS[decision]
    with transaction.atomic():
        # Whoever decides about a model takes turns.
        model = AIModel.objects.select_for_update(no_key=True, of=("self",)).get(pk=report.model_id)
        report.refresh_from_db()
        if report.state != State.OPEN:
            raise AlreadyDecidedError(describe_decision(report))
        made = None
        if kind is not None:
            made = takedown.impose(actor=actor, model=model, kind=kind, reason=reason)
        reports = list(
            Report.objects.select_for_update(of=("self",), no_key=True)
            .filter(model=model, state=State.OPEN)
            .select_related("reporter")
        )
        for one in reports:
            one.state, one.takedown, one.decision_reason = state, made, reason
            one.decided_by, one.decided_at = admin, utc_now()
            one.save(
                update_fields=["state", "takedown", "decision_reason", "decided_by", "decided_at"]
            )
            audit.record(
                actor.label,
                "report.decide",
                one,
                payload={"model": str(model), "decision": decision, "reason": reason},
            )
            if one.reporter is not None:
                context = {"report": one, "model": model}
                owe_notice(
                    "report_decided",
                    context,
                    kind=Notification.Kind.REPORT,
                    person=one.reporter,
                )
    report.refresh_from_db()
    return report


def describe_decision(report: Report) -> str:
    """Who decided, when and what, for who came later."""
    assert report.decided_at is not None, "constraint marketplace_report_decided"
    return (
        f"{report.decided_by} decided this on {report.decided_at:%d %B, %H:%M} UTC: "
        f"{report.get_state_display().lower()}. You changed nothing."
    )
