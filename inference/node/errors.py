"""Why a replica does not serve, and what calls to the platform may come to."""

from __future__ import annotations

# These say nothing about the model: a machine, a network or a process of ours broke.
# Onboarding tries again on them; all others are final for the version.
INFRASTRUCTURE_CODES = frozenset(
    {
        "triton_unavailable",
        "triton_start_failed",
        "keybroker_unavailable",
        "fetch_failed",
        "disk_full",
        "lease_lost",
        "lease_expired",
        "nonce_replayed",
        "evidence_unavailable",
        "certificate_required",
        "certificate_expired",
        "certificate_invalid",
        "certificate_mismatch",
        "stub_died",
        "session_broken",
        "unavailable",
        "deadline",
    }
)


class ReplicaError(Exception):
    """A replica cannot be brought up, or has to go.

    Args:
        reason_code: Stable code; onboarding shows it to the creator.
        detail: One sentence; never a secret.
    """

    def __init__(self, reason_code: str, detail: str) -> None:
        super().__init__(f"{reason_code}: {detail}")
        self.reason_code = reason_code
        self.detail = detail

    @property
    def is_infrastructure(self) -> bool:
        """Whether the same may work in a while."""
        return self.reason_code in INFRASTRUCTURE_CODES


class CancelledError(Exception):
    """The replica is not wanted any more; what was begun for it ends."""


class UnreachableError(Exception):
    """No usable answer: the network, a server that starts, or one with a fault."""


class RefusedError(Exception):
    """The platform answered, and said no."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail


class IdentityError(Exception):
    """The node's identity cannot be read or made; it cannot run."""
