"""Verify a TPM 2.0 quote: who signed it, over which nonce, and what had been started.

Only what a quote has is read here; no TPM is needed to verify one. Which keys and which
measurements are good is written down by an operator, in one JSON file:

    {"keys": ["<SHA-256 of the attestation key's SubjectPublicKeyInfo, hex>"],
     "pcrs": {"7": ["<SHA-256 value of this register, hex>", "..."]}}

Source: TCG, Trusted Platform Module Library, Part 2 (TPMS_ATTEST, TPMT_SIGNATURE), rev 1.59.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from marketplace.core.env import SettingError
from strongroom.errors import StrongroomError
from strongroom.sealing.canonical import decode_base64

# A quote has some 150 bytes, a signature some hundred, a key some hundred.
FIELD_BYTES_MAX = 4096
PCR_COUNT = 24
POLICY_BYTES_MAX = 1024 * 1024
RSA_BITS_MIN = 2048

_MAGIC = 0xFF544347
_ATTEST_QUOTE = 0x8018
_ALG_SHA256, _ALG_RSASSA, _ALG_RSAPSS, _ALG_ECDSA = 0x000B, 0x0014, 0x0016, 0x0018
# Clock, counts of resets and restarts, and whether the clock can be relied on; firmware.
_CLOCK_AND_FIRMWARE_BYTES = 17 + 8
_SHA256_HEX_LENGTH = 64


class QuoteError(Exception):
    """The quote does not show what it should; the text says which part."""


@dataclass(frozen=True, slots=True)
class TpmPolicy:
    """Attestation keys and measurements that an operator vouches for.

    Args:
        keys: SHA-256 of their SubjectPublicKeyInfo, in hex.
        pcrs: For each register that must be quoted, the values that are good, in hex.
    """

    keys: frozenset[str]
    pcrs: Mapping[int, frozenset[str]]

    @classmethod
    def load(cls, path: Path) -> TpmPolicy:
        """Read the file.

        Raises:
            SettingError: It is missing or malformed, or would let anything pass.
        """
        try:
            if path.stat().st_size > POLICY_BYTES_MAX:
                raise ValueError("too large")
            value = json.loads(path.read_text())
            keys = frozenset(_hex(one) for one in value["keys"])
            pcrs = {
                _register(number): frozenset(_hex(one) for one in values)
                for number, values in value["pcrs"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            detail = f"STRONGROOM_KEYBROKER_TPM_POLICY: {path} is no TPM policy ({error})"
            raise SettingError(detail) from None
        if not keys or not pcrs or not all(pcrs.values()):
            detail = "needs at least one key and one register, and values for each register"
            raise SettingError(f"STRONGROOM_KEYBROKER_TPM_POLICY: {path} {detail}")
        return cls(keys, pcrs)


def verify(evidence: Mapping[str, Any], policy: TpmPolicy, *, expected: bytes) -> str:
    """Check a quote.

    Args:
        evidence: `quote` (TPMS_ATTEST), `signature` (TPMT_SIGNATURE), `key`
            (SubjectPublicKeyInfo), each base64, and `pcrs`: register to value in hex.
        policy: What is good.
        expected: What must have been quoted along (32 bytes): the request's own context.

    Returns:
        The fingerprint of the attestation key, hex.

    Raises:
        QuoteError: With the part that does not hold.
    """
    quote, signed, key = (_field(evidence, name) for name in ("quote", "signature", "key"))
    fingerprint = hashlib.sha256(key).hexdigest()
    if fingerprint not in policy.keys:
        raise QuoteError("the attestation key is not one that was entered")
    _check_signature(key, signed, quote)
    extra, selected, digest = _read_quote(quote)
    if not hmac.compare_digest(extra, expected):
        raise QuoteError("it was made for another request")
    _check_registers(evidence.get("pcrs"), policy, selected, digest)
    return fingerprint


def _check_registers(
    values: Any, policy: TpmPolicy, selected: tuple[int, ...], digest: bytes
) -> None:
    if selected != tuple(sorted(policy.pcrs)):
        raise QuoteError(f"registers {list(selected)} were quoted, not {sorted(policy.pcrs)}")
    if not isinstance(values, dict):
        raise QuoteError("the registers' values are missing")
    found = [values.get(str(number)) for number in selected]
    for number, value in zip(selected, found, strict=True):
        if not isinstance(value, str) or value not in policy.pcrs[number]:
            raise QuoteError(f"register {number} has a value that is not known as good")
    total = hashlib.sha256(b"".join(bytes.fromhex(str(one)) for one in found)).digest()
    if not hmac.compare_digest(total, digest):
        raise QuoteError("the values are not those that were quoted")


def _check_signature(key: bytes, signed: bytes, quote: bytes) -> None:
    reader = _Reader(signed)
    algorithm, digest = reader.u16(), reader.u16()
    if digest != _ALG_SHA256:
        raise QuoteError("the signature is not over SHA-256")
    try:
        public_key = serialization.load_der_public_key(key)
        if algorithm == _ALG_ECDSA and isinstance(public_key, ec.EllipticCurvePublicKey):
            r, s = (int.from_bytes(reader.sized()) for _ in range(2))
            reader.end()
            public_key.verify(encode_dss_signature(r, s), quote, ec.ECDSA(hashes.SHA256()))
        elif isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size >= RSA_BITS_MIN:
            content = reader.sized()
            reader.end()
            public_key.verify(content, quote, _padding(algorithm), hashes.SHA256())
        else:
            raise QuoteError("the signature is of another kind than the key")
    except (InvalidSignature, ValueError, TypeError) as error:
        raise QuoteError("the signature does not fit") from error


def _padding(algorithm: int) -> padding.PKCS1v15 | padding.PSS:
    if algorithm == _ALG_RSASSA:
        return padding.PKCS1v15()
    if algorithm == _ALG_RSAPSS:
        return padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
    raise QuoteError("the signature is of an unknown kind")


def _read_quote(quote: bytes) -> tuple[bytes, tuple[int, ...], bytes]:
    """What was quoted along, which registers, and the digest over their values."""
    reader = _Reader(quote)
    if reader.u32() != _MAGIC or reader.u16() != _ATTEST_QUOTE:
        raise QuoteError("this is no quote of a TPM")
    reader.sized()  # The signer's name: the key itself was compared.
    extra = reader.sized()
    reader.take(_CLOCK_AND_FIRMWARE_BYTES)
    if reader.u32() != 1 or reader.u16() != _ALG_SHA256:
        raise QuoteError("one bank of registers, SHA-256, must be quoted")
    bitmap = reader.take(reader.u8())
    selected = tuple(
        number
        for number in range(min(PCR_COUNT, 8 * len(bitmap)))
        if bitmap[number // 8] >> number % 8 & 1
    )
    digest = reader.sized()
    reader.end()
    return extra, selected, digest


class _Reader:
    """Big-endian numbers and sized fields, strictly to the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise QuoteError("it is cut off")
        self._at += count
        return taken

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int(struct.unpack(">H", self.take(2))[0])

    def u32(self) -> int:
        return int(struct.unpack(">I", self.take(4))[0])

    def sized(self) -> bytes:
        return self.take(self.u16())

    def end(self) -> None:
        if self._at != len(self._data):
            raise QuoteError("something stands behind its end")


def _field(evidence: Mapping[str, Any], name: str) -> bytes:
    text = evidence.get(name)
    if not isinstance(text, str) or len(text) > FIELD_BYTES_MAX:
        raise QuoteError(f"{name} is missing or too long")
    try:
        return decode_base64(text)
    except StrongroomError:
        raise QuoteError(f"{name} is no base64") from None


def _hex(value: Any) -> str:
    if not isinstance(value, str) or len(value) != _SHA256_HEX_LENGTH:
        raise ValueError("a SHA-256 in hex is needed")
    return bytes.fromhex(value).hex()


def _register(text: str) -> int:
    number = int(text)
    if not 0 <= number < PCR_COUNT:
        raise ValueError(f"registers are 0 to {PCR_COUNT - 1}")
    return number
