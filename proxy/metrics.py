"""Every Prometheus metric of the gateway, declared once, with label sets that no client can widen.

Model labels are the catalogue's ids: a request for an unknown model never gets as far as a label.

Alone, a process keeps its metrics in memory. Several workers keep them in mapped files, so that whichever is scraped
knows of all. A worker that replaces another one goes on with its counters, and so their number stays what it was.

The dozen observations of a request are summed first, and given to the library by `flush`: before a scrape, every
second, and at the end. Four calls and a lock for each made 24 us of a request's CPU, and 36 with files; it is 4 now
(measured). What a sibling is scraped for is a second old at most, and `kill -9` takes the last second's counts.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TARGET = ("provider", "model")
_TARGET_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)
"""Fewer, for there is a series of each for every target in use."""


TOKEN_KINDS = ("prompt", "completion", "cached", "cache_write", "reasoning")


class ManyAtOnce(Histogram):
    """A histogram that takes many observations in one step, which the library's own does one by one."""

    @property
    def bounds(self) -> Sequence[float]:
        """Return the upper bounds of its buckets."""
        return self._upper_bounds

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add observations: how many there were in each bucket, and their sum."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class Sum:
    """What one series has grown by since the last flush."""

    __slots__ = ("_series", "amount")

    def __init__(self, series: Counter | Gauge) -> None:
        """Begin with nothing."""
        self._series = series
        self.amount: float = 0

    def flush(self) -> None:
        """Give it to the series."""
        if self.amount:
            self._series.inc(self.amount)
            self.amount = 0


class Spread:
    """What one histogram has observed since the last flush."""

    __slots__ = ("_bounds", "_counts", "_series", "_total")

    def __init__(self, series: ManyAtOnce) -> None:
        """Begin with nothing."""
        self._series = series
        self._bounds = series.bounds
        self._clear()

    def observe(self, amount: float) -> None:
        """Take note of one observation."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._total += amount

    def flush(self) -> None:
        """Give them to the histogram."""
        if any(self._counts):
            self._series.add(self._counts, self._total)
            self._clear()

    def _clear(self) -> None:
        self._counts = [0] * len(self._bounds)
        self._total = 0.0


@dataclass(frozen=True, slots=True)
class CallSeries:
    """The series that every call of one API, provider, model and outcome adds to; `tokens` as `TOKEN_KINDS`."""

    requests: Sum
    of_api: Sum
    duration: Spread
    first_token: Spread
    tokens: tuple[Sum, ...]
    cost: Sum


class TargetSeries:
    """The series that every attempt at one target adds to."""

    def __init__(self, metrics: Metrics, provider: str, model: str) -> None:
        """Find those that every attempt adds to."""
        self._metrics = metrics
        self._target = (provider, model)
        self._attempts: dict[str, Sum] = {}
        self.duration = metrics.spread(metrics.upstream_duration.labels(provider, model))
        self.first_token = metrics.spread(metrics.upstream_first_token.labels(provider, model))

    def ended(self, outcome: str, seconds: float) -> None:
        """Count an attempt."""
        attempts = self._attempts.get(outcome)
        if attempts is None:
            series = self._metrics.attempts.labels(*self._target, outcome)
            attempts = self._attempts[outcome] = self._metrics.sum(series)
        attempts.amount += 1
        self.duration.observe(seconds)


def share(folder: Path, worker: int) -> None:
    """Keep the metrics that this process makes from now on in files of a folder, as those of a worker's number.

    The library reads where they are from the environment alone, and would choose by it at its import.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    mark_process_dead(worker, str(folder))  # type: ignore[no-untyped-call]  # the library has no annotation here
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]  # likewise


