"""What must be true of a queue once it is still again, whoever died meanwhile.

Judged is what the database says, by what those outside of it know: which jobs were accepted, and
what nodes were answered to their results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from billing.models import Hold, LedgerAccount, UsageEvent
from billing.selectors.ledger import check_invariants
from inference.models import Job, JobAttempt, JobFlow, JobInput, Prediction, WebhookEvent
from marketplace.models import Account

# Receipts are sealed by a worker, within ten minutes; none runs here.
_BY_A_WORKER = {"charges-are-sealed"}
_OVER = {"succeeded", "failed", "canceled", "dead"}


@dataclass(frozen=True, slots=True)
class Told:
    """What a node was answered when it came with the result of a lease."""

    job_id: UUID
    epoch: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is known outside of the database.

    Args:
        outputs: Of each job that was accepted: what only its output has, by name.
        told: Answers to nodes.
        consumer: Whose jobs these are; nobody else has any.
        funded_nanos: What was ever put into its wallet.
        price_nanos: Of one job that succeeds.
        replays: How often an admin ran a dead job again.
        is_hooked: Whether the consumer is told of ends.
    """

    outputs: Mapping[UUID, Mapping[str, Any]]
    told: Iterable[Told]
    consumer: Account
    funded_nanos: int
    price_nanos: int
    replays: Mapping[UUID, int]
    is_hooked: bool = False


def judge(known: Known) -> list[str]:
    """All that must not be, each as `kind: what`; empty where nothing is wrong."""
    jobs = {one.pk: one for one in Job.objects.all()}
    attempts = list(JobAttempt.objects.order_by("epoch"))
    return [
        *_check_whereabouts(known, jobs),
        *_check_predictions(known, jobs),
        *_check_money(known, jobs),
        *_check_leases(known, jobs, attempts),
        *(_check_webhooks(known, jobs) if known.is_hooked else []),
    ]


def _check_whereabouts(known: Known, jobs: Mapping[UUID, Job]) -> list[str]:
    """Each that was accepted is there, and over; no others are, and no flow counts any."""
    faults = [f"lost: {one} was accepted, and is nowhere" for one in set(known.outputs) - set(jobs)]
    faults += [f"unknown: {one} was accepted of nobody" for one in set(jobs) - set(known.outputs)]
    faults += [f"stuck: {job}, {job.state}" for job in jobs.values() if job.state not in _OVER]
    faults += [
        f"stuck: {flow} counts {flow.offered_count} and {flow.parked_count}"
        for flow in JobFlow.objects.exclude(offered_count=0, parked_count=0)
    ]
    kept = set(JobInput.objects.values_list("job_id", flat=True))
    dead = {job.pk for job in jobs.values() if job.state == "dead"}
    return faults + [f"input: {one} is kept, or gone, wrongly" for one in kept ^ dead]


def _check_predictions(known: Known, jobs: Mapping[UUID, Job]) -> list[str]:
    """What succeeded has its own output; what is over is told as it ended."""
    made = {one.pk: one for one in Prediction.objects.all()}
    over = {one.pk for one in jobs.values() if one.state in _OVER - {"dead"}}
    faults = [f"prediction: {one} is there for one of the two only" for one in over ^ set(made)]
    for key in over & set(made):
        prediction, job = made[key], jobs[key]
        if (prediction.state, prediction.cost_nanos) != (job.state, job.cost_nanos):
            faults.append(f"prediction: {key} is {prediction.state}, its job {job.state}")
        if job.state == "succeeded" and not _is_in(prediction.output, known.outputs.get(key, {})):
            faults.append(f"output: {key} has that of another")
    return faults


def _is_in(output: Any, expected: Mapping[str, Any]) -> bool:
    return all(output[name] == value for name, value in expected.items())


def _check_money(known: Known, jobs: Mapping[UUID, Job]) -> list[str]:
    """Each that succeeded is paid for once, all else is free, and nothing is reserved."""
    paid = dict(UsageEvent.objects.values_list("prediction_id", "gross_nanos"))
    succeeded = {one.pk for one in jobs.values() if one.state == "succeeded"}
    faults = [f"unpaid: {one}" for one in succeeded - set(paid)]
    faults += [f"paid: {one}, {jobs[one].state}" for one in (set(paid) - succeeded) & set(jobs)]
    faults += [f"double: {one} is paid for, and no job" for one in set(paid) - set(jobs)]
    faults += [
        f"price: {one} cost {nanos}" for one, nanos in paid.items() if nanos != known.price_nanos
    ]
    faults += [
        f"price: {one} says that it cost {one.cost_nanos}"
        for one in jobs.values()
        if one.cost_nanos != (known.price_nanos if one.pk in succeeded else 0)
    ]
    wallet = LedgerAccount.objects.get(kind="wallet", holder_id=known.consumer.pk)
    owed_nanos = known.funded_nanos - len(succeeded) * known.price_nanos
    if wallet.posted_nanos != owed_nanos:
        faults.append(f"money: the wallet has {wallet.posted_nanos} and should have {owed_nanos}")
    if wallet.held_nanos or (count := Hold.objects.filter(state="pending").count()):
        faults.append(f"held: {wallet.held_nanos} nanos in {count} holds")
    broken = {one.invariant.name for one in check_invariants() if one.count}
    return faults + [f"ledger: {one}" for one in broken - _BY_A_WORKER]


def _check_leases(
    known: Known, jobs: Mapping[UUID, Job], attempts: Iterable[JobAttempt]
) -> list[str]:
    """Only the newest lease of a job ended it, and whoever had an older one was told so."""
    faults = []
    ended = {(one.job_id, one.epoch): one.outcome for one in attempts}
    settled: Counter[UUID] = Counter()
    for one in known.told:
        if one.outcome == "settled":
            settled[one.job_id] += 1
            if ended.get((one.job_id, one.epoch)) != "succeeded":
                faults.append(f"zombie: lease {one.epoch} of {one.job_id} had been lost")
    faults += [
        f"double: {one} was booked {count} times" for one, count in settled.items() if count > 1
    ]
    for job in jobs.values():
        outcomes = [ended.get((job.pk, epoch)) for epoch in range(1, job.lease_epoch + 1)]
        if None in outcomes:
            faults.append(f"attempt: {job} had {job.lease_epoch} leases, and not all have an end")
        if outcomes.count("succeeded") != (job.state == "succeeded"):
            faults.append(f"attempt: {job} is {job.state}, its leases {outcomes}")
    return faults


def _check_webhooks(known: Known, jobs: Mapping[UUID, Job]) -> list[str]:
    """Each end is told once: the job's own, and that of each time when it was dead."""
    events = WebhookEvent.objects.filter(type="prediction.completed")
    counts = Counter(events.values_list("prediction_id", flat=True))
    expected = Counter({one: 1 + known.replays.get(one, 0) for one in jobs})
    return [
        f"webhook: {one} has {counts[one]} ends and should have {expected[one]}"
        for one in counts.keys() | expected.keys()
        if counts[one] != expected[one]
    ]
