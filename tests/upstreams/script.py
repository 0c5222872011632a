"""A script hands each request its behaviour: the first queued one that matches, else the standing one, else none.

A rule may be for one model, one key or one path only; of several standing rules that match, the latest wins.
Endpoints that generate nothing (/models, /generation) obey only rules that name their path.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from tests.upstreams.behaviour import Behaviour

HEALTHY = Behaviour()


@dataclass(frozen=True, slots=True)
class Rule:
    behaviour: Behaviour
    model: str | None
    key: str | None
    path: str | None

    def matches(self, models: frozenset[str], key: str | None, path: str, *, generates: bool) -> bool:
        return (
            (generates or self.path is not None)
            and (self.model is None or self.model in models)
            and (self.key is None or self.key == key)
            and (self.path is None or path.endswith(self.path))
        )


class Script:
    """The behaviours to come; safe to use from any thread."""

    def __init__(self, check: Callable[[Behaviour], object]) -> None:
        """Take a check that raises for a behaviour which this upstream does not know."""
        self._check = check
        self._lock = threading.Lock()
        self._queue: list[Rule] = []
        self._standing: list[Rule] = []

    def enqueue(
        self,
        *behaviours: Behaviour,
        times: int = 1,
        model: str | None = None,
        key: str | None = None,
        path: str | None = None,
    ) -> None:
        """Give these to the next matching requests, one each, the whole row `times` times."""
        for each in behaviours:
            self._check(each)
        with self._lock:
            self._queue += [Rule(each, model, key, path) for each in behaviours] * times

    def always(
        self,
        behaviour: Behaviour,
        *,
        model: str | None = None,
        key: str | None = None,
        path: str | None = None,
    ) -> None:
        """Give this to every matching request for which nothing is queued."""
        self._check(behaviour)
        with self._lock:
            self._standing.insert(0, Rule(behaviour, model, key, path))

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()
            self._standing.clear()

    @property
    def pending(self) -> int:
        """How many queued behaviours nobody has met yet."""
        return len(self._queue)

    def take(self, models: frozenset[str], key: str | None, path: str, *, generates: bool) -> Behaviour:
        """Choose the behaviour of one request."""
        with self._lock:
            for at, rule in enumerate(self._queue):
                if rule.matches(models, key, path, generates=generates):
                    del self._queue[at]
                    return rule.behaviour
            standing = (
                each for each in self._standing if each.matches(models, key, path, generates=generates)
            )
            return next((each.behaviour for each in standing), HEALTHY)
