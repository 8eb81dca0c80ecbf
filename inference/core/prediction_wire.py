"""A prediction as its consumer sees it, whoever shows it: the gateway's answers, and webhooks.

Source: Replicate HTTP API; replicate-python 1.0, `prediction.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from inference.core.stream_link import write_stream_right
from marketplace.core.clock import to_wire
from marketplace.core.ids import to_public

_TERMINAL = frozenset({"succeeded", "failed", "canceled"})
_STATUSES = {"queued": "starting", "leased": "starting", "running": "processing"}


# What is over is a prediction; what waits or runs is a job, and so is what no node could run.
PREDICTION_SQL = """
    SELECT p.*, v.number, v.manifest_sha256, m.name, a.slug AS owner
    FROM (
        SELECT p.id, p.account_id, p.version_id, p.state, p.source, p.protocol, p.cost_nanos,
            p.input, p.output, p.error, p.predict_time_us, p.created_at,
            NULL::timestamptz AS started_at, p.completed_at, NULL::timestamptz AS deadline_at
        FROM inference_prediction p
        UNION ALL
        SELECT j.id, j.account_id, j.version_id,
            CASE j.state WHEN 'dead' THEN 'failed' ELSE j.state END, j.source, j.protocol,
            j.cost_nanos, i.input, NULL, j.error, j.predict_time_us, j.created_at,
            j.started_at, j.finished_at, j.deadline_at
        FROM inference_job j LEFT JOIN inference_jobinput i ON i.job_id = j.id
        WHERE j.state IN ('queued', 'leased', 'running', 'dead')
    ) p
    JOIN marketplace_modelversion v ON v.id = p.version_id
    JOIN marketplace_aimodel m ON m.id = v.model_id
    JOIN marketplace_account a ON a.id = m.account_id
    WHERE p.account_id = %(account_id)s
"""


@dataclass(frozen=True, slots=True)
class Renderer:
    """Where predictions are asked for, where people look at them, and how long one may take."""

    gateway_url: str
    web_url: str
    deadline_s: float
    # Signs the address of a prediction's events; empty where it is told without its right, as in
    # what is kept in a log.
    link_secret: str = field(default="", repr=False)

    def render_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A stored prediction. Of one that was waited for, the output is kept only for a retry.

        Args:
            row: As `PREDICTION_SQL` finds it.
        """
        predict_time_s = row["predict_time_us"] / 1e6
        completed_at = row["completed_at"]
        return self.make_envelope(
            row["id"],
            model=f"{row['owner']}/{row['name']}",
            version=row["manifest_sha256"] or str(row["number"]),
            given=row["input"] or {},
            output=row["output"],
            status=_STATUSES.get(row["state"]) or str(row["state"]),
            error=row["error"] or None,
            source=row["source"],
            created_at=row["created_at"],
            started_at=row["started_at"]
            or (completed_at and completed_at - timedelta(seconds=predict_time_s)),
            completed_at=completed_at,
            predict_time_s=predict_time_s,
            cost_nanos=row["cost_nanos"],
            deadline=row["deadline_at"],
        )

    def make_envelope(
        self,
        prediction_id: UUID,
        *,
        given: Mapping[str, Any] | None,
        output: Any,
        created_at: datetime,
        started_at: datetime | None,
        completed_at: datetime | None,
        predict_time_s: float,
        cost_nanos: int,
        deadline: datetime | None = None,
        **members: str | None,
    ) -> dict[str, Any]:
        """The object that Replicate's clients know; `members` are its model, error and so on."""
        public_id = to_public(prediction_id)
        get_url = f"{self.gateway_url}/v1/predictions/{public_id}"
        deadline = deadline or created_at + timedelta(seconds=self.deadline_s)
        metrics: dict[str, Any] = {"cost_nano_usd": cost_nanos, "predict_time": predict_time_s}
        if completed_at is not None:
            metrics["total_time"] = (completed_at - created_at).total_seconds()
        return {
            "id": public_id,
            **members,
            "input": given,
            "output": output,
            "logs": "",
            "data_removed": output is None and members["status"] in _TERMINAL,
            "created_at": to_wire(created_at),
            "started_at": started_at and to_wire(started_at),
            "completed_at": completed_at and to_wire(completed_at),
            "deadline": to_wire(deadline),
            "metrics": metrics,
            "urls": {
                "get": get_url,
                "cancel": f"{get_url}/cancel",
                "stream": self._link_to_stream(get_url, prediction_id, deadline),
                "web": f"{self.web_url}/predictions/{public_id}",
            },
        }

    def _link_to_stream(self, get_url: str, prediction_id: UUID, deadline: datetime) -> str:
        # Replicate's clients fail at events of kinds that they do not know.
        url = f"{get_url}/stream?events=output"
        if not self.link_secret:
            return url
        right = write_stream_right(self.link_secret, prediction_id, deadline, now_s=time.time())
        return f"{url}&{right}"
