"""Have several dead jobs run again at once, each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from inference.models import Job
from inference.services.job import replay_job
from marketplace.core import ids
from marketplace.core.errors import InvalidInputError, MarketplaceError
from marketplace.selectors.access import Actor

# One form's worth: as many ids as fit into an address, and a request that takes seconds at most.
REPLAYED_AT_ONCE_MAX = 100


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it; `problem` is empty where the job is in the queue again."""

    job: Job
    problem: str = ""

    @property
    def public_id(self) -> str:
        """The id under which its consumer knows it."""
        return ids.to_public(self.job.pk)


def replay_jobs(*, actor: Actor, jobs: Sequence[Job], reason: str) -> list[Replayed]:
    """Run dead jobs again, in the order of their ids.

    Each is a transaction of its own: one whose account has no credit keeps none of the others.

    Raises:
        InvalidInputError: There are none, or too many at once.
    """
    if not 1 <= len(jobs) <= REPLAYED_AT_ONCE_MAX:
        raise InvalidInputError(f"Choose 1 to {REPLAYED_AT_ONCE_MAX} predictions.")
    return [_replay(actor, job, reason) for job in sorted(jobs, key=lambda one: one.pk)]


def _replay(actor: Actor, job: Job, reason: str) -> Replayed:
    if not job.has_input:  # type: ignore[attr-defined]
        return Replayed(job, "What it was to run on was deleted with its account.")
    try:
        replay_job(actor=actor, job_id=job.pk, reason=reason)
    except MarketplaceError as error:
        return Replayed(job, error.detail)
    return Replayed(job)


def read_ids(texts: Sequence[str]) -> list[UUID]:
    """Public ids as ids, each once.

    Raises:
        InvalidInputError: One is none, or there are too many.
    """
    if len(texts) > REPLAYED_AT_ONCE_MAX:
        raise InvalidInputError(f"Choose 1 to {REPLAYED_AT_ONCE_MAX} predictions.")
    try:
        return list(dict.fromkeys(ids.from_public(text) for text in texts))
    except ValueError:
        raise InvalidInputError("This is no id of a prediction.") from None
