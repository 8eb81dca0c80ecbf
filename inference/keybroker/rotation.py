"""Put a model's next key in place of the older ones, and destroy these.

In steps, each of which is committed and can be repeated: whoever comes after a crash goes on
where it ended. First the next generation is made, and used for new uploads. Then the pairs are
sealed again, some at a time; each row names the key it is sealed under, so that leases go on
meanwhile. Only when a look under the lock finds none left, the older keys are destroyed.

A shred is the same, with pairs that are left behind on purpose.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection

from inference.keybroker import queries, release_log
from inference.keybroker.errors import KeyWrapInvalidError
from inference.keybroker.generations import Generations
from inference.keybroker.kms import KeyDestroyedError, Kms, UnwrapError
from inference.keybroker.queries import GenerationRow, UploadKeyRow
from inference.keybroker.upload_keys import UploadKeys
from marketplace.core.errors import ConflictError

logger = logging.getLogger(__name__)

# Between two commits; a crash costs no more work than this.
BATCH_SIZE = 32
# Uploads and other rotations may come between the last pair and the look under the lock.
ROUNDS_MAX = 20

Connect = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


@dataclass(slots=True)
class Moved:
    """What a rotation did.

    Attributes:
        kek_ref: The key in use from now on; empty if the model has none.
        key_pairs: How many were sealed again.
        lost: How many were sealed under a key that had been destroyed before.
        destroyed: How many generations were destroyed.
    """

    kek_ref: str = ""
    key_pairs: int = 0
    lost: int = 0
    destroyed: int = 0


class Rotation:
    """Moves the key pairs of models from one generation to the next.

    Args:
        connect: A connection in the broker's role; its block commits at its end.
        kms: Holds the keys.
        keys: Opens and seals the pairs.
    """

    def __init__(self, connect: Connect, kms: Kms, keys: UploadKeys) -> None:
        self._connect = connect
        self._kms = kms
        self._keys = keys
        self._generations = Generations(kms)

    async def rotate(self, model_id: UUID) -> Moved:
        """Put the next generation in place; one that was begun before is finished instead.

        Raises:
            KmsUnavailableError: Repeat it later; leases go on.
            KeyWrapInvalidError: A pair does not open under its key: nothing was destroyed.
        """
        return await self.move(model_id, left_behind=frozenset(), is_new_wanted=True)

    async def move(
        self, model_id: UUID, *, left_behind: Collection[UUID], is_new_wanted: bool
    ) -> Moved:
        """Move all pairs but some to a key under which those are not sealed.

        Args:
            model_id: Whose.
            left_behind: Artifacts whose pairs are lost by this; marked in the last step
                before the keys are destroyed.
            is_new_wanted: Make a generation even if none is needed.
        """
        moved = Moved()
        lost: set[UUID] = set()
        for _ in range(ROUNDS_MAX):
            target = await self._prepare(model_id, left_behind, is_new_wanted=is_new_wanted)
            if target is None:
                await self._leave_behind(model_id, left_behind)
                return moved
            moved.kek_ref = target.kek_ref
            await self._reseal_all(model_id, target, {*left_behind}, lost, moved)
            if await self._settle(model_id, target, left_behind, lost):
                break
            is_new_wanted = False
        else:
            raise ConflictError("The model's keys are being moved by somebody else. Repeat it.")
        moved.lost = len(lost)
        moved.destroyed = await self.destroy_older(model_id, target.generation)
        return moved

    async def destroy_older(self, model_id: UUID, generation: int | None) -> int:
        """Destroy what comes before a generation, all with None; no pair may need them."""
        async with self._connect() as connection:
            known = await queries.list_generations(connection, model_id)
        older = [
            one
            for one in known
            if not one.is_destroyed and (generation is None or one.generation < generation)
        ]
        for one in older:
            final_at = await self._kms.destroy(one.kek_ref)
            async with self._connect() as connection:
                await queries.note_destroyed(connection, one.kek_ref, final_at=final_at)
            logger.info("key %s is destroyed", one.kek_ref)
        return len(older)

    async def _leave_behind(self, model_id: UUID, left_behind: Collection[UUID]) -> None:
        """Where every key was destroyed before, as after a restored backup."""
        async with self._connect() as connection:
            await queries.lock_model(connection, model_id)
            await forget(connection, await self._keys.signer(connection), left_behind)

    async def _prepare(
        self, model_id: UUID, left_behind: Collection[UUID], *, is_new_wanted: bool
    ) -> GenerationRow | None:
        """The generation to move to; None if the model has no key."""
        async with self._connect() as connection:
            await queries.lock_model(connection, model_id)
            known = await queries.list_generations(connection, model_id)
            live = [one for one in known if not one.is_destroyed]
            if not live:
                return None
            target = live[-1]
            states = await queries.list_key_states(connection, model_id)
            is_in_the_way = any(
                states[artifact_id] == (target.kek_ref, False)
                for artifact_id in left_behind
                if artifact_id in states
            )
            # With two that live, a rotation was not finished: this one does it.
            if is_in_the_way or (is_new_wanted and len(live) == 1):
                target = await self._generations.advance(connection, model_id)
                logger.info("key %s is in use from now on", target.kek_ref)
            return target

    async def _reseal_all(
        self,
        model_id: UUID,
        target: GenerationRow,
        left_behind: set[UUID],
        lost: set[UUID],
        moved: Moved,
    ) -> None:
        while True:
            async with self._connect() as connection:
                rows = await queries.list_sealed_elsewhere(
                    connection,
                    model_id,
                    kek_ref=target.kek_ref,
                    excluded=left_behind | lost,
                    count_max=BATCH_SIZE,
                )
            if not rows:
                return
            sealed = [(row, await self._reseal(row, target.kek_ref)) for row in rows]
            async with self._connect() as connection:
                for row, blob in sealed:
                    if blob is None:
                        lost.add(row.artifact_id)
                        continue
                    await queries.move_upload_key(
                        connection, row, kek_ref=target.kek_ref, sealed_private_key=blob
                    )
                    moved.key_pairs += 1
            logger.info("model %s: %s key pairs moved", model_id, moved.key_pairs)

    async def _reseal(self, row: UploadKeyRow, kek_ref: str) -> bytes | None:
        try:
            return await self._keys.reseal(row, kek_ref)
        except KeyDestroyedError:
            # Out of a restored backup; or somebody else has finished with it meanwhile.
            logger.warning("the key of %s was destroyed before", row.artifact_id)
            return None
        except UnwrapError:
            detail = f"The key pair of {row.artifact_id} does not open under {row.kek_ref}."
            raise KeyWrapInvalidError(detail) from None

    async def _settle(
        self,
        model_id: UUID,
        target: GenerationRow,
        left_behind: Collection[UUID],
        lost: Collection[UUID],
    ) -> bool:
        """Under the lock: nothing but what is left behind needs the older keys."""
        async with self._connect() as connection:
            await queries.lock_model(connection, model_id)
            rest = await queries.list_sealed_elsewhere(
                connection,
                model_id,
                kek_ref=target.kek_ref,
                excluded={*left_behind, *lost},
                count_max=1,
            )
            states = await queries.list_key_states(connection, model_id)
            moved_along = any(
                states[artifact_id] == (target.kek_ref, False)
                for artifact_id in left_behind
                if artifact_id in states
            )
            if rest or moved_along:
                return False
            await forget(connection, await self._keys.signer(connection), left_behind)
        return True


async def forget(
    connection: AsyncConnection, signer: release_log.Signer, artifact_ids: Collection[UUID]
) -> None:
    """Drop the private halves of pairs and end the leases; repeating it changes nothing."""
    await queries.shred_upload_keys(connection, artifact_ids)
    for artifact_id in sorted(artifact_ids):
        await release_log.note_expired(connection, signer, artifact_id)
        for lease in await queries.end_live_leases(connection, artifact_id=artifact_id):
            await release_log.note_end(connection, signer, lease, reason_code="shredded")
