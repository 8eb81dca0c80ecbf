"""Put up to four models side by side."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from marketplace.core import limits
from marketplace.core.errors import NotFoundError
from marketplace.models import AIModel, CatalogueEntry, ModelVersion
from marketplace.selectors import catalog
from marketplace.selectors.access import Actor, access_model

# `owner/name`, or a version of it. What has another form is no model.
_REFERENCE = re.compile(r"([a-z0-9-]{1,39})/([a-z0-9._-]{1,63})(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Compared:
    """One column: a model, and the version that it is about."""

    reference: str
    model: AIModel
    version: ModelVersion
    entry: CatalogueEntry | None
    certificate: dict[str, Any] = field(default_factory=dict)

    @property
    def points(self) -> list[dict[str, Any]]:
        """What was measured by batch size; none where the certificate has another form."""
        found = self._benchmark.get("points")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    @property
    def p50_ms(self) -> float | None:
        """One row at a time."""
        first = next((one for one in self.points if one.get("batch") == 1), {})
        return _number(first.get("p50_ms"))

    @property
    def p95_ms(self) -> float | None:
        """One row at a time, of all but the slowest twentieth."""
        first = next((one for one in self.points if one.get("batch") == 1), {})
        return _number(first.get("p95_ms"))

    @property
    def rows_per_s(self) -> float | None:
        """At its best batch size."""
        rates = [_number(one.get("rows_per_s")) for one in self.points]
        return max((one for one in rates if one is not None), default=None)

    @property
    def memory_bytes(self) -> int | None:
        """While serving."""
        found = _number(self._benchmark.get("memory_bytes"))
        return None if found is None else int(found)

    @property
    def load_ms(self) -> float | None:
        """From the sealed files to the first answer."""
        return _number(self._benchmark.get("load_ms"))

    @property
    def batch_max(self) -> int | None:
        """Rows of one call."""
        batch = self.version.interface.get("batch")
        found = _number(batch.get("max_size")) if isinstance(batch, dict) else None
        return None if found is None else int(found)

    @property
    def inputs(self) -> list[str]:
        """Kinds of what goes in."""
        return self._kinds("inputs")

    @property
    def outputs(self) -> list[str]:
        """Kinds of what comes out."""
        return self._kinds("outputs")

    @property
    def _benchmark(self) -> dict[str, Any]:
        found = self.certificate.get("benchmark")
        return found if isinstance(found, dict) else {}

    def _kinds(self, side: str) -> list[str]:
        members = self.version.interface.get(side)
        members = members if isinstance(members, list) else []
        return [
            f"{one.get('name', '')} ({one.get('kind', '')})"
            for one in members
            if isinstance(one, dict)
        ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is side by side, and what of the wish is not.

    Args:
        columns: In the order that was asked for.
        missing: Nothing that the actor may see has this name.
        left_out: Beyond the most that fit.
    """

    columns: list[Compared]
    missing: list[str]
    left_out: list[str]


def compare(actor: Actor, references: list[str]) -> Comparison:
    """Look up models by `owner/name` or `owner/name:version`.

    Args:
        actor: Who looks; what it may not see is missing, as what does not exist.
        references: As in the address; repetitions count once.
    """
    wanted = list(dict.fromkeys(one.strip() for one in references[:50] if one.strip()))
    columns, missing = [], []
    for reference in wanted[: limits.COMPARE_MAX]:
        found = _find(actor, reference)
        if found is None:
            missing.append(reference[:120])
        else:
            columns.append(found)
    left_out = [one[:120] for one in wanted[limits.COMPARE_MAX :]]
    return Comparison(columns, missing, left_out)


def _find(actor: Actor, reference: str) -> Compared | None:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        return None
    try:
        model = access_model(actor, match[1], match[2])
    except NotFoundError:
        return None
    if match[3] is None:
        version = catalog.find_channel_version(model)
    else:
        approved = catalog.list_versions(model).filter(state=ModelVersion.State.APPROVED)
        version = approved.filter(number=int(match[3])).first()
    if version is None:
        return None
    certificate = version.certificate if isinstance(version.certificate, dict) else {}
    entry = CatalogueEntry.objects.defer("words", "embedding").filter(model=model).first()
    return Compared(reference, model, version, entry, certificate)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None
