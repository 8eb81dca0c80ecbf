"""Who is at the other end of the connection, as TLS has proved it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from inference.errors import (
    CertificateExpiredError,
    CertificateInvalidError,
    CertificateMismatchError,
)
from inference.keybroker.errors import CertificateRequiredError
from inference.node_certificate import CertificateError, NodeCertificate
from marketplace.core.clock import utc_now


@dataclass(frozen=True, slots=True)
class Peer:
    """A caller.

    Args:
        certificate: In DER, as the handshake took it: issued by our own authority, its key
            proved, its time not looked at. None if none was shown.
        is_checked: False where the broker speaks plain HTTP, in development alone.
    """

    certificate: bytes | None
    is_checked: bool = True

    @classmethod
    def of(cls, transport: Any, *, is_checked: bool) -> Peer:
        """The peer of a connection."""
        tls = transport.get_extra_info("ssl_object") if transport is not None else None
        return cls(tls.getpeercert(binary_form=True) if tls is not None else None, is_checked)

    def check(self, node_id: UUID, public_key: str) -> None:
        """The connection is the node's own: any certificate of its present key that has not ended.

        Raises:
            CertificateRequiredError: None was shown.
            CertificateMismatchError: It is another node's, or of a key that the node had before.
            CertificateExpiredError: Its time is over.
        """
        if not self.is_checked:
            return
        if self.certificate is None:
            raise CertificateRequiredError
        try:
            certificate = NodeCertificate.parse_der(self.certificate)
        except CertificateError as error:
            raise CertificateInvalidError(f"The certificate is not usable: {error}.") from None
        if (certificate.node_id, certificate.public_key) != (node_id, public_key):
            raise CertificateMismatchError
        if not certificate.not_before <= utc_now() <= certificate.not_after:
            raise CertificateExpiredError
