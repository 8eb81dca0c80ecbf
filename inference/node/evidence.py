"""What this node can show of itself to the key broker.

A quote is made by the machine's TPM over the request for a lease, so that it fits no other.
`tpm2-tools` talks to the device: nothing of the exchange has to be kept secret.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inference.node.errors import ReplicaError
from marketplace.core.env import SettingError, env_text
from strongroom.sealing.canonical import encode_base64

# A quote takes a chip about half a second.
TOOL_TIMEOUT_S = 20.0
_PCR_BYTES = 32
_HANDLE = re.compile(r"0x81[0-9a-fA-F]{6}")
_PCRS = re.compile(r"\d{1,2}(,\d{1,2}){0,23}")


class Evidence(Protocol):
    """Shows something about the node."""

    def collect(self, context: bytes) -> dict[str, Any]:
        """Evidence for one request, bound to its context (32 bytes)."""


class NoEvidence:
    """For development: it shows nothing, and says so."""

    def collect(self, context: bytes) -> dict[str, Any]:
        """See `Evidence.collect`."""
        return {"type": "none-dev"}


@dataclass(frozen=True, slots=True)
class TpmEvidence:
    """Quotes of this machine's TPM.

    Args:
        key_handle: Where in the TPM its attestation key was made persistent.
        registers: Which registers (PCR, bank SHA-256) are quoted.
        environment: For the tools: where they are and, in tests, which TPM they talk to.
    """

    key_handle: str
    registers: Sequence[int]
    environment: Mapping[str, str] = field(repr=False)

    def collect(self, context: bytes) -> dict[str, Any]:
        """See `Evidence.collect`.

        Raises:
            ReplicaError: `evidence_unavailable`: the TPM or its tools do not answer.
        """
        selection = "sha256:" + ",".join(map(str, self.registers))
        with tempfile.TemporaryDirectory(prefix="strongroom-quote-") as name:
            folder = Path(name)
            outputs = {one: folder / one for one in ("quote", "signature", "pcrs", "key")}
            quote = f"tpm2_quote -Q -c {self.key_handle} -l {selection} -g sha256 -F values"
            self._run(
                *[*quote.split(), "-q", context.hex(), "-m", str(outputs["quote"])],
                *["-s", str(outputs["signature"]), "-o", str(outputs["pcrs"])],
            )
            key = f"tpm2_readpublic -Q -c {self.key_handle} -f der"
            self._run(*key.split(), "-o", str(outputs["key"]))
            found = {one: path.read_bytes() for one, path in outputs.items()}
        return {
            "type": "tpm",
            **{one: encode_base64(found[one]) for one in ("quote", "signature", "key")},
            "pcrs": {
                str(number): found["pcrs"][at : at + _PCR_BYTES].hex()
                for number, at in zip(
                    sorted(self.registers), range(0, len(found["pcrs"]), _PCR_BYTES), strict=True
                )
            },
        }

    def _run(self, *command: str) -> None:
        try:
            subprocess.run(
                command,
                env=dict(self.environment),
                check=True,
                capture_output=True,
                timeout=TOOL_TIMEOUT_S,
            )
        except (OSError, subprocess.SubprocessError) as error:
            detail = f"The TPM gave no quote: {command[0]} failed ({type(error).__name__})."
            raise ReplicaError("evidence_unavailable", detail) from error


def from_env(env: Mapping[str, str]) -> Evidence:
    """What the settings ask for.

    Raises:
        SettingError: An unknown kind, or a TPM's key or registers in another form.
    """
    kind = env_text("STRONGROOM_NODE_EVIDENCE", "none-dev", env=env)
    if kind == "none-dev":
        return NoEvidence()
    if kind != "tpm":
        raise SettingError(f"STRONGROOM_NODE_EVIDENCE must be none-dev or tpm, not {kind!r}")
    handle = env_text("STRONGROOM_NODE_TPM_KEY", "0x81010002", env=env)
    registers = env_text("STRONGROOM_NODE_TPM_PCRS", "0,2,4,7", env=env)
    if not _HANDLE.fullmatch(handle):
        raise SettingError("STRONGROOM_NODE_TPM_KEY must be a persistent handle, 0x81......")
    if not _PCRS.fullmatch(registers):
        raise SettingError("STRONGROOM_NODE_TPM_PCRS must be numbers with commas between")
    kept = ("PATH", "TPM2TOOLS_TCTI")
    return TpmEvidence(
        handle,
        sorted({int(one) for one in registers.split(",")}),
        {name: env[name] for name in kept if name in env},
    )
