"""Tests of proxy/metering/slices.py: how much a worker leases ahead of need."""

from __future__ import annotations

from proxy.core.rules import Kind, Period, Rule
from proxy.metering.slices import FIRST_APPETITE, IDLE_SECONDS, Slice

RULE = Rule("Rd_20261127", 1_000_000, 1, 0, Kind.REQUESTS, Period.DAY, is_of_key=False, ends=None)


def test_a_lease_grows_until_it_lasts() -> None:
    """Who has used one up within half a minute leases twice as much, and half as much who took longer."""
    share = Slice("user")
    leased = [share.appetite(RULE, 1, now) for now in (0.0, 10.0, 39.0, 41.0, 72.0, 200.0, 400.0, 600.0)]
    assert [amount // FIRST_APPETITE for amount in leased] == [1, 2, 4, 8, 4, 2, 1, 1]


def test_what_was_given_back_was_not_used_up() -> None:
    """A lease that went back, as it lay idle or its limit is near, is no reason to lease more the next time."""
    share = Slice("user")
    assert share.appetite(RULE, 1, 0.0) == FIRST_APPETITE
    share.take_entry({"v": 1, "thru": 0, "s": {RULE.counter: FIRST_APPETITE}})
    batch = share.next_batch(IDLE_SECONDS + 1)
    assert batch is not None
    assert batch.returned == {RULE.counter: FIRST_APPETITE}
    share.counted()
    assert share.appetite(RULE, 1, 10.0) == FIRST_APPETITE
