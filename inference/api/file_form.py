"""A file in a form, sealed while it comes: no part of it is ever on a disk in clear."""

from __future__ import annotations

from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler

from inference.errors import FileMissingError
from inference.services.file import Incoming

# Replicate's clients call it `content`, OpenAI's `file`. Replicate's send `metadata` beside it,
# which is read and forgotten.
FIELDS = ("content", "file")


class SealingHandler(FileUploadHandler):
    """Takes the one file of a form; what else comes as a file is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.incoming: Incoming | None = None
        self.name = ""
        self.kind = ""
        self._is_wanted = False

    def new_file(self, field_name: str, file_name: str, content_type: str, *rest: Any) -> None:
        """Begin with a part of the form that is a file."""
        super().new_file(field_name, file_name, content_type, *rest)
        self._is_wanted = field_name in FIELDS
        if not self._is_wanted:
            return
        if self.incoming is not None:
            raise FileMissingError
        self.incoming = Incoming()
        self.name, self.kind = file_name, content_type or ""

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        """Seal some bytes; nothing is handed on."""
        if self._is_wanted and self.incoming is not None:
            self.incoming.write(raw_data)

    def file_complete(self, file_size: int) -> UploadedFile | None:
        """The end of a part; it waits in `incoming` for whoever may keep it."""
        return None

    def close(self) -> None:
        """Forget what was not kept."""
        if self.incoming is not None:
            self.incoming.close()
