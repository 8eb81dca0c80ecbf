"""Which client a request came from, for limits that count by address."""

from __future__ import annotations

import ipaddress

UNKNOWN = "unknown"
# A home or an office gets at least this much of IPv6; its addresses count as one.
IPV6_PREFIX_LENGTH = 64


def client_address(remote: str, forwarded_for: str, proxy_count: int) -> str:
    """The client's address, or its network for IPv6.

    Args:
        remote: The peer of the connection, with or without a port.
        forwarded_for: The header `X-Forwarded-For`; anybody can write its first entries.
        proxy_count: How many proxies of ours stand in front; each adds one entry.
    """
    entries = [entry.strip() for entry in forwarded_for.split(",") if entry.strip()]
    if proxy_count and len(entries) >= proxy_count:
        remote = entries[-proxy_count]
    try:
        address = ipaddress.ip_address(_without_port(remote))
    except ValueError:
        return UNKNOWN
    if address.version == 6 and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    if address.version == 6:
        return str(ipaddress.ip_network((address, IPV6_PREFIX_LENGTH), strict=False))
    return str(address)


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
