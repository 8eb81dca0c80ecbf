"""Where a prediction runs: the replica of its version that is expected to finish it first.

All ready replicas are few, so they are read at once and kept as one picture, which is drawn
anew when Postgres tells of a change, and every few seconds should a notice be missed.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from inference.gateway.breaker import Breaker
from inference.gateway.coalesce import Coalescer
from inference.gateway.config import (
    CALLS_PER_BATCH_PLACE,
    COALESCED_CALLS_MAX,
    RETRY_AFTER_MAX_S,
    ROUTES_TTL_S,
)
from inference.gateway.database import Database, DatabaseUnavailableError, Row
from inference.gateway.errors import NOT_READY_RETRY_S, ModelNotReadyError
from inference.gateway.metrics import METRICS
from inference.triton.errors import TritonUnavailableError
from inference.triton.repository import model_name

# A replica that just failed us is asked last for so long.
_PENALTY_S = 2.0

_LIST_READY = """
    SELECT r.id, r.version_id, n.triton_http_url, n.triton_grpc_url,
        coalesce((v.interface->'batch'->>'max_size')::integer, 1) AS batch_size_max,
        coalesce((v.interface->'batch'->>'coalesce')::boolean, true) AS coalesces
    FROM inference_replica r JOIN inference_node n ON n.id = r.node_id
        JOIN marketplace_modelversion v ON v.id = r.version_id
    WHERE r.state = 'ready' AND r.wanted AND r.purpose = 'serve'
        AND n.revoked_at IS NULL AND n.triton_ready
    ORDER BY r.id
