"""The keys of a model (KEKs), one after the other.

Key pairs of uploads are sealed under the newest generation. When the next one takes its place,
they are sealed again and the older ones are destroyed: after a rotation, and when some of
the pairs are to be lost for good.

The KMS has the last word on what exists: a database that was restored from a backup may name
generations that are gone, and know nothing of a model that was shredded.
"""

from __future__ import annotations

from uuid import UUID

from psycopg import AsyncConnection

from inference.keybroker import queries
from inference.keybroker.errors import KmsUnavailableError, ShreddedError
from inference.keybroker.kms import KeyDestroyedError, Kms
from inference.keybroker.queries import GenerationRow

# How far a restored database may lie behind the KMS.
GENERATIONS_SKIPPED_MAX = 100


def kek_ref(model_id: UUID, generation: int) -> str:
    """The name of a generation in the KMS; the first one's has no number for its age."""
    return f"model-{model_id}" if generation == 1 else f"model-{model_id}-{generation}"


def tombstone_ref(model_id: UUID) -> str:
    """The name that is destroyed with a whole model, without ever having been a key's."""
    return f"model-{model_id}-shredded"


class Generations:
    """Finds and makes the keys of models."""

    def __init__(self, kms: Kms) -> None:
        self._kms = kms

    async def find_current(self, connection: AsyncConnection, model_id: UUID) -> str:
        """The key under which a new pair is sealed, in this transaction.

        Until it ends, no other generation becomes the current one.

        Raises:
            ShreddedError: The model was shredded; there is never another key for it.
        """
        await queries.lock_model(connection, model_id, shared=True)
        await self._check_not_shredded(connection, model_id)
        known = await queries.list_generations(connection, model_id)
        live = [one for one in known if not one.is_destroyed]
        if live:
            try:
                await self._kms.ensure_key(live[-1].kek_ref)
            except KeyDestroyedError:
                await queries.note_destroyed(connection, live[-1].kek_ref, final_at=None)
            else:
                return live[-1].kek_ref
        return (await self._make_next(connection, model_id, known)).kek_ref

    async def advance(self, connection: AsyncConnection, model_id: UUID) -> GenerationRow:
        """Make the next generation; the caller has locked the model for itself alone."""
        await self._check_not_shredded(connection, model_id)
        known = await queries.list_generations(connection, model_id)
        return await self._make_next(connection, model_id, known)

    async def _check_not_shredded(self, connection: AsyncConnection, model_id: UUID) -> None:
        is_noted = await queries.find_shred(connection, model_id, None) is not None
        if is_noted or await self._kms.is_destroyed(tombstone_ref(model_id)):
            raise ShreddedError

    async def _make_next(
        self, connection: AsyncConnection, model_id: UUID, known: list[GenerationRow]
    ) -> GenerationRow:
        first = known[-1].generation + 1 if known else 1
        for generation in range(first, first + GENERATIONS_SKIPPED_MAX):
            ref = kek_ref(model_id, generation)
            is_usable = True
            try:
                # Before the row: what is noted must exist.
                await self._kms.ensure_key(ref)
            except KeyDestroyedError:
                is_usable = False
            await queries.insert_generation(
                connection, model_id=model_id, generation=generation, kek_ref=ref
            )
            if is_usable:
                return GenerationRow(generation, ref, is_destroyed=False, final_at=None)
            await queries.note_destroyed(connection, ref, final_at=None)
        raise KmsUnavailableError("The key store has destroyed every next key of this model.")
