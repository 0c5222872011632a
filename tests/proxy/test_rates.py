"""Tests of proxy/rates.py."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from proxy.rates import RateLimits


def test_the_defaults_are_the_specifications() -> None:
    """100, 10 and 50 requests per 15 minutes in production, ten times as many in development."""
    limits = RateLimits()
    for name, requests in (("api", 100), ("auth", 10), ("chat", 50)):
        assert limits.named(name, is_production=True).model_dump() == {"requests": requests, "seconds": 900}
        assert limits.named(name, is_production=False).model_dump() == {
            "requests": requests * 10,
            "seconds": 900,
        }


def test_everything_can_be_configured_but_nothing_invented() -> None:
    """Numbers are whole and positive, and an unknown name is refused."""
    limits = RateLimits.model_validate({"auth": {"requests": 3, "seconds": 60}, "development_factor": 2})
    assert limits.named("auth", is_production=False).model_dump() == {"requests": 6, "seconds": 60}
    for wrong in (
        {"login": {"requests": 1}},
        {"auth": {"requests": 0}},
        {"auth": 5},
        {"auth": {"seconds": 1}},
    ):
        with pytest.raises(ValidationError):
            RateLimits.model_validate(wrong)
