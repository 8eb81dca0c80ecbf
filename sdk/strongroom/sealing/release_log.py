"""The release log of a version: each time its key was asked for, in a chain that shows tampering.

Every entry names the hash of the one before it and is signed by the platform when it is
written. So an entry cannot be changed, removed or put in between without breaking the chain,
and a chain cannot be written anew without the platform's key. What is cut off at the end is
noticed by the checkpoint, which the key broker signs anew for each export, and by comparing
with an earlier export.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from strongroom.errors import StrongroomError
from strongroom.sealing import signature
from strongroom.sealing.canonical import canonicalize
from strongroom.sealing.errors import CanonicalError

FORMAT = "strongroom-release-log/1"
# The chain of requests that belong to no version: its peers did not prove who they are.
NOBODY = UUID(int=0)
ENTRY_TYPE = "application/vnd.strongroom.release+json"
CHECKPOINT_TYPE = "application/vnd.strongroom.release-checkpoint+json"
# What is hashed of an entry, besides the chain's name and the hash before it.
MEMBERS = (
    "seq",
    "at",
    "outcome",
    "reason_code",
    "node_id",
    "node_name",
    "replica_id",
    "purpose",
    "loader_digest",
    "evidence",
    "lease_id",
    "lease_expires_at",
)
CHECKPOINT_MEMBERS = ("artifact_id", "seq", "hash", "at")


class ReleaseLogError(StrongroomError):
    """A log that is not as the platform wrote it; `seq` is the first entry at fault."""

    def __init__(self, code: str, detail: str, seq: int | None = None) -> None:
        super().__init__(code, detail)
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Verified:
    """What a checked export says."""

    artifact_id: str
    entries: int
    released: int
    refused: int
    head: str
    checked_at: str
    # When its key was destroyed; empty if it was not.
    shredded_at: str


def describe(members: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's members as they are hashed and exported: times and ids as text."""
    return {name: to_text(members[name]) for name in MEMBERS}


def to_text(value: Any) -> Any:
    """A time to the microsecond in UTC, or an id, as text; other values as they are."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return str(value) if isinstance(value, UUID) else value


def genesis(artifact_id: str) -> bytes:
    """What stands before the first entry of a version's chain."""
    return hashlib.sha256(f"{FORMAT}\n{artifact_id}".encode()).digest()


def entry_hash(artifact_id: str, entry: Mapping[str, Any], previous: bytes) -> bytes:
    """SHA-256 over the hash before and the entry's canonical JSON."""
    content = {name: entry[name] for name in MEMBERS} | {"artifact_id": artifact_id}
    return hashlib.sha256(previous + canonicalize(content)).digest()


def check_entry(artifact_id: str, number: int, entry: Mapping[str, Any], previous: bytes) -> bytes:
    """Check that an entry is the one after `previous`; returns its hash.

    Raises:
        ReleaseLogError: `chain_broken`.
    """
    if entry["seq"] != number:
        raise ReleaseLogError("chain_broken", f"Entry {number} is missing.", number)
    digest = entry_hash(artifact_id, entry, previous)
    if entry["hash"] != digest.hex():
        detail = f"Entry {number} is not as it was written, or one before it is not."
        raise ReleaseLogError("chain_broken", detail, number)
    return digest


def checkpoint_payload(checkpoint: Mapping[str, Any]) -> bytes:
    """What the platform signs to say where a chain ended, and when it was asked."""
    return canonicalize({name: checkpoint[name] for name in CHECKPOINT_MEMBERS})


def verify_export(
    document: Mapping[str, Any], platform_keys: Sequence[bytes], *, version_id: str | None = None
) -> Verified:
    """Check an export from its first entry to its checkpoint, with nothing but this file.

    Args:
        document: The export, decoded.
        platform_keys: Raw Ed25519 keys that are trusted, the pinned one and its forerunners.
        version_id: Which version's log it must be.

    Raises:
        ReleaseLogError: `not_a_release_log`, `other_version`, `chain_broken`,
            `signature_invalid`, `truncated`.
    """
    try:
        return _verify(document, platform_keys, version_id)
    except (KeyError, TypeError, ValueError, AttributeError, CanonicalError) as error:
        detail = f"The file is no export of a release log ({type(error).__name__})."
        raise ReleaseLogError("not_a_release_log", detail) from None


