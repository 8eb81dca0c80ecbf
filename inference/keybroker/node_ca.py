"""The certificate authority of the nodes: one Ed25519 key, and what it signs.

Nobody but the key broker can make a node's certificate. The authority's own certificate is
signed by itself; it is public, and the web fetches it to check who enrols.

Source: RFC 5280; RFC 8410 (Ed25519 in certificates).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from inference.node_certificate import CERTIFICATE_TTL, CLOCK_MARGIN, PEM_BYTES_MAX, URI_PREFIX
from marketplace.core.errors import InvalidInputError

# It outlives every installation: what ends a node's right is the node's own certificate.
CA_TTL = timedelta(days=20 * 365)


@dataclass(frozen=True, slots=True)
class NodeAuthority:
    """The key, and the certificate that goes with it."""

    private_key: bytes = field(repr=False)
    certificate: str

    def issue(
        self, *, node_id: UUID, name: str, public_key: bytes, now: datetime
    ) -> tuple[str, str, datetime]:
        """A certificate for a node: as PEM, its serial in hex, and its end."""
        authority = x509.load_pem_x509_certificate(self.certificate.encode())
        serial, not_after = x509.random_serial_number(), now + CERTIFICATE_TTL
        signer = Ed25519PrivateKey.from_private_bytes(self.private_key)
        key = Ed25519PublicKey.from_public_bytes(public_key)
        names = [x509.UniformResourceIdentifier(f"{URI_PREFIX}{node_id}")]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(authority.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(now - CLOCK_MARGIN)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .sign(signer, None)
        )
        return certificate.public_bytes(Encoding.PEM).decode(), f"{serial:x}", not_after


def make_authority(private_key: bytes, now: datetime) -> NodeAuthority:
    """The authority of a new installation, certified by itself."""
    signer = Ed25519PrivateKey.from_private_bytes(private_key)
    # The name tells authorities apart in TLS, where two may be of the same product.
    common_name = f"Strongroom nodes {x509.random_serial_number():x}"[:48]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(signer.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_MARGIN)
        .not_valid_after(now + CA_TTL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(signer.public_key()), critical=False
        )
        .sign(signer, None)
    )
    return NodeAuthority(private_key, certificate.public_bytes(Encoding.PEM).decode())


def read_request(pem: object) -> bytes:
    """The raw public key of a certificate signing request, whose private half signed it.

    Raises:
        InvalidInputError: It is none, or of another kind of key.
    """
    if not isinstance(pem, str) or len(pem) > PEM_BYTES_MAX:
        raise InvalidInputError("csr must be a certificate signing request as PEM.")
    try:
        request = x509.load_pem_x509_csr(pem.encode(errors="replace"))
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError):
        raise InvalidInputError("csr is not a certificate signing request.") from None
    if not isinstance(key, Ed25519PublicKey) or not is_signed:
        raise InvalidInputError("csr must have an Ed25519 key, and be signed with it.")
    return key.public_bytes_raw()


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """What a certificate's key is for: to sign certificates, or to prove who one is."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
