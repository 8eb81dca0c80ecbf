"""What an operator says of the pools of nodes, by which their demand is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inference.core.scaling import NodeShape
from marketplace.core.env import SettingError, env_text

POOL_DEFAULT = "default"
POOL_NAME_LENGTH_MAX = 63


@dataclass(frozen=True, slots=True)
class ByPool:
    """A number for all pools, and those of pools that have their own."""

    default: float
    own: Mapping[str, float] = field(default_factory=dict)

    def of(self, pool: str) -> float:
        """The number of one pool."""
        return self.own.get(pool, self.default)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What is known of pools from outside.

    Attributes:
        target_wait_s: Within which a job is to be begun.
        batch_target_wait_s: The same for jobs of batches.
        slot_count: Of one node: what its STRONGROOM_NODE_SLOTS says.
        slot_requests: Requests that may be pending for each slot.
        cold_start_s: From the order of a node to its first answer.
        unplaced: Who is asked for a version that no node has.
    """

    target_wait_s: ByPool = ByPool(30)
    batch_target_wait_s: ByPool = ByPool(900)
    slot_count: ByPool = ByPool(1)
    slot_requests: ByPool = ByPool(4)
    cold_start_s: ByPool = ByPool(180)
    unplaced: str = POOL_DEFAULT

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> PoolSettings:
        """Read the environment.

        Raises:
            SettingError: One has a form that is not accepted.
        """
        unplaced = env_text("STRONGROOM_POOL_UNPLACED", POOL_DEFAULT, env=env)
        if not is_pool_name(unplaced):
            raise SettingError(f"STRONGROOM_POOL_UNPLACED must be a pool's name, not {unplaced!r}")
        return cls(
            target_wait_s=_read("STRONGROOM_POOL_TARGET_WAIT_S", "30", env),
            batch_target_wait_s=_read("STRONGROOM_POOL_BATCH_TARGET_WAIT_S", "900", env),
            slot_count=_read("STRONGROOM_POOL_SLOTS", "1", env),
            slot_requests=_read("STRONGROOM_POOL_SLOT_REQUESTS", "4", env),
            cold_start_s=_read("STRONGROOM_POOL_COLD_START_S", "180", env),
            unplaced=unplaced,
        )

    def shape(self, pool: str) -> NodeShape:
        """What one node of a pool bears."""
        return NodeShape(int(self.slot_count.of(pool)), self.slot_requests.of(pool))


def is_pool_name(name: str) -> bool:
    """Whether a pool may have this name: lowercase letters, digits and hyphens."""
    letters = name.replace("-", "a")
    is_plain = letters.isascii() and letters.isalnum() and letters == letters.lower()
    return is_plain and len(name) <= POOL_NAME_LENGTH_MAX


def _read(name: str, default: str, env: Mapping[str, str] | None) -> ByPool:
    """Whole numbers from 1: `30`, or `30,gpu=60,small=10` for pools that differ."""
    text = env_text(name, default, env=env)
    first, *others = (part.strip() for part in text.split(","))
    own: dict[str, float] = {}
    for part in others:
        pool, _, value = part.partition("=")
        if not is_pool_name(pool) or pool in own:
            raise _refuse(name, text)
        own[pool] = _parse(name, text, value)
    return ByPool(_parse(name, text, first), own)


def _parse(name: str, text: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= 1_000_000):
        raise _refuse(name, text)
    return int(value)


def _refuse(name: str, text: str) -> SettingError:
    return SettingError(
        f"{name} must be a whole number from 1 to 1000000, and pool=number for those that differ,"
        f" with commas between, not {text!r}"
    )
