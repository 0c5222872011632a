"""Tests of admin_api/auth/whereabouts.py: what is kept of an address and of a browser."""

from __future__ import annotations

import pytest

from admin_api.auth.whereabouts import LONGEST_USER_AGENT, Whereabouts, network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("203.0.113.0", "203.0.113.0/24"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::1", "::/48"),
        ("", ""),
        ("unknown", ""),
    ],
)
def test_of_an_address_its_network_is_kept(address: str, network: str) -> None:
    """The last eight bits of IPv4 and the last eighty of IPv6, which would name a household, are gone."""
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0", "Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0"),
        ("a\x1b[31mred\u202e\u2028line", "a[31mredline"),
        ("\udcff broken", " broken"),
        ("x" * 1_000, "x" * LONGEST_USER_AGENT),
        ("", ""),
    ],
)
def test_of_a_browser_a_line_is_kept(said: str, kept: str) -> None:
    """What it says about itself is bounded and can be shown: nothing in it ends a line, or turns or colours one."""
    assert Whereabouts.of("203.0.113.77", said) == Whereabouts("203.0.113.0/24", kept)


def test_a_client_may_say_nothing() -> None:
    """Without a description and an address there is nothing to keep."""
    assert Whereabouts.of("", "") == Whereabouts()
