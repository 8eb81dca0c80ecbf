"""Keep files of accounts: sealed before they are stored, opened piece by piece, deleted in time.

The store gets ciphertext only. Each file has a key of its own, which stands in its row, sealed by
the platform's secret and bound to the file: to delete the key is to delete every copy.
"""

from __future__ import annotations

import io
import logging
import re
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import IO, Any, Protocol
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.files import File as StoredFile
from django.db import transaction
from django.db.models import Count, Q, Sum

from inference.errors import (
    FileGoneError,
    FileLimitError,
    FileNameError,
    FileTooLargeError,
    ObjectStoreUnavailableError,
    RetentionZeroError,
)
from inference.models import File
from inference.models.file import (
    ACCOUNT_FILE_BYTES_MAX,
    ACCOUNT_FILES_MAX,
    CONTENT_TYPE_LENGTH_MAX,
    DEFAULT_LIFETIME,
    FILE_BYTES_MAX,
    NAME_LENGTH_MAX,
)
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit, export_file
from strongroom.sealing import floe

logger = logging.getLogger(__name__)

FOLDER = "files"
CHUNK_BYTES = 256 * 1024
DEFAULT_CONTENT_TYPE = "application/octet-stream"
RETRY_AFTER_S = 10
# A process that stored a file for so long is dead: its row and what it wrote can go.
STORING_MAX = timedelta(hours=6)
# One sweep's share; what is left is for the next one.
SWEEP_MAX = 500
_NONCE_BYTES = 12
# Source: RFC 9110, section 8.3.1; parameters other than these are of no use here.
_CONTENT_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+(; ?charset=[a-z0-9_-]+)?")


