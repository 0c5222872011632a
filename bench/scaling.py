"""What a second worker brings: the throughput of several workers over that of one.

The workers have to be the limit, and not the client, the provider or the database. On a machine with cores for all of them
they are. On a smaller one each worker may use a quarter of a core, so that the others have what they need of the rest.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from bench.compare import provider
from bench.gateways import Running, worker
from bench.keys import add_keys
from bench.measure import SCENARIOS, SHORT, STREAM, Scenario, ask
from bench.processes import of_each
from bench.quota import limited
from proxy.mongod import embedded_mongod

_OTHERS = 3
"""Client, provider and database: each takes a core at most."""

_SHARE = 0.25


async def measure_scaling(workers: int, rounds: int, seconds: float) -> str:
    """Measure one worker and several, each alone; return what was found, as a table. Raises `CannotRun`."""
    found: dict[int, Mapping[str, float]] = {}
    share = 1.0 if (os.cpu_count() or 1) >= workers + _OTHERS else _SHARE
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, provider(Path(folder)) as upstream:
        for count in (1, workers):
            place = Path(folder) / f"workers-{count}"
            place.mkdir()
            with embedded_mongod(place / "data") as mongod:
                secrets = await add_keys(mongod.uri, 1)
                several = {"WORKERS": str(count)}
                async with worker(upstream, place, mongod.uri, secrets, variables=several) as gateway:
                    with nullcontext() if share == 1 else limited(_workers_of(gateway), share):
                        found[count] = {
                            scenario.name: await _per_second(
                                gateway, replace(scenario, connections=32 * workers), rounds, seconds
                            )
                            for scenario in SCENARIOS
                            if scenario.name in (SHORT, STREAM)
                        }
    return _table(found[1], found[workers], workers, share)


def _workers_of(gateway: Running) -> list[int]:
    """Return the processes that serve: those below the parent, or the only one."""
    pid = gateway.pid or 0
    return [each for each in of_each(pid) if each != pid] or [pid]


async def _per_second(gateway: Running, scenario: Scenario, rounds: int, seconds: float) -> float:
    await ask(gateway.target, scenario, max(1.0, seconds / 2))
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        served = len((await ask(gateway.target, scenario, seconds)).whole)
        rates.append(served / (time.perf_counter() - began))
    return statistics.median(rates)


def _table(one: Mapping[str, float], several: Mapping[str, float], workers: int, share: float) -> str:
    lines = [
        f"32 connections for each of {workers} workers, each of which may use {share:.0%} of a core:",
        "",
        f"| requests a second | 1 worker | {workers} workers | times the throughput |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name.partition(',')[0]} | {one[name]:,.0f} | {several[name]:,.0f} | {several[name] / one[name]:.2f} |"
        for name in one
    ]
    return "\n".join(lines)
