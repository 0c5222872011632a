"""Tests of proxy/core/headers.py: the headers are OpenAI's, and tell of the tightest limit."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.core.headers import duration, exhausted_headers, rate_limit_headers
from proxy.core.limits import UserLimits
from proxy.core.rules import Demand, KeyLimits, rules_of

NOON = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)
RULES = rules_of(
    UserLimits(50, 1000, 100_000),
    "6b03f7404765ff65c84d670d",
    KeyLimits(requests_per_minute=10, tokens_per_minute=5000),
    Demand(100, None),
    NOON,
)
COUNTERS = [rule.counter for rule in RULES]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.012, "12ms"),
        (1, "1s"),
        (59.5, "59.5s"),
        (172.8, "2m53s"),
        (360, "6m0s"),
        (3723, "1h2m3s"),
    ],
)
def test_a_duration_is_written_as_go_does(seconds: float, text: str) -> None:
    """Spans look like those of OpenAI's own headers."""
    assert duration(seconds) == text


def test_the_tightest_limit_is_told() -> None:
    """Of the limits of one kind, the one with the least left is in the headers, with its own window's end."""
    remaining = dict(zip(COUNTERS, [40, 900, 90_000, 9, 4000], strict=True))
    assert rate_limit_headers(RULES, remaining, NOON) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": "4000",
        "x-ratelimit-reset-tokens": "30s",
    }
    remaining[COUNTERS[0]] = 3
    headers = rate_limit_headers(RULES, remaining, NOON)
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("50", "3")
    assert headers["x-ratelimit-reset-requests"] == "11h59m30s"


def test_what_is_exhausted_is_zero() -> None:
    """The limit that refused a request has nothing left; money has no such headers."""
    assert exhausted_headers(RULES[0], NOON)["x-ratelimit-remaining-requests"] == "0"
    budget = rules_of(UserLimits(1, 1, 1), "k", KeyLimits(concurrent_requests=1), Demand(1, None), NOON)[-1]
    assert exhausted_headers(budget, NOON) == {}
