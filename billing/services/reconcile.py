"""Compare our books with Stripe's, keep what differs, and repair what is safe to repair.

A comparison only reads. What it finds is kept as one row per difference, for as long as it is
seen; a repair asks Stripe about an object and books what it says, by the same services that
webhooks and polls use. Everything here may run twice, also at once.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import Min
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from billing.errors import StripeUnavailableError
from billing.models import ReconcileDifference, ReconcileRun
from billing.services.adjustment import get_alone_nanos_max
from billing.services.reconciliation.compare import compare_all
from billing.services.reconciliation.finding import Comparison, Finding, Kind, Period
from billing.services.reconciliation.repair import repair
from marketplace.core import limits
from marketplace.core.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    MarketplaceError,
)
from marketplace.models import Notification, User
from marketplace.selectors.access import Actor
from marketplace.selectors.found import get_one
from marketplace.services import audit
from marketplace.services.mail import mail_once
from marketplace.services.notification import notify

logger = logging.getLogger(__name__)

# What a run looks at that was not told otherwise. A webhook can be three days late.
PERIOD_DEFAULT = timedelta(days=3)
# How far back the nightly run goes for a difference that is still open.
OPEN_AGE_MAX = timedelta(days=35)
# Longer periods are asked for by several runs: each call to Stripe waits for the one before.
PERIOD_MAX = timedelta(days=400)
# A run that does not end in this time has died.
RUN_TIME_MAX = timedelta(hours=1)
# UTC's; most of the day before is settled at Stripe by then.
NIGHT_HOUR = 2
MAIL_WITHIN = timedelta(days=1)

FEES = frozenset({Kind.FEE})
Explanation = ReconcileDifference.Explanation
State = ReconcileRun.State


# --- Runs -------------------------------------------------------------------------


def begin_run(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    actor: Actor | None = None,
    is_repairing: bool = False,
    is_nightly: bool = False,
) -> ReconcileRun:
    """A row for a run that is about to start.

    Without a beginning it covers the last days, and what is still open of earlier ones.

    Raises:
        InvalidInputError: A period that is none, or too long.
        ConflictError: Another run is at it.
    """
    now = timezone.now()
    until = until or now
    since = since or min(until - PERIOD_DEFAULT, _first_open(until) or until)
    if not since < until <= now or until - since > PERIOD_MAX:
        detail = f"A period is in the past and up to {PERIOD_MAX.days} days long."
        raise InvalidInputError(errors=[{"pointer": "/since", "detail": detail}])
    with transaction.atomic():
        running = ReconcileRun.objects.filter(
            state=State.RUNNING, started_at__gt=now - RUN_TIME_MAX
        )
        if actor is not None and running.exists():
            raise ConflictError("A comparison is running; its result will be here in a moment.")
        run = ReconcileRun.objects.create(
            since=since,
            until=until,
            is_repairing=is_repairing,
            is_nightly=is_nightly,
            started_by=actor.user if actor else None,
        )
        if actor is not None:
            audit.record(actor.label, "reconcile.start", run, payload={"repair": is_repairing})
    return run


def carry_out(run_id: UUID) -> ReconcileRun:
    """Compare what a run is about, and write down what differs.

    Raises:
        StripeUnavailableError: Stripe does not answer; the run failed, nothing was changed.
    """
    run = ReconcileRun.objects.get(pk=run_id)
    if run.state != State.RUNNING:
        return run
    try:
        comparisons = _compare(run)
        if run.is_repairing or run.is_nightly:
            findings = [finding for one in comparisons for finding in one.findings]
            # Fees are nobody's to decide; the rest waits for a person's word.
            run.repaired_count = repair(findings, None if run.is_repairing else FEES)
            if run.repaired_count:
                comparisons = _compare(run)
    except MarketplaceError as error:
        run.state, run.error = State.FAILED, f"{error.code}: {error.detail}"
        run.finished_at = timezone.now()
        run.save(update_fields=["state", "error", "finished_at", "repaired_count"])
        raise
    _save(run, comparisons)
    return run


def reconcile(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    is_repairing: bool = False,
) -> ReconcileRun:
    """One whole run; see `begin_run` and `carry_out`."""
    return carry_out(begin_run(since=since, until=until, is_repairing=is_repairing).pk)


def reconcile_nightly(now: datetime | None = None) -> ReconcileRun | None:
    """The run of the night, unless it was done; the admins get a mail if they must look.

    Asked for more often than it is due, so that a night in which Stripe did not answer, or no
    worker was there, is made up for.
    """
    now = now or timezone.now()
    due_at = now.astimezone(UTC).replace(hour=NIGHT_HOUR, minute=0, second=0, microsecond=0)
    if due_at > now:
        due_at -= timedelta(days=1)
    done = ReconcileRun.objects.filter(is_nightly=True, started_at__gte=due_at)
    if done.exclude(state=State.FAILED).exists():
        return None
    try:
        run = carry_out(begin_run(is_nightly=True).pk)
    except StripeUnavailableError:
        logger.error("the nightly comparison with Stripe did not come about: no answer")
        return None
    mail_runs()
    return run


def _compare(run: ReconcileRun) -> list[Comparison]:
    # Now, not at the start: what a repair booked since then belongs to it.
    return compare_all(Period(run.since, run.until, timezone.now()))


def _first_open(until: datetime) -> datetime | None:
    """When the oldest thing happened that is still open, with a little before it."""
    found = ReconcileDifference.objects.filter(
        resolved_at=None, happened_at__gt=until - OPEN_AGE_MAX
    ).aggregate(first=Min("happened_at"))
    first: datetime | None = found["first"]
    return first - timedelta(minutes=1) if first else None


def _save(run: ReconcileRun, comparisons: list[Comparison]) -> None:
    with transaction.atomic():
        seen = [_keep(run, finding) for one in comparisons for finding in one.findings]
        kinds = [one.kind for one in comparisons]
        ReconcileDifference.objects.filter(
            resolved_at=None,
            kind__in=kinds,
            happened_at__gte=run.since,
            happened_at__lt=run.until,
        ).exclude(pk__in=[one.pk for one in seen]).update(resolved_at=timezone.now())
        states = Counter(one.explanation == Explanation.NONE for one in seen)
        run.counts = {one.kind.value: one.tally.as_dict() for one in comparisons}
        run.difference_count, run.unexplained_count = len(seen), states[True]
        run.state = State.UNEXPLAINED if states[True] else State.EXPLAINED if seen else State.CLEAN
        run.finished_at = timezone.now()
        run.save()
        if run.state == State.UNEXPLAINED:
            notify(
                Notification.Kind.PLATFORM,
                User.objects.filter(is_staff=True),
                key=f"reconcile:{run.pk}",
                title="Money at Stripe differs from our books, unexplained",
                text=f"Differences that nothing explains: {run.unexplained_count}.",
                path=reverse("billing:reconciliation"),
            )


def _keep(run: ReconcileRun, finding: Finding) -> ReconcileDifference:
    """The row of a difference. What a person said of it holds while its amounts do."""
    row, is_new = ReconcileDifference.objects.select_for_update().get_or_create(
        kind=finding.kind,
        fault=finding.fault,
        our_id=finding.our_id,
        stripe_id=finding.stripe_id,
        defaults={
            "our_nanos": finding.our_nanos,
            "stripe_nanos": finding.stripe_nanos,
            "explanation": finding.explanation,
            "note": finding.note,
            "happened_at": finding.happened_at,
            "first_run": run,
            "last_run": run,
        },
    )
    if is_new:
        return row
    is_same = (row.our_nanos, row.stripe_nanos) == (finding.our_nanos, finding.stripe_nanos)
    if not (is_same and row.explanation == Explanation.BY_HAND):
        row.explanation = finding.explanation
    if not is_same:
        row.marked_by = row.marked_at = row.mark_approved_by = row.mark_approved_at = None
        row.mark_reason = ""
    row.our_nanos, row.stripe_nanos = finding.our_nanos, finding.stripe_nanos
    row.note, row.happened_at = finding.note, finding.happened_at
    row.last_run, row.resolved_at = run, None
    row.save()
    return row


# --- A person's word ----------------------------------------------------------------


def mark_explained(actor: Actor, difference_id: UUID, *, reason: str) -> ReconcileDifference:
    """Say why a difference is in order. Above the limit another admin has to agree.

    Raises:
        ForbiddenError: Not a platform admin.
        InvalidInputError: No reason.
        ConflictError: It is explained, gone, or somebody else's word waits already.
    """
    user = _require_admin(actor)
    reason = reason.strip()
    if not 0 < len(reason) <= limits.REASON_LENGTH_MAX:
        detail = f"A reason has 1 to {limits.REASON_LENGTH_MAX} characters."
        raise InvalidInputError(errors=[{"pointer": "/reason", "detail": detail}])
    with transaction.atomic():
        row = _lock(difference_id)
        if row.resolved_at is not None or row.explanation != Explanation.NONE:
            raise ConflictError("It is explained or gone already.")
        if row.is_marked:
            raise ConflictError("It waits for a second person already.")
        row.mark_reason, row.marked_by, row.marked_at = reason, user, timezone.now()
        row.mark_needs_two = abs(row.gap_nanos) > get_alone_nanos_max()
        if not row.mark_needs_two:
            row.explanation = Explanation.BY_HAND
        row.save()
        _record(actor, "difference.mark", row)
    return row


def approve_mark(actor: Actor, difference_id: UUID) -> ReconcileDifference:
    """Agree with what somebody else said of a difference.

    Raises:
        ForbiddenError: Not a platform admin, or the one who said it.
        ConflictError: Nothing waits for an approval.
    """
    user = _require_admin(actor)
    with transaction.atomic():
        row = _lock(difference_id)
        if not row.is_marked:
            raise ConflictError("Nothing waits for an approval.")
        if row.marked_by_id == user.pk:
            raise ForbiddenError("Somebody else has to approve your explanation.")
        row.mark_approved_by, row.mark_approved_at = user, timezone.now()
        row.explanation = Explanation.BY_HAND
        row.save()
        _record(actor, "difference.approve", row)
    return row


def withdraw_mark(actor: Actor, difference_id: UUID) -> ReconcileDifference:
    """Take a word on a difference back, or refuse somebody else's: it is unexplained again."""
    _require_admin(actor)
    with transaction.atomic():
        row = _lock(difference_id)
        if row.marked_by_id is None:
            raise ConflictError("Nobody has explained it.")
        _record(actor, "difference.withdraw", row)
        row.marked_by = row.marked_at = row.mark_approved_by = row.mark_approved_at = None
        row.mark_reason, row.mark_needs_two = "", True
        if row.explanation == Explanation.BY_HAND:
            row.explanation = Explanation.NONE
        row.save()
    return row


