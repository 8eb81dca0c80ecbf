"""Score how much consumers' inputs look like copying; tell people, and never block anybody.

Whoever is far from all others is no thief for that. So a score only moves somebody up in a list,
and the first one that is high is mailed to the model's creator. What follows is up to people.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import numpy as np
from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import Count, Max, QuerySet
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from inference.core.copying import (
    REFERENCE_MIN,
    SAMPLES_MAX,
    WINDOW_MIN,
    Assessment,
    assess,
)
from inference.core.query_embedding import embed, read_embeddings, read_features
from inference.models import AbuseAlert, AbuseScore, Artifact, QuerySample, QuerySketch
from inference.triton import tensors
from marketplace.core import limits
from marketplace.core.errors import FieldError, InvalidInputError, MarketplaceError
from marketplace.models import Account, AIModel, Channel, Notification
from marketplace.selectors.access import Actor
from marketplace.selectors.notification import list_mail_addresses
from marketplace.services import audit
from marketplace.services.mail import mail_once
from marketplace.services.notification import notify
from strongroom.errors import StrongroomError
from strongroom.sealing.manifest import Manifest

logger = logging.getLogger(__name__)

# From here on a creator is told.
ALERT_SCORE = 80
# What is looked at of a consumer.
WINDOW = timedelta(days=7)
# How long an embedding is kept, and a count of one day; and how long scores tell a trend.
SAMPLE_RETENTION = timedelta(days=30)
SKETCH_RETENTION = timedelta(days=35)
SCORE_RETENTION = timedelta(days=180)
# New samples after which a consumer is scored again.
NEW_SAMPLES_MIN = 10
# One run ends in time however many there are; a third of a second each. The next one goes on.
SCORES_PER_RUN_MAX = 100
MAILS_PER_RUN_MAX = 50
# A mail that could not be sent for so long is no news any more.
MAIL_WITHIN = timedelta(days=1)
# Of each other consumer: so that one who asks much is not what all are compared with.
REFERENCE_PER_ACCOUNT_MAX = 100
REFERENCE_ACCOUNTS_MAX = 20
BATCH_SIZE = 5_000


@dataclass(frozen=True, slots=True)
class _Due:
    """A consumer of a model with samples that were not looked at."""

    model_id: UUID
    account_id: UUID


def score_consumers() -> int:
    """Score every consumer who has enough new samples; returns how many scores were written."""
    count = 0
    for due in _list_due():
        found = _assess(due)
        if found is not None and _write(due, found):
            count += 1
    return count


def mail_alerts() -> int:
    """Mail what was not mailed; returns how many mails were sent."""
    since = timezone.now() - MAIL_WITHIN
    waiting = AbuseAlert.objects.filter(mailed_at=None, created_at__gt=since)
    alert_ids = waiting.order_by("created_at").values_list("pk", flat=True)[:MAILS_PER_RUN_MAX]
    return sum(_mail(alert_id) for alert_id in list(alert_ids))


def review_score(*, score: AbuseScore, actor: Actor, note: str) -> AbuseScore:
    """An admin has looked at it. It stays reviewed until the consumer's score is higher.

    Raises:
        InvalidInputError: The note is empty or too long.
    """
    if not 0 < len(note.strip()) <= limits.REASON_LENGTH_MAX:
        detail = f"A note of at most {limits.REASON_LENGTH_MAX:,} characters is required."
        raise InvalidInputError(errors=[FieldError(pointer="/note", detail=detail)])
    with transaction.atomic():
        score = (
            AbuseScore.objects.select_for_update(of=("self",))
            .select_related("model__account", "account")
            .get(pk=score.pk)
        )
        score.reviewed_at = timezone.now()
        score.reviewed_by = actor.user
        score.review_note = note.strip()
        score.save(update_fields=["reviewed_at", "reviewed_by", "review_note"])
        audit.record(
            actor.label,
            "abuse.review",
            score,
            # In the log of the model's owner, not of whom it is about.
            account_id=score.model.account_id,
            payload={
                "model": str(score.model),
                "consumer": score.account.slug,
                "score": score.score,
                "reason": score.review_note,
            },
        )
    return score


def forget_queries() -> int:
    """Delete what is too old; returns how many rows."""
    now = timezone.now()
    return sum(
        _delete(rows)
        for rows in (
            QuerySample.objects.filter(created_at__lt=now - SAMPLE_RETENTION),
            QuerySketch.objects.filter(
                period=QuerySketch.Period.DAY, starts_on__lt=(now - SKETCH_RETENTION).date()
            ),
            AbuseScore.objects.filter(created_at__lt=now - SCORE_RETENTION, is_current=False),
        )
    )


def _delete(rows: QuerySet) -> int:
    count = 0
    while batch := list(rows.order_by("pk").values_list("pk", flat=True)[:BATCH_SIZE]):
        deleted, _ = rows.filter(pk__in=batch).delete()
        count += deleted
    return count


# --- Scores -----------------------------------------------------------------------


def _list_due() -> list[_Due]:
    """Who has enough samples and new ones among them; who was never scored, or long ago, first."""
    since = timezone.now() - WINDOW
    sampled = (
        QuerySample.objects.filter(created_at__gt=since, model__samples_queries=True)
        .values("model_id", "account_id")
        .annotate(count=Count("pk"), last=Max("created_at"))
        .filter(count__gte=WINDOW_MIN)
    )
    scored = {
        (one.model_id, one.account_id): one.created_at
        for one in AbuseScore.objects.filter(is_current=True, created_at__gt=since)
    }
    never = timezone.now() - SCORE_RETENTION
    found = []
    for row in sampled:
        at = scored.get((row["model_id"], row["account_id"]), never)
        if row["last"] > at:
            found.append((at, _Due(row["model_id"], row["account_id"])))
    found.sort(key=lambda one: (one[0], str(one[1].model_id), str(one[1].account_id)))
    fresh = [due for at, due in found if at == never or _has_new(due, at)]
    return fresh[:SCORES_PER_RUN_MAX]


def _has_new(due: _Due, at: datetime) -> bool:
    new = QuerySample.objects.filter(
        model_id=due.model_id, account_id=due.account_id, created_at__gt=at
    )
    return new[:NEW_SAMPLES_MIN].count() >= NEW_SAMPLES_MIN


def _assess(due: _Due) -> Assessment | None:
    """None where there is too little to compare."""
    since = timezone.now() - WINDOW
    own = QuerySample.objects.filter(model_id=due.model_id, account_id=due.account_id)
    window = _read(own.filter(created_at__gt=since).order_by("-created_at", "-pk")[:SAMPLES_MAX])
    if len(window) < WINDOW_MIN:
        return None
    reference = _find_reference(due, own)
    if len(reference) < REFERENCE_MIN:
        return None
    sketch = QuerySketch.objects.filter(
        model_id=due.model_id, account_id=due.account_id, period=QuerySketch.Period.TOTAL
    ).first()
    rows, distinct = (sketch.row_count, sketch.estimate) if sketch else (0, 0.0)
    return assess(window[::-1], reference, rows=rows, distinct=distinct)


def _find_reference(due: _Due, own: QuerySet[QuerySample]) -> np.ndarray:
    """Other consumers' inputs and the creator's own examples; else the consumer's first ones."""
    parts = [_embed_vectors(due.model_id)]
    suspects = AbuseScore.objects.filter(
        model_id=due.model_id, is_current=True, score__gte=ALERT_SCORE
    )
    samples = QuerySample.objects.filter(model_id=due.model_id).exclude(account_id=due.account_id)
    samples = samples.exclude(account_id__in=suspects.values("account_id"))
    others = samples.values("account_id").annotate(last=Max("created_at")).order_by("-last")
    for row in others[:REFERENCE_ACCOUNTS_MAX]:
        newest = samples.filter(account_id=row["account_id"]).order_by("-created_at", "-pk")
        parts.append(_read(newest[:REFERENCE_PER_ACCOUNT_MAX]))
    found = np.concatenate(parts)
    if len(found) >= REFERENCE_MIN:
        return found
    # Only a change of what this consumer asks can be seen then.
    first = own.filter(created_at__lte=timezone.now() - WINDOW).order_by("created_at", "pk")
    return np.concatenate([found, _read(first[:SAMPLES_MAX])])


