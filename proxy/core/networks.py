"""Where somebody may come from: single addresses and networks, of IPv4 and of IPv6.

An IPv4 address in the clothes of IPv6 (`::ffff:203.0.113.7`) is that IPv4 address, on either side.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_MAPPED = IPv6Network("::ffff:0:0/96")


def read_network(text: str) -> Network:
    """Read an address, which is the smallest network, or a network; raise `ValueError` in the writer's words."""
    try:
        network = ip_network(text)
    except ValueError as exc:
        raise ValueError(
            f"{text!r} is no address like 203.0.113.7, and no network like 2001:db8::/32"
        ) from exc
    if isinstance(network, IPv6Network):
        if network.network_address.scope_id is not None:
            raise ValueError(f"{text!r} names an interface, which means nothing elsewhere")
        if network.subnet_of(_MAPPED):
            first = int(network.network_address) - int(_MAPPED.network_address)
            return IPv4Network((first, network.prefixlen - _MAPPED.prefixlen))
    return network


def write_network(network: Network) -> str:
    """Write a network as short as it can be: a single address without the length of its prefix."""
    return str(network.network_address if network.num_addresses == 1 else network)


def read_address(text: str) -> Address | None:
    """Read an address; `None` when it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_within(text: str, networks: Iterable[Network]) -> bool:
    """Say whether an address is in one of some networks; what is no address is in none."""
    address = read_address(text)
    return address is not None and any(address in network for network in networks)