class Metrics:
    """The metrics of one process, and those of its siblings where they share a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        """Register everything in a registry of its own, so that several apps can live in one process."""
        self._folder = folder
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, of no use to anybody here
        self.registry = CollectorRegistry()
        self._of_calls: dict[tuple[str, str, str, str], CallSeries] = {}
        self._unflushed: list[Sum | Spread] = []
        self.requests = self._counter(
            "aipasta_requests",
            "Requests that reached a provider, by how they ended.",
            ("provider", "model", "outcome"),
        )
        self.api_requests = self._counter(
            "aipasta_api_requests",
            "The same requests by their API (chat, embeddings, responses, messages).",
            ("api", "outcome"),
        )
        self.errors = self._counter(
            "aipasta_errors",
            "Error answers, by surface (v1, api, system), status and code.",
            ("surface", "status", "code"),
        )
        self.attempts = self._counter(
            "aipasta_upstream_attempts",
            "Requests sent to a target: served, broken_off by us, or by the kind of failure.",
            ("provider", "model", "outcome"),
        )
        self.retries = self._counter(
            "aipasta_upstream_retries",
            "Attempts at a target that had already failed in the same call.",
            ("provider", "model"),
        )
        self.fallbacks = self._counter(
            "aipasta_fallbacks",
            "Calls that went on to another target, by the target that they left.",
            ("provider", "model"),
        )
        self.breaker_state = Gauge(
            "aipasta_breaker_state",
            "State of a target's circuit breaker: 0 closed, 1 half-open, 2 open.",
            _TARGET,
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self.breaker_changes = self._counter(
            "aipasta_breaker_changes",
            "Changes of a target's circuit breaker, by the state that it came to.",
            ("provider", "model", "state"),
        )
        self.keys_set_aside = Gauge(
            "aipasta_keys_set_aside",
            "API keys of a provider that were refused or limited and are not used now.",
            ("provider",),
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self.upstream_duration = ManyAtOnce(
            "aipasta_upstream_seconds",
            "Time from a request to a target to the end of its answer.",
            _TARGET,
            buckets=_TARGET_BUCKETS,
            registry=self.registry,
        )
        self.upstream_first_token = ManyAtOnce(
            "aipasta_upstream_first_token_seconds",
            "Time from a request to a target to the first piece of its streamed answer.",
            _TARGET,
            buckets=_TARGET_BUCKETS,
            registry=self.registry,
        )
        self.tokens = self._counter(
            "aipasta_tokens",
            "Tokens by kind (prompt, completion, cached, cache_write, reasoning); cached and cache_write are parts of "
            "prompt, reasoning of completion.",
            ("provider", "model", "kind"),
        )
        self.cost = self._counter("aipasta_cost_usd", "Cost of the requests, in USD.", ("provider", "model"))
        self.unpriced = self._counter(
            "aipasta_unpriced_requests",
            "Requests whose cost nobody could tell; should stay 0.",
            ("provider",),
        )
        self.over_hold = self._counter(
            "aipasta_over_hold_requests",
            "Requests for which a provider counted more than was held.",
            ("provider",),
        )
        self.duration = ManyAtOnce(
            "aipasta_request_seconds",
            "Time from a request's arrival to the end of its answer.",
            ("provider", "outcome"),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.first_token = ManyAtOnce(
            "aipasta_time_to_first_token_seconds",
            "Time from a request's arrival to the first piece of its answer.",
            ("provider",),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "aipasta_requests_in_flight",
            "Requests being served now.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.running = self.sum(self.in_flight)
        self.journal_backlog = Gauge(
            "aipasta_journal_backlog_events",
            "Events that the database does not know yet.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.open_holds = Gauge(
            "aipasta_open_holds",
            "Requests that hold something of their limits now.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.ledger_drift = Gauge(
            "aipasta_ledger_drift",
            "Counters that are not the sum of their events, in the last sample checked; should stay 0.",
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self.models = Gauge(
            "aipasta_catalogue_models",
            "Models in the catalogue.",
            ("provider",),
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self.catalog_age = Gauge(
            "aipasta_catalogue_age_seconds",
            "Seconds since a provider's model list was last read.",
            ("provider",),
            multiprocess_mode="livemax",
            registry=self.registry,
        )

    def expect(self, providers: Iterable[str]) -> None:
        """Show from the start what should stay 0: a counter that appears with its first increase hides that."""
        for name in providers:
            for counter in (self.unpriced, self.over_hold):
                counter.labels(name)

    def of_call(self, api: str, provider: str, model: str, outcome: str) -> CallSeries:
        """Return the series of a call; looking each up by its labels takes over 20 us a call, this less than one."""
        key = (api, provider, model, outcome)
        found = self._of_calls.get(key)
        if found is None:
            found = self._of_calls[key] = CallSeries(
                self.sum(self.requests.labels(provider, model, outcome)),
                self.sum(self.api_requests.labels(api, outcome)),
                self.spread(self.duration.labels(provider, outcome)),
                self.spread(self.first_token.labels(provider)),
                tuple(self.sum(self.tokens.labels(provider, model, kind)) for kind in TOKEN_KINDS),
                self.sum(self.cost.labels(provider, model)),
            )
        return found

    def sum(self, series: Counter | Gauge) -> Sum:
        """Return what sums up a series' growth until the next flush."""
        added = Sum(series)
        self._unflushed.append(added)
        return added

    def spread(self, series: ManyAtOnce) -> Spread:
        """Return what collects a histogram's observations until the next flush."""
        added = Spread(series)
        self._unflushed.append(added)
        return added

    def flush(self) -> None:
        """Give the library what was summed up; called where the requests are counted, in the loop's thread."""
        for each in self._unflushed:
            each.flush()

    def render(self) -> bytes:
        """Return the exposition in Prometheus' text format, of what was flushed; any thread may call it."""
        return generate_latest(self._all())

    def value(self, name: str) -> float:
        """Return the present value of a metric that has no labels."""
        self.flush()
        return self._all().get_sample_value(name) or 0.0

    def _all(self) -> CollectorRegistry:
        if self._folder is None:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]  # likewise
        return registry

    def _counter(self, name: str, help_text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)
