"""Tests of proxy/metering/contract.py: what a request wants at least, and what counts as one."""

from __future__ import annotations

from proxy.documents import Outcome
from proxy.metering.contract import Reservation
from tests.proxy.metering.meters import settlement, want


def test_the_least_that_makes_sense() -> None:
    """Each choice needs sixteen tokens, or as few as were wished."""
    assert (want(output_tokens=50).least_output, want(output_tokens=50).wished_output) == (16, 50)
    assert (want(output_tokens=5).least_output, want(output_tokens=5, choices=3).least_output) == (5, 15)
    assert want(output_tokens=50, choices=3).wished_output == 150


def test_a_lowered_cap_is_known() -> None:
    """A reservation says whether its cap is below what was wished."""
    assert Reservation(want(output_tokens=50), (), {}, 49).is_lowered
    assert not Reservation(want(output_tokens=50), (), {}, 50).is_lowered


def test_what_counts_as_a_request() -> None:
    """Everything that reached a provider counts, but for its failures without any answer."""
    for outcome in Outcome:
        fails = outcome in (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT)
        assert settlement(0, 0, outcome=outcome).counts_as_request is not fails
        assert settlement(1, 0, outcome=outcome).counts_as_request
