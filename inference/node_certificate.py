"""The certificate of a node: what it says, and how anybody checks it.

The key broker issues it (`inference/keybroker/node_ca.py`). The node shows it to the broker over
TLS, and sends it to the web when it enrols there. Who a node is stands in one place of it: the
URI `strongroom:node:<uuid>` of the subject's alternative names.

Source: RFC 5280; RFC 8410 (Ed25519 in certificates).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from strongroom.sealing.canonical import encode_base64

# A day: a stolen certificate is soon worth nothing, and an outage of hours is bridged.
CERTIFICATE_TTL = timedelta(hours=24)
# Issued as of this long ago, for clocks that are behind the broker's.
CLOCK_MARGIN = timedelta(minutes=5)
# For this long after its end a node may still renew: a machine that was off over a week-end.
RENEWAL_GRACE = timedelta(days=7)
# A certificate of ours has some 600 bytes as PEM.
PEM_BYTES_MAX = 4096
URI_PREFIX = "strongroom:node:"
# Of nodes and of pools: what a host name and a label of Kubernetes may be.
NODE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class CertificateError(Exception):
    """This is no certificate of a node of this platform; the text says why."""


@dataclass(frozen=True, slots=True)
class NodeCertificate:
    """What a certificate says of its node.

    Args:
        node_id: Who it is.
        name: Under which name it joined.
        public_key: Its Ed25519 key, in base64.
        serial: In hex.
        not_before: Its first moment, `CLOCK_MARGIN` before it was issued.
        not_after: Its last moment.
    """

    node_id: UUID
    name: str
    public_key: str
    serial: str
    not_before: datetime
    not_after: datetime

    @property
    def issued_at(self) -> datetime:
        """When the broker made it."""
        return self.not_before + CLOCK_MARGIN

    @classmethod
    def parse_der(cls, octets: bytes) -> NodeCertificate:
        """Read what TLS hands over, whose issuer TLS has checked."""
        try:
            return cls._read(x509.load_der_x509_certificate(octets))
        except (ValueError, x509.ExtensionNotFound) as error:
            raise CertificateError(f"not a node's certificate ({type(error).__name__})") from None

    @classmethod
    def parse(cls, pem: str) -> NodeCertificate:
        """Read a certificate of our own, without asking who issued it."""
        try:
            return cls._read(_load(pem))
        except (ValueError, x509.ExtensionNotFound) as error:
            raise CertificateError(f"not a node's certificate ({type(error).__name__})") from None

    @classmethod
    def verify(cls, pem: str, ca_pem: str) -> NodeCertificate:
        """Read a certificate that somebody sent, if this authority issued it.

        Its time is not checked: `not_before` and `not_after` are for whoever asks.
        """
        try:
            certificate = _load(pem)
            certificate.verify_directly_issued_by(_load(ca_pem))
        except InvalidSignature:
            raise CertificateError("another authority signed it") from None
        except (ValueError, TypeError) as error:
            raise CertificateError(f"not issued here ({type(error).__name__})") from None
        return cls.parse(pem)

    @classmethod
    def _read(cls, certificate: x509.Certificate) -> NodeCertificate:
        key = certificate.public_key()
        if not isinstance(key, Ed25519PublicKey):
            raise CertificateError("its key is not an Ed25519 key")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(names) != 1 or len(uris) != 1 or not uris[0].startswith(URI_PREFIX):
            raise CertificateError("it names no node")
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
            raise CertificateError("it is not for clients")
        common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return cls(
            node_id=UUID(uris[0].removeprefix(URI_PREFIX)),
            name=str(common_names[0].value) if common_names else "",
            public_key=encode_base64(key.public_bytes_raw()),
            serial=f"{certificate.serial_number:x}",
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )


def make_request(private_key: bytes, name: str) -> str:
    """A certificate signing request (PEM): proof that who asks holds the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(Ed25519PrivateKey.from_private_bytes(private_key), None)
    return request.public_bytes(Encoding.PEM).decode()


def _load(pem: str) -> x509.Certificate:
    if len(pem) > PEM_BYTES_MAX:
        raise CertificateError("it is larger than any that is expected")
    return x509.load_pem_x509_certificate(pem.encode(errors="replace"))
