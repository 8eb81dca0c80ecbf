"""Read which deployments are warm, cold or waking, and which nobody wants any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db.models import (
    BooleanField,
    DateTimeField,
    DurationField,
    Exists,
    ExpressionWrapper,
    F,
    Func,
    OuterRef,
    Q,
    QuerySet,
    TextChoices,
    Value,
)
from django.db.models.functions import Now

from inference.models import Deployment, Replica, WakeWish
from inference.selectors.node import ENDED_STATES
from marketplace.core.errors import NotFoundError
from marketplace.models import AIModel, ModelVersion


class Warmth(TextChoices):
    WARM = "warm", "Warm"
    COLD = "cold", "Cold"
    WAKING = "waking", "Waking"


_TONES = {Warmth.WARM: "good", Warmth.COLD: "", Warmth.WAKING: "info"}


@dataclass(frozen=True, slots=True)
class Temperature:
    """How a deployment is now, and how long a cold start of it takes.

    Attributes:
        deployment: Which.
        state: Whether it answers at once, is unloaded, or is being loaded.
        cold_start_s: As it was measured the last time, or else the load of its benchmark;
            None where neither is known.
    """

    deployment: Deployment
    state: Warmth
    cold_start_s: int | None

    @property
    def title(self) -> str:
        """The version, for people who know the model."""
        return f"Version {self.deployment.version.number}"

    @property
    def tone(self) -> str:
        """The colour of its badge."""
        return _TONES[self.state]

    @property
    def text(self) -> str:
        """What a caller has to expect."""
        if self.state is Warmth.WARM:
            return "Loaded."
        known = f": cold start about {self.cold_start_s} s" if self.cold_start_s else ""
        if self.state is Warmth.COLD:
            return f"Unloaded while nobody calls it. The first call loads it{known}."
        return f"Being loaded{known}."


def with_warmth(deployments: QuerySet[Deployment]) -> QuerySet[Deployment]:
    """With `is_served`, and the version that the time of a cold start is read from."""
    return deployments.annotate(is_served=Exists(_ready())).select_related(
        "version__model__account"
    )


def describe_temperature(deployment: Deployment) -> Temperature:
    """How one of `with_warmth` is."""
    if deployment.slept_at is not None:
        state = Warmth.COLD
    else:
        state = Warmth.WARM if deployment.is_served else Warmth.WAKING  # type: ignore[attr-defined]
    return Temperature(deployment, state, _read_cold_start_s(deployment))


def find_temperature(version: ModelVersion) -> Temperature | None:
    """How a version is; None where it is not deployed."""
    found = with_warmth(Deployment.objects.filter(version=version, stopped_at=None)).first()
    return None if found is None else describe_temperature(found)


def list_temperatures(model: AIModel) -> list[Temperature]:
    """All deployments of a model, the newest version first."""
    found = Deployment.objects.filter(version__model=model, stopped_at=None)
    return [describe_temperature(one) for one in with_warmth(found).order_by("-version__number")]


def get_deployment(model: AIModel, number: int) -> Deployment:
    """The deployment of a version of a model.

    Raises:
        NotFoundError: It is not deployed.
    """
    found = with_warmth(
        Deployment.objects.filter(version__model=model, version__number=number, stopped_at=None)
    ).first()
    if found is None:
        raise NotFoundError("This version is not deployed.")
    return found


def list_wished_versions() -> list[UUID]:
    """Versions that somebody wants, each once."""
    return list(WakeWish.objects.values_list("version_id", flat=True).distinct())


def list_idle_deployments() -> QuerySet[Deployment]:
    """Those that nobody has wanted for as long as they may be idle, and that nothing runs on.

    Times are the database's: gateways note by its clock what is used. One that is being loaded
    is let finish, and then waits for its whole time again, or it might never be of any use.
    """
    idle = ExpressionWrapper(
        F("idle_after_s") * Value(timedelta(seconds=1)), output_field=DurationField()
    )
    rest = ExpressionWrapper(Now() - idle, output_field=DateTimeField())
    busy = (
        Replica.objects.filter(deployment=OuterRef("pk"), wanted=True)
        .exclude(state__in=ENDED_STATES)
        .filter(~Q(state=Replica.State.READY) | Q(changed_at__gt=OuterRef("rests_since")))
    )
    has_jobs = Func(F("version_id"), function="inference_has_jobs", output_field=BooleanField())
    return (
        Deployment.objects.filter(stopped_at=None, slept_at=None, is_always_warm=False)
        .exclude(idle_after_s=None)
        .annotate(rests_since=rest)
        .filter(last_wanted_at__lt=F("rests_since"))
        .exclude(Exists(busy))
        .exclude(Exists(WakeWish.objects.filter(version_id=OuterRef("version_id"))))
        .annotate(has_jobs=has_jobs)
        .filter(has_jobs=False)
        .order_by("pk")
    )


def list_woken_deployments() -> QuerySet[Deployment]:
    """Those that were being loaded and of which a copy serves now."""
    return Deployment.objects.filter(Exists(_ready()), stopped_at=None).exclude(waking_since=None)


def _ready() -> QuerySet[Replica]:
    return Replica.objects.filter(deployment=OuterRef("pk"), wanted=True, state=Replica.State.READY)


def _read_cold_start_s(deployment: Deployment) -> int | None:
    load_ms: object = deployment.cold_start_ms
    if load_ms is None:
        benchmark = (deployment.version.certificate or {}).get("benchmark")
        load_ms = benchmark.get("load_ms") if isinstance(benchmark, dict) else None
    if isinstance(load_ms, bool) or not isinstance(load_ms, int | float) or load_ms < 0:
        return None
    return max(1, round(load_ms / 1000))
