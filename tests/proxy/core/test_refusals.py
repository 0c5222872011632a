"""Tests of proxy/core/refusals.py: a refusal says which limit it is, and whether waiting helps."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from plugins.contract import Price
from proxy.core.limits import UserLimits
from proxy.core.refusals import held_elsewhere, refusal
from proxy.core.rules import Demand, rules_of
from proxy.errors import InsufficientFunds, RateLimited
from tests.proxy.core.test_rules import BUDGETS, KEY, MOMENT


def test_refusals_say_whether_waiting_helps() -> None:
    """A minute can be waited for, a month cannot; money is 402; what others hold comes back in a second."""
    rules = {
        rule.counter.split("_")[0]: rule
        for rule in rules_of(
            UserLimits(1, 2, 300), KEY, BUDGETS, Demand(100, Price(Decimal(1), Decimal(1))), MOMENT
        )
    }
    minute = refusal(rules["Ri"], 5, 16, MOMENT)
    assert isinstance(minute, RateLimited)
    assert (minute.retry_after, minute.should_retry) == (2, None)
    assert minute.extra_headers["x-ratelimit-remaining-requests"] == "0"
    # The whole of a limit would not be enough: no waiting helps.
    assert refusal(rules["Ti"], 0, 10**6, MOMENT).should_retry is False
    assert refusal(rules["Rd"], 1, 16, MOMENT - timedelta(hours=2)).should_retry is False
    assert isinstance(refusal(rules["Ce"], 0, 16, MOMENT), InsufficientFunds)
    for name in ("Pe", "Rd"):
        assert held_elsewhere(rules[name]).retry_after == 1