def _read(samples: QuerySet[QuerySample]) -> np.ndarray:
    return read_embeddings(list(samples.values_list("embedding", flat=True)))


def _embed_vectors(model_id: UUID) -> np.ndarray:
    """The test vectors of the version in `prod`: what its creator takes for an example."""
    channel = Channel.objects.filter(model_id=model_id, name=Channel.Name.PROD).first()
    artifact = channel and Artifact.objects.filter(version_id=channel.version_id).first()
    embeddings = []
    if artifact:
        manifest = Manifest.parse(artifact.manifest)
        interface = manifest.parsed_interface
        for vector in manifest.test_vectors:
            try:
                row = interface.check_input(dict(vector.input))
                columns = [one.data for one in tensors.encode(interface, [row])]
            except (StrongroomError, MarketplaceError):
                continue
            embeddings.append(embed(read_features(columns, 0)))
    return read_embeddings(embeddings)


def _write(due: _Due, found: Assessment) -> bool:
    with transaction.atomic():
        # One score of a consumer is the current one, also if two runs meet.
        model = AIModel.objects.select_for_update(no_key=True).filter(pk=due.model_id).first()
        if model is None or not Account.objects.filter(pk=due.account_id).exists():
            return False
        now = timezone.now()
        before = AbuseScore.objects.filter(
            model=model, account_id=due.account_id, is_current=True
        ).first()
        score = AbuseScore(
            model=model,
            account_id=due.account_id,
            score=found.score,
            reasons=found.reasons,
            facts=found.facts,
            created_at=now,
        )
        if before is not None:
            before.is_current = False
            before.save(update_fields=["is_current"])
            if before.reviewed_at and found.score <= before.score:
                score.reviewed_at = before.reviewed_at
                score.reviewed_by_id = before.reviewed_by_id
                score.review_note = before.review_note
        score.save()
        if found.score >= ALERT_SCORE:
            alert, is_new = AbuseAlert.objects.get_or_create(
                model=model, account_id=due.account_id, defaults={"score": found.score}
            )
            if is_new:
                _tell(alert)
    return True


