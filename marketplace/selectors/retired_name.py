"""Names that deleted accounts had: known again by their digest, and given to nobody."""

from __future__ import annotations

from hashlib import sha256

from marketplace.core.confusable import skeleton
from marketplace.models import RetiredName


def digest_of(slug: str) -> str:
    """Of a name and of all that an eye takes for it."""
    return sha256(f"strongroom retired name {skeleton(slug)}".encode()).hexdigest()


def is_retired(slug: str) -> bool:
    """Whether a deleted account had this name, or one that looks like it."""
    return RetiredName.objects.filter(digest=digest_of(slug)).exists()
