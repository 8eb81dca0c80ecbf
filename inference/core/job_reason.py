"""Why a lease of a job came to nothing, or a job to its end, in words for people."""

from __future__ import annotations

from collections.abc import Mapping

_REASONS: Mapping[str, str] = {
    "node_lost": "The node was not heard of any more.",
    "node_restarted": "The node started anew.",
    "node_drained": "The node was shut down and gave it back.",
    "triton_unavailable": "The model's server on the node did not answer.",
    "model_not_ready": "The model was not loaded on the node.",
    "no_node_large_enough": "No node has memory enough for the version.",
    "deadline_exceeded": "Its time was over.",
    "canceled": "It was canceled.",
    "insufficient_credit": "The credit that was reserved for it was gone.",
    "model_failed": "The model failed.",
    "output_invalid": "The model answered something else than it promises.",
}


def describe_reason(code: str) -> str:
    """A code as a sentence; empty for one that says enough by itself, or for none."""
    return _REASONS.get(code, "")
