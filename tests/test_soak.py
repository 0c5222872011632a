"""Tests of `make soak`: what it calls flat, and that a short run finds nothing wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread, get_native_id

import pytest

from tests.soak.__main__ import soak
from tests.soak.samples import MEASURES, Sample, children_of, judge, sample, slope
from tests.soak.traffic import EXPECTED

MEGABYTE = 2**20


def samples_of(rss: Callable[[int], float], descriptors: Callable[[int], float]) -> list[Sample]:
    """Return an hour of samples, one a minute, of a gateway that serves a hundred requests a second."""
    return [
        Sample(
            60.0 * at, 6_000 * at, rss=int(rss(at)), descriptors=int(descriptors(at)), sockets=40, threads=8
        )
        for at in range(60)
    ]


def findings(samples: list[Sample]) -> dict[str, bool]:
    return {verdict.measure: verdict.is_flat for verdict in judge(samples)}


def test_noise_and_a_warm_up_are_flat() -> None:
    """Caches that fill at first, noise, and a spike now and then are no growth."""
    dice = random.Random(1)

    def rss(at: int) -> float:
        warming = min(at, 15) * 2 * MEGABYTE
        spike = 64 * MEGABYTE if at % 7 == 0 else 0
        return 80 * MEGABYTE + warming + spike + dice.uniform(-1, 1) * MEGABYTE

    assert findings(samples_of(rss, lambda _: 50 + dice.randrange(9))) == dict.fromkeys(MEASURES, True)


@pytest.mark.parametrize(
    ("bytes_a_request", "is_flat"), [(2, True), (40, False), (1_000, False)], ids=["none", "slow", "fast"]
)
def test_a_leak_is_found(bytes_a_request: int, is_flat: bool) -> None:  # noqa: FBT001  the case
    """In an hour, forty bytes lost with each request are found, whatever the noise."""
    dice = random.Random(2)
    samples = samples_of(
        lambda at: 85 * MEGABYTE + 6_000 * at * bytes_a_request + dice.uniform(-1, 1) * MEGABYTE,
        lambda _: 50,
    )
    assert findings(samples)["rss"] is is_flat
    (rss, *_) = judge(samples)
    assert rss.per_request == pytest.approx(bytes_a_request, rel=0.2, abs=6)


def test_a_thread_may_end_while_it_is_looked_at() -> None:
    """A database's come and go with its connections; children are found by the threads that are left."""
    ending = Thread(target=int)
    ending.start()
    ending.join()
    assert children_of(Path(f"/proc/self/task/{ending.native_id}")) == []
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        try:
            assert child.pid in children_of(Path(f"/proc/self/task/{get_native_id()}"))
            assert (
                sample(os.getpid(), seconds=0, requests=0).rss > sample(child.pid, seconds=0, requests=0).rss
            )
        finally:
            child.kill()


def test_a_descriptor_lost_now_and_then_is_found() -> None:
    """A descriptor lost every two minutes is found."""
    assert not findings(samples_of(lambda _: 85 * MEGABYTE, lambda at: 50 + at // 2))["descriptors"]


def test_a_run_that_is_too_short_is_not_judged() -> None:
    """A few samples are no proof of anything."""
    with pytest.raises(ValueError, match="needed"):
        judge(samples_of(lambda _: 1, lambda _: 1)[:10])
    assert slope([(0.0, 1.0)]) == 0.0


@pytest.mark.long
async def test_a_short_run_finds_nothing_wrong(tmp_path: Path) -> None:
    """A few seconds of mixed traffic: every answer is an expected one, and at rest nothing is held or adrift."""
    done = await soak(tmp_path, 6.0, 10**6, 6, 1)
    assert done.faults == []
    assert [verdict.measure for verdict in done.verdicts] == list(MEASURES)
    assert done.samples[-1].requests > 50
    assert 500 not in EXPECTED
