"""A prediction as its consumer sees it, whoever shows it: the gateway's answers, and webhooks.

Source: Replicate HTTP API; replicate-python 1.0, `prediction.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from marketplace.core.clock import to_wire
from marketplace.core.ids import to_public

_TERMINAL = frozenset({"succeeded", "failed", "canceled"})
_STATUSES = {"queued": "starting", "leased": "starting", "running": "processing"}


@dataclass(frozen=True, slots=True)
class Renderer:
    """Where predictions are asked for, where people look at them, and how long one may take."""

    gateway_url: str
    web_url: str
    deadline_s: float

    def render_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A stored prediction; its input is never kept, its output only for a retry.

        Args:
            row: Of `inference_prediction`, with `number` and `manifest_sha256` of its version,
                and `owner` and `name` of its model.
        """
        predict_time_s = row["predict_time_us"] / 1e6
        completed_at = row["completed_at"]
        return self.make_envelope(
            row["id"],
            model=f"{row['owner']}/{row['name']}",
            version=row["manifest_sha256"] or str(row["number"]),
            given={},
            output=row["output"],
            status=_STATUSES.get(row["state"]) or str(row["state"]),
            error=row["error"] or None,
            source=row["source"],
            created_at=row["created_at"],
            started_at=completed_at and completed_at - timedelta(seconds=predict_time_s),
            completed_at=completed_at,
            predict_time_s=predict_time_s,
            cost_nanos=row["cost_nanos"],
        )

    def make_envelope(
        self,
        prediction_id: UUID,
        *,
        given: Mapping[str, Any] | None,
        output: Any,
        error: str | None,
        created_at: datetime,
        started_at: datetime | None,
        completed_at: datetime | None,
        predict_time_s: float,
        cost_nanos: int,
        **members: str,
    ) -> dict[str, Any]:
        """The object that Replicate's clients know; `members` are its model, version and so on."""
        public_id = to_public(prediction_id)
        get_url = f"{self.gateway_url}/v1/predictions/{public_id}"
        metrics: dict[str, Any] = {"cost_nano_usd": cost_nanos, "predict_time": predict_time_s}
        if completed_at is not None:
            metrics["total_time"] = (completed_at - created_at).total_seconds()
        return {
            "id": public_id,
            **members,
            "input": given,
            "output": output,
            "logs": "",
            "error": error,
            "data_removed": output is None and members["status"] in _TERMINAL,
            "created_at": to_wire(created_at),
            "started_at": started_at and to_wire(started_at),
            "completed_at": completed_at and to_wire(completed_at),
            "deadline": to_wire(created_at + timedelta(seconds=self.deadline_s)),
            "metrics": metrics,
            "urls": {
                "get": get_url,
                "cancel": f"{get_url}/cancel",
                "web": f"{self.web_url}/predictions/{public_id}",
            },
        }
