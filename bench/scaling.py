"""What a second worker brings: the throughput of two workers over that of one, without a machine that is large enough.

The client and the provider share the cores with the workers, so requests per second say nothing here. What bounds a
gateway with cores of its own is its busiest process: while every other one has time left, a request takes what it takes
of that one's CPU. The throughput of N workers over that of one is therefore the CPU that a request takes of the only
worker, over the CPU that it takes (on average over all requests) of the busiest of N.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.compare import provider
from bench.gateways import Running, worker
from bench.keys import add_keys
from bench.measure import SCENARIOS, SHORT, STREAM, Scenario, ask
from bench.processes import of_each
from proxy.mongod import embedded_mongod

_SCENARIOS = (SHORT, STREAM)


@dataclass(frozen=True, slots=True)
class Share:
    """What a request takes of a gateway's processes, in microseconds of CPU: of the busiest, and of all together."""

    busiest_us: float
    all_us: float


async def measure_scaling(workers: int, rounds: int, seconds: float) -> str:
    """Measure one worker and several, each alone; return what was found, as a table."""
    found: dict[int, Mapping[str, Share]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, provider(Path(folder)) as upstream:
        for count in (1, workers):
            place = Path(folder) / f"workers-{count}"
            place.mkdir()
            with embedded_mongod(place / "data") as mongod:
                secrets = await add_keys(mongod.uri, 1)
                several = {"WORKERS": str(count)}
                async with worker(upstream, place, mongod.uri, secrets, variables=several) as gateway:
                    found[count] = {
                        scenario.name: await _share(gateway, scenario, rounds, seconds)
                        for scenario in SCENARIOS
                        if scenario.name in _SCENARIOS
                    }
    return _table(found[1], found[workers], workers)


async def _share(gateway: Running, scenario: Scenario, rounds: int, seconds: float) -> Share:
    await ask(gateway.target, scenario, max(1.0, seconds / 2))
    busiest, everything = [], []
    for _ in range(rounds):
        before = of_each(gateway.pid or 0)
        count = len((await ask(gateway.target, scenario, seconds)).whole)
        await asyncio.sleep(0.25)  # what a request leaves to be done belongs to it
        spent = [
            reading.cpu - before[pid].cpu
            for pid, reading in of_each(gateway.pid or 0).items()
            if pid in before
        ]
        busiest.append(max(spent) / count * 1e6)
        everything.append(sum(spent) / count * 1e6)
    return Share(statistics.median(busiest), statistics.median(everything))


def _table(one: Mapping[str, Share], several: Mapping[str, Share], workers: int) -> str:
    lines = [
        f"| CPU a request, us | 1 worker | busiest of {workers} | all of {workers} | times the throughput |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {one[name].busiest_us:,.0f} | {several[name].busiest_us:,.0f} | {several[name].all_us:,.0f} "
        f"| {one[name].busiest_us / several[name].busiest_us:.2f} |"
        for name in one
    ]
    return "\n".join(lines)