"""


@dataclass(slots=True)
class Replica:
    """A loaded copy of a version, and what this gateway has running on it."""

    id: UUID
    version_id: UUID
    base_url: str
    batch_size_max: int = 1
    coalesces: bool = True
    grpc_address: str = ""
    penalty_until_s: float = 0.0
    triton_name: str = field(init=False)
    calls: Coalescer = field(init=False)
    breaker: Breaker = field(default_factory=Breaker)

    def __post_init__(self) -> None:
        self.triton_name = model_name(self.id)
        if self.coalesces and self.batch_size_max > 1:
            self.calls = Coalescer(
                self.batch_size_max, calls_max=COALESCED_CALLS_MAX, on_call=self._observe_call
            )
        else:
            places = CALLS_PER_BATCH_PLACE * self.batch_size_max
            self.calls = Coalescer(1, calls_max=places, on_call=self._observe_call)

    def _observe_call(self, requests: int, rows: int) -> None:
        METRICS.of_version(self.version_id).observe_call(requests=requests, rows=rows)

    def penalise(self) -> None:
        """Ask the others first for a moment."""
        self.penalty_until_s = time.monotonic() + _PENALTY_S


class Routes:
    """The ready replicas by version; a `Listener` of changes to replicas and nodes."""

    TABLES = frozenset({"inference_replica", "inference_node"})

    def __init__(self, database: Database) -> None:
        self.database = database
        self._replicas: dict[UUID, list[Replica]] = {}
        # Changes told of so far, and how many of them the picture shows.
        self._told = 1
        self._drawn = 0
        self._is_listening = False
        self._refreshing: asyncio.Task[None] | None = None
        # Done with the next change that is told of.
        self._next_change: asyncio.Future[None] | None = None

    async def pick(self, version_id: UUID, *, besides: Replica | None = None) -> Replica:
        """The replica to call.

        Args:
            version_id: What should run.
            besides: The one that has just failed; it is chosen only if it is the last.

        Raises:
            ModelNotReadyError: None is ready.
            TritonUnavailableError: All have failed of late, and are left alone for a while.
            DatabaseUnavailableError: It is not known which are ready.
        """
        if self._drawn < self._told or not self._is_listening:
            await self._refresh()
        candidates = self._replicas.get(version_id)
        if not candidates:
            raise ModelNotReadyError(
                "No replica of the model is ready.", retry_after_s=NOT_READY_RETRY_S
            )
        now_s = time.monotonic()
        # Nearly all versions have one replica, and nearly all of these are well.
        open_s = [one.breaker.wait_s(now_s) for one in candidates]
        if any(open_s):
            candidates = [one for one, wait_s in zip(candidates, open_s, strict=True) if not wait_s]
        if not candidates:
            left_s = min(math.ceil(min(open_s)), RETRY_AFTER_MAX_S)
            raise TritonUnavailableError(
                "The model's servers have failed, and are tried again soon.", retry_after_s=left_s
            )
        chosen = candidates[0] if len(candidates) == 1 else _choose(candidates, besides, now_s)
        if chosen is not besides:
            chosen.breaker.take(now_s)
        return chosen

    async def wait_change(self, limit_s: float) -> None:
        """Return with the next change that is told of, or after so long.

        One that was told of and not looked at yet counts as the next.
        """
        if self._drawn < self._told:
            return
        if self._next_change is None or self._next_change.done():
            self._next_change = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._next_change], timeout=limit_s)

    def list_replicas(self) -> list[Replica]:
        """All ready replicas."""
        return [one for many in self._replicas.values() for one in many]

    def list_base_urls(self) -> set[str]:
        """The Triton servers behind all ready replicas."""
        return {one.base_url for many in self._replicas.values() for one in many}

    def list_grpc_addresses(self) -> set[str]:
        """The same, where they take streams."""
        return {one.grpc_address for many in self._replicas.values() for one in many}

    async def run(self) -> None:
        """Draw the picture anew every few seconds."""
        while True:
            await asyncio.sleep(ROUTES_TTL_S)
            with suppress(DatabaseUnavailableError):
                await self._refresh()

    def on_change(self, table: str, row_id: str) -> None:
        """Look again before the next choice."""
        if table in self.TABLES:
            self._told += 1
            self._tell_change()

    def on_listening(self) -> None:
        """Trust the picture between notices."""
        self._is_listening = True
        self._told += 1
        self._tell_change()

    def on_deaf(self) -> None:
        """Look before every choice until changes are heard again."""
        self._is_listening = False

    def _tell_change(self) -> None:
        if self._next_change is not None and not self._next_change.done():
            self._next_change.set_result(None)

    async def _refresh(self) -> None:
        """Wait for a look that began after the last notice; those who wait share it."""
        told = self._told
        while True:
            task = self._refreshing
            if task is None:
                task = self._refreshing = asyncio.create_task(self._draw())
            await asyncio.shield(task)
            if self._drawn >= told:
                return

    async def _draw(self) -> None:
        told = self._told
        try:
            rows = await self.database.fetch_all(_LIST_READY)
            self._replicas = self._merge(rows)
            self._drawn = told
        finally:
            self._refreshing = None

    def _merge(self, rows: list[Row]) -> dict[UUID, list[Replica]]:
        """The new picture, with the counts of the replicas that are still in it."""
        known = {one.id: one for many in self._replicas.values() for one in many}
        picture: dict[UUID, list[Replica]] = {}
        for row in rows:
            replica = known.get(row["id"])
            addresses = (row["triton_http_url"], row["triton_grpc_url"])
            if replica is None or (replica.base_url, replica.grpc_address) != addresses:
                replica = Replica(
                    row["id"],
                    row["version_id"],
                    row["triton_http_url"],
                    row["batch_size_max"],
                    row["coalesces"],
                    row["triton_grpc_url"],
                )
            picture.setdefault(row["version_id"], []).append(replica)
        return picture


def _choose(candidates: list[Replica], besides: Replica | None, now_s: float) -> Replica:
    """The one that is expected to finish first; those that have just failed are asked last."""
    expected = {one.id: one.calls.expect_s() for one in candidates}
    # Of one that was not measured yet nothing is known but its load.
    known = [one.calls.pace_s for one in candidates if expected[one.id]]
    typical_s = min(known, default=1.0)
    return min(
        candidates,
        key=lambda one: (
            one is besides,
            one.penalty_until_s > now_s,
            expected[one.id] or typical_s * (1 + one.calls.load),
            one.calls.load,
        ),
    )
