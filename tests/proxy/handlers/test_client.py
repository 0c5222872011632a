"""Tests of proxy/handlers/client.py."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from proxy.handlers.client import client_address

NONE: tuple[str, ...] = ()
BALANCER = ("10.0.0.0/8",)
CHAIN = ("10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32")


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        # Without trusted proxies the peer is the client, whatever he says.
        (NONE, "203.0.113.7", [], "203.0.113.7"),
        (NONE, "203.0.113.7", ["1.2.3.4"], "203.0.113.7"),
        (NONE, "127.0.0.1", ["1.2.3.4"], "127.0.0.1"),
        (BALANCER, "203.0.113.7", ["1.2.3.4"], "203.0.113.7"),
        # One proxy: what it appended is true, what stands left of it is a stranger's.
        (BALANCER, "10.1.1.1", ["203.0.113.7"], "203.0.113.7"),
        (BALANCER, "10.1.1.1", ["1.2.3.4, 203.0.113.7"], "203.0.113.7"),
        (BALANCER, "10.1.1.1", ["1.2.3.4", "203.0.113.7"], "203.0.113.7"),
        (BALANCER, "10.1.1.1", ["10.9.9.9, 203.0.113.7"], "203.0.113.7"),
        (BALANCER, "10.1.1.1", [], "10.1.1.1"),
        # Two proxies.
        (CHAIN, "10.1.1.1", ["1.2.3.4, 203.0.113.7, 192.0.2.5"], "203.0.113.7"),
        (CHAIN, "10.1.1.1", ["1.2.3.4, 192.0.2.9, 203.0.113.7, 192.0.2.5"], "203.0.113.7"),
        (CHAIN, "10.1.1.1", ["192.0.2.9, 192.0.2.5"], "192.0.2.9"),
        # What is no address ends the walk at the proxy that passed it on.
        (BALANCER, "10.1.1.1", ["1.2.3.4, unknown"], "10.1.1.1"),
        (BALANCER, "10.1.1.1", ["1.2.3.4, "], "10.1.1.1"),
        (BALANCER, "10.1.1.1", ["<script>"], "10.1.1.1"),
        # As proxies write addresses.
        (BALANCER, "10.1.1.1", ["203.0.113.7:51234"], "203.0.113.7"),
        (BALANCER, "10.1.1.1", ["[2001:db8::7]:51234"], "2001:db8::7"),
        (BALANCER, "10.1.1.1", ["2001:DB8:0::7"], "2001:db8::7"),
        (BALANCER, "::ffff:10.1.1.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        (CHAIN, "2001:db8::1", ["203.0.113.7"], "203.0.113.7"),
        # A socket without an address.
        (BALANCER, "", ["1.2.3.4"], ""),
    ],
)
def test_the_client_is_the_first_hop_that_is_not_ours(
    trusted: tuple[str, ...], peer: str, forwarded: list[str], client: str
) -> None:
    """The walk goes from right to left over our own proxies, and believes nothing beyond them."""
    assert client_address(peer, forwarded, [ip_network(network) for network in trusted]) == client
