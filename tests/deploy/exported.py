"""Every metric that some process of ours exports, by that process."""

from __future__ import annotations

from inference.gateway.metrics_page import FAMILIES as GATEWAY
from inference.keybroker import metrics as keybroker
from inference.node import metrics as node
from marketplace import beat_metrics, web_metrics, worker_metrics
from marketplace.core.exposition import Family


def list_families() -> dict[str, list[Family]]:
    """Families by the process that exports them."""
    return {
        "web": list(web_metrics.REGISTRY.families.values()),
        "gateway": list(GATEWAY.values()),
        "worker": list(worker_metrics.REGISTRY.families.values()),
        "beat": list(beat_metrics.make_metrics().registry.families.values()),
        "node": list(node.REGISTRY.families.values()),
        "keybroker": list(keybroker.REGISTRY.families.values()),
    }


def list_samples() -> set[str]:
    """Names of samples, as queries name them."""
    found = list_families().values()
    return {name for families in found for one in families for name in one.list_samples()}
