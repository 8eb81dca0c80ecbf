"""Take a version from upload to sale, in recorded steps that survive any kill.

`advance` does at most one step's work per call and may be called at any time, by anybody,
twice at once: the rows of the steps are the state, and whoever holds their locks is at
work. It is called when something happened (an upload, a node's report, a verdict) and, in
case that call was lost, by a sweep every few seconds. What each step does is in
`inference.services.onboarding_steps`.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.urls import reverse

from inference.models import OnboardingStep
from inference.selectors import onboarding as onboardings
from inference.services import scan
from inference.services.onboarding_steps import HANDLERS, Progress, Verdict
from inference.tasks import onboarding as tasks
from marketplace.core.clock import utc_now
from marketplace.core.spans import find_spans
from marketplace.models import ModelVersion, Notification
from marketplace.services import catalog
from marketplace.services.notification import notify

logger = logging.getLogger(__name__)

Name = OnboardingStep.Name
State = OnboardingStep.State
VersionState = ModelVersion.State

# In this order, each once.
STEPS = tuple(Name)
# Until then a step must be over. Hashing 256 GiB out of a slow store takes hours; a person's
# review takes as long as it takes.
TIME_LIMITS: dict[str, timedelta] = {
    Name.VERIFY: timedelta(hours=12),
    Name.VALIDATE: timedelta(hours=2),
    Name.LOAD: timedelta(hours=2),
    Name.TEST: timedelta(hours=1),
    Name.BENCHMARK: timedelta(hours=1),
    Name.PUBLISH: timedelta(hours=1),
}
# In which states of the version a step has any business.
STATES_BY_STEP: dict[str, frozenset[str]] = {
    **{name: frozenset({VersionState.ONBOARDING}) for name in STEPS[:5]},
    Name.REVIEW: frozenset({VersionState.IN_REVIEW, VersionState.APPROVED, VersionState.REFUSED}),
    Name.PUBLISH: frozenset({VersionState.APPROVED}),
}
# A log is for people to read; one that goes on and on says nothing more.
LOG_LENGTH_MAX = 16 * 1024
LOG_CUT = "… (the log ends here)"


def create_steps(version: ModelVersion) -> None:
    """Write the rows of all steps, so that what is to come can be seen from the start."""
    OnboardingStep.objects.bulk_create(
        OnboardingStep(version=version, position=position, name=name)
        for position, name in enumerate(STEPS)
    )


def enqueue(version_id: UUID) -> None:
    """Look at a version soon after this transaction; without Redis, the sweep will."""

    def ask() -> None:
        tasks.advance_onboarding.delay(str(version_id))

    # A function, not a partial: Django wants its name to log a failure.
    transaction.on_commit(ask, robust=True)


def sweep() -> int:
    """Enqueue every version that may be due; returns how many."""
    due = onboardings.list_due_versions()
    for version_id in due:
        tasks.advance_onboarding.delay(str(version_id))
    return len(due)


def advance(*, version_id: UUID) -> None:
    """Do what can be done now for a version's present step; at most one step's work.

    Safe to repeat, also at once and after a kill in the middle: a call that finds another at
    work returns, one that finds nothing to do changes nothing.
    """
    with transaction.atomic():
        step = _claim(version_id)
        if step is None:
            return
        if step.state == State.PENDING:
            # Committed before the work begins, so that it can be seen running.
            step.state, step.started_at = State.RUNNING, utc_now()
            step.save(update_fields=["state", "started_at"])
    with transaction.atomic():
        step = _claim(version_id)
        if step is not None and step.state == State.RUNNING:
            ids = {"version_id": version_id, "step": step.name}
            with find_spans("strongroom-worker").span("onboarding.step", **ids):
                _work_on(step)


def _claim(version_id: UUID) -> OnboardingStep | None:
    """The present step with all steps locked; None if another is at work or all is over."""
    steps = list(
        OnboardingStep.objects.select_for_update(skip_locked=True, no_key=True)
        .filter(version_id=version_id)
        .order_by("position")
    )
    if len(steps) != len(STEPS):
        return None
    step = next((one for one in steps if one.state != State.SUCCEEDED), None)
    return step if step is not None and step.state != State.FAILED else None


def _work_on(step: OnboardingStep) -> None:
    version = ModelVersion.objects.select_related("model__account", "created_by").get(
        pk=step.version_id
    )
    progress = _find_end(step, version) or HANDLERS[step.name](step, version)
    _record(step, progress)
    _tell(step, version, progress)
    if progress.verdict is Verdict.FAILED:
        scan.release(version)
        if version.state == VersionState.ONBOARDING:
            catalog.fail(version=version, reason=progress.reason_code)
    if progress.verdict in (Verdict.DONE, Verdict.AGAIN):
        enqueue(version.pk)


def _tell(step: OnboardingStep, version: ModelVersion, progress: Progress) -> None:
    """Tell who can push that a version is published, or that a step of it failed."""
    is_published = progress.verdict is Verdict.DONE and step.name == Name.PUBLISH
    # What people have stopped, or refused, is told by who did it.
    is_stopped = version.state in (VersionState.WITHDRAWN, VersionState.REFUSED)
    if not is_published and (progress.verdict is not Verdict.FAILED or is_stopped):
        return
    model = version.model
    notify(
        Notification.Kind.ONBOARDING,
        model.account,
        key=f"onboarding:{step.pk}:{step.state}",
        title=f"{version} is published" if is_published else f"{version} failed: {step.name}",
        text="" if is_published else progress.reason_code,
        path=reverse("marketplace:model-versions", args=[model.account.slug, model.name]),
    )


def _find_end(step: OnboardingStep, version: ModelVersion) -> Progress | None:
    """Why the step ends without being worked on: the version was stopped, or time is up."""
    if version.state not in STATES_BY_STEP[step.name]:
        code = "withdrawn" if version.state == VersionState.WITHDRAWN else "stopped"
        return Progress.failed(code, f"The version is {version.get_state_display().lower()}.")
    limit = TIME_LIMITS.get(step.name)
    assert step.started_at is not None
    if limit is not None and utc_now() > step.started_at + limit:
        # What was waited for last is more to the point than that it took too long.
        code = step.detail.get("waiting_for") or "step_timeout"
        return Progress.failed(code, f"The step was not over after {limit}.")
    return None


def _record(step: OnboardingStep, progress: Progress) -> None:
    now = utc_now()
    detail = {name: one for name, one in step.detail.items() if name != "waiting_for"}
    step.detail = detail | progress.detail
    if progress.waiting_for:
        step.detail["waiting_for"] = progress.waiting_for
    for line in progress.lines:
        step.log = append_line(step.log, line, now)
    if progress.attempt:
        step.attempt = progress.attempt
    if progress.verdict is Verdict.DONE:
        step.state, step.finished_at = State.SUCCEEDED, now
    elif progress.verdict is Verdict.FAILED:
        step.state, step.finished_at = State.FAILED, now
        step.reason_code = progress.reason_code
    step.save()
    if progress.verdict in (Verdict.DONE, Verdict.FAILED):
        logger.info("onboarding %s %s %s", step.version_id, step.name, step.state)


def append_line(log: str, line: str, now: datetime) -> str:
    """A log with one more line; a line that only repeats the last one is left out."""
    last = log.rpartition("\n")[2]
    if last.partition(" ")[2] == line or last == LOG_CUT:
        return log
    if len(log) + len(line) > LOG_LENGTH_MAX:
        return f"{log}\n{LOG_CUT}"
    entry = f"{now:%H:%M:%S} {line}"
    return f"{log}\n{entry}" if log else entry
