"""Names that an eye takes for one another.

Slugs are lowercase ASCII, so letters of other alphabets cannot pass for ours. What is left:
0 and o; 1, l and i; 5 and s; rn and m; vv and w; and hyphens, which are easily overlooked.
Two slugs with the same skeleton look alike, and the second is refused.

Source: Unicode Technical Standard 39, "Confusable Detection" (skeletons).
"""

from __future__ import annotations

_LETTERS = str.maketrans("01i5", "olls")


def skeleton(slug: str) -> str:
    """What an eye may take a slug for; the database computes the same (`Skeleton`)."""
    joined = slug.replace("-", "").replace("rn", "m").replace("vv", "w")
    return joined.translate(_LETTERS)
