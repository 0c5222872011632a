"""What a process uses, read from /proc again and again, and whether any of it grows.

A measure is flat when a robust line through its samples (the median of the slopes of all pairs, Theil and Sen)
rises by less than an allowance over the time judged. The first part of a run, in which caches fill, is not judged.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

WARM_UP = 1 / 3
"""The part of a run that is not judged."""

FEWEST_SAMPLES = 12
"""Fewer say nothing about a slope."""

_MEGABYTE = 2**20
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process and its children use at a moment; `rss` is in bytes."""

    seconds: float
    requests: int
    rss: int
    descriptors: int
    sockets: int
    threads: int


MEASURES = tuple(each.name for each in fields(Sample) if each.name not in ("seconds", "requests"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a measure went; `growth` is over the time judged."""

    measure: str
    median: float
    growth: float
    per_request: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        """Say whether it does not grow."""
        return self.growth <= self.allowed

    @property
    def line(self) -> str:
        """Write it down."""
        unit, name = (_MEGABYTE, "MB") if self.measure == "rss" else (1, "")
        numbers = [f"{value / unit:8.2f} {name:2}" for value in (self.median, self.growth, self.allowed)]
        finding = "flat" if self.is_flat else "NOT FLAT"
        return (
            f"{self.measure:12} median {numbers[0]}  grew {numbers[1]} (allowed {numbers[2]})"
            f"  {self.per_request:10.4f} a request  {finding}"
        )


def sample(pid: int, *, seconds: float, requests: int) -> Sample:
    """Read what a process and its descendants use now."""
    family = list(_family(pid))
    links = [link for member in family for link in _links(member)]
    return Sample(
        seconds,
        requests,
        rss=sum(1024 * _status(member, "VmRSS") for member in family),
        descriptors=len(links),
        sockets=sum(link.startswith("socket:") for link in links),
        threads=sum(_status(member, "Threads") for member in family),
    )


def children_of(thread: Path) -> list[int]:
    """Return the processes that a thread has started, by its place in /proc; none if it has ended since that was found."""
    try:
        return [int(pid) for pid in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def judge(samples: Sequence[Sample]) -> list[Verdict]:
    """Judge the steady part of a run; raise `ValueError` when it is too short for that."""
    end = samples[-1].seconds if samples else 0.0
    steady = [each for each in samples if each.seconds >= WARM_UP * end]
    if len(steady) < FEWEST_SAMPLES:
        raise ValueError(f"{len(steady)} samples after the warm-up; {FEWEST_SAMPLES} are needed")
    return [_verdict(measure, steady) for measure in MEASURES]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of a line through points of which up to a quarter may be nonsense."""
    rises = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(points, 2) if x1 != x2]
    return statistics.median(rises) if rises else 0.0


def _verdict(measure: str, steady: Sequence[Sample]) -> Verdict:
    values = [float(getattr(each, measure)) for each in steady]
    times = [each.seconds for each in steady]
    median = statistics.median(values)
    growth = slope(list(zip(times, values, strict=True))) * (times[-1] - times[0])
    requests = max(1, steady[-1].requests - steady[0].requests)
    # An allocator keeps some memory that it has freed; descriptors and threads have no such excuse, but noise.
    allowed = max(2 * _MEGABYTE, 0.03 * median) if measure == "rss" else max(3.0, 0.1 * median)
    return Verdict(measure, median, growth, growth / requests, allowed)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for thread in (_PROC / str(pid) / "task").iterdir():
        for child in children_of(thread):
            yield from _family(child)


def _links(pid: int) -> Iterator[str]:
    for descriptor in (_PROC / str(pid) / "fd").iterdir():
        try:
            yield str(descriptor.readlink())
        except FileNotFoundError:
            continue  # closed since


def _status(pid: int, field: str) -> int:
    lines = (_PROC / str(pid) / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
