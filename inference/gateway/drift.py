"""Count what the predictions of watched models look like, beside everything else.

A prediction is looked at after it was booked: a small copy of one of its rows waits in a short
queue, and a task of its own counts it. What does not fit is not counted. Nothing here is waited
for, and nothing that goes wrong here reaches a prediction.

Once a minute the counts of each version and hour are written as a part; a part has an id, so one
that is written again is written once. The accounts that asked are bits: each account has one of
63, chosen by a keyed hash, so that nobody is named, and the number of bits is never more than
that of the accounts.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import psycopg

from inference.core import drift
from inference.gateway.catalog import Offer
from inference.gateway.config import (
    DRIFT_FLUSH_S,
    DRIFT_PARTS_MAX,
    DRIFT_PER_S,
    DRIFT_PER_VERSION_S,
    DRIFT_VERSIONS_MAX,
    DRIFT_WAITING_BYTES_MAX,
    DRIFT_WAITING_MAX,
)
from inference.gateway.database import Database, DatabaseUnavailableError
from inference.gateway.prediction import Prediction
from inference.triton.tensors import Tensor
from marketplace.core.ids import new_id

logger = logging.getLogger(__name__)

_HOUR_S = 3_600
ACCOUNT_BITS = 63
# A row's own clips, by side and tensor.
Clips = Mapping[tuple[str, str], drift.Clip]

# Of models that are watched still; whoever ceased to watch wants nothing kept.
_WRITE = """
    INSERT INTO inference_driftpart
        (id, model_id, version_id, hour, scheme, predictions, accounts, sketch)
    SELECT p.* FROM unnest(%(ids)s::uuid[], %(models)s::uuid[], %(versions)s::uuid[],
        %(hours)s::timestamptz[], %(schemes)s::smallint[], %(predictions)s::integer[],
        %(accounts)s::bigint[], %(sketches)s::jsonb[]) AS p (id, model_id)
    WHERE EXISTS (SELECT FROM inference_driftwatch w WHERE w.model_id = p.model_id)
    ON CONFLICT DO NOTHING
