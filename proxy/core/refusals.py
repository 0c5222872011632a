"""What a limit that is reached becomes for the caller: which one it is, and whether waiting helps."""

from __future__ import annotations

from datetime import datetime

from proxy.core.headers import exhausted_headers
from proxy.core.rules import Kind, Period, Rule
from proxy.errors import GatewayError, InsufficientFunds, RateLimited

_PATIENCE = 60.0
"""A client that is told to wait longer than this many seconds is told not to try again by itself."""


def refusal(rule: Rule, used: int, least: int, now: datetime) -> GatewayError:
    """Make the error for a limit that `used` has brought so far that `least` output is not affordable."""
    need = rule.need(least)
    wait = None if rule.ends is None else (rule.ends - now).total_seconds()
    if rule.kind is Kind.COST:
        message = f"{_title(rule)} exceeded: the worst case of this request does not fit into what is left."
        return InsufficientFunds(message, retry_after=wait, should_retry=False)
    message = f"{_title(rule)} exceeded: {used} of {rule.limit} used, {need} needed."
    is_patient = wait is not None and wait <= _PATIENCE and need <= rule.limit
    error = RateLimited(message, retry_after=wait, should_retry=None if is_patient else False)
    error.extra_headers.update(exhausted_headers(rule, now))
    return error


def held_elsewhere(rule: Rule) -> GatewayError:
    """Make the error for a limit of which only other requests in flight hold what is missing."""
    if rule.kind is Kind.CONCURRENCY:
        message = f"Concurrent request limit exceeded: this key may have {rule.limit} requests in flight."
    else:
        message = f"{_title(rule)}: other requests in flight hold what is left; try again in a moment."
    return RateLimited(message, retry_after=1)


def _title(rule: Rule) -> str:
    adjectives = {
        Period.MINUTE: "Per-minute",
        Period.DAY: "Daily",
        Period.WEEK: "Weekly",
        Period.MONTH: "Monthly",
        Period.EVER: "Total",
    }
    nouns = {Kind.REQUESTS: "request limit", Kind.TOKENS: "token limit", Kind.COST: "budget"}
    return f"{adjectives[rule.period]} {nouns.get(rule.kind, 'limit')}" + (
        " of this key" if rule.is_of_key else ""
    )
