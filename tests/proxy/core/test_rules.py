"""Tests of proxy/core/rules.py: what a request holds is never less than what it can cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from plugins.contract import Price, Usage
from proxy.core.limits import UserLimits
from proxy.core.pricing import cost_of, to_pico
from proxy.core.rules import (
    Demand,
    KeyLimits,
    Kind,
    Period,
    affordable_output,
    counter_name,
    ends_at,
    kind_of,
    limits_in_force,
    needs_of,
    rules_of,
)

KEY = "6b03f7404765ff65c84d670d"
MOMENT = datetime(2026, 12, 31, 23, 59, 58, tzinfo=UTC)
BUDGETS = KeyLimits(
    daily_budget=Decimal(1),
    weekly_budget=Decimal(2),
    monthly_budget=Decimal(3),
    total_budget=Decimal(4),
    requests_per_minute=5,
    tokens_per_minute=6000,
    concurrent_requests=7,
)
prices = st.decimals("0", "0.001", places=14)
counts = st.integers(0, 10**6)


def test_counters_carry_their_windows() -> None:
    """A window is part of a counter's name, so a new one begins by itself; names are letters, digits and `_`."""
    demand = Demand(100, Price(Decimal(1), Decimal(2)))
    rules = rules_of(UserLimits(1, 2, 3), KEY, BUDGETS, demand, MOMENT)
    assert [rule.counter for rule in rules] == [
        "Rd_20261231",
        "Rm_202612",
        "Tm_202612",
        f"Ri_202612312359_{KEY}",
        f"Ti_202612312359_{KEY}",
        f"Pe_0_{KEY}",
        f"Cd_20261231_{KEY}",
        f"Cw_2026W53_{KEY}",
        f"Cm_202612_{KEY}",
        f"Ce_0_{KEY}",
    ]
    later = rules_of(UserLimits(1, 2, 3), KEY, BUDGETS, demand, MOMENT + timedelta(seconds=2))
    assert {rule.counter for rule in rules} & {rule.counter for rule in later} == {
        f"Pe_0_{KEY}",
        f"Ce_0_{KEY}",
        f"Cw_2026W53_{KEY}",
    }
    assert [kind_of(rule.counter) for rule in rules] == [rule.kind for rule in rules]


def test_windows_end_where_the_next_begins() -> None:
    """At the end of a window, and not before, the counter has another name."""
    for period in Period:
        ends = ends_at(period, MOMENT)
        if ends is None:
            assert period is Period.EVER
            continue
        before = counter_name(Kind.COST, period, ends - timedelta(milliseconds=1))
        assert counter_name(Kind.COST, period, MOMENT) == before
        assert counter_name(Kind.COST, period, ends) != before


@given(st.builds(Price, prices, prices, request=prices), counts, counts, counts, counts)
def test_a_hold_covers_every_cost(price: Price, bound: int, cap: int, used: int, made: int) -> None:
    """Whatever is used within the bounds of prompt and output costs at most what was held, to the pico-dollar."""
    limits = KeyLimits(total_budget=Decimal(10**6))
    rule = rules_of(UserLimits(1, 1, 1), KEY, limits, Demand(bound, price), MOMENT)[-1]
    usage = Usage(min(used, bound), min(made, cap))
    assert to_pico(cost_of(price, usage)) <= rule.need(cap)


@given(st.builds(Price, prices, prices, request=prices), counts, prices, counts)
def test_what_is_held_at_once_is_what_each_limit_needs(
    price: Price, prompt: int, extras: Decimal, cap: int
) -> None:
    """Counters of one kind need the same, and as much as the rule of each says; windows and limits are the same too."""
    limits, demand = UserLimits(1, 2, 3), Demand(prompt, price, extras)
    needs, rules = needs_of(demand, cap), rules_of(limits, KEY, BUDGETS, demand, MOMENT)
    assert [needs[rule.counter[0]] for rule in rules] == [rule.need(cap) for rule in rules]
    assert [(rule.counter, rule.limit, rule.ends) for rule in rules] == [
        (rule.counter, rule.limit, rule.ends) for rule in limits_in_force(limits, KEY, BUDGETS, MOMENT)
    ]


@given(prices, st.integers(0, 10**4), st.integers(0, 10**12), st.integers(0, 10**5))
def test_what_is_affordable_is_held_by_what_there_is(
    price: Decimal, prompt: int, available: int, wish: int
) -> None:
    """The affordable cap's hold is within what is available, and one token more is not, unless it was not wished."""
    limits = KeyLimits(total_budget=Decimal(10**6))
    demand = Demand(prompt, Price(price, price))
    rule = rules_of(UserLimits(1, 1, 1), KEY, limits, demand, MOMENT)[-1]
    cap = affordable_output([rule], {rule.counter: available}, wish)
    assert cap <= wish
    if cap >= 0:
        assert rule.need(cap) <= available
    if cap < wish and rule.slope:
        assert rule.need(cap + 1) > available
