"""Parts of gateways at given times, and blocks that a worker would have made of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from inference.core import drift
from inference.models import DriftBlock, DriftPart
from marketplace.models import ModelVersion

HOUR = timedelta(hours=1)
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
INTERFACE = {
    "inputs": [
        {"name": "text", "kind": "text"},
        {"name": "mode", "kind": "choice", "choices": ["fast", "good"]},
    ],
    "outputs": [
        {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [2], "hidden": True},
        {"name": "kind", "kind": "label", "source": "scores", "labels": ["cat", "dog"]},
    ],
}


def make_sketch(count: int = 100, *, fast: int = 50, length: int = 100) -> drift.Sketch:
    """Of so many predictions: so many in a hundred are fast, all are as long."""
    fast = count * fast // 100
    return {
        "input:text:length": {length: count},
        "input:text:writing": {0: count},
        "input:mode:choice": {0: fast, 1: count - fast},
        "output:kind:label": {0: count},
        "output:kind:score": {18: count},
    }


def add_part(version: ModelVersion, hour: datetime, **fields) -> DriftPart:
    """A part of a gateway; of 60 predictions and three accounts unless told."""
    count = fields.pop("predictions", 60)
    return DriftPart.objects.create(
        model_id=version.model_id,
        version_id=version.pk,
        hour=hour,
        scheme=fields.pop("scheme", drift.SCHEME),
        predictions=count,
        accounts=fields.pop("accounts", 0b111),
        sketch=make_sketch(count, **fields),
    )


def add_block(version: ModelVersion, ends_at: datetime, **fields) -> DriftBlock:
    """A block of an hour, of a thousand predictions unless told."""
    count = fields.pop("predictions", 1_000)
    return DriftBlock.objects.create(
        model_id=version.model_id,
        version_id=version.pk,
        starts_at=fields.pop("starts_at", ends_at - HOUR),
        ends_at=ends_at,
        scheme=fields.pop("scheme", drift.SCHEME),
        predictions=count,
        sketch=drift.merge([make_sketch(count, **fields)]),
    )
