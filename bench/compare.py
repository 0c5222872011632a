"""Ours beside its peers: the same provider, client and load for each, one after the other in one run."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.client import WrongAnswer
from bench.gateways import PEERS, PROJECT, Running, Start, direct, ours
from bench.measure import SCENARIOS, Memory, Row, measure, measure_memory, memory_of
from bench.processes import CannotRun, free_port, running, wait_for_port

Results = dict[str, Any]
MEMORY_REQUESTS = 100_000
_MEMORY_SECONDS = 150.0


async def compare(peers: Sequence[str], *, rounds: int, seconds: float, memory_requests: int) -> Results:
    """Measure the provider itself, ours, and the peers; return everything that was found."""
    gateways: dict[str, Start] = {"direct": direct, "ours": ours, **{name: PEERS[name] for name in peers}}
    found: Results = {**_here(), "seconds": seconds, "rounds": rounds, "gateways": {}, "missing": {}}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, provider(Path(folder)) as upstream:
        for name, start in gateways.items():
            place = Path(folder) / name
            place.mkdir()
            try:
                async with start(upstream, place) as gateway:
                    found["gateways"][name] = await _measure_all(
                        name, gateway, rounds, seconds, memory_requests
                    )
            except* CannotRun as exc:
                found["missing"][name] = str(exc.exceptions[0])
                print(f"{name}: {found['missing'][name]}", flush=True)
    return found


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


async def _measure_all(
    name: str, gateway: Running, rounds: int, seconds: float, memory_requests: int
) -> dict[str, Any]:
    print(f"{name}: first answer after {gateway.start_seconds:.1f} s", flush=True)
    rows = []
    failures: dict[str, str] = {}
    for scenario in SCENARIOS:
        if scenario.all_keys and gateway.all_keys is None:
            continue
        try:
            row = await measure(gateway, scenario, rounds, seconds)
        except* WrongAnswer as exc:  # from one of many connections, or from the round as a whole
            reason = " ".join(str(exc.exceptions[0]).split())[:200]
            print(f"{name}: {scenario.name}: {reason}", flush=True)
            failures[scenario.name] = reason
        else:
            print(_line(name, row), flush=True)
            rows.append(asdict(row))
    memory: Memory | None = None
    after = memory_of(gateway)
    if name == "ours" and memory_requests:
        memory = await measure_memory(gateway, memory_requests, _MEMORY_SECONDS)
        print(f"{name}: {memory.after:.0f} MiB after {memory.requests} more requests", flush=True)
    return {
        "version": gateway.version,
        "start_seconds": gateway.start_seconds,
        "memory_mib": after,
        "memory": asdict(memory) if memory else None,
        "rows": rows,
        "failures": failures,
    }


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
