"""Read the proofs that keys were destroyed."""

from __future__ import annotations

from typing import Any

from django.db.models import F, Q, QuerySet

from inference.models import KeyShred
from marketplace.core.clock import to_wire
from marketplace.models import AIModel, ModelVersion


def find_shred(version: ModelVersion) -> KeyShred | None:
    """The proof about a version, be it its own or its whole model's; the first there was."""
    return list_shreds_of(version).first()


def list_shreds_of(version: ModelVersion) -> QuerySet[KeyShred]:
    """The proofs about a version, its own and its whole model's, in their order."""
    about = Q(artifact_id=version.pk) | Q(artifact_id=None)
    return KeyShred.objects.filter(about, model_id=version.model_id).order_by("at")


def find_model_shred(model: AIModel) -> KeyShred | None:
    """The proof about a whole model."""
    return KeyShred.objects.filter(model_id=model.pk, artifact_id=None).first()


def list_shreds(model: AIModel) -> QuerySet[KeyShred]:
    """All proofs about a model, newest first; one without `artifact_id` is about all of it."""
    return KeyShred.objects.filter(model_id=model.pk).order_by(F("at").desc())


def describe_shred(shred: KeyShred) -> dict[str, Any]:
    """A proof on the wire; the signature is over all of it but itself, as it was written."""
    return {
        "id": str(shred.pk),
        "model_id": str(shred.model_id),
        "artifact_id": None if shred.artifact_id is None else str(shred.artifact_id),
        "kek_refs": shred.kek_refs,
        "provider": shred.provider,
        "by": shred.by,
        "reason": shred.reason,
        "at": to_wire(shred.at),
        "final_at": to_wire(shred.final_at),
        "signature": shred.signature,
    }
