"""Call an address that a tenant has named, and none of our own.

The name is resolved once; every address that it has must be a public one, and the connection
goes to the address that was checked, so that a name which changes in between leads nowhere
else. Redirects are not followed, little of the answer is read, and all has an end in time.

Source: OWASP, "Server-Side Request Forgery Prevention Cheat Sheet".
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings

from marketplace.core.errors import InvalidInputError

URL_LENGTH_MAX = 500
STEP_LIMIT_S = 5.0
# Connecting, sending and the head of the answer together.
CALL_LIMIT_S = 10.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Addresses of IPv4 inside of IPv6, by which a private one could be reached.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class OutgoingError(Exception):
    """The call has failed; the text is for the creator, and tells nothing of our network."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address in its parts."""

    scheme: str
    host: str
    port: int
    path: str


def check_url(url: str, *, pointer: str = "/target") -> Target:
    """The parts of an address that may be called.

    Raises:
        InvalidInputError: It is none.
    """
    try:
        return _parse(url)
    except OutgoingError as error:
        raise InvalidInputError(errors=[{"pointer": pointer, "detail": str(error)}]) from None


def post(url: str, *, body: bytes, headers: dict[str, str]) -> None:
    """Send JSON.

    Raises:
        OutgoingError: It could not be sent, or the answer was not 2xx.
    """
    target = _parse(url)
    address = _resolve(target)
    connection = _connect(target, address)
    timer = threading.Timer(CALL_LIMIT_S, _cut, [connection])
    timer.daemon = True
    timer.start()
    try:
        connection.request(
            "POST", target.path, body, {"Content-Type": "application/json", **headers}
        )
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError):
        raise OutgoingError("The server could not be reached.") from None
    finally:
        timer.cancel()
        connection.close()
    if not 200 <= status < 300:
        raise OutgoingError(f"The server answered {status}.")


def is_allowed(address: Address) -> bool:
    """Whether a tenant may have us call it."""
    if settings.DEVELOPMENT and address.is_loopback:
        return True
    inner = _find_inner(address)
    if inner is not None:
        return is_allowed(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _find_inner(address: Address) -> Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


def _parse(url: str) -> Target:
    if len(url) > URL_LENGTH_MAX:
        raise OutgoingError(f"At most {URL_LENGTH_MAX} characters are allowed.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise OutgoingError("This is no address.") from None
    schemes = ("https", "http") if settings.DEVELOPMENT else ("https",)
    if parts.scheme not in schemes or not host:
        raise OutgoingError("The address must begin with https://.")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise OutgoingError("The address has characters that do not belong there.")
    if parts.username is not None or parts.password is not None:
        raise OutgoingError("The address must not hold a name or a password.")
    with suppress(ValueError):
        if not is_allowed(ipaddress.ip_address(host)):
            raise OutgoingError("This address is not a public one.")
    path = parts.path or "/"
    default_port = 443 if parts.scheme == "https" else 80
    return Target(
        parts.scheme, host, port or default_port, f"{path}?{parts.query}" if parts.query else path
    )


def _resolve(target: Target) -> str:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise OutgoingError("The name of the server cannot be resolved.") from None
    addresses = [str(one[4][0]) for one in found]
    for text in addresses:
        if not is_allowed(ipaddress.ip_address(text.partition("%")[0])):
            raise OutgoingError("This address is not a public one.")
    if not addresses:
        raise OutgoingError("The name of the server cannot be resolved.")
    return addresses[0]


def _connect(target: Target, address: str) -> http.client.HTTPConnection:
    """A connection to the checked address, which still speaks to the server by its name."""
    connection: http.client.HTTPConnection
    try:
        plain = socket.create_connection((address, target.port), timeout=STEP_LIMIT_S)
    except OSError:
        raise OutgoingError("The server could not be reached.") from None
    connection = http.client.HTTPConnection(target.host, target.port, timeout=STEP_LIMIT_S)
    connection.sock = plain
    # Else the header would name a port that is understood.
    connection.default_port = 443 if target.scheme == "https" else 80
    if target.scheme == "https":
        context = ssl.create_default_context()
        try:
            connection.sock = context.wrap_socket(plain, server_hostname=target.host)
        except OSError:
            plain.close()
            raise OutgoingError("The server's certificate is not valid.") from None
    return connection


def _cut(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)
