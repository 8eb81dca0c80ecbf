"""What everybody who sees a model may know of how it is served, now and by day.

Shares alone: how often a model is called is its creator's business. A day of which a share would
tell that has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, timedelta

from django.db.models import F, Q, Sum

from inference.models import Metric, Replica
from inference.models.metric import Resolution
from inference.selectors.metric import LITTLE
from inference.selectors.node import QUIET_AFTER
from inference.selectors.wake import Temperature, find_temperature
from marketplace.core.clock import utc_now
from marketplace.core.uptime import DAYS_SHOWN, Day, fill_days
from marketplace.models import AIModel, ModelVersion

# Against a model: what it or the platform failed to answer, as its service levels count it.
BAD = ("failed_model", "failed_timeout", "failed_capacity", "failed_platform", "refused_capacity")


@dataclass(frozen=True, slots=True)
class Availability:
    """How a version is served now.

    Attributes:
        wanted: Replicas that its deployment asks for; 0 where nothing is deployed.
        ready: Of those, what is ready on nodes that are heard.
        unheard: Of those, what was ready on nodes that are not heard any more.
        sleeping: How it is while it is unloaded, or comes back, because nobody called it.
    """

    wanted: int
    ready: int
    unheard: int
    sleeping: Temperature | None = None

    @property
    def word(self) -> str:
        """The state for people."""
        if self.ready:
            return "Served" if self.ready >= self.wanted else "Partly served"
        if self.sleeping is not None:
            return str(self.sleeping.state.label)
        return "Not known" if self.unheard else "Not served"

    @property
    def tone(self) -> str:
        """The colour of its badge."""
        tones = {"Served": "good", "Partly served": "warn", "Not served": "bad"}
        return tones.get(self.word, "")

    @property
    def text(self) -> str:
        """The numbers in a sentence."""
        if self.sleeping is not None and not self.ready:
            return self.sleeping.text
        if not self.wanted and not self.ready:
            return "No replica is asked for."
        told = f"{self.ready} of {max(self.wanted, self.ready)} replicas ready."
        return f"{told} {self.unheard} on nodes that are not heard now." if self.unheard else told


def read_availability(version: ModelVersion) -> Availability:
    """What its nodes say, as long as they say anything."""
    heard = Q(node__last_seen_at__gt=utc_now() - QUIET_AFTER, node__triton_ready=True)
    ready = Replica.objects.filter(
        version=version,
        purpose=Replica.Purpose.SERVE,
        wanted=True,
        state=Replica.State.READY,
        node__revoked_at=None,
    )
    found = find_temperature(version)
    deployment = found.deployment if found else None
    has_slept = deployment is not None and (deployment.slept_at or deployment.waking_since)
    return Availability(
        wanted=deployment.replica_count if deployment else 0,
        ready=ready.filter(heard).count(),
        unheard=ready.exclude(heard).count(),
        sleeping=found if has_slept else None,
    )


def list_uptime(model: AIModel) -> list[Day]:
    """Each of the last days: what was answered, against what should have been."""
    today = utc_now().date()
    rows = (
        Metric.objects.filter(
            model_id=model.pk,
            resolution=Resolution.DAY,
            starts_at__gt=utc_now() - timedelta(days=DAYS_SHOWN),
        )
        .values("starts_at")
        .annotate(good=Sum("succeeded"), bad=Sum(sum((F(name) for name in BAD[1:]), F(BAD[0]))))
    )
    days = [row["starts_at"].astimezone(UTC).date() for row in rows]
    found = {
        day: Day(day, good=row["good"], bad=row["bad"], least=LITTLE)
        for day, row in zip(days, rows, strict=True)
    }
    return fill_days(found, today)
