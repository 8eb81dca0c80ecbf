"""How many calls a replica gets at once; the others wait here, where they can be called back.

Triton's own queue could be bounded as well, but then its batcher sleeps through requests for
half a second at a time (docs/adr/0004). It gets just enough calls to make its next batch
while one runs, and so has hardly a queue: a call whose time is up leaves ours without ever
having cost the replica anything.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from inference.gateway.config import WAITING_MAX
from inference.triton.errors import QueueFullError, TritonDeadlineError

_RETRY_S = 1


class Slots:
    """The calls of one replica, served in the order in which they came.

    Args:
        count: Calls that may be at the replica.
        waiting_max: Calls that may wait for a slot.
    """

    def __init__(self, count: int, *, waiting_max: int = WAITING_MAX) -> None:
        self.count = count
        self.waiting_max = waiting_max
        self.taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def load(self) -> int:
        """Calls that run or wait."""
        return self.taken + len(self._waiting)

    async def enter(self, deadline_s: float) -> None:
        """Return with a slot, which `leave` gives back.

        Args:
            deadline_s: On the clock of `time.monotonic`.

        Raises:
            QueueFullError: Too many wait already.
            TritonDeadlineError: Time was up before it was this call's turn.
        """
        if self.taken < self.count:
            self.taken += 1
            return
        if len(self._waiting) >= self.waiting_max:
            raise QueueFullError(retry_after_s=_RETRY_S)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave()  # Its turn came at the same moment.
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise TritonDeadlineError(
                    "The request waited in the model's queue for too long."
                ) from None
            raise

    def leave(self) -> None:
        """Give a slot back, to who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.taken -= 1

    def keep(self) -> Callable[[], None]:
        """Count a call that nobody waits for any more; returns what ends it."""
        self.taken += 1
        return self.leave
