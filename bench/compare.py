"""Ours beside its peers: the same provider, client and load for each, in turns, for a machine's speed changes."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench.client import WrongAnswer
from bench.gateways import PEERS, PROJECT, Running, Start, direct, ours, unlogged
from bench.measure import SCENARIOS, Measurement, Row, Scenario, measure_memory, memory_of
from bench.processes import CannotRun, free_port, running, wait_for_port

Results = dict[str, Any]
MEMORY_REQUESTS = 100_000
_LEAST_PER_SECOND = 400
_PROCESSES = {"ours": 3, "unlogged": 3}
"""How many processes of this gateway take turns where 32 connections ask something short; the others live no longer.

Two of them differ by up to 7 % of their CPU for as long as they live, for where their pages happen to lie. A peer has one:
Node.js takes twice as long after a rest of half a minute.
"""


async def compare(peers: Sequence[str], *, rounds: int, seconds: float, memory_requests: int) -> Results:
    """Measure the provider itself, ours, and the peers; return everything that was found."""
    starts: dict[str, Start] = {"direct": direct, "ours": ours, "unlogged": unlogged}
    starts |= {name: PEERS[name] for name in peers}
    found: Results = {**_here(), "seconds": seconds, "rounds": rounds, "gateways": {}, "missing": {}}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, provider(Path(folder)) as upstream:
        async with AsyncExitStack() as stack:
            gateways: dict[str, Running] = {}
            started = {
                name: partial(_started, start, upstream, Path(folder)) for name, start in starts.items()
            }
            for name, start in started.items():
                try:
                    gateway = gateways[name] = await stack.enter_async_context(start())
                except* CannotRun as exc:
                    found["missing"][name] = str(exc.exceptions[0])
                    print(f"{name}: {found['missing'][name]}", flush=True)
                else:
                    print(f"{name}: first answer after {gateway.start_seconds:.1f} s", flush=True)
                    found["gateways"][name] = _begun(gateway)
            for scenario in SCENARIOS:
                async with AsyncExitStack() as others:
                    processes = {name: [gateway] for name, gateway in gateways.items()}
                    for name, count in _PROCESSES.items() if scenario.times > 1 else ():
                        for _ in range(count - 1):
                            processes[name].append(await others.enter_async_context(started[name]()))
                    await _measure(processes, scenario, rounds, seconds, found["gateways"])
            for name, gateway in gateways.items():
                found["gateways"][name]["memory_mib"] = memory_of(gateway)
            if memory_requests:
                patience = memory_requests / _LEAST_PER_SECOND
                memory = await measure_memory(gateways["ours"], memory_requests, patience)
                print(f"ours: {memory.after:.0f} MiB after {memory.requests} more requests", flush=True)
                found["gateways"]["ours"]["memory"] = asdict(memory)
    return found


def _started(start: Start, upstream: int, folder: Path) -> AbstractAsyncContextManager[Running]:
    """Start a process of a gateway in a folder of its own."""
    return start(upstream, Path(tempfile.mkdtemp(dir=folder)))


@contextmanager
def provider(folder: Path, *, milliseconds: float = 0.0, chunks: int | None = None) -> Iterator[int]:
    """Run the instant provider, or one that pauses between chunks; yield its port."""
    home = folder / "provider"
    home.mkdir(exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "bench.upstream", str(port), str(milliseconds)]
    if chunks is not None:
        command.append(str(chunks))
    with running(command, home, {"PYTHONPATH": str(PROJECT), "PATH": os.defpath}) as process:
        wait_for_port(process, port, home / "log", 10)
        yield port


def _begun(gateway: Running) -> dict[str, Any]:
    return {
        "version": gateway.version,
        "start_seconds": gateway.start_seconds,
        "memory_mib": 0.0,
        "memory": None,
        "rows": [],
        "failures": {},
    }


async def _measure(
    gateways: Mapping[str, Sequence[Running]],
    scenario: Scenario,
    rounds: int,
    seconds: float,
    found: Results,
) -> None:
    """Measure one scenario on every gateway that has it, a round of each in turn; who answers wrongly is left out."""
    running = {
        name: Measurement(processes, scenario)
        for name, processes in gateways.items()
        if (scenario.times > 1 or not processes[0].is_variant)
        and (processes[0].all_keys is not None or not scenario.all_keys)
    }
    for number in range(rounds * scenario.times + 1):
        for name, measurement in tuple(running.items()):
            try:
                if number == 0:
                    await measurement.warm_up(max(1.0, seconds / 2))
                else:
                    await measurement.round(seconds)
            except* WrongAnswer as exc:  # from one of many connections, or from the round as a whole
                reason = " ".join(str(exc.exceptions[0]).split())[:200]
                print(f"{name}: {scenario.name}: {reason}", flush=True)
                found[name]["failures"][scenario.name] = reason
                del running[name]
    for name, measurement in running.items():
        print(_line(name, measurement.row), flush=True)
        found[name]["rows"].append(asdict(measurement.row))


def _line(name: str, row: Row) -> str:
    cpu = "" if row.cpu_us is None else f"{row.cpu_us:,.0f} us of CPU, "
    mongod = "" if row.mongod_us is None else f"mongod {row.mongod_us:,.0f} us, "
    times = f"median {row.median_ms:.2f} ms, p99 {row.p99_ms:.2f} ms"
    refused = f", {row.refused} refused" if row.refused else ""
    return f"{name}: {row.scenario}: {cpu}{mongod}{row.per_second:,.0f}/s, {times}{refused}"


def _here() -> Results:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores of {model}, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}",
    }
