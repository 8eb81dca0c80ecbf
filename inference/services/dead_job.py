"""Have several dead jobs run again at once, or give them up, each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from inference.models import Job
from inference.services.job import discard_job, replay_job
from marketplace.core import ids
from marketplace.core.errors import InvalidInputError, MarketplaceError
from marketplace.selectors.access import Actor

# One form's worth: as many ids as fit into an address, and a request that takes seconds at most.
DEAD_AT_ONCE_MAX = 100
_CHOOSE = f"Choose 1 to {DEAD_AT_ONCE_MAX} predictions."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one; `problem` is empty where what was wanted was done."""

    job: Job
    problem: str = ""

    @property
    def public_id(self) -> str:
        """The id under which its consumer knows it."""
        return ids.to_public(self.job.pk)


@dataclass(frozen=True, slots=True)
class Discarded:
    """What came of one that was to be given up; `text` says more where there is more to say."""

    job_id: UUID
    is_discarded: bool
    text: str

    @property
    def public_id(self) -> str:
        """The id under which its consumer knows it."""
        return ids.to_public(self.job_id)


def replay_jobs(*, actor: Actor, jobs: Sequence[Job], reason: str) -> list[Outcome]:
    """Run dead jobs again, in the order of their ids.

    Each is a transaction of its own: one whose account has no credit keeps none of the others.

    Raises:
        InvalidInputError: There are none, or too many at once.
    """
    if not 1 <= len(jobs) <= DEAD_AT_ONCE_MAX:
        raise InvalidInputError(_CHOOSE)
    return [_replay(actor, job, reason) for job in sorted(jobs, key=lambda one: one.pk)]


def discard_jobs(*, actor: Actor, job_ids: Sequence[UUID], reason: str) -> list[Discarded]:
    """Give dead jobs up, in the order of their ids; each is a transaction of its own.

    Raises:
        InvalidInputError: There are none, or too many at once.
    """
    if not 1 <= len(job_ids) <= DEAD_AT_ONCE_MAX:
        raise InvalidInputError(_CHOOSE)
    return [_discard(actor, job_id, reason) for job_id in sorted(job_ids)]


def _discard(actor: Actor, job_id: UUID, reason: str) -> Discarded:
    try:
        is_new = discard_job(actor=actor, job_id=job_id, reason=reason)
    except MarketplaceError as error:
        return Discarded(job_id, is_discarded=False, text=error.detail)
    return Discarded(job_id, is_discarded=True, text="" if is_new else "It was discarded before.")


def _replay(actor: Actor, job: Job, reason: str) -> Outcome:
    if not job.has_input:  # type: ignore[attr-defined]
        return Outcome(job, "What it was to run on was deleted with its account.")
    try:
        replay_job(actor=actor, job_id=job.pk, reason=reason)
    except MarketplaceError as error:
        return Outcome(job, error.detail)
    return Outcome(job)


def read_ids(texts: Sequence[str]) -> list[UUID]:
    """Public ids as ids, each once.

    Raises:
        InvalidInputError: One is none, or there are too many.
    """
    if len(texts) > DEAD_AT_ONCE_MAX:
        raise InvalidInputError(_CHOOSE)
    try:
        return list(dict.fromkeys(ids.from_public(text) for text in texts))
    except ValueError:
        raise InvalidInputError("This is no id of a prediction.") from None
