"""Which client a request came from, and which networks there are."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNKNOWN = "unknown"
# A home or an office gets at least this much of IPv6; its addresses count as one.
IPV6_PREFIX_LENGTH = 64
# An address of IPv4 in the clothes of IPv6 is one of IPv4.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_address(text: str) -> Address | None:
    """An address, with or without a port; None where there is none to be read."""
    try:
        address = ipaddress.ip_address(_without_port(text.strip()))
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if address.version == 6 else address


def parse_network(text: str) -> Network:
    """A network in CIDR, or a single address; what stands behind its prefix is cut off.

    Raises:
        ValueError: Neither of the two.
    """
    if "%" in text:
        raise ValueError("a zone has a meaning on one machine only")
    network = ipaddress.ip_network(text.strip(), strict=False)
    if network.version == 6 and network.subnet_of(_MAPPED):
        address = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((int(address or 0), network.prefixlen - _MAPPED.prefixlen))
    return network


def choose_entry(remote: str, forwarded_for: str, proxy_count: int) -> str:
    """The text of the client's address; see `client_address`."""
    entries = [entry.strip() for entry in forwarded_for.split(",") if entry.strip()]
    return entries[-proxy_count] if proxy_count and len(entries) >= proxy_count else remote


def client_address(remote: str, forwarded_for: str, proxy_count: int) -> str:
    """The client's address, or its network for IPv6.

    Args:
        remote: The peer of the connection, with or without a port.
        forwarded_for: The header `X-Forwarded-For`; anybody can write its first entries.
        proxy_count: How many proxies of ours stand in front; each adds one entry.
    """
    address = parse_address(choose_entry(remote, forwarded_for, proxy_count))
    if address is None:
        return UNKNOWN
    if address.version == 6:
        return str(ipaddress.ip_network((address, IPV6_PREFIX_LENGTH), strict=False))
    return str(address)


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
