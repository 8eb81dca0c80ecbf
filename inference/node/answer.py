"""What a model that streams has said so far, and its way to those who watch.

The platform hears of it a few times a second. It may also not: what counts is the whole answer,
which is handed in at the end, and what has not come through until then comes with that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

import numpy as np

from inference.node.errors import RefusedError, UnreachableError
from inference.node.log import event
from inference.triton.errors import OutputError

logger = logging.getLogger("node.answer")

# Between two appends: people read no faster.
APPEND_EVERY_S = 0.25
# After one that came to nothing.
TROUBLE_WAIT_S = 2.0
# Of one chunk, at most four octets each; of one append. Together the most that is taken.
CHUNK_LENGTH_MAX = 16_384
CHUNKS_MAX = 4
_OUT_OF_ORDER = "output_out_of_order"

Part = dict[str, np.ndarray]


class Answer:
    """The parts of one answer.

    Args:
        streamed: The output that comes in pieces.
    """

    def __init__(self, streamed: str) -> None:
        self._streamed = streamed
        self._pieces: list[str] = []
        # What came besides the pieces; the last word of each output counts.
        self._beside: Part = {}
        # Whether it came to its end.
        self.is_whole = False
        self.has_more = threading.Event()

    @property
    def piece_count(self) -> int:
        """How many pieces there are."""
        return len(self._pieces)

    def take(self, part: Part) -> None:
        """Keep one part.

        Raises:
            OutputError: It is no text.
        """
        given = part.pop(self._streamed, None)
        piece = "" if given is None else self._read(given)
        if piece:
            self._pieces.append(piece)
            self.has_more.set()
        self._beside |= part

    @property
    def outputs(self) -> Part:
        """All of it, as a call that does not stream has it; nothing where it said nothing."""
        if not (self._pieces or self.is_whole):
            return {}
        text = np.array([["".join(self._pieces).encode()]], dtype=np.object_)
        return {**self._beside, self._streamed: text}

    def cut(self, after: int) -> tuple[str, int]:
        """What was said after so many pieces, and how many there are with it."""
        pieces = self._pieces[after:]
        return "".join(pieces), after + len(pieces)

    def _read(self, given: np.ndarray) -> str:
        if given.dtype != np.object_ or given.shape != (1, 1):
            raise OutputError(f"a piece of {self._streamed} is not one text")
        try:
            return bytes(given[0, 0]).decode()
        except UnicodeDecodeError as error:
            raise OutputError(f"a piece of {self._streamed} is no UTF-8 text") from error


class Append(Protocol):
    """`JobQueue.append`."""

    def __call__(self, job_id: UUID, epoch: int, number: int, chunks: list[str], /) -> str: ...


class Appender:
    """Tells the platform what an answer has come to, from a thread of its own.

    Args:
        append: Takes chunks, the first of which has a number.
        job_id: Whose answer it is.
        epoch: Of the lease.
        answer: The answer.
        stop: Called with canceled or lost, if the platform says so.
    """

    def __init__(
        self,
        append: Append,
        job_id: UUID,
        epoch: int,
        answer: Answer,
        stop: Callable[[str], None],
    ) -> None:
        self._append = append
        self._job_id = job_id
        self._epoch = epoch
        self._answer = answer
        self._stop = stop
        # As they were cut: one that is sent again is the same.
        self._chunks: list[str] = []
        self._cut_count = 0
        # So many of them are there.
        self._known = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="append", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Say no more; what is on its way may still arrive."""
        self._over.set()
        self._answer.has_more.set()

    def _run(self) -> None:
        while True:
            self._answer.has_more.wait()
            self._answer.has_more.clear()
            self._take()
            while self._known < len(self._chunks) and not self._over.is_set():
                wait_s = self._send()
                if wait_s is None or self._over.wait(wait_s):
                    return
                self._take()
            if self._over.is_set():
                return

    def _take(self) -> None:
        text, self._cut_count = self._answer.cut(self._cut_count)
        for start in range(0, len(text), CHUNK_LENGTH_MAX):
            self._chunks.append(text[start : start + CHUNK_LENGTH_MAX])

    def _send(self) -> float | None:
        """Send what is next; how long to wait then, None for ever."""
        chunks = self._chunks[self._known : self._known + CHUNKS_MAX]
        try:
            word = self._append(self._job_id, self._epoch, self._known, chunks)
        except UnreachableError:
            return TROUBLE_WAIT_S
        except RefusedError as error:
            if error.code == _OUT_OF_ORDER and self._known:
                # It has forgotten: from the beginning. What it has not is taken once.
                self._known = 0
                return APPEND_EVERY_S
            event(logger, "answer.refused", level=logging.WARNING, job=self._job_id, error=error)
            return None
        match word:
            case "kept":
                self._known += len(chunks)
                return APPEND_EVERY_S
            case "away":
                return TROUBLE_WAIT_S
            case "cancel":
                self._stop("canceled")
            case "stale":
                self._stop("lost")
        return None
