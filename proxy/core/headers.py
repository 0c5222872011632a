"""OpenAI's rate limit headers: what is left of the tightest limit of each kind, and when it is whole again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from math import ceil

from proxy.core.rules import Kind, Rule

_MINUTE = 60
# Asked for by the class, a member takes ten times as long as by a name.
_REQUESTS, _TOKENS = Kind.REQUESTS, Kind.TOKENS
_OF_REQUESTS, _OF_TOKENS = (
    (f"x-ratelimit-limit-{name}", f"x-ratelimit-remaining-{name}", f"x-ratelimit-reset-{name}")
    for name in ("requests", "tokens")
)
RATE_LIMIT_HEADERS = (*_OF_REQUESTS, *_OF_TOKENS)
"""All of them, those of requests first."""


def rate_limit_headers(rules: Sequence[Rule], remaining: Mapping[str, int], now: datetime) -> dict[str, str]:
    """Return `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` for the limits that a request touched."""
    requests = tokens = None
    fewest_requests = fewest_tokens = 0
    for rule in rules:
        left = remaining.get(rule.counter, rule.limit)
        if rule.kind is _REQUESTS:
            if requests is None or left < fewest_requests:
                requests, fewest_requests = rule, left
        elif rule.kind is _TOKENS and (tokens is None or left < fewest_tokens):
            tokens, fewest_tokens = rule, left
    headers: dict[str, str] = {}
    if requests is not None:
        _add(headers, _OF_REQUESTS, requests, fewest_requests, now)
    if tokens is not None:
        _add(headers, _OF_TOKENS, tokens, fewest_tokens, now)
    return headers


def exhausted_headers(rule: Rule, now: datetime) -> dict[str, str]:
    """Return the same for the limit that refused a request."""
    return rate_limit_headers([rule], {rule.counter: 0}, now)


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


def _add(
    headers: dict[str, str], names: tuple[str, str, str], rule: Rule, remaining: int, now: datetime
) -> None:
    limit, left, reset = names
    headers[limit] = str(rule.limit)
    headers[left] = "0" if remaining < 0 else str(remaining)
    if rule.ends is not None:
        headers[reset] = duration((rule.ends - now).total_seconds())
