"""How this process handles memory: few looks for garbage, and large blocks that stay.

glibc gives every block above 128 KiB back to the kernel, which has to clear the next one page
by page: for a tensor of 1 MiB that takes three times as long as all else that is done with it.

Source: mallopt(3); CPython, `gc`.
"""

from __future__ import annotations

import ctypes
import gc
import logging

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that glibc takes. What is larger than that still comes from the kernel.
_MMAP_THRESHOLD_BYTES = 32 * 1024 * 1024
# Free memory at the end of the heap that is kept.
_TRIM_THRESHOLD_BYTES = 64 * 1024 * 1024
# A request leaves few cycles behind: looking for them every 700 objects, as Python does, would
# take a tenth of the processor.
_GC_OBJECTS = 20_000


def tune() -> None:
    """Set the allocator and the collector; called once, after everything is loaded."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        logger.info("memory: no glibc, its allocator stays as it is")
    else:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, 20, 20)
