"""Where the gateway's CPU goes: samples of its stacks under a load, summed by function, by line and by library."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.compare import provider
from bench.gateways import KEYS, PROJECT, worker
from bench.keys import add_keys
from bench.measure import SCENARIOS, Scenario, ask
from bench.processes import CannotRun, read
from proxy.mongod import embedded_mongod

_OURS = tuple(f"{PROJECT}/{name}/" for name in ("proxy", "plugins", "admin_api"))
_WAIT_SECONDS = 10.0

Stack = list[str]
"""From the innermost frame to the outermost, each as `file:line:function`."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The stacks of one load with how often each was seen, and the CPU of one request in microseconds."""

    samples: list[tuple[int, Stack]]
    cpu_us: float


async def profile(names: Iterable[str], seconds: float, lines: int) -> str:
    """Profile each of these scenarios; return tables of so many lines."""
    parts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, provider(Path(folder)) as upstream:
        for scenario in (each for each in SCENARIOS if each.name in set(names)):
            home = Path(folder) / f"worker-{len(parts)}"
            home.mkdir()
            found = await _profile(upstream, home, scenario, seconds)
            parts.append(
                f"{scenario.name}: {found.cpu_us:,.0f} us of CPU a request\n\n{tables(found, lines)}"
            )
    return "\n\n".join(parts)


async def _profile(upstream: int, home: Path, scenario: Scenario, seconds: float) -> Profile:
    file = home / "stacks"
    with embedded_mongod(home / "data") as mongod:
        secrets = await add_keys(mongod.uri, KEYS if scenario.all_keys else 1)
        module = ("bench.profiled", str(file))
        async with worker(upstream, home, mongod.uri, secrets, module=module) as gateway:
            target, pid = gateway.all_keys or gateway.target, gateway.pid
            if pid is None:
                raise CannotRun("the gateway has no process")
            await ask(target, scenario, 3.0)
            before = read(pid).cpu
            _tell(pid, signal.SIGUSR1)
            times = await ask(target, scenario, seconds)
            _tell(pid, signal.SIGUSR2)
            cpu = (read(pid).cpu - before) / len(times.whole)
            async with asyncio.timeout(_WAIT_SECONDS):
                while not file.exists():  # noqa: ASYNC110  another process makes it
                    await asyncio.sleep(0.1)
            samples = [(count, stack) for count, *stack in json.loads(file.read_text(encoding="utf-8"))]
            return Profile(samples, cpu * 1e6)


def tables(found: Profile, lines: int) -> str:
    """Share the CPU of a request out among functions, lines, libraries and parts of the gateway."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    of_ours: Counter[str] = Counter()
    at_line: Counter[str] = Counter()
    library: Counter[str] = Counter()
    for count, stack in found.samples:
        frames = [_Frame.read(each) for each in stack]
        own[frames[0].function] += count
        library[_library(frames)] += count
        for function in {frame.function for frame in frames}:
            total[function] += count
        mine = next((frame for frame in frames if frame.is_ours), None)
        of_ours[mine.function if mine else "(the server and its loop)"] += count
        if mine is not None:
            at_line[mine.place] += count
    counted = sum(count for count, _ in found.samples) or 1
    each = found.cpu_us / counted
    parts = (
        ("By library: whose code runs", library),
        ("By our function, with the library code that it calls", of_ours),
        ("By our line, likewise", at_line),
        ("Own time", own),
        ("Time with everything called", total),
    )
    return "\n\n".join(_table(title, counter, each, lines) for title, counter in parts)


@dataclass(frozen=True, slots=True)
class _Frame:
    path: str
    line: str
    name: str

    @classmethod
    def read(cls, text: str) -> _Frame:
        return cls(*text.rsplit(":", 2))

    @property
    def is_ours(self) -> bool:
        return self.path.startswith(_OURS) and not self.path.endswith("__main__.py")

    @property
    def short(self) -> str:
        path = self.path.removeprefix(f"{PROJECT}/")
        return path.rpartition("site-packages/")[2].rpartition("/lib/")[2]

    @property
    def function(self) -> str:
        return f"{self.short} {self.name}"

    @property
    def place(self) -> str:
        return f"{self.short}:{self.line} {self.name}"


def _library(frames: list[_Frame]) -> str:
    """Name whose code it is: the standard library's, and code made at run time, belongs to whoever calls it."""
    for frame in frames:
        if "site-packages/" in frame.path:
            return frame.short.partition("/")[0]
        if frame.is_ours:
            return frame.short.rpartition("/")[0]
    return "(the server and its loop)"


def _table(title: str, counter: Counter[str], each: float, lines: int) -> str:
    rows = [f"{count * each:8.1f} us  {what}" for what, count in counter.most_common(lines)]
    return "\n".join([title, *rows])


def _tell(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)
