"""Tests of proxy/core/networks.py."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.networks import is_within, read_address, read_network, write_network

MAPPED = IPv6Network("::ffff:0:0/96")
V4 = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
V6 = st.builds(
    lambda number, length: IPv6Network((number, length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7/32", "203.0.113.7"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("2001:0db8::7", "2001:db8::7"),
        ("::1/128", "::1"),
        ("::/0", "::/0"),
        # IPv4 in the clothes of IPv6.
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:cb00:7100/120", "203.0.113.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
    ],
)
def test_a_network_has_one_written_form(text: str, written: str) -> None:
    """However an address or a network is written, it is stored and shown in its shortest form, which reads as the same."""
    assert write_network(read_network(text)) == written
    assert read_network(written) == read_network(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "*",
        "localhost",
        "example.com",
        "203.0.113.7/24",
        "203.0.113.0/33",
        "203.0.113",
        "203.0.113.7 ",
        "010.0.0.1",
        "203.0.113.7:80",
        "203.0.113.7,203.0.113.8",
        "203.0.113.1-203.0.113.9",
        "[2001:db8::1]",
        "2001:db8::1/32",
        "2001:db8::/129",
        "fe80::1%eth0",
        "fe80::%eth0/64",
        "\uff11.2.3.4",
        "3405803783",
        "0x7f000001",
        "\x00",
        "203.0.113.0/24\n",
    ],
)
def test_what_is_no_network_is_refused(text: str) -> None:
    """Names, ranges, ports, interfaces and networks with host bits are mistakes, and said to be."""
    with pytest.raises(ValueError, match=r"is no address|names an interface"):
        read_network(text)


@pytest.mark.parametrize(
    ("address", "networks", "expected"),
    [
        ("203.0.113.7", ["203.0.113.7"], True),
        ("203.0.113.8", ["203.0.113.7"], False),
        ("203.0.113.8", ["203.0.113.7", "203.0.113.8/31"], True),
        ("203.0.113.255", ["203.0.113.0/24"], True),
        ("203.0.114.0", ["203.0.113.0/24"], False),
        ("::ffff:203.0.113.7", ["203.0.113.0/24"], True),
        ("203.0.113.7", ["::ffff:203.0.113.0/120"], True),
        ("203.0.113.7", ["::/0"], False),
        ("::ffff:203.0.113.7", ["::/0"], False),
        ("2001:db8::7", ["0.0.0.0/0"], False),
        ("2001:db8::7", ["2001:db8::/32"], True),
        ("2001:DB8:0:0::7", ["2001:db8::7"], True),
        ("2001:db9::7", ["2001:db8::/32"], False),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("::1", ["127.0.0.1"], False),
        # A socket without an address, and what is none.
        ("", ["0.0.0.0/0", "::/0"], False),
        ("unknown", ["0.0.0.0/0", "::/0"], False),
        ("203.0.113.7", [], False),
    ],
)
def test_an_address_is_within_or_not(address: str, networks: list[str], expected: bool) -> None:  # noqa: FBT001  the expected answer
    """Each kind of address is looked for in networks of its own kind, and IPv4 in IPv6's clothes is IPv4."""
    assert is_within(address, map(read_network, networks)) is expected


@given(network=V4 | V6, number=st.integers(0, 2**128 - 1))
def test_a_network_holds_its_own_addresses_alone(network: IPv4Network | IPv6Network, number: int) -> None:
    """First, last and any address between are in it, and those right beside it are not, also after it was written."""
    stored = read_network(write_network(network))
    assume(stored.version == 4 or not stored.overlaps(MAPPED))  # IPv4 in IPv6's clothes is in none of IPv6
    first, last = stored[0], stored[-1]
    for inside in (first, last, stored[number % stored.num_addresses]):
        assert is_within(str(inside), [stored])
    if int(first) > 0:
        assert not is_within(str(first - 1), [stored])
    if int(last) < 2**stored.max_prefixlen - 1:
        assert not is_within(str(last + 1), [stored])


def test_addresses_are_read_once_for_all() -> None:
    """A mapped address is the IPv4 one; what is no address is none."""
    assert read_address("::ffff:203.0.113.7") == IPv4Address("203.0.113.7")
    assert read_address("203.0.113.7/32") is None
