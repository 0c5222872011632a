"""OpenAI's rate limit headers: what is left of the tightest limit of each kind, and when it is whole again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from math import ceil

from proxy.core.rules import Kind, Rule

_MINUTE = 60
_NAMES = {
    kind: (f"x-ratelimit-limit-{name}", f"x-ratelimit-remaining-{name}", f"x-ratelimit-reset-{name}")
    for kind, name in ((Kind.REQUESTS, "requests"), (Kind.TOKENS, "tokens"))
}
RATE_LIMIT_HEADERS = tuple(name for names in _NAMES.values() for name in names)
"""All of them, those of requests first."""


def rate_limit_headers(rules: Sequence[Rule], remaining: Mapping[str, int], now: datetime) -> dict[str, str]:
    """Return `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` for the limits that a request touched."""
    headers: dict[str, str] = {}
    for kind in _NAMES:
        tightest, least = None, 0
        for rule in rules:
            if rule.kind is kind:
                left = remaining.get(rule.counter, rule.limit)
                if tightest is None or left < least:
                    tightest, least = rule, left
        if tightest is not None:
            headers |= _headers(tightest, least, now)
    return headers


def exhausted_headers(rule: Rule, now: datetime) -> dict[str, str]:
    """Return the same for the limit that refused a request."""
    return _headers(rule, 0, now) if rule.kind in _NAMES else {}


def duration(seconds: float) -> str:
    """Write a time span as Go does and OpenAI's headers do: `6m0s`, `12.8s`, `120ms`; from a minute on in whole seconds."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    return f"{round(seconds, 3):g}s" if seconds < _MINUTE else _long(ceil(seconds))


@lru_cache(maxsize=64)
def _long(seconds: int) -> str:
    # Most windows are a day or a month, so that all answers of a second say the same.
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _headers(rule: Rule, remaining: int, now: datetime) -> dict[str, str]:
    limit, left, reset = _NAMES[rule.kind]
    headers = {limit: str(rule.limit), left: str(max(0, remaining))}
    if rule.ends is not None:
        headers[reset] = duration((rule.ends - now).total_seconds())
    return headers
