"""What is asked of every gateway, and what one round of it says."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Target, Times, WrongAnswer, load
from bench.gateways import Running
from bench.processes import read

MEBIBYTE = 2**20
_ACQUAINTED = 52
"""Requests of a key after which its leases last for half a minute, as they do from then on.

Here all keys would take the next one in the same second, which no traffic does: it came with the 49th request, and made one
round of three twice as dear, or two. Spread over half a minute, a lease takes some 10 us of each request.
"""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load; what gateways are compared by has `times` as many rounds, for a machine's speed is not steady."""

    name: str
    stream: bool
    connections: int
    prompt_bytes: int = 100
    all_keys: bool = False
    times: int = 1


SHORT, LONG = "chat, 32 connections", "chat of 100 KB, 32 connections"
STREAM = "stream, 32 connections"
ALONE = "chat, 1 connection"
MANY_KEYS = "chat, 32 connections, 1,000 keys"
SCENARIOS = (
    Scenario(ALONE, stream=False, connections=1),
    Scenario(SHORT, stream=False, connections=32, times=3),
    Scenario("chat, 256 connections", stream=False, connections=256),
    Scenario(LONG, stream=False, connections=32, prompt_bytes=100_000),
    Scenario("stream, 1 connection", stream=True, connections=1),
    Scenario(STREAM, stream=True, connections=32, times=3),
    Scenario("stream, 256 connections", stream=True, connections=256),
    Scenario(MANY_KEYS, stream=False, connections=32, all_keys=True),
)
"""In this order: a gateway that fails at streams has its chats measured before, and who has served a thousand keys has a
larger memory, and takes a twentieth more for everything that comes after."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one gateway did in one scenario: CPU per request in microseconds, also of each round, times in milliseconds."""

    scenario: str
    requests: int
    per_second: float
    cpu_us: float | None
    cpu_us_of_rounds: list[float]
    mongod_us: float | None
    median_ms: float
    p99_ms: float
    first_byte_ms: float
    refused: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What the process holds after so many requests, in MiB, and how that grows over the second half of them."""

    requests: int
    after: float
    per_hundred_thousand: float


class Measurement:
    """One scenario on one gateway, in rounds, which its processes take in turn."""

    def __init__(self, processes: Sequence[Running], scenario: Scenario) -> None:
        """Begin with no round."""
        self._processes = processes
        self._scenario = scenario
        self._times = Times()
        self._cpu: list[float] = []
        self._mongod: list[float] = []
        self._rates: list[float] = []

    async def warm_up(self, seconds: float) -> None:
        """Ask each process for a moment; with all keys, so often that what is measured is their use and not their acquaintance.

        A key's first lease is for 16 requests, its second for 32.
        """
        for running in self._processes:
            target = _target(running, self._scenario)
            await ask(target, self._scenario, seconds)
            if self._scenario.all_keys:
                await ask(target, self._scenario, 60.0, most=_ACQUAINTED * len(target.headers))

    async def round(self, seconds: float) -> None:
        """Ask for so long; raise `WrongAnswer`."""
        running = self._processes[len(self._cpu) % len(self._processes)]
        before, mongod_before, began = _cpu(running.pid), _cpu(running.mongod), time.perf_counter()
        found = await ask(_target(running, self._scenario), self._scenario, seconds)
        took, count = time.perf_counter() - began, len(found.whole)
        if not count:
            raise WrongAnswer("everything is refused with 503")
        # What a request leaves to be done, the commit above all, belongs to it.
        await asyncio.sleep(0.25)
        self._cpu.append((_cpu(running.pid) - before) / count)
        self._mongod.append((_cpu(running.mongod) - mongod_before) / count)
        self._rates.append(count / took)
        self._times.whole += found.whole
        self._times.first += found.first
        self._times.refused += found.refused

    @property
    def row(self) -> Row:
        """Return the result: of CPU and throughput, the medians of the rounds."""
        whole = self._times.whole
        return Row(
            scenario=self._scenario.name,
            requests=len(whole),
            per_second=statistics.median(self._rates),
            cpu_us=statistics.median(self._cpu) * 1e6 if self._processes[0].pid else None,
            cpu_us_of_rounds=[1e6 * cpu for cpu in self._cpu],
            mongod_us=statistics.median(self._mongod) * 1e6 if self._processes[0].mongod else None,
            median_ms=statistics.median(whole) * 1e3,
            p99_ms=_percentile(whole, 0.99) * 1e3,
            first_byte_ms=statistics.median(self._times.first) * 1e3,
            refused=self._times.refused,
        )


async def measure_memory(running: Running, requests: int, seconds: float) -> Memory:
    """Serve so many requests (or as many as there is time for), and see what stays."""
    until = time.monotonic() + seconds
    points: list[tuple[int, float]] = []
    served, step = 0, max(1, requests // 10)
    while served < requests and time.monotonic() < until:
        found = await load(
            running.target, stream=False, connections=32, seconds=until - time.monotonic(), most=step
        )
        served += len(found.whole)
        points.append((served, read(running.pid or 0).memory / MEBIBYTE))
    half = points[len(points) // 2 :]
    slope = (half[-1][1] - half[0][1]) / max(1, half[-1][0] - half[0][0])
    return Memory(served, points[-1][1], slope * 100_000)


def memory_of(running: Running) -> float:
    """Return what its processes hold now, in MiB."""
    return read(running.pid).memory / MEBIBYTE if running.pid else 0.0


def _target(running: Running, scenario: Scenario) -> Target:
    return running.all_keys if scenario.all_keys and running.all_keys else running.target


async def ask(target: Target, scenario: Scenario, seconds: float, most: int = 10**9) -> Times:
    """Put a scenario's load on a gateway."""
    return await load(
        target,
        stream=scenario.stream,
        connections=scenario.connections,
        seconds=seconds,
        prompt_bytes=scenario.prompt_bytes,
        most=most,
    )


def _cpu(pid: int | None) -> float:
    return read(pid).cpu if pid else 0.0


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
