"""What a node shows of itself before it is given a key, and whether that holds.

Three kinds, each stronger than the one before. `none-dev` shows nothing. `tpm` is a quote of
the machine's TPM: it measured what was started, and its key is one that an operator entered.
`tdx+nvidia` would be a confidential machine with a confidential GPU; nothing here can verify
that, so it is refused.

The platform's setting says which kinds count at all, a version's policy what its creator
demands at least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.keybroker import tpm
from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.errors import EvidenceInsufficientError, EvidenceInvalidError
from strongroom.sealing.policy import EVIDENCE_KINDS
from strongroom.sealing.signature import evidence_context


@dataclass(frozen=True, slots=True)
class Shown:
    """Evidence that holds. `name` is what the release log says of it."""

    kind: str
    name: str

    def is_at_least(self, kind: str) -> bool:
        """Whether it is as strong as this kind, or stronger."""
        return EVIDENCE_KINDS.index(self.kind) >= EVIDENCE_KINDS.index(kind)


def check(body: Mapping[str, Any], config: KeyBrokerConfig) -> Shown:
    """Verify the evidence in a request for a lease.

    Raises:
        EvidenceInsufficientError: This kind does not count here.
        EvidenceInvalidError: It does not hold, or cannot be verified.
    """
    evidence = body.get("evidence")
    kind = evidence.get("type") if isinstance(evidence, dict) else None
    if not isinstance(kind, str) or kind not in config.evidence:
        raise EvidenceInsufficientError
    assert isinstance(evidence, dict)
    if kind == "none-dev":
        return Shown(kind, kind)
    if kind != "tpm" or config.tpm is None:
        raise EvidenceInvalidError(f"{kind} cannot be verified by this key broker.")
    try:
        fingerprint = tpm.verify(evidence, config.tpm, expected=evidence_context(body))
    except tpm.QuoteError as error:
        raise EvidenceInvalidError(f"tpm: {error}") from None
    return Shown(kind, f"tpm {fingerprint[:16]}")
