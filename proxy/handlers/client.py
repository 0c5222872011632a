"""The address of the client behind our own proxies, and of nobody who only claims to be behind them.

Every proxy appends the address that it was called from to `X-Forwarded-For`, so the list is true from its right
end up to the first address that is not one of ours; what stands left of that was written by a stranger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from proxy.core.networks import Address, Network, read_address


def client_address(peer: str, forwarded: Iterable[str], trusted: Sequence[Network]) -> str:
    """Return who the client is, seen from `peer`, with the values of all `X-Forwarded-For` lines in their order."""
    if not trusted:
        return _written(peer)
    address = _parse(peer)
    if address is None:
        return peer
    hops = [hop for line in forwarded for hop in line.split(",")]
    while hops and any(address in network for network in trusted):
        nearer = _parse(hops.pop())
        if nearer is None:
            break
        address = nearer
    return str(address)


@lru_cache(maxsize=4_096)
def _written(peer: str) -> str:
    """Write an address in its one form, and what is none as it is."""
    address = _parse(peer)
    return peer if address is None else str(address)


@lru_cache(maxsize=4_096)  # 6 us for every request otherwise, and a client asks more than once
def _parse(value: str) -> Address | None:
    """Read an address as proxies write it: with a port or without, IPv6 in brackets or not."""
    text = value.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return read_address(text)
