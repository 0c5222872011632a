"""What this process knows of its targets' health: who may be asked now, with which key, and what has come of it.

A breaker stands before every target (one model of one provider), a ring of API keys and a budget of retries before
every provider. All of it is in memory and this process's own: each worker learns by itself, within a few requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from plugins.contract import Failure, FailureKind
from proxy.core.breaker import Breaker, State
from proxy.core.retries import RetryBudget, RetryPolicy, is_of_the_key
from proxy.core.routing import Target
from proxy.metrics import Metrics
from proxy.relay import Endpoint
from proxy.routes import Resilience, SetAside

_STATES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}
_REFUSED_KEY = frozenset({FailureKind.CREDENTIALS, FailureKind.CREDITS})
_SICK = _REFUSED_KEY | {
    FailureKind.PROVIDER,
    FailureKind.RATE_LIMIT,
    FailureKind.TIMEOUT,
    FailureKind.UNREACHABLE,
}
_WELL = frozenset({FailureKind.INVALID_REQUEST, FailureKind.TOO_LARGE, FailureKind.MODERATION})
"""Refusals that a healthy target makes; the kinds that are in neither set tell nothing."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Spared:
    """A target that is not asked now, for so many seconds as far as anybody knows."""

    seconds: float


class Health:
    """The breakers, keys and retry budgets of one process."""

    def __init__(self, endpoints: Mapping[str, Endpoint], rules: Resilience, metrics: Metrics) -> None:
        """Begin with everybody in good health."""
        self.retries: RetryPolicy = rules.retries.policy
        self.set_aside: SetAside = rules.set_aside
        self.metrics = metrics
        self._endpoints = endpoints
        self._policy = rules.breaker.policy
        self._breakers: dict[tuple[str, str], Breaker] = {}
        share, burst = rules.retries.budget, rules.retries.burst
        self._budgets = {name: RetryBudget(share, burst) for name in endpoints}

    def admit(self, target: Target, *, is_retry: bool) -> Admission | Spared:
        """Admit a request to a target, unless its breaker is open or its provider's retries are used up."""
        name, model = target.entry.provider, target.entry.info.id
        breaker, now = self._breaker(name, model), asyncio.get_running_loop().time()
        budget = self._budgets[name]
        if is_retry and not budget.withdraw():
            return Spared(0.0)
        state = breaker.state
        ticket = breaker.admit(now)
        if ticket is None:
            return Spared(breaker.wait(now))
        if is_retry:
            self.metrics.retries.labels(name, model).inc()
        else:
            budget.deposit()
        self.report(target, state, breaker.state)
        return Admission(self, target, self._endpoints[name], breaker, ticket)

    def report(self, target: Target, before: State, after: State) -> None:
        """Tell the operator if a breaker has changed its state."""
        if after is before:
            return
        name, model = target.entry.provider, target.entry.info.id
        self.metrics.breaker_state.labels(name, model).set(_STATES[after])
        self.metrics.breaker_changes.labels(name, model, after).inc()
        log.warning("a breaker has changed", provider=name, model=model, state=str(after))

    def report_keys(self, name: str, count: int) -> None:
        """Tell the operator how many keys of a provider are set aside."""
        self.metrics.keys_set_aside.labels(name).set(count)

    def view(self, name: str) -> dict[str, Any]:
        """Show a provider's keys, and those of its targets that are spared or probed now."""
        now, keys = asyncio.get_running_loop().time(), self._endpoints[name].keyring
        return {
            "apiKeys": {"total": len(keys.keys), "setAside": keys.count_set_aside(now)},
            "breakers": [
                {"model": model, "state": str(breaker.state), "seconds": breaker.wait(now)}
                for (provider, model), breaker in self._breakers.items()
                if provider == name and breaker.state is not State.CLOSED
            ],
        }

    def _breaker(self, name: str, model: str) -> Breaker:
        breaker = self._breakers.get((name, model))
        if breaker is None:
            # As many as the catalogue has models, and no more: a target is an entry of it.
            breaker = self._breakers[name, model] = Breaker(self._policy)
        return breaker


class Admission:
    """A request that may go to a target, with an API key; `ended` is called once, whatever happens."""

    def __init__(
        self, health: Health, target: Target, endpoint: Endpoint, breaker: Breaker, ticket: int
    ) -> None:
        """Take the key whose turn it is."""
        self.target = target
        self.endpoint = endpoint
        self.api_key = endpoint.next_key()
        self._health = health
        self._breaker = breaker
        self._ticket = ticket
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    def has_begun(self) -> None:
        """Take note of the first piece of an answer: a probe has succeeded, however long its stream goes on."""
        name, model = self.target.entry.provider, self.target.entry.info.id
        now = self._loop.time()
        self._health.metrics.upstream_first_token.labels(name, model).observe(now - self._began)
        if self._breaker.state is State.HALF_OPEN:
            self._breaker.succeeded(self._ticket, now)
            self._health.report(self.target, State.HALF_OPEN, self._breaker.state)

    def ended(self, failure: Failure | None, *, is_served: bool) -> None:
        """Take note of how the attempt ended: served, with a failure, or (neither) broken off by us."""
        name, model = self.target.entry.provider, self.target.entry.info.id
        metrics, now = self._health.metrics, self._loop.time()
        outcome = failure.kind if failure else "served" if is_served else "broken_off"
        metrics.attempts.labels(name, model, outcome).inc()
        metrics.upstream_duration.labels(name, model).observe(now - self._began)
        self._judge_key(failure, now)
        state = self._breaker.state
        if is_served or (failure is not None and failure.kind in _WELL):
            self._breaker.succeeded(self._ticket, now)
        elif failure is not None and self._is_sick(failure):
            self._breaker.failed(self._ticket, now)
        else:
            self._breaker.released(self._ticket, now)
        self._health.report(self.target, state, self._breaker.state)

    def may_use_another_key(self, failure: Failure) -> bool:
        """Say whether the provider has another key that might be served where this one was not."""
        return is_of_the_key(failure) and self.endpoint.keyring.has_good(self._loop.time())

    def _is_sick(self, failure: Failure) -> bool:
        return failure.kind in _SICK and not self.may_use_another_key(failure)

    def _judge_key(self, failure: Failure | None, now: float) -> None:
        keyring, spared = self.endpoint.keyring, self._health.set_aside
        if self.api_key is None:
            return
        if failure is None or not is_of_the_key(failure):
            if failure is None and keyring.restore(self.api_key):
                self._health.report_keys(self.target.entry.provider, keyring.count_set_aside(now))
            return
        usual = spared.refused if failure.kind in _REFUSED_KEY else spared.limited
        seconds = min(spared.longest, usual if failure.retry_after is None else failure.retry_after)
        keyring.set_aside(self.api_key, now, seconds)
        count = keyring.count_set_aside(now)
        self._health.report_keys(self.target.entry.provider, count)
        log.warning("an API key is set aside", provider=self.endpoint.provider.name, cause=str(failure.kind))
