"""What this process knows of its targets' health: who may be asked now, with which key, and what has come of it.

A breaker stands before every target (one model of one provider), and one of its own before each choice of backings that
a caller makes there (`:groq`, or `provider` in the body); a ring of API keys and a budget of retries before every
provider. All of it is in memory and this process's own: each worker learns by itself, within a few requests.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from plugins.contract import Failure, FailureKind
from proxy.core.breaker import Breaker, BreakerPolicy, State
from proxy.core.retries import RetryBudget, RetryPolicy, is_of_the_key
from proxy.core.routing import Target
from proxy.logs import one_line
from proxy.metrics import Metrics, TargetSeries
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

_MOST_CHOICES = 1_000
_CLOSED = State.CLOSED  # asked for by the class, a member takes ten times as long

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Spared:
    """A target that is not asked now, for so many seconds as far as anybody knows."""

    seconds: float


class Standing:
    """What is kept of one way to a target: its breaker, and the target's series, which to look up by labels takes long."""

    def __init__(
        self, target: Target, policy: BreakerPolicy, metrics: Metrics, *, common: Standing | None = None
    ) -> None:
        """Begin in good health; `common` is what is kept of the target, where this is a way that a caller has chosen."""
        self.name = target.entry.provider
        self.model = target.entry.info.id
        self.asked = target.model
        self.breaker = Breaker(policy)
        self.series: TargetSeries = common.series if common else TargetSeries(metrics, self.name, self.model)
        # There are as many ways as callers can think of, so none of them has series of its own.
        self._metrics = None if common else metrics
        self._shown = State.CLOSED
        if self._metrics is not None:
            self._metrics.breaker_state.labels(self.name, self.model).set(_STATES[State.CLOSED])

    def report(self) -> None:
        """Tell the operator if the breaker has changed its state."""
        state = self.breaker.state
        if state is self._shown:
            return
        self._shown = state
        if self._metrics is not None:
            self._metrics.breaker_state.labels(self.name, self.model).set(_STATES[state])
            self._metrics.breaker_changes.labels(self.name, self.model, state).inc()
        log.warning("a breaker has changed", provider=self.name, model=one_line(self.asked), state=str(state))


class Health:
    """The breakers, keys and retry budgets of one process."""

    def __init__(self, endpoints: Mapping[str, Endpoint], rules: Resilience, metrics: Metrics) -> None:
        """Begin with everybody in good health."""
        self.loop = asyncio.get_running_loop()
        self.retries: RetryPolicy = rules.retries.policy
        self.set_aside: SetAside = rules.set_aside
        self.metrics = metrics
        self.endpoints = endpoints
        self._policy = rules.breaker.policy
        self._standings: dict[tuple[str, str], Standing] = {}
        self._chosen: OrderedDict[tuple[str, str, int], Standing] = OrderedDict()
        share, burst = rules.retries.budget, rules.retries.burst
        self._budgets = {name: RetryBudget(share, burst) for name in endpoints}
        self.report_keys()

    def admit(self, target: Target, wish: object, *, is_retry: bool) -> Admission | Spared:
        """Admit a request to a target, unless its breaker is open or its provider's retries are used up.

        `wish` is what the caller wants of the target's backings, if he says so beside the model.
        """
        standing, now = self._standing(target, wish), self.loop.time()
        budget = self._budgets[standing.name]
        if is_retry and not budget.withdraw():
            return Spared(0.0)
        ticket = standing.breaker.admit(now)
        if ticket is None:
            return Spared(standing.breaker.wait(now))
        if is_retry:
            self.metrics.retries.labels(standing.name, standing.model).inc()
        else:
            budget.deposit()
        if standing.breaker.state is not _CLOSED:  # a closed one has let everybody in as ever
            standing.report()
        return Admission(self, target, standing, ticket, now)

    def report_keys(self) -> None:
        """Tell the metrics how many keys are set aside now; that changes with time alone, too."""
        now = self.loop.time()
        for name, endpoint in self.endpoints.items():
            self.metrics.keys_set_aside.labels(name).set(endpoint.keyring.count_set_aside(now))

    def view(self, name: str) -> dict[str, Any]:
        """Show a provider's keys, and those of its targets that are spared or probed now."""
        now, keys = self.loop.time(), self.endpoints[name].keyring
        return {
            "apiKeys": {"total": len(keys.keys), "setAside": keys.count_set_aside(now)},
            "breakers": [
                {
                    "model": each.asked,
                    "state": str(each.breaker.state),
                    "seconds": each.breaker.wait(now),
                }
                for each in (*self._standings.values(), *self._chosen.values())
                if each.name == name and each.breaker.state is not State.CLOSED
            ],
        }

    def _standing(self, target: Target, wish: object) -> Standing:
        entry = target.entry
        key = (entry.provider, entry.info.id)
        standing = self._standings.get(key)
        if standing is None:
            # As many as the catalogue has models, and no more: a target is an entry of it.
            standing = self._standings[key] = Standing(
                Target(entry, entry.info.id), self._policy, self.metrics
            )
        if not wish and target.model == entry.info.id:
            return standing
        return self._standing_of_choice(target, wish, standing)

    def _standing_of_choice(self, target: Target, wish: object, common: Standing) -> Standing:
        """Return what is kept of the way that a caller has chosen: a backing that is ill is nobody else's trouble."""
        key = (target.entry.provider, target.model, hash(orjson.dumps(wish)))
        standing = self._chosen.get(key)
        if standing is None:
            standing = self._chosen[key] = Standing(target, self._policy, self.metrics, common=common)
            if len(self._chosen) > _MOST_CHOICES:
                self._chosen.popitem(last=False)
        self._chosen.move_to_end(key)
        return standing


