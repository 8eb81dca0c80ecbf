"""What the loader asks of a runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from inference.serving.decryption import PlainFile
from strongroom.interface import Interface

Arrays = list[np.ndarray]
IsCancelled = Callable[[], bool]

# Below this size of all files, starting threads for one call costs more than it saves.
SINGLE_THREAD_BYTES = 1024 * 1024


class Runtime(Protocol):
    """One way to run a model. The loader calls the methods in this order."""

    # Whether rows of different requests may be run in one call.
    can_batch: bool

    def import_libraries(self) -> None:
        """Import everything that running will need; afterwards no file can be read."""

    def validate(self, files: Sequence[PlainFile], interface: Interface) -> dict[str, Any]:
        """Check the plain files; nothing is built yet.

        Returns:
            What was found, for the onboarding log: counts and names, no content.

        Raises:
            ArtifactError: A file may not be served.
        """

    def build(self) -> None:
        """Build the model out of the validated files.

        Raises:
            LoadError: The library refuses it.
        """

    def run(self, inputs: Arrays, is_cancelled: IsCancelled) -> Arrays:
        """Run rows.

        Args:
            inputs: One array for each input of the interface, in its order, with a
                leading row axis.
            is_cancelled: Asked between steps of a long run.

        Returns:
            One array for each wire output, in its order, with the same row axis.

        Raises:
            RequestError: These rows cannot be answered.
        """

    def close(self) -> None:
        """Let go of the model."""


class StreamingRuntime(Runtime, Protocol):
    """A runtime whose models can give their answer while they write it."""

    def stream(self, inputs: Arrays, is_cancelled: IsCancelled) -> Iterator[dict[str, np.ndarray]]:
        """Run one row.

        Args:
            inputs: As for `run`.
            is_cancelled: Asked between tokens.

        Yields:
            Arrays by wire output. Each holds a further piece of the streamed text, and the
            last, which may hold an empty one, every other output as well.

        Raises:
            RequestError: The row cannot be answered, or not to its end.
        """
