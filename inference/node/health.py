"""What a node tells of its machine."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil

_MIB = 1024 * 1024


def describe_machine(node_dir: Path) -> dict[str, Any]:
    """Cores, memory and disk; rounded, so that a report does not differ for nothing."""
    memory = psutil.virtual_memory()
    return {
        "hostname": platform.node()[:100],
        "cpu_count": os.cpu_count() or 1,
        "memory_total_bytes": memory.total,
        "memory_available_bytes": memory.available // (64 * _MIB) * (64 * _MIB),
        "disk_free_bytes": shutil.disk_usage(node_dir).free // (256 * _MIB) * (256 * _MIB),
    }
