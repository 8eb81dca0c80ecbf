"""What a stream has delivered so far, and what it adds up to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from inference.gateway.errors import StreamKeyedError
from inference.gateway.http import Request
from inference.gateway.prediction import Prediction
from inference.gateway.triton_stream import Part
from inference.triton import tensors
from inference.triton.errors import OutputError
from strongroom.interface import Interface


def drop_claim(prediction: Prediction) -> None:
    """Take the claim from a stream that nobody has given a key.

    Raises:
        StreamKeyedError: Somebody has.
    """
    if prediction.claim is not None and not prediction.claim.is_implied:
        raise StreamKeyedError
    prediction.claim = None


class Outlet(Protocol):
    """Where the pieces of an answer go; as events of HTTP, or as messages of gRPC."""

    # What is answered.
    request: Request

    def on_gone(self, tell: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `tell` once if the client leaves while the block runs."""

    async def send(self, event: Any, /) -> None:
        """Send what was made of a piece; raises where nobody is there."""


class Delivery:
    """Hands the pieces of one answer to the client, and keeps them.

    Args:
        interface: Of the version; it has an output that is streamed.
        events: Where the pieces go.
        render: Makes of a piece what is sent.
    """

    def __init__(self, interface: Interface, events: Outlet, render: Callable[[str], Any]) -> None:
        assert interface.streamed_output is not None
        self.events = events
        # Whether anything of the answer was handed to a client that was there.
        self.has_begun = False
        self._interface = interface
        self._render = render
        self._streamed = interface.streamed_output.name
        self._pieces: list[str] = []
        # What came besides the pieces; the last word of each output counts.
        self.beside: Part = {}

    async def take(self, part: Part) -> None:
        """Hand one part on.

        Raises:
            ClientGoneError: Nobody is there.
            OutputError: It is no text.
        """
        given = part.pop(self._streamed, None)
        piece = None if given is None else self._read(given)
        if piece:
            await self.events.send(self._render(piece))
            self.has_begun = True
            self._pieces.append(piece)
        # Not before it was delivered: it may say how much there is so far.
        self.beside |= part

    @property
    def piece_count(self) -> int:
        """How many pieces were delivered."""
        return len(self._pieces)

    @property
    def outputs(self) -> Part:
        """All of the answer's one row, as a call without a stream would have come back."""
        text = np.array([["".join(self._pieces).encode()]], dtype=np.object_)
        return {**self.beside, self._streamed: text}

    def finish(self) -> dict[str, Any]:
        """The whole answer, as a call without a stream would have given it.

        Raises:
            OutputError: It is not what the interface promises.
        """
        rows = tensors.decode(self._interface, self.outputs)
        if len(rows) != 1:
            raise OutputError(f"the model answered {len(rows)} rows to one")
        return rows[0]

    def _read(self, given: np.ndarray) -> str:
        if given.dtype != np.object_ or given.shape != (1, 1):
            raise OutputError(f"a piece of {self._streamed} is not one text")
        try:
            return bytes(given[0, 0]).decode()
        except UnicodeDecodeError as error:
            raise OutputError(f"a piece of {self._streamed} is no UTF-8 text") from error
