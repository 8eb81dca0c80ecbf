"""Refuse a Triton image that is too old, while node-gpu is built.

Older ones have published holes through which a network peer takes the server over.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

RELEASE_MIN = (26, 7)
# Set by NVIDIA's images: the year and the month of the release.
VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"


def find_fault(environment: Mapping[str, str]) -> str:
    """Why an image is not good enough; empty if it is."""
    text = environment.get(VARIABLE, "")
    match = re.match(r"(\d\d)\.(\d\d)(?!\d)", text)
    if match is None:
        return f"{VARIABLE} is {text!r}: this is none of NVIDIA's Triton images"
    if (int(match[1]), int(match[2])) < RELEASE_MIN:
        return f"Triton {text} is too old: 26.07 or newer is needed"
    return ""


if __name__ == "__main__":
    sys.exit(find_fault(os.environ) or 0)