def check_continues(document: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
    """Check that an export holds all of an earlier one.

    Raises:
        ReleaseLogError: `history_changed`, with the first entry that is another or gone.
    """
    if document["artifact_id"] != earlier["artifact_id"]:
        raise ReleaseLogError("other_version", "The two files are of different versions.")
    now = {one["seq"]: one["hash"] for one in document["entries"]}
    for one in earlier["entries"]:
        if now.get(one["seq"]) != one["hash"]:
            detail = f"Entry {one['seq']} of the earlier export is not in this one."
            raise ReleaseLogError("history_changed", detail, one["seq"])


def _verify(document: Mapping[str, Any], keys: Sequence[bytes], version_id: str | None) -> Verified:
    if document["format"] != FORMAT:
        raise ReleaseLogError("not_a_release_log", f"The format is not {FORMAT}.")
    artifact_id = str(UUID(document["artifact_id"]))
    if version_id is not None and artifact_id != version_id:
        raise ReleaseLogError("other_version", "This is the log of another version.")
    previous = genesis(artifact_id)
    for number, entry in enumerate(document["entries"], start=1):
        previous = check_entry(artifact_id, number, entry, previous)
        if not signature.is_signed(ENTRY_TYPE, previous, entry["signature"], keys):
            detail = f"Entry {number} is not signed by a key of the platform that is trusted here."
            raise ReleaseLogError("signature_invalid", detail, number)
    checkpoint = document["checkpoint"]
    _check_checkpoint(artifact_id, len(document["entries"]), previous, checkpoint, keys)
    for number, shred in enumerate(document.get("shreds", []), start=1):
        _check_shred(artifact_id, number, shred, keys)
    outcomes = [entry["outcome"] for entry in document["entries"]]
    return Verified(
        artifact_id=artifact_id,
        entries=len(outcomes),
        released=outcomes.count("released"),
        refused=outcomes.count("refused"),
        head=previous.hex(),
        checked_at=checkpoint["at"],
        shredded_at=next((one["at"] for one in document.get("shreds", [])), ""),
    )


def _check_shred(
    artifact_id: str, number: int, shred: Mapping[str, Any], keys: Sequence[bytes]
) -> None:
    """A proof that the key was destroyed: the version's own, or that of its whole model."""
    if shred["artifact_id"] not in (artifact_id, None):
        raise ReleaseLogError("other_version", f"Proof {number} is of another version.")
    payload = canonicalize({name: one for name, one in shred.items() if name != "signature"})
    if not signature.is_signed(signature.SHRED_TYPE, payload, shred["signature"], keys):
        detail = f"Proof {number} of a destroyed key is not signed by a trusted key."
        raise ReleaseLogError("signature_invalid", detail)


def _check_checkpoint(
    artifact_id: str,
    count: int,
    head: bytes,
    checkpoint: Mapping[str, Any],
    keys: Sequence[bytes],
) -> None:
    payload = checkpoint_payload(checkpoint)
    if not signature.is_signed(CHECKPOINT_TYPE, payload, checkpoint["signature"], keys):
        detail = "The checkpoint is not signed by a key of the platform that is trusted here."
        raise ReleaseLogError("signature_invalid", detail)
    if checkpoint["artifact_id"] != artifact_id:
        raise ReleaseLogError("other_version", "The checkpoint is of another version.")
    if (checkpoint["seq"], checkpoint["hash"]) != (count, head.hex()):
        detail = f"The log had {checkpoint['seq']} entries when it was exported, not {count}."
        raise ReleaseLogError("truncated", detail, min(count, checkpoint["seq"]) + 1)
