"""What of serving stops with a model; see `marketplace.services.consequence`."""

from __future__ import annotations

from collections.abc import Sequence

from inference.models import Deployment, Replica
from marketplace.models import AIModel


def foretell_serving(models: Sequence[AIModel]) -> list[str]:
    """Deployments that stop, and copies that are unloaded."""
    deployments = Deployment.objects.filter(version__model__in=models, stopped_at=None).count()
    replicas = Replica.objects.filter(version__model__in=models, wanted=True).count()
    told = []
    if deployments:
        told.append(
            f"{deployments} deployment{'' if deployments == 1 else 's'} "
            f"{'stops' if deployments == 1 else 'stop'}."
        )
    if replicas:
        told.append(f"{replicas} loaded {'copy is' if replicas == 1 else 'copies are'} unloaded.")
    return told
