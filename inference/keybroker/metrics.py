"""What the key broker counts: above all, keys that it lent and keys that it refused."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography import x509

from inference.keybroker import errors
from marketplace.core.errors import MarketplaceError
from marketplace.core.exposition import Family, Page, Registry

SETTING = "STRONGROOM_KEYBROKER_METRICS_LISTEN"
GRANTED = "ok"
ACTIONS = ("grant", "renew", "release")
# Routes by what they do. An address that is none of ours is `none`.
ROUTES = {
    "/health": "health",
    "/v1/platform-key": "platform_key",
    "/v1/node-ca": "node_ca",
    "/v1/leases": "grant",
    "/v1/leases/challenge": "challenge",
    "/v1/upload-keys": "upload_keys",
    "/v1/upload-keys/check": "upload_keys_check",
    "/v1/release-log/checkpoint": "checkpoint",
    "/v1/nodes/join": "join",
    "/v1/nodes/renew": "node_renew",
    "/v1/shred": "shred",
}
NO_ROUTE = "none"
_LEASE = re.compile(r"/v1/leases/[0-9a-f-]{36}/(renew|release)")
# Of all requests; codes of ours that are not the broker's own.
COMMON_CODES = ("validation", "unavailable", "internal", "not_found", "unauthenticated")


def _list_codes() -> list[str]:
    own = {
        one.code
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, MarketplaceError)
    }
    return sorted(own | set(COMMON_CODES))


REGISTRY = Registry("strongroom_keybroker_")
LEASES = REGISTRY.counter(
    "leases_total",
    "Requests for keys, their renewals and returns, and how they ended.",
    ("action", "outcome"),
    known=[(action, one) for action in ACTIONS for one in (GRANTED, *_list_codes())],
)
REQUESTS = REGISTRY.counter(
    "requests_total",
    "Requests that were answered.",
    ("route", "status"),
    known=[(route, "503") for route in ROUTES.values()],
)
SECONDS = REGISTRY.timer(
    "request_duration_seconds", "From the arrival of a request to its answer.", ("route",)
)
KMS_FAILURES = REGISTRY.counter("kms_failures_total", "Requests that the key store kept from ours.")
_EXPIRY = Family(
    "strongroom_keybroker_certificate_expiry_timestamp_seconds",
    "gauge",
    "When the certificate that the broker is served with ends, since 1970.",
)
_certificates: list[Path] = []


def name_route(path: str) -> str:
    """What an address is for, as a label."""
    if match := _LEASE.fullmatch(path):
        return match[1]
    return ROUTES.get(path, NO_ROUTE)


def observe(path: str, status: int, code: str, seconds: float) -> None:
    """A request was answered.

    Args:
        path: As it was asked for.
        status: Of HTTP.
        code: Of the error, or `ok`.
        seconds: From its arrival.
    """
    route = name_route(path)
    REQUESTS.add(route, str(status))
    SECONDS.observe(seconds, route)
    if route in ACTIONS:
        LEASES.add(route, code)
    if code == errors.KmsUnavailableError.code:
        KMS_FAILURES.add()


def watch_certificate(path: Path) -> None:
    """Tell at each scrape when this certificate ends; the file may be replaced meanwhile."""
    _certificates[:] = [path]


def _write_expiry(page: Page) -> None:
    for path in _certificates:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        page.add(_EXPIRY.name, certificate.not_valid_after_utc.timestamp())


REGISTRY.gauges([_EXPIRY], _write_expiry)