class Readable(Protocol):
    """A request's body, or any other source of bytes."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def store_file(
    account: Account,
    name: str,
    content_type: str,
    stream: Readable,
    purpose: str = File.Purpose.UPLOAD,
    expires_at: datetime | None = None,
    *,
    prediction_id: UUID | None = None,
) -> File:
    """Seal what comes and keep it; it is never wholly in memory.

    Args:
        account: Whose it is.
        name: For people and for downloads; no path.
        content_type: As `image/png`; empty where nobody knows.
        stream: The content, to its end.
        purpose: One of `File.Purpose`.
        expires_at: When it is deleted. Without one after a day, and never later than the account
            keeps anything.
        prediction_id: Which prediction gave it.

    Raises:
        RetentionZeroError: The account keeps nothing.
        FileNameError: The name or type is none.
        FileTooLargeError: More than a file may have.
        FileLimitError: More files or bytes than an account may have.
        ObjectStoreUnavailableError: Nothing was kept.
    """
    require_room(account)
    with Incoming() as incoming:
        with _failing_clearly():
            while chunk := stream.read(CHUNK_BYTES):
                incoming.write(chunk)
        return incoming.keep(
            account,
            name,
            content_type,
            purpose=purpose,
            expires_at=expires_at,
            prediction_id=prediction_id,
        )


class Incoming:
    """A file on its way: sealed as it comes, nobody's until it is kept. Close it.

    Args:
        file_id: Under which it will be known, where somebody has named it already.
    """

    def __init__(self, file_id: UUID | None = None) -> None:
        self._id, self._key = file_id or new_id(), secrets.token_bytes(floe.KEY_BYTES)
        self._end = ExitStack()
        with _failing_clearly():
            self._spool = self._end.enter_context(export_file.spool())
            self._writer = export_file.SealedWriter(self._spool, self._key, _context(self._id))

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, chunk: bytes) -> None:
        """Take some bytes.

        Raises:
            FileTooLargeError: More than a file may have.
            ObjectStoreUnavailableError: The disk takes no more.
        """
        with _failing_clearly():
            self._writer.write(chunk)
        if self._writer.size_bytes > FILE_BYTES_MAX:
            raise FileTooLargeError(f"A file has at most {FILE_BYTES_MAX} bytes.")

    def keep(
        self,
        account: Account,
        name: str,
        content_type: str,
        *,
        purpose: str = File.Purpose.UPLOAD,
        expires_at: datetime | None = None,
        prediction_id: UUID | None = None,
    ) -> File:
        """Store what came as a file of an account; see `store_file`."""
        name, content_type = check_name(name), check_content_type(content_type)
        now = utc_now()
        limit = now + read_lifetime_max(account)
        if account.retention_days == 0:
            raise RetentionZeroError
        file = File(
            id=self._id,
            account=account,
            name=name,
            purpose=purpose,
            content_type=content_type,
            sha256=self._writer.close(),
            size_bytes=self._writer.size_bytes,
            store_key=f"{FOLDER}/{account.pk}/{self._id}-{secrets.token_hex(8)}",
            sealed_key=_seal_key(self._id, self._key),
            prediction_id=prediction_id,
            created_at=now,
            expires_at=min(expires_at or now + DEFAULT_LIFETIME, limit),
        )
        _take_place(file)
        try:
            with _failing_clearly():
                _put(file, self._spool)
        except BaseException:
            delete_file(file)
            raise
        return file

    def close(self) -> None:
        """Forget it; what was kept stays."""
        self._end.close()


def keep_upload(
    incoming: Incoming,
    *,
    actor: Actor,
    account: Account,
    name: str,
    content_type: str,
    expires_at: datetime,
) -> File:
    """Keep what somebody has put up; raises what `store_file` raises."""
    file = incoming.keep(account, name, content_type, expires_at=expires_at)
    _note(actor, "file.add", file)
    return file


def delete_upload(*, actor: Actor, file: File) -> None:
    """Delete a file because somebody says so."""
    delete_file(file)
    _note(actor, "file.delete", file)


def open_file(file: File) -> IO[bytes]:
    """The content of a file as a stream that can be read from anywhere; close it.

    Raises:
        FileGoneError: It was deleted, has expired, or the platform's secret was changed since.
        ObjectStoreUnavailableError: The store does not give it right now.
    """
    if file.state != File.State.READY or file.expires_at <= utc_now():
        raise FileGoneError
    key = _open_key(file)
    try:
        stored = export_file.storage().open(file.store_key, "rb")
    except FileNotFoundError:
        raise FileGoneError from None
    except OSError as error:
        raise _unavailable(error) from error
    return io.BufferedReader(_SealedReader(stored, key, file), CHUNK_BYTES)


def delete_file(file: File) -> bool:
    """Delete a file for good; False where the store keeps its ciphertext for now.

    Nothing opens it any more in any case, and the upkeep asks the store again.
    """
    File.objects.filter(pk=file.pk).update(state=File.State.DELETING, sealed_key=b"")
    try:
        export_file.storage().delete(file.store_key)
    except OSError as error:
        logger.warning("file %s stays in the store for now: %s", file.pk, error)
        return False
    File.objects.filter(pk=file.pk).delete()
    return True


def delete_files(account: Account) -> int:
    """Delete all files of an account; returns how many the store still keeps."""
    return sum(not delete_file(one) for one in File.objects.filter(account=account).iterator())


def sweep_files() -> int:
    """Delete what has expired, and what was begun or ended and never finished."""
    now = utc_now()
    old = Q(expires_at__lte=now) | Q(state=File.State.DELETING)
    stuck = Q(state=File.State.STORING, created_at__lt=now - STORING_MAX)
    found = File.objects.filter(old | stuck).order_by("expires_at")[:SWEEP_MAX]
    return sum(delete_file(one) for one in list(found))


def read_lifetime_max(account: Account) -> timedelta:
    """How long a file of the account may live at most."""
    return timedelta(days=account.retention_days)


def require_room(account: Account, size_bytes: int = 0) -> None:
    """Refuse a file that the account has no place for.

    Raises:
        RetentionZeroError: It keeps nothing.
        FileLimitError: It has as many files or bytes as it may have.
    """
    if account.retention_days == 0:
        raise RetentionZeroError
    found = File.objects.filter(account=account).aggregate(count=Count("id"), sum=Sum("size_bytes"))
    if found["count"] >= ACCOUNT_FILES_MAX:
        raise FileLimitError(f"An account has at most {ACCOUNT_FILES_MAX} files. Delete some.")
    if (found["sum"] or 0) + size_bytes > ACCOUNT_FILE_BYTES_MAX:
        raise FileLimitError(
            f"The files of an account have at most {ACCOUNT_FILE_BYTES_MAX} bytes together."
        )


def check_name(name: str) -> str:
    """A name without the path that some clients put before it.

    Raises:
        FileNameError: Nothing is left, it is too long, or holds what no line holds.
    """
    name = re.split(r"[/\\]", name)[-1].strip()
    if not name or len(name) > NAME_LENGTH_MAX:
        raise FileNameError(f"A file's name has 1 to {NAME_LENGTH_MAX} characters.")
    if name in (".", "..") or any(unicodedata.category(one) in ("Cc", "Cf", "Cs") for one in name):
        raise FileNameError("The file's name holds characters that cannot be shown.")
    return name


def check_content_type(content_type: str) -> str:
    """A media type in small letters; the one of plain octets where nothing is said.

    Raises:
        FileNameError: It is none.
    """
    content_type = content_type.strip().lower() or DEFAULT_CONTENT_TYPE
    is_short = len(content_type) <= CONTENT_TYPE_LENGTH_MAX
    if not is_short or not _CONTENT_TYPE.fullmatch(content_type):
        raise FileNameError("The content type is none, such as image/png.")
    return content_type


class _SealedReader(io.RawIOBase):
    """The plain bytes of a sealed file; one segment of it is in memory at a time."""

    def __init__(self, stored: StoredFile, key: bytes, file: File) -> None:
        self._stored = stored
        self._size_bytes = file.size_bytes
        self._count = floe.PRODUCTION.count_segments(file.size_bytes)
        self._message = floe.Message.open(
            key, _context(file.pk).encode(), stored.read(floe.HEADER_BYTES)
        )
        self._position = 0
        self._plain = bytearray()
        self._segment = -1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        self._position = max(0, start[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, out: Any, /) -> int:
        view = memoryview(out).cast("B")
        # An empty file has a segment too, which says that it ended there.
        if self._position >= self._size_bytes and (self._size_bytes or self._segment == 0):
            return 0
        segment, begin = divmod(self._position, floe.PRODUCTION.plain_bytes)
        if segment != self._segment:
            self._open_segment(segment)
        piece = memoryview(self._plain)[begin : begin + len(view)]
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._stored.close()
            self._message.wipe()
        super().close()

    def _open_segment(self, segment: int) -> None:
        begin = segment * floe.PRODUCTION.plain_bytes
        plain = bytearray(min(floe.PRODUCTION.plain_bytes, self._size_bytes - begin))
        at = floe.HEADER_BYTES + segment * floe.SEGMENT_BYTES
        try:
            self._stored.seek(at)
            sealed = self._stored.read(len(plain) + floe.OVERHEAD_BYTES)
        except OSError as error:
            raise _unavailable(error) from error
        self._message.open_segment(
            segment, sealed, memoryview(plain), is_final=segment == self._count - 1
        )
        self._plain, self._segment = plain, segment


def _note(actor: Actor, action: str, file: File) -> None:
    """What people do is in the log; services come and go with thousands of files."""
    if actor.user is None or actor.api_key is not None:
        return
    payload = {"file": file.public_id, "size_bytes": file.size_bytes}
    with transaction.atomic():
        audit.record(actor.label, action, file, account_id=file.account_id, payload=payload)


def _take_place(file: File) -> None:
    """Write the row before the content, so that no content is ever without one."""
    with transaction.atomic():
        # Takes turns per account, so that two that come at once stay within the limits; and sees
        # what the account has decided meanwhile.
        account = Account.objects.select_for_update(no_key=True).get(pk=file.account_id)
        require_room(account, file.size_bytes)
        file.save(force_insert=True)


def _put(file: File, spool: IO[bytes]) -> None:
    spool.flush()
    spool.seek(0)
    export_file.storage().save(file.store_key, StoredFile(spool, name="file"))
    ready = File.objects.filter(pk=file.pk, state=File.State.STORING)
    if not ready.update(state=File.State.READY):
        # Deleted meanwhile, with its account.
        raise FileGoneError
    file.state = File.State.READY


@contextmanager
def _failing_clearly() -> Iterator[None]:
    """Turn what a disk or a store says into a refusal; what is one already passes."""
    try:
        yield
    except OSError as error:
        raise _unavailable(error) from error


def _unavailable(error: OSError) -> ObjectStoreUnavailableError:
    logger.warning("the store of files fails: %s", error)
    return ObjectStoreUnavailableError(retry_after_s=RETRY_AFTER_S)


def _context(file_id: UUID) -> str:
    return f"strongroom/file/1/{file_id}"


def _seal_key(file_id: UUID, key: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher().encrypt(nonce, key, file_id.bytes)


def _open_key(file: File) -> bytes:
    sealed = bytes(file.sealed_key)
    try:
        return _cipher().decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], file.pk.bytes)
    except (InvalidTag, ValueError):
        raise FileGoneError from None


def _cipher() -> AESGCM:
    key = HKDF(SHA256(), 32, salt=None, info=b"strongroom: keys of files")
    return AESGCM(key.derive(settings.SECRET_KEY.encode()))
