"""Destroy the keys of a version, or of a whole model, so that every copy is useless.

What is left is a proof: which keys were destroyed, by whom and why, signed by the platform.
A repeated request goes on where an earlier one ended, and answers with the same proof.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from inference.keybroker import queries
from inference.keybroker.errors import VersionInUseError
from inference.keybroker.generations import tombstone_ref
from inference.keybroker.kms import Kms
from inference.keybroker.queries import ShredRow
from inference.keybroker.rotation import Connect, Rotation, forget
from inference.keybroker.upload_keys import UploadKeys
from marketplace.core import limits
from marketplace.core.clock import to_wire, utc_now
from marketplace.core.errors import ConflictError, InvalidInputError, NotFoundError
from marketplace.core.ids import new_id
from strongroom.sealing import signature
from strongroom.sealing.canonical import canonicalize, encode_base64

# More at once is a whole model.
ARTIFACTS_MAX = 100
ACTOR_LENGTH_MAX = 320
# In these a version is never served again.
ENDED_STATES = frozenset({"withdrawn", "refused", "failed"})


@dataclass(frozen=True, slots=True)
class ShredRequest:
    """What shall be destroyed.

    Args:
        model_id: Whose keys.
        artifact_ids: Of which versions; None for the model and all that it ever had.
        by: Who wants it, as the audit log names people.
        reason: Why; stands in the proof.
    """

    model_id: UUID
    artifact_ids: tuple[UUID, ...] | None
    by: str
    reason: str

    @classmethod
    def parse(cls, body: dict[str, Any]) -> ShredRequest:
        """Read a request; raises InvalidInputError."""
        try:
            model_id = UUID(body["model_id"])
            listed = body["artifact_ids"]
            ids = None if listed is None else tuple(dict.fromkeys(UUID(one) for one in listed))
        except (KeyError, ValueError, TypeError, AttributeError):
            detail = "model_id must be a UUID, artifact_ids a list of them or null."
            raise InvalidInputError(detail) from None
        if ids is not None and not 1 <= len(ids) <= ARTIFACTS_MAX:
            raise InvalidInputError(f"artifact_ids has 1 to {ARTIFACTS_MAX} members.")
        return cls(
            model_id,
            ids,
            _read_text(body, "by", ACTOR_LENGTH_MAX),
            _read_text(body, "reason", limits.REASON_LENGTH_MAX),
        )


class Shredder:
    """Carries such requests out.

    Args:
        connect: A connection in the broker's role; its block commits at its end.
        kms: Holds the keys.
        keys: Moves what survives, and signs the proof.
    """

    def __init__(self, connect: Connect, kms: Kms, keys: UploadKeys) -> None:
        self._connect = connect
        self._kms = kms
        self._keys = keys
        self._rotation = Rotation(connect, kms, keys)

    async def shred(self, request: ShredRequest) -> list[ShredRow]:
        """Destroy keys; returns the proofs, one for each version, or one for the model.

        Raises:
            VersionInUseError: A version may still be served, or become so.
            NotFoundError: The model has no such version, or no key was ever made for it.
            KmsUnavailableError: Repeat it; what was begun is finished then.
        """
        subjects = (None,) if request.artifact_ids is None else request.artifact_ids
        async with self._connect() as connection:
            known = [
                await queries.find_shred(connection, request.model_id, one) for one in subjects
            ]
            states = await queries.list_version_states(connection, request.model_id)
            keys = await queries.list_key_states(connection, request.model_id)
        proofs = [proof for proof in known if proof is not None]
        if len(proofs) == len(subjects):
            return proofs
        concerned = request.artifact_ids if request.artifact_ids is not None else tuple(states)
        _check_states(concerned, states)
        if request.artifact_ids is None:
            await self._destroy_all(request.model_id)
        else:
            if missing := [one for one in concerned if one not in keys]:
                raise NotFoundError(f"No key was ever made for version {missing[0]}.")
            await self._rotation.move(
                request.model_id, left_behind=frozenset(concerned), is_new_wanted=False
            )
        return [await self._prove(request, subject) for subject in subjects]

    async def _destroy_all(self, model_id: UUID) -> None:
        # First, so that no key is made from here on, whatever becomes of the database.
        await self._kms.destroy(tombstone_ref(model_id))
        async with self._connect() as connection:
            # Waits for uploads that were just given a key.
            await queries.lock_model(connection, model_id)
            keys = await queries.list_key_states(connection, model_id)
            await forget(connection, await self._keys.signer(connection), keys)
        await self._rotation.destroy_older(model_id, None)

    async def _prove(self, request: ShredRequest, artifact_id: UUID | None) -> ShredRow:
        async with self._connect() as connection:
            generations = await queries.list_generations(connection, request.model_id)
            keys = await queries.list_key_states(connection, request.model_id)
            destroyed = {one.kek_ref: one.final_at for one in generations if one.is_destroyed}
            subjects = keys if artifact_id is None else {artifact_id}
            for one in subjects:
                kek_ref, is_shredded = keys[one]
                if not is_shredded or kek_ref not in destroyed:
                    raise ConflictError("The key is in use again. Repeat the request.")
            at = utc_now()
            row = ShredRow(
                id=new_id(),
                model_id=request.model_id,
                artifact_id=artifact_id,
                kek_refs=list(destroyed),
                provider=self._kms.name,
                by=request.by,
                reason=request.reason,
                at=at,
                final_at=max([at, *(moment for moment in destroyed.values() if moment)]),
                signature="",
            )
            signer = await self._keys.signer(connection)
            signed = signer.sign(signature.SHRED_TYPE, canonicalize(describe(row)))
            await queries.insert_shred(connection, replace(row, signature=encode_base64(signed)))
            proof = await queries.find_shred(connection, request.model_id, artifact_id)
        assert proof is not None, "it, or a twin's, was just written"
        return proof


def describe(row: ShredRow) -> dict[str, Any]:
    """What is signed, and answered beside its signature."""
    return {
        "id": str(row.id),
        "model_id": str(row.model_id),
        "artifact_id": None if row.artifact_id is None else str(row.artifact_id),
        "kek_refs": row.kek_refs,
        "provider": row.provider,
        "by": row.by,
        "reason": row.reason,
        "at": to_wire(row.at),
        "final_at": to_wire(row.final_at),
    }


def answer(row: ShredRow) -> dict[str, Any]:
    """A proof on the wire."""
    return describe(row) | {"signature": row.signature}


def _check_states(concerned: Collection[UUID], states: dict[UUID, str]) -> None:
    for one in concerned:
        if one not in states:
            raise NotFoundError(f"The model has no version {one}.")
        if states[one] not in ENDED_STATES:
            raise VersionInUseError(f"Version {one} is {states[one]}; withdraw it first.")


def _read_text(body: dict[str, Any], name: str, length_max: int) -> str:
    text = body.get(name)
    if not isinstance(text, str) or "\x00" in text or not 0 < len(text.strip()) <= length_max:
        raise InvalidInputError(f"{name} has 1 to {length_max} characters.")
    return text.strip()
