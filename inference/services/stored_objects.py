"""Compare what the database says lies in the object store with what lies there."""

from __future__ import annotations

from dataclasses import dataclass

from inference.models import UploadPart
from inference.services.object_store import list_stored

SAMPLE_LENGTH = 10


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found; of what is wrong at most `SAMPLE_LENGTH` names."""

    count: int
    missing_count: int
    wrong_size_count: int
    unknown_count: int
    sample: list[str]

    @property
    def is_whole(self) -> bool:
        """Whether all that the database names is there. What it does not name harms nobody."""
        return not (self.missing_count or self.wrong_size_count)


def compare_objects() -> Comparison:
    """Look for each received part by name and size; nothing is read, so bytes are not compared.

    Raises:
        ObjectStoreUnavailableError: The store does not answer.
    """
    stored = dict(list_stored())
    named = UploadPart.objects.order_by("storage_name").values_list("storage_name", "size_bytes")
    missing, wrong_size, count = [], [], 0
    for name, size_bytes in named.iterator():
        count += 1
        found = stored.pop(name, None)
        if found is None:
            missing.append(name)
        elif found != size_bytes:
            wrong_size.append(name)
    sample = [f"{name}: missing" for name in missing] + [f"{one}: size" for one in wrong_size]
    return Comparison(count, len(missing), len(wrong_size), len(stored), sample[:SAMPLE_LENGTH])
