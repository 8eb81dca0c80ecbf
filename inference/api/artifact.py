"""A creator's own artifact, as it was pushed: to recover a model, or to seal it anew."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import IO, Any

from django.core.files import File
from django.http import FileResponse, HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.errors import RangeNotSatisfiableError
from inference.selectors import artifact as artifacts
from inference.services import object_store
from marketplace.api.authentication import actor_of

# One range, from a byte on; clients that were cut off ask for nothing else.
_RANGE = re.compile(r"bytes=([0-9]{1,12})-([0-9]{1,12})?")


class ArtifactView(APIView):
    def get(self, request: Request, owner: str, name: str, number: int) -> Response:
        """The signed manifest, the creator's wrap of the data key, and the parts."""
        found = artifacts.access_artifact(actor_of(request), owner, name, number)
        answer = Response(artifacts.describe_artifact(found))
        answer["Cache-Control"] = "private, no-store"
        return answer


class Slice:
    """So many bytes of an open file, from where it stands; closing it closes the file."""

    def __init__(self, file: File | IO[bytes], size_bytes: int) -> None:
        self._file = file
        self._left_bytes = size_bytes

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        data: bytes = self._file.read(min(size, self._left_bytes))
        self._left_bytes -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PartResponse(FileResponse):
    """Ciphertext, in chunks that are worth a system call."""

    block_size = object_store.CHUNK_BYTES


class ArtifactPartView(APIView):
    def get(
        self, request: Request, owner: str, name: str, number: int, file_index: int, part: int
    ) -> HttpResponse | PartResponse:
        """The ciphertext of one part, or of the rest of it, streamed."""
        row = artifacts.access_part(actor_of(request), owner, name, number, file_index, part)
        first, last = read_range(request.headers, row.sha256, row.size_bytes)
        try:
            file = object_store.open_part(row.storage_name)
        except FileNotFoundError:
            raise artifacts.gone() from None
        file.seek(first)
        is_whole = (first, last) == (0, row.size_bytes - 1)
        headers: dict[str, Any] = {
            "Content-Length": last - first + 1,
            "ETag": f'"{row.sha256}"',
            "X-Part-SHA256": row.sha256,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-store",
        }
        if not is_whole:
            headers["Content-Range"] = f"bytes {first}-{last}/{row.size_bytes}"
        return PartResponse(
            Slice(file, last - first + 1),
            status=200 if is_whole else 206,
            content_type="application/octet-stream",
            headers=headers,
        )


def read_range(headers: Mapping[str, str], sha256: str, size_bytes: int) -> tuple[int, int]:
    """The first and the last byte that are asked for; all where no range is understood.

    Raises:
        RangeNotSatisfiableError: It begins behind the part, or ends before it begins.
    """
    found = _RANGE.fullmatch(headers.get("Range", ""))
    is_other = headers.get("If-Range", f'"{sha256}"') != f'"{sha256}"'
    if found is None or is_other:
        return 0, size_bytes - 1
    first = int(found[1])
    last = min(int(found[2]), size_bytes - 1) if found[2] else size_bytes - 1
    if not first <= last:
        raise RangeNotSatisfiableError(f"There are {size_bytes} bytes.")
    return first, last
