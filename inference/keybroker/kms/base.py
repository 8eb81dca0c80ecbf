"""What a KMS must do for us, and how the broker calls one without waiting for it itself.

A provider wraps and unwraps some kilobytes under a key that never leaves it. Its calls block;
`Kms` runs them in threads, each with an end, and believes no answer that it can check.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypeVar

from inference.keybroker.errors import KmsUnavailableError

REF_PATTERN = re.compile(r"^[a-z0-9][a-z0-9-]{0,79}$")
# Of a remote provider: to reach it, to be answered, and how often a call is tried.
CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 5.0
TRIES_MAX = 2
# One operation may take a few calls; whoever drips its answers is not waited for longer.
OPERATION_TIMEOUT_S = 30.0
# What a provider makes of a private key of 96 bytes stays far below.
BLOB_BYTES_MAX = 8192

T = TypeVar("T")


class KeyDestroyedError(Exception):
    """The key does not exist any more: what it wrapped cannot be opened by anyone."""


class UnwrapError(Exception):
    """The blob was not wrapped under this key for this context."""


class KeyProvider(Protocol):
    """What a KMS must do for us. A `ref` names a key; a context is bound to each wrap.

    Each method raises KmsUnavailableError where the KMS does not answer, refuses us, or
    answers something that cannot be right; then nothing was changed that a repetition
    would not bring about as well.
    """

    name: ClassVar[str]

    def ensure_key(self, ref: str) -> None:
        """Make the key if there is none; raises KeyDestroyedError if there was one."""

    def wrap(self, ref: str, plain: bytes, context: Mapping[str, str]) -> bytes:
        """Seal up to some kilobytes under the key; raises KeyDestroyedError."""

    def unwrap(self, ref: str, blob: bytes, context: Mapping[str, str]) -> bytes:
        """Open what `wrap` sealed under the same context; raises the two errors above."""

    def destroy(self, ref: str) -> datetime | None:
        """Destroy the key for ever, and its name also where there never was a key.

        Repeating it is harmless. Returns when nobody can undo it any more, if that is later.
        """

    def is_destroyed(self, ref: str) -> bool:
        """Whether `destroy` was called for this name."""


class Kms:
    """A provider for asynchronous code.

    Args:
        provider: Does the work, in threads.
    """

    def __init__(self, provider: KeyProvider) -> None:
        self._provider = provider

    @property
    def name(self) -> str:
        """Which provider holds the keys."""
        return self._provider.name

    async def ensure_key(self, ref: str) -> None:
        """See `KeyProvider.ensure_key`."""
        await self._run(self._provider.ensure_key, ref)

    async def wrap(self, ref: str, plain: bytes, context: Mapping[str, str]) -> bytes:
        """See `KeyProvider.wrap`. What was sealed is opened once before anyone relies on it."""
        blob = await self._run(self._provider.wrap, ref, plain, context)
        if not (isinstance(blob, bytes) and 0 < len(blob) <= BLOB_BYTES_MAX):
            raise KmsUnavailableError("The key store's answer is no wrapped key.")
        try:
            again = await self.unwrap(ref, blob, context, size_bytes=len(plain))
        except UnwrapError:
            again = b""
        if not hmac.compare_digest(again, plain):
            raise KmsUnavailableError("The key store does not open what it has sealed.")
        return blob

    async def unwrap(
        self, ref: str, blob: bytes, context: Mapping[str, str], *, size_bytes: int
    ) -> bytes:
        """See `KeyProvider.unwrap`; an answer of another size is none."""
        plain = await self._run(self._provider.unwrap, ref, blob, context)
        if not (isinstance(plain, bytes) and len(plain) == size_bytes):
            raise KmsUnavailableError("The key store's answer is no key.")
        return plain

    async def destroy(self, ref: str) -> datetime | None:
        """See `KeyProvider.destroy`."""
        return await self._run(self._provider.destroy, ref)

    async def is_destroyed(self, ref: str) -> bool:
        """See `KeyProvider.is_destroyed`."""
        return await self._run(self._provider.is_destroyed, ref)

    async def _run(self, call: Callable[..., T], *arguments: Any) -> T:
        try:
            async with asyncio.timeout(OPERATION_TIMEOUT_S):
                return await asyncio.to_thread(call, *arguments)
        except TimeoutError as error:
            raise KmsUnavailableError("The key store does not answer in time.") from error


def check_ref(ref: str) -> str:
    """A ref is made by us, never by users; it becomes part of paths and names."""
    assert REF_PATTERN.match(ref), "refs are made by us"
    return ref
