"""TLS to the key broker under `bin/up`: an authority and a certificate, made for this home.

The authority's key is never written down: it signs the broker's certificate and is forgotten.
When that certificate comes to its end, both are made anew, and every part is started with them.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from embedded.home import Home
from inference.keybroker.node_ca import key_usage

LIFETIME = timedelta(days=825)
# A product that is started runs for less than this.
RENEW_BEFORE = timedelta(days=60)
# For a clock that is set back after the first start.
MARGIN = timedelta(days=1)
ADDRESS = ipaddress.ip_address("127.0.0.1")


def ensure(home: Home) -> None:
    """Make the files, unless there are good ones."""
    if not _is_good(home.tls_ca, home.tls_certificate, home.tls_key):
        home.tls_ca.parent.mkdir(mode=0o700, exist_ok=True)
        _make(home.tls_ca, home.tls_certificate, home.tls_key)


def _is_good(authority: Path, certificate: Path, key: Path) -> bool:
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        loaded.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.read_bytes()))
    except Exception:  # noqa: BLE001 - whatever is wrong with them, new ones are right
        return False
    return key.is_file() and loaded.not_valid_after_utc > datetime.now(UTC) + RENEW_BEFORE


def _make(authority: Path, certificate: Path, key: Path) -> None:
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _name("Strongroom, this machine")
    certified = (
        _begin(issuer, issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    served = (
        _begin(_name("Strongroom key broker"), issuer, server_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ADDRESS), x509.DNSName("localhost")]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    encoded = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for path, content in (
        (key, encoded),
        (certificate, served.public_bytes(Encoding.PEM)),
        (authority, certified.public_bytes(Encoding.PEM)),
    ):
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        draft.replace(path)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - MARGIN)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
