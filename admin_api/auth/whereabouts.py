"""What is kept of where a sign-in is used from: enough to know one's own browser again, too little to find a person.

Of an address that is its network, /24 of IPv4 and /48 of IPv6; of what a browser says about itself, as much as can
be shown on one line.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from proxy.core.networks import read_address

LONGEST_USER_AGENT = 160
_IPV4_PREFIX = 24
_IPV6_PREFIX = 48


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """A network and a kind of browser; empty where they are not known."""

    network: str = ""
    user_agent: str = ""

    @classmethod
    def of(cls, address: str, user_agent: str) -> Whereabouts:
        """Keep of an address and of what a browser says what may be kept."""
        return cls(network_of(address), "".join(filter(str.isprintable, user_agent[:LONGEST_USER_AGENT])))


def network_of(address: str) -> str:
    """Return the network that an address belongs to, and nothing for what is no address."""
    found = read_address(address)
    if found is None:
        return ""
    if isinstance(found, IPv4Address):
        return str(IPv4Network((int(found), _IPV4_PREFIX), strict=False))
    return str(IPv6Network((int(found), _IPV6_PREFIX), strict=False))