# --- Mails ------------------------------------------------------------------------


def _tell(alert: AbuseAlert) -> None:
    owner = alert.model.account
    notify(
        Notification.Kind.ABUSE,
        owner,
        key=f"abuse:{alert.pk}",
        title=f"{alert.account.slug} may be copying {alert.model}",
        text=f"Its requests look like those of who trains a copy: score {alert.score} of 100.",
        path=reverse("inference:protection", args=[owner.slug, alert.model.name]),
    )


def _mail(alert_id: int) -> bool:
    rows = AbuseAlert.objects.select_for_update(skip_locked=True, of=("self",))
    return mail_once(
        rows.select_related("model__account", "account"),
        alert_id,
        what="alert",
        list_addresses=_list_addresses,
        send=_send,
    )


def _list_addresses(alert: AbuseAlert) -> list[str]:
    return list_mail_addresses(alert.model.account, Notification.Kind.ABUSE)


def _send(alert: AbuseAlert, addresses: Sequence[str]) -> None:
    model = alert.model
    path = reverse("inference:protection", args=[model.account.slug, model.name])
    score = AbuseScore.objects.filter(model=model, account=alert.account, is_current=True).first()
    context = {
        "alert": alert,
        "model": model,
        "consumer": alert.account.slug,
        "reasons": score.reasons if score else [],
        "url": f"{settings.WEB_URL}{path}",
    }
    subject = render_to_string("emails/abuse_subject.txt", context)
    text = render_to_string("emails/abuse.txt", context)
    send_mail(" ".join(subject.split()), text, None, list(addresses))
