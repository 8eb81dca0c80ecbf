"""Files that a prediction gives: their addresses are known at once, their contents kept in time.

They are kept before it is booked, so that no answer that is charged names one that is not there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from uuid import UUID

from inference.gateway.files import Files
from marketplace.core.ids import new_id
from strongroom.interface import AUDIO, Output

DAY_S = 24 * 3600
_ENDINGS = {AUDIO: "wav"}


@dataclass(slots=True)
class OutputFiles:
    """What one prediction gives as files, for as long as its account keeps anything."""

    files: Files
    account_id: UUID
    prediction_id: UUID
    retention_days: int
    _waiting: list[tuple[UUID, str, str, bytes]] = field(default_factory=list)

    def keep(self, one: Output, octets: bytes) -> str:
        """Take a file; its address, good until the account keeps it no more."""
        file_id = new_id()
        name = f"{one.name.replace('/', '_')}.{_ENDINGS.get(one.media_type, 'png')}"
        self._waiting.append((file_id, name, one.media_type, octets))
        # To the second, and so a little sooner than the file's own end.
        expires_s = int(time.time()) + self.retention_days * DAY_S
        return self.files.link_to(file_id, expires_s)

    async def store(self) -> None:
        """Have them kept.

        Raises:
            FilesUnavailableError: One was not.
        """
        while self._waiting:
            file_id, name, media_type, octets = self._waiting[0]
            await self.files.keep_output(
                self.account_id, file_id, self.prediction_id, name, media_type, octets
            )
            del self._waiting[0]
