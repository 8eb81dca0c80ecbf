"""Where a request comes from, as far as it can be believed, and whether that is allowed.

The peer of the connection is what the kernel says. `X-Forwarded-For` is what anybody may write:
only entries that a proxy of ours added count, so it is read from its end, and only where the
peer itself is such a proxy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from inference.gateway.config import PROXIES_PASSED_MAX
from marketplace.core.address import Address, Network, parse_address

if TYPE_CHECKING:
    from inference.gateway.http import Request


class Networks:
    """Some networks; looking an address up costs the same for two of them and for a hundred."""

    __slots__ = ("_numbers",)

    def __init__(self, networks: Iterable[Network]) -> None:
        self._numbers: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            shift = network.max_prefixlen - network.prefixlen
            numbers = self._numbers.setdefault((network.version, shift), set())
            numbers.add(int(network.network_address) >> shift)

    def __contains__(self, address: Address) -> bool:
        number = int(address)
        return any(
            version == address.version and number >> shift in numbers
            for (version, shift), numbers in self._numbers.items()
        )


class Origins:
    """Finds the addresses of callers."""

    def __init__(self, trusted_proxies: Iterable[Network]) -> None:
        self._trusted = Networks(trusted_proxies)

    def find(self, request: Request) -> Address | None:
        """The caller's address; None where it cannot be known, as behind a unix socket."""
        address = parse_address(request.scope.client)
        if address is None or address not in self._trusted:
            return address
        # A header that is sent twice is one list; granian's `get` would show its beginning.
        entries = ",".join(request.headers.get_all("x-forwarded-for"))
        if not entries:
            return None if "x-forwarded-for" in request.headers else address
        parts = entries.rsplit(",", PROXIES_PASSED_MAX)
        for entry in reversed(parts[-PROXIES_PASSED_MAX:]):
            address = parse_address(entry)
            if address is None or address not in self._trusted:
                return address
        # Nothing but proxies of ours: the first of them asks for itself, if it was reached.
        return address if len(parts) <= PROXIES_PASSED_MAX else None