class Admission:
    """A request that may go to a target, with an API key; `ended` is called once, whatever happens."""

    def __init__(self, health: Health, target: Target, standing: Standing, ticket: int, now: float) -> None:
        """Take the key whose turn it is."""
        self.target = target
        self.endpoint = health.endpoints[standing.name]
        self.api_key = self.endpoint.next_key(now)
        self._health = health
        self._standing = standing
        self._ticket = ticket
        self._loop = health.loop
        self._began = now

    def has_begun(self) -> None:
        """Take note of the first piece of an answer: a probe has succeeded, however long its stream goes on."""
        now, breaker = self._loop.time(), self._standing.breaker
        self._standing.series.first_token.observe(now - self._began)
        if breaker.state is State.HALF_OPEN:
            breaker.succeeded(self._ticket, now)
            self._standing.report()

    def ended(self, failure: Failure | None, *, is_served: bool) -> None:
        """Take note of how the attempt ended: served, with a failure, or (neither) broken off by us."""
        now, breaker = self._loop.time(), self._standing.breaker
        outcome = str(failure.kind) if failure else "served" if is_served else "broken_off"
        self._standing.series.ended(outcome, now - self._began)
        self._judge_key(failure, now, is_served=is_served)
        if is_served or (failure is not None and failure.kind in _WELL):
            breaker.succeeded(self._ticket, now)
        elif failure is not None and self._is_sick(failure):
            breaker.failed(self._ticket, now)
        else:
            breaker.released(self._ticket, now)
        self._standing.report()

    def may_use_another_key(self, failure: Failure) -> bool:
        """Say whether the provider has another key that might be served where this one was not."""
        if self.api_key is None or not is_of_the_key(failure):
            return False
        return self.endpoint.keyring.has_better(self.api_key, self._loop.time())

    def _is_sick(self, failure: Failure) -> bool:
        return failure.kind in _SICK and not self.may_use_another_key(failure)

    def _judge_key(self, failure: Failure | None, now: float, *, is_served: bool) -> None:
        keyring, spared = self.endpoint.keyring, self._health.set_aside
        if self.api_key is None:
            return
        if failure is None or not is_of_the_key(failure):
            if is_served:
                keyring.restore(self.api_key)
            return
        was_refused = failure.kind in _REFUSED_KEY
        usual = spared.refused if was_refused else spared.limited
        seconds = min(spared.longest, usual if failure.retry_after is None else failure.retry_after)
        keyring.set_aside(self.api_key, now, seconds, was_refused=was_refused)
        self._health.report_keys()
        log.warning("an API key is set aside", provider=self._standing.name, cause=str(failure.kind))
