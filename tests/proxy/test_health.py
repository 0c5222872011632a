"""Tests of proxy/health.py: a provider's bad day under load, as its callers, its books and its operator see it."""

from __future__ import annotations

import pytest

from tests.bad_day import DAY, live_all, table


@pytest.mark.long
async def test_a_bad_day(mongodb_uri: str) -> None:
    """Fallbacks save what a provider reports to have failed, and most of the rest; nothing is charged twice."""
    reports = await live_all(mongodb_uri, requests=24, at_once=8)
    alone, retried, saved = (reports[way].success for way in ("alone", "with retries", "with fallbacks"))
    shown = table(reports)
    for trouble in (
        "429 storm",
        "errors first in a stream",
        "half of the keys refused",
        "500s, every second",
    ):
        assert saved[trouble] == 1, shown
    for trouble in ("429 storm", "errors first in a stream", "resets", "stalls", "slow first byte"):
        assert alone[trouble] == 0, shown
    # A call that may have run is never sent again: what saves the callers here is the open breaker.
    for trouble in ("resets", "stalls", "slow first byte"):
        assert retried[trouble] == 0, shown
        assert 0.25 < saved[trouble] < 1, shown
    assert alone["half of the keys refused"] < retried["half of the keys refused"] == 1, shown
    assert alone["500s, every second"] <= retried["500s, every second"], shown
    for report in reports.values():
        assert len(report.billed) == report.served, shown
        assert report.charged == report.cost > 0, shown
        assert report.most_charges == 1, shown
    steps = reports["with fallbacks"].steps
    assert steps["open"] == steps["half_open"] >= steps["closed"] >= len(DAY) - 3, shown
    assert reports["with fallbacks"].state == 0
    assert reports["alone"].steps == reports["with retries"].steps == {}
