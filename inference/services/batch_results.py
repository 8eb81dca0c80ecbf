"""Read what came out of a batch: from its file, or from its lines while there is none."""

from __future__ import annotations

from collections.abc import Iterator

from inference.models import Batch, File
from inference.selectors import batch as selectors
from inference.services import file as files

OUTPUT, ERRORS = "output", "errors"


def read(batch: Batch, what: str) -> Iterator[bytes]:
    """Output or errors, as JSON Lines in pieces. Where its file was deleted, without outputs.

    Args:
        batch: Also one that is not over: what is known by then.
        what: `OUTPUT` or `ERRORS`.

    Raises:
        FileGoneError: Its time is over.
        ObjectStoreUnavailableError: The store does not give it right now.
    """
    file = batch.output_file if what == OUTPUT else batch.error_file
    if file is not None:
        return _read_file(file)
    return selectors.iterate_output(batch) if what == OUTPUT else selectors.iterate_errors(batch)


def _read_file(file: File) -> Iterator[bytes]:
    # Opened before the first piece is asked for: what fails, fails in time to be said.
    stream = files.open_file(file)

    def read_pieces() -> Iterator[bytes]:
        with stream:
            yield from iter(lambda: stream.read(files.CHUNK_BYTES), b"")

    return read_pieces()
