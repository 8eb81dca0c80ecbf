"""Call an address that a tenant has named, and none of our own.

The name is resolved once; every address that it has must be a public one, and the connection
goes to an address that was checked, so that a name which changes in between leads nowhere
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

URL_LENGTH_MAX = 500
# Resolving a name, connecting, and each step of a handshake.
STEP_LIMIT_S = 5.0
# What is read of an answer: enough for a sentence about what was wrong.
ANSWER_BYTES_MAX = 1_024
# Of those that a name has; one that does not take connections is no reason to give up.
ADDRESSES_TRIED_MAX = 3
# A longer wish is for another day; also what a number of seconds may have as digits.
RETRY_AFTER_S_MAX = 86_400

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Addresses of IPv4 inside of IPv6, by which a private one could be reached.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class OutgoingError(Exception):
    """The call has failed; the text is for the tenant, and tells nothing of our network."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address in its parts."""

    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the other side has answered.

    `text` is its begin, at most `ANSWER_BYTES_MAX` bytes; `retry_after_s` is None where nothing
    was said of it.
    """

    status: int
    text: str
    retry_after_s: int | None = None


def parse(url: str, *, is_development: bool) -> Target:
    """The parts of an address that may be called; nothing is resolved.

    Args:
        url: What the tenant has named.
        is_development: Whether plain HTTP and this machine itself may be called.

    Raises:
        OutgoingError: It is none.
    """
    if len(url) > URL_LENGTH_MAX:
        raise OutgoingError(f"At most {URL_LENGTH_MAX} characters are allowed.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise OutgoingError("This is no address.") from None
    schemes = ("https", "http") if is_development else ("https",)
    if parts.scheme not in schemes or not host:
        raise OutgoingError("The address must begin with https://.")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise OutgoingError("The address has characters that do not belong there.")
    if parts.username is not None or parts.password is not None:
        raise OutgoingError("The address must not hold a name or a password.")
    with suppress(ValueError):
        if not is_allowed(ipaddress.ip_address(host), is_development=is_development):
            raise OutgoingError("This address is not a public one.")
    path = parts.path or "/"
    default_port = 443 if parts.scheme == "https" else 80
    return Target(
        parts.scheme, host, port or default_port, f"{path}?{parts.query}" if parts.query else path
    )


def is_allowed(address: Address, *, is_development: bool) -> bool:
    """Whether a tenant may have us call it."""
    if is_development and address.is_loopback:
        return True
    inner = _find_inner(address)
    if inner is not None:
        return is_allowed(inner, is_development=is_development)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _find_inner(address: Address) -> Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


def resolve(target: Target, *, is_development: bool) -> list[str]:
    """The addresses behind a name: one at least, and none that may not be called.

    Raises:
        OutgoingError: There is none, one of them is not a public one, or nobody knows in time.
    """
    addresses = _ask(target)
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not is_allowed(address, is_development=is_development):
            raise OutgoingError("This address is not a public one.")
    if not addresses:
        raise OutgoingError("The name of the server cannot be resolved.")
    return addresses


def _ask(target: Target) -> list[str]:
    """What the resolver says, in `STEP_LIMIT_S`: it has no limit of its own."""
    found: list[str] = []

    def ask() -> None:
        with suppress(OSError, UnicodeError):
            answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(one[4][0]) for one in answers))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(STEP_LIMIT_S)
    # A copy: what comes later was checked by nobody.
    return [] if thread.is_alive() else list(found)


def post(
    url: str, *, body: bytes, headers: dict[str, str], limit_s: float, is_development: bool
) -> Reply:
    """Send JSON, and read the begin of what is answered, whatever its status.

    Args:
        url: Where to; checked once more, since a name may lead elsewhere by now.
        body: As it is sent.
        headers: Besides `Content-Type`.
        limit_s: For connecting, sending and the answer together.
        is_development: As in `parse`.

    Raises:
        OutgoingError: It could not be sent, or nothing was answered in time.
    """
    target = parse(url, is_development=is_development)
    addresses = resolve(target, is_development=is_development)
    cutter = _Cutter(limit_s)
    try:
        connection = _connect(target, addresses, cutter)
        connection.request(
            "POST", target.path, body, {"Content-Type": "application/json", **headers}
        )
        response = connection.getresponse()
        retry_after_s = _read_retry_after(response.headers.get("Retry-After"))
        return Reply(response.status, _read_begin(response), retry_after_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if cutter.is_over or isinstance(error, TimeoutError):
            text = f"The server took longer than {limit_s:g} s."
            raise OutgoingError(text) from None
        raise OutgoingError("The server could not be reached.") from None
    finally:
        cutter.close()


def _read_begin(response: http.client.HTTPResponse) -> str:
    """What there is of the answer when enough was read, or its time is over."""
    found = b""
    with suppress(OSError, http.client.HTTPException, ValueError):
        while len(found) < ANSWER_BYTES_MAX:
            piece = response.read1(ANSWER_BYTES_MAX - len(found))
            if not piece:
                break
            found += piece
    # Postgres cannot store a null character.
    return found.decode(errors="replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _read_retry_after(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdecimal():
        return None
    return min(int(text[:9]), RETRY_AFTER_S_MAX)


class _Cutter:
    """Ends a connection when its time is over, whatever it waits for then."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.is_over = False
        self.socket: socket.socket | None = None
        self._timer = threading.Timer(limit_s, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connection: socket.socket) -> None:
        """This is the connection from now on.

        Raises:
            OSError: The time is over.
        """
        self.socket = connection
        if self.is_over:
            raise TimeoutError

    def close(self) -> None:
        """All is done."""
        self._timer.cancel()
        if self.socket is not None:
            self.socket.close()

    def _cut(self) -> None:
        self.is_over = True
        if self.socket is not None:
            with suppress(OSError):
                # Below TLS, whose own state another thread is using.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


def _connect(target: Target, addresses: list[str], cutter: _Cutter) -> http.client.HTTPConnection:
    """A connection to a checked address, which still speaks to the server by its name."""
    sock = _open(target, addresses)
    cutter.watch(sock)
    if target.scheme == "https":
        context = ssl.create_default_context()
        sock = context.wrap_socket(sock, server_hostname=target.host, do_handshake_on_connect=False)
        cutter.watch(sock)
        try:
            sock.do_handshake()
        except ssl.SSLError:
            if cutter.is_over:
                raise
            raise OutgoingError("The server's certificate is not valid.") from None
    sock.settimeout(cutter.limit_s)
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = sock
    # Else the header would name a port that is understood.
    connection.default_port = 443 if target.scheme == "https" else 80
    return connection


def _open(target: Target, addresses: list[str]) -> socket.socket:
    for address in addresses[:ADDRESSES_TRIED_MAX]:
        with suppress(OSError):
            return socket.create_connection((address, target.port), timeout=STEP_LIMIT_S)
    raise OSError("no address takes connections")
