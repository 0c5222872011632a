"""Tests of proxy/core/bill.py: the provider's usage record where there is one, else an estimate that says so."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugins.contract import ModelInfo, Price, Usage
from proxy.core.bill import NOTHING, Counted, Served, bill
from proxy.core.pricing import CostSource
from proxy.core.routing import Entry, Tier

MUCH = 10**9
PRICE = Price(Decimal("0.001"), Decimal("0.002"))
ENTRY = Entry("p", ModelInfo("m", "M", PRICE), Tier.PAID)
FREE = Entry("p", ModelInfo("m", "M", None), Tier.FREE, is_declared_free=True)
UNPRICED = Entry("p", ModelInfo("m", "M", None), Tier.PAID)


def test_a_usage_record_is_the_bill() -> None:
    """With a usage record nothing is estimated, whatever happened to the answer afterwards."""
    usage = Usage(100, 20, 40, 10, 5, cost=Decimal("0.7"))
    for has_failed in (False, True):
        made = bill(
            ENTRY, Served(usage, deltas=3), prompt_estimate=9, most_output=MUCH, has_failed=has_failed
        )
        assert made.tokens == Counted(100, 20, 40, 10, 5)
        assert made.tokens.total == 120
        assert (made.charge.cost, made.charge.source, made.charge.estimated) == (
            Decimal("0.7"),
            CostSource.PROVIDER,
            False,
        )


@pytest.mark.parametrize(
    "odd",
    [
        {"prompt_tokens": -1},
        {"completion_tokens": 10**11},
        {"completion_tokens": 1.5},
        {"prompt_tokens": True},
        {"reasoning_tokens": "many"},
        {"cached_tokens": 101},
        {"cached_tokens": 60, "cache_write_tokens": 60},
        {"cache_write_tokens": 10, "cache_write_1h_tokens": 60},
        {"web_searches": -3},
        {"cost": Decimal("-0.7")},
        {"cost": Decimal("NaN")},
        {"cost": 0.7},
        {"upstream_cost": Decimal("-Infinity")},
    ],
)
def test_nonsense_is_no_usage_record(odd: dict[str, Any]) -> None:
    """What nobody can have counted is estimated instead: below zero it would credit whoever asked."""
    usage = replace(Usage(100, 20), **odd)
    made = bill(ENTRY, Served(usage, deltas=3), prompt_estimate=9, most_output=MUCH, has_failed=False)
    assert (made.tokens, made.charge.cost, made.charge.estimated) == (Counted(9, 3), Decimal("0.015"), True)
    assert bill(ENTRY, Served(usage), prompt_estimate=9, most_output=MUCH, has_failed=True) is NOTHING


def test_a_failure_without_output_costs_nothing() -> None:
    """A provider that reports an error before any output bills nothing, and neither do we."""
    assert bill(ENTRY, Served(), prompt_estimate=100, most_output=MUCH, has_failed=True) is NOTHING
    assert (NOTHING.charge.cost, NOTHING.charge.source) == (Decimal(0), CostSource.NOTHING_SERVED)


def test_what_was_delivered_is_estimated() -> None:
    """A cut stream is charged its prompt and what was seen of it, by pieces or by bytes, whichever is more."""
    made = bill(
        ENTRY, Served(deltas=7, output_bytes=8), prompt_estimate=100, most_output=MUCH, has_failed=True
    )
    assert made.tokens == Counted(100, 7)
    assert made.charge.cost == Decimal("0.114")
    assert made.charge.estimated
    assert (
        bill(
            ENTRY, Served(deltas=1, output_bytes=801), prompt_estimate=0, most_output=MUCH, has_failed=True
        ).tokens.completion
        == 201
    )
    silent = bill(ENTRY, Served(), prompt_estimate=100, most_output=MUCH, has_failed=False)
    assert (silent.tokens, silent.charge.cost) == (Counted(100, 0), Decimal("0.1"))


def test_a_whole_answer_is_estimated_from_its_text() -> None:
    """One that says nothing of what it used, or nonsense, is charged its text; a failed one without any, nothing."""
    output = [{"role": "assistant", "content": "x" * 801}]
    for usage in (None, Usage(100, -1)):
        for has_failed in (False, True):
            served = Served(usage, output=output)
            made = bill(ENTRY, served, prompt_estimate=9, most_output=MUCH, has_failed=has_failed)
            assert (made.tokens, made.charge.estimated) == (Counted(9, 201), True)
        silent = Served(usage, output=[{"role": "assistant", "content": ""}])
        assert bill(ENTRY, silent, prompt_estimate=9, most_output=MUCH, has_failed=True) is NOTHING


def test_nothing_is_estimated_above_the_cap() -> None:
    """What has arrived of a cut answer may be more than text: no more is charged than what could be asked for."""
    made = bill(
        ENTRY, Served(deltas=1, output_bytes=10**6), prompt_estimate=100, most_output=50, has_failed=False
    )
    assert made.tokens == Counted(100, 50)
    told = bill(ENTRY, Served(Usage(100, 70)), prompt_estimate=100, most_output=50, has_failed=False)
    assert told.tokens == Counted(100, 70)


def test_without_a_price_nothing_is_made_up() -> None:
    """Tokens are counted without a price too; the cost is unknown, or declared to be nothing."""
    unknown = bill(UNPRICED, Served(Usage(10, 5)), prompt_estimate=0, most_output=MUCH, has_failed=False)
    assert (unknown.tokens.total, unknown.charge.cost) == (15, None)
    declared = bill(FREE, Served(Usage(10, 5)), prompt_estimate=0, most_output=MUCH, has_failed=False)
    assert (declared.tokens.total, declared.charge.cost) == (15, Decimal(0))


@given(deltas=st.integers(0, 10**5), size=st.integers(0, 10**6), prompt=st.integers(0, 10**5))
def test_output_is_never_free(deltas: int, size: int, prompt: int) -> None:
    """Any output at all has tokens and a cost, and more output never costs less."""
    made = bill(
        ENTRY,
        Served(deltas=deltas, output_bytes=size),
        prompt_estimate=prompt,
        most_output=MUCH,
        has_failed=False,
    )
    assert made.tokens.completion >= deltas
    assert made.tokens.completion * 4 >= size
    assert made.charge.cost is not None
    assert (made.charge.cost > 0) is (made.tokens.total > 0)