"""


@dataclass(slots=True)
class Part:
    """What was counted of a version in an hour, since the last flush."""

    model_id: UUID
    version_id: UUID
    hour: datetime
    id: UUID = field(default_factory=new_id)
    predictions: int = 0
    accounts: int = 0
    sketch: drift.Sketch = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Item:
    """A prediction that waits to be counted."""

    offer: Offer
    account_id: UUID
    hour: datetime
    clips: Clips
    size_bytes: int


class DriftCounter:
    """Counts what this process answers.

    Args:
        database: Where parts are written.
        secret: The same in all gateways, so that an account has the same bit in each.
    """

    def __init__(self, database: Database, *, secret: str) -> None:
        self.database = database
        key = blake2b(secret.encode(), person=b"drift-accounts", digest_size=32).digest()
        self._base = blake2b(key=key, digest_size=8)
        self._waiting: deque[_Item] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._plans: dict[UUID, drift.Plan] = {}
        # On the clock of time.monotonic: from when on the next one is looked at.
        self._next_s: dict[UUID, float] = {}
        self._next_of_all_s = 0.0
        self._parts: dict[tuple[UUID, datetime], Part] = {}
        # Written, but nobody knows whether they arrived.
        self._left: deque[Part] = deque()
        self._lost = 0
        self._failed: dict[str, int] = {}
        self._lock = asyncio.Lock()

    def note(
        self,
        prediction: Prediction,
        batches: Sequence[Sequence[Tensor]],
        outputs: Sequence[Mapping[str, np.ndarray]],
    ) -> None:
        """Have a prediction counted that was booked, or not; never raises.

        An account's own predictions of its own model are its own.
        """
        offer = prediction.offer
        if not offer.watches_drift or offer.owner_id == prediction.caller.account_id:
            return
        try:
            if self._is_due(offer.version_id):
                self._take(offer, prediction.caller.account_id, batches, outputs)
        except Exception as error:  # noqa: BLE001 - A prediction does not fail because it is not counted.
            self._fail(error)

    async def run(self) -> None:
        """Count until cancelled, and flush once a minute."""
        flush_s = time.monotonic() + DRIFT_FLUSH_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, flush_s - time.monotonic())):
                    await self._wake.wait()
            self._wake.clear()
            await self.count_waiting()
            if time.monotonic() >= flush_s:
                flush_s = time.monotonic() + DRIFT_FLUSH_S
                try:
                    await self.flush()
                except Exception as error:  # noqa: BLE001 - The next flush may do better.
                    self._fail(error)

    async def close(self) -> None:
        """Write what was counted last."""
        await self.count_waiting()
        await self.flush()

    async def count_waiting(self) -> None:
        """Count what waits, one after the other; others have their turn between."""
        while self._waiting:
            item = self._waiting.popleft()
            self._waiting_bytes -= item.size_bytes
            try:
                self._count(item)
            except Exception as error:  # noqa: BLE001 - The others are counted all the same.
                self._fail(error)
            await asyncio.sleep(0)

    async def flush(self) -> None:
        """Write all parts; those that Postgres does not take wait for the next flush."""
        async with self._lock:
            self._tell()
            self._left.extend(self._parts.values())
            self._parts = {}
            while len(self._left) > DRIFT_PARTS_MAX:
                self._lost += self._left.popleft().predictions
            if not self._left:
                return
            parts = list(self._left)
            try:
                await self.database.write(_WRITE, _render(parts))
            except DatabaseUnavailableError:
                return
            except psycopg.Error as error:
                # It would be refused again.
                self._fail(error)
            for _ in parts:
                self._left.popleft()

    # --- One prediction -----------------------------------------------------------

    def _is_due(self, version_id: UUID) -> bool:
        """Whether this one is looked at: so many a second, evenly."""
        now_s = time.monotonic()
        if now_s < self._next_of_all_s or now_s < self._next_s.get(version_id, 0.0):
            return False
        if len(self._next_s) > DRIFT_VERSIONS_MAX:
            self._next_s = {key: at for key, at in self._next_s.items() if at > now_s}
        self._next_s[version_id] = now_s + 1 / DRIFT_PER_VERSION_S
        self._next_of_all_s = now_s + 1 / DRIFT_PER_S
        return True

    def _take(
        self,
        offer: Offer,
        account_id: UUID,
        batches: Sequence[Sequence[Tensor]],
        outputs: Sequence[Mapping[str, np.ndarray]],
    ) -> None:
        if len(self._waiting) >= DRIFT_WAITING_MAX:
            self._lost += 1
            return
        # One row of each prediction: a large batch is not many predictions.
        place = random.randrange(len(batches))  # noqa: S311 - chance, not a secret
        tensors = {one.name: one.data for one in batches[place]}
        row = random.randrange(max(1, batches[place][0].shape[0]))  # noqa: S311
        clips = self._plan(offer).clip(tensors, outputs[place], row)
        size_bytes = sum(one.size_bytes for one in clips.values())
        if self._waiting_bytes + size_bytes > DRIFT_WAITING_BYTES_MAX:
            self._lost += 1
            return
        hour = datetime.fromtimestamp(int(time.time()) // _HOUR_S * _HOUR_S, UTC)
        self._waiting.append(_Item(offer, account_id, hour, clips, size_bytes))
        self._waiting_bytes += size_bytes
        self._wake.set()

    def _count(self, item: _Item) -> None:
        offer = item.offer
        key = (offer.version_id, item.hour)
        part = self._parts.get(key)
        if part is None:
            if len(self._parts) >= DRIFT_VERSIONS_MAX:
                self._lost += 1
                return
            part = Part(offer.model_id, offer.version_id, item.hour)
        found = self._plan(offer).read(item.clips)
        self._parts[key] = part
        drift.count(part.sketch, found)
        part.predictions += 1
        part.accounts |= self._find_bit(offer.version_id, item.account_id)

    def _plan(self, offer: Offer) -> drift.Plan:
        plan = self._plans.get(offer.version_id)
        if plan is None:
            if len(self._plans) >= DRIFT_VERSIONS_MAX:
                self._plans.clear()
            plan = self._plans[offer.version_id] = drift.Plan(offer.interface)
        return plan

    def _find_bit(self, version_id: UUID, account_id: UUID) -> int:
        hashed = self._base.copy()
        hashed.update(version_id.bytes + account_id.bytes)
        return 1 << int.from_bytes(hashed.digest()) % ACCOUNT_BITS

    # --- What goes wrong ----------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        """Remember its name alone: what an error says may quote an input."""
        name = type(error).__name__
        self._failed[name] = self._failed.get(name, 0) + 1

    def _tell(self) -> None:
        if self._lost:
            logger.info("drift: %d predictions were not counted, for lack of time", self._lost)
        for name, number in self._failed.items():
            logger.warning("drift: %d predictions could not be counted (%s)", number, name)
        self._lost, self._failed = 0, {}


def _render(parts: Sequence[Part]) -> dict[str, list[Any]]:
    return {
        "ids": [one.id for one in parts],
        "models": [one.model_id for one in parts],
        "versions": [one.version_id for one in parts],
        "hours": [one.hour for one in parts],
        "schemes": [drift.SCHEME for _ in parts],
        "predictions": [one.predictions for one in parts],
        "accounts": [one.accounts for one in parts],
        "sketches": [
            orjson.dumps(one.sketch, option=orjson.OPT_NON_STR_KEYS).decode() for one in parts
        ],
    }
