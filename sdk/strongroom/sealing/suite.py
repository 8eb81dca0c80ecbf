"""The kinds of key pairs to which data keys are sealed, and how their halves are written.

`X25519` is spoken by everything. `HYBRID` joins it with ML-KEM-768: who records a wrap today and
has a quantum computer later would need to break both.

Source: RFC 9180 (DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM); FIPS 203, ML-KEM;
draft-ietf-hpke-pq, MLKEM768-X25519.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
)

_TAG_BYTES = 16
_X25519_BYTES = 32
_MLKEM_SEED_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184


@dataclass(frozen=True, slots=True)
class Suite:
    """One kind of key pair.

    Args:
        name: On the wire.
        hpke: Seals and opens.
        public_key_bytes: Of the raw public half.
        private_key_bytes: Of the raw private half.
        encapsulated_bytes: What stands before each ciphertext.
        generate: Makes a raw private half.
        derive_public: The raw public half of a raw private one.
        load_public: What `hpke` seals to; raises ValueError.
        load_private: What `hpke` opens with; raises ValueError.
    """

    name: str
    hpke: hpke.Suite
    public_key_bytes: int
    private_key_bytes: int
    encapsulated_bytes: int
    generate: Callable[[], bytes]
    derive_public: Callable[[bytes], bytes]
    load_public: Callable[[bytes], Any]
    load_private: Callable[[bytes], Any]

    def sealed_bytes(self, plain_bytes: int) -> int:
        """How long so many bytes become."""
        return self.encapsulated_bytes + plain_bytes + _TAG_BYTES


def _generate_x25519() -> bytes:
    return X25519PrivateKey.generate().private_bytes_raw()


def _derive_x25519(private_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


# A half of the hybrid is the halves of its two parts, one behind the other: ML-KEM, then X25519.


def _generate_hybrid() -> bytes:
    return MLKEM768PrivateKey.generate().private_bytes_raw() + _generate_x25519()


def _derive_hybrid(private_key: bytes) -> bytes:
    seed, scalar = private_key[:_MLKEM_SEED_BYTES], private_key[_MLKEM_SEED_BYTES:]
    public_key = MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
    return public_key + _derive_x25519(scalar)


def _load_hybrid_public(public_key: bytes) -> MLKEM768X25519PublicKey:
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public_key[:_MLKEM_PUBLIC_BYTES]),
        X25519PublicKey.from_public_bytes(public_key[_MLKEM_PUBLIC_BYTES:]),
    )


def _load_hybrid_private(private_key: bytes) -> MLKEM768X25519PrivateKey:
    return MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(private_key[:_MLKEM_SEED_BYTES]),
        X25519PrivateKey.from_private_bytes(private_key[_MLKEM_SEED_BYTES:]),
    )


X25519 = Suite(
    name="hpke-x25519-sha256-aes256gcm",
    hpke=hpke.Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    public_key_bytes=_X25519_BYTES,
    private_key_bytes=_X25519_BYTES,
    encapsulated_bytes=KEM.X25519.enc_length(),
    generate=_generate_x25519,
    derive_public=_derive_x25519,
    load_public=X25519PublicKey.from_public_bytes,
    load_private=X25519PrivateKey.from_private_bytes,
)
HYBRID = Suite(
    name="hpke-mlkem768x25519-sha256-aes256gcm",
    hpke=hpke.Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    public_key_bytes=_MLKEM_PUBLIC_BYTES + _X25519_BYTES,
    private_key_bytes=_MLKEM_SEED_BYTES + _X25519_BYTES,
    encapsulated_bytes=KEM.MLKEM768_X25519.enc_length(),
    generate=_generate_hybrid,
    derive_public=_derive_hybrid,
    load_public=_load_hybrid_public,
    load_private=_load_hybrid_private,
)
SUITES: Mapping[str, Suite] = {one.name: one for one in (X25519, HYBRID)}


def find_suite(name: object) -> Suite | None:
    """The suite of that name; None for any other value."""
    return SUITES.get(name) if isinstance(name, str) else None
