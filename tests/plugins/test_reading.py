"""Tests of plugins/reading.py: what counts of a number that a provider has written."""

from __future__ import annotations

from decimal import Decimal

import orjson
from hypothesis import given
from hypothesis import strategies as st

from plugins.reading import amount, count
from tests.plugins import recordings


def test_numbers_are_bounded() -> None:
    """A number with more digits than arithmetic keeps, or written with an absurd exponent, is none."""
    assert amount("0." + "1" * 29) is None
    assert amount("1e999999999999999999999") is None
    assert amount("-0.0") == Decimal(0)
    assert str(amount("0E-999999")) == "0"
    assert count(1e300) is None
    assert count(True) is None


@recordings.PATIENT
@given(st.decimals(min_value=0, max_value=1000, places=12))
def test_amounts_survive_floats(cost: Decimal) -> None:
    """Any amount in pico-dollars up to a thousand dollars survives the way through a JSON number."""
    assert amount(orjson.loads(format(cost, "f"))) == cost