def _require_admin(actor: Actor) -> User:
    if not (actor.is_admin and actor.user is not None and actor.user.is_active):
        raise ForbiddenError("Only platform admins explain differences.")
    return actor.user


def _lock(difference_id: UUID) -> ReconcileDifference:
    return get_one(
        ReconcileDifference.objects.select_for_update().filter(pk=difference_id),
        "No such difference.",
    )


def _record(actor: Actor, action: str, row: ReconcileDifference) -> None:
    audit.record(
        actor.label,
        action,
        row,
        payload={
            "kind": row.kind,
            "fault": row.fault,
            "our_id": row.our_id,
            "stripe_id": row.stripe_id,
            "gap_nanos": row.gap_nanos,
            "reason": row.mark_reason,
        },
    )


# --- Mail ---------------------------------------------------------------------------


def mail_runs() -> int:
    """Tell the admins of runs with unexplained differences, once each; returns how many."""
    waiting = ReconcileRun.objects.filter(
        state=State.UNEXPLAINED, mailed_at=None, started_at__gt=timezone.now() - MAIL_WITHIN
    )
    rows = ReconcileRun.objects.select_for_update(skip_locked=True)
    return sum(
        mail_once(
            rows,
            run_id,
            what="comparison",
            list_addresses=lambda _run: _list_admins(),
            send=_send,
        )
        for run_id in list(waiting.order_by("started_at").values_list("pk", flat=True))
    )


def _list_admins() -> list[str]:
    admins = User.objects.filter(is_staff=True, is_active=True)
    return list(admins.order_by("email").values_list("email", flat=True))


def _send(run: ReconcileRun, addresses: list[str]) -> None:
    path = reverse("billing:reconciliation")
    context = {"run": run, "url": f"{settings.WEB_URL}{path}"}
    subject = render_to_string("emails/reconcile_subject.txt", context)
    text = render_to_string("emails/reconcile.txt", context)
    send_mail(" ".join(subject.split()), text, None, addresses)
