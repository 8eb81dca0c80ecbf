"""Keys in AWS KMS: one customer managed key per ref, named by an alias.

The context is KMS's encryption context. A key cannot be deleted at once: it is scheduled with
the shortest window, and from then on nobody can use it. After the window KMS deletes its
alias too, so that a second alias, on a marker key that stays, keeps the name taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from inference.keybroker.errors import KmsUnavailableError
from inference.keybroker.kms.base import (
    ANSWER_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    TRIES_MAX,
    KeyDestroyedError,
    UnwrapError,
    check_ref,
)
from inference.keybroker.kms.settings import AwsSettings

# The shortest that KMS allows.
DELETION_WINDOW_DAYS = 7
# No ref holds a slash, so no key is ever named like a marker.
MARKER_FOLDER = "destroyed/"
MARKER_KEY = "markers/current"
# A key carries 50 aliases unless its owner asked for more; then another marker key is made.
_MARKER_TRIES = 3
_GONE_STATES = frozenset({"PendingDeletion", "PendingReplicaDeletion"})


class AwsKms:
    """See `KeyProvider`."""

    name: ClassVar[str] = "aws"

    def __init__(self, settings: AwsSettings) -> None:
        self._prefix = settings.alias_prefix
        self._client = boto3.client(
            "kms",
            region_name=settings.region,
            endpoint_url=settings.endpoint_url or None,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=ANSWER_TIMEOUT_S,
                retries={"total_max_attempts": TRIES_MAX, "mode": "standard"},
            ),
        )

    def ensure_key(self, ref: str) -> None:
        """See `KeyProvider.ensure_key`."""
        if self.is_destroyed(ref):
            raise KeyDestroyedError(ref)
        if self._find(self._alias(ref)) is None:
            self._create(self._alias(ref), f"Strongroom: {ref}")
        # Whoever destroyed it meanwhile has set the marker first.
        if self.is_destroyed(ref):
            self._schedule_deletion(ref)
            raise KeyDestroyedError(ref)

    def wrap(self, ref: str, plain: bytes, context: Mapping[str, str]) -> bytes:
        """See `KeyProvider.wrap`."""
        answer = self._call(
            self._client.encrypt,
            KeyId=self._usable_key(ref),
            Plaintext=plain,
            EncryptionContext=dict(context),
        )
        return _bytes_of(answer, "CiphertextBlob")

    def unwrap(self, ref: str, blob: bytes, context: Mapping[str, str]) -> bytes:
        """See `KeyProvider.unwrap`."""
        key_id = self._usable_key(ref)
        try:
            answer = self._call(
                self._client.decrypt,
                # Named, so that KMS opens nothing with another key that we may use.
                KeyId=key_id,
                CiphertextBlob=blob,
                EncryptionContext=dict(context),
            )
        except ClientError as error:
            if _code_of(error) in ("InvalidCiphertextException", "IncorrectKeyException"):
                raise UnwrapError from None
            raise KmsUnavailableError("KMS does not decrypt.") from error
        if str(answer.get("KeyId")).rpartition("/")[2] != key_id:
            raise UnwrapError
        return _bytes_of(answer, "Plaintext")

    def destroy(self, ref: str) -> datetime | None:
        """See `KeyProvider.destroy`."""
        self._mark(ref)
        return self._schedule_deletion(ref)

    def is_destroyed(self, ref: str) -> bool:
        """See `KeyProvider.is_destroyed`."""
        if self._find(self._marker_alias(ref)) is not None:
            return True
        # Also where a person scheduled the deletion by other means.
        key = self._find(self._alias(ref))
        return key is not None and key["KeyState"] in _GONE_STATES

    def _usable_key(self, ref: str) -> str:
        # Looked at each time: a key is of no use to us before KMS itself refuses it.
        if self.is_destroyed(ref):
            raise KeyDestroyedError(ref)
        key = self._find(self._alias(ref))
        if key is None or key["KeyState"] != "Enabled":
            raise KmsUnavailableError("KMS has no such key, or it is disabled.")
        return str(key["KeyId"])

    def _create(self, alias: str, description: str) -> None:
        """Make a key and name it; of several that do so at once, the first one wins."""
        answer = self._call(
            self._client.create_key,
            Description=description,
            KeySpec="SYMMETRIC_DEFAULT",
            KeyUsage="ENCRYPT_DECRYPT",
        )
        key_id = _metadata_of(answer)["KeyId"]
        try:
            self._call(self._client.create_alias, AliasName=alias, TargetKeyId=key_id)
        except ClientError as error:
            self._delete_key(key_id)
            if _code_of(error) != "AlreadyExistsException":
                raise KmsUnavailableError("KMS does not name the key.") from error
        if self._find(alias) is None:
            raise KmsUnavailableError("KMS has not made the key.")

    def _mark(self, ref: str) -> None:
        """Take the name for ever."""
        alias, carrier = self._marker_alias(ref), f"{self._prefix}{MARKER_KEY}"
        for _ in range(_MARKER_TRIES):
            if self._find(alias) is not None:
                return
            key = self._find(carrier)
            if key is None:
                self._create(carrier, "Strongroom: carries the names of destroyed keys; unused")
                continue
            try:
                self._call(self._client.create_alias, AliasName=alias, TargetKeyId=key["KeyId"])
            except ClientError as error:
                match _code_of(error):
                    case "AlreadyExistsException":
                        return
                    case "LimitExceededException":
                        # The key and its aliases stay; the next ones go to another.
                        self._call(self._client.delete_alias, AliasName=carrier)
                    case _:
                        raise KmsUnavailableError("KMS does not mark the name.") from error
        if self._find(alias) is None:
            raise KmsUnavailableError("KMS has not marked the name.")

    def _schedule_deletion(self, ref: str) -> datetime | None:
        key = self._find(self._alias(ref))
        if key is None:
            return None
        if key["KeyState"] not in _GONE_STATES:
            self._delete_key(key["KeyId"])
            key = self._find(self._alias(ref))
        if key is None or key["KeyState"] not in _GONE_STATES:
            raise KmsUnavailableError("KMS has not scheduled the deletion.")
        final_at = key.get("DeletionDate")
        if not isinstance(final_at, datetime):
            raise KmsUnavailableError("KMS does not say when the key is deleted.")
        return final_at

    def _delete_key(self, key_id: str) -> None:
        self._call(
            self._client.schedule_key_deletion,
            KeyId=key_id,
            PendingWindowInDays=DELETION_WINDOW_DAYS,
        )

    def _find(self, alias: str) -> dict[str, Any] | None:
        try:
            answer = self._call(self._client.describe_key, KeyId=alias)
        except ClientError as error:
            if _code_of(error) == "NotFoundException":
                return None
            raise KmsUnavailableError("KMS does not describe the key.") from error
        return _metadata_of(answer)

    def _alias(self, ref: str) -> str:
        return self._prefix + check_ref(ref)

    def _marker_alias(self, ref: str) -> str:
        return f"{self._prefix}{MARKER_FOLDER}{check_ref(ref)}"

    def _call(self, call: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        """Call KMS; of its own refusals only those about a key reach the caller."""
        try:
            answer = call(**arguments)
        except ClientError as error:
            if _code_of(error) in _ABOUT_KEYS:
                raise
            raise KmsUnavailableError("KMS refuses the call.") from error
        except (BotoCoreError, ValueError, KeyError, TypeError, AttributeError) as error:
            # Rubbish breaks the client's own parsers in many ways.
            raise KmsUnavailableError("KMS does not answer as it should.") from error
        if not isinstance(answer, dict):
            raise KmsUnavailableError("KMS does not answer as it should.")
        return answer


_ABOUT_KEYS = frozenset(
    {
        "AlreadyExistsException",
        "IncorrectKeyException",
        "InvalidCiphertextException",
        "LimitExceededException",
        "NotFoundException",
    }
)


def _code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _metadata_of(answer: dict[str, Any]) -> dict[str, Any]:
    metadata = answer.get("KeyMetadata")
    if not (
        isinstance(metadata, dict)
        and isinstance(metadata.get("KeyId"), str)
        and isinstance(metadata.get("KeyState"), str)
    ):
        raise KmsUnavailableError("KMS's answer describes no key.")
    return metadata


def _bytes_of(answer: dict[str, Any], name: str) -> bytes:
    value = answer.get(name)
    if not isinstance(value, bytes) or not value:
        raise KmsUnavailableError(f"KMS's answer has no {name}.")
    return value
