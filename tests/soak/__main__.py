"""Lets a gateway run under mixed traffic and says whether it stays as it is: `python -m tests.soak --minutes 60`.

Prints a table of what the gateway's process uses, and judges it; the exit status says whether all of it is flat, the
books are right, and every answer was one of those expected.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

from proxy.metering.verify import verify
from tests.soak.samples import Sample, Verdict, judge, sample
from tests.soak.traffic import Traffic, traffic
from tests.torture.world import World, world

CLIENTS = 12
SAMPLES = 120
ROWS = 20
REST_SECONDS = 60.0
_AT_REST = ("aipasta_requests_in_flight", "aipasta_open_holds", "aipasta_journal_backlog_events")
_UNLIMITED = 10**9


@dataclass
class Soak:
    """A run, and what was found."""

    samples: list[Sample] = field(default_factory=list)
    verdicts: Sequence[Verdict] = ()
    faults: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Say whether everything is as it should be."""
        return not self.faults and all(verdict.is_flat for verdict in self.verdicts)


def main() -> int:
    """Run, and return 0 when nothing grows and nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, help="how long (default 60, or as long as --requests take)")
    parser.add_argument("--requests", type=int, help="end after so many requests")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"at once (default {CLIENTS})")
    parser.add_argument("--seed", type=int, default=1, help="the dice")
    options = parser.parse_args()
    minutes = options.minutes or (math.inf if options.requests else 60.0)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        run = soak(Path(folder), minutes * 60, options.requests or math.inf, options.clients, options.seed)
        done = asyncio.run(run)
    report(done)
    return 0 if done.holds else 1


async def soak(folder: Path, seconds: float, most: float, clients: int, seed: int) -> Soak:
    """Let one gateway run until the time is over or the requests are sent."""
    done = Soak()
    async with world(folder, random.Random(seed)) as made:
        await made.start_gateways(1, CONFIG_FILE=str(_configuration(made)))
        async with traffic(made, most) as load:
            began = time.monotonic()
            tasks = [asyncio.create_task(load.run()) for _ in range(clients)]
            await _watch(made, load, tasks, done, began + seconds)
            load.is_over = True
            await asyncio.gather(*tasks)
            done.samples.append(_sample(made, load, began))
            done.faults += [f"{count} times `{name}`" for name, count in load.surprises.items()]
            done.faults += await _faults_at_rest(made, load)
            say(f"answers: {dict(sorted(load.statuses.items()))}")
        statuses = await made.end_gateways()
        done.faults += [f"exit status {status}" for status in statuses if status != 0]
    try:
        done.verdicts = judge(done.samples[:-1])
    except ValueError as exc:
        done.faults.append(str(exc))
    return done


async def _watch(
    made: World, load: Traffic, tasks: Sequence[asyncio.Task[None]], done: Soak, end: float
) -> None:
    """Take samples until the time is over or the traffic ends."""
    began = time.monotonic()
    seconds = end - began
    # Where only the number of requests is known, samples are taken often at first, and every other one dropped later.
    pause = seconds / SAMPLES if math.isfinite(seconds) else 0.5
    while time.monotonic() < end and not all(task.done() for task in tasks):
        done.samples.append(_sample(made, load, began))
        if len(done.samples) >= 4 * SAMPLES:
            done.samples, pause = done.samples[::2], 2 * pause
        await asyncio.wait(tasks, timeout=pause)
        for task in tasks:
            if task.done():
                task.result()


def _sample(made: World, load: Traffic, began: float) -> Sample:
    process = made.gateways[0]._process
    assert process is not None
    return sample(process.pid, seconds=time.monotonic() - began, requests=load.requests)


async def _faults_at_rest(made: World, load: Traffic) -> list[str]:
    """Wait until nothing is under way, and return what is wrong then."""
    deadline = time.monotonic() + REST_SECONDS
    while any((held := await _gauges(load.http)).values()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    faults = [f"{name} is {value:g} at rest" for name, value in held.items() if value]
    drift = (await verify(made.store)).drift
    return [*faults, *([f"{drift} counters are not the sum of their events"] if drift else [])]


async def _gauges(http: httpx.AsyncClient) -> dict[str, float]:
    lines = (await http.get("/metrics")).text.splitlines()
    pairs = (line.split() for line in lines if line.startswith(_AT_REST))
    return {name: float(value) for name, value in pairs}


def _configuration(made: World) -> Path:
    """Write a configuration that limits nobody: what is tested is that nothing grows."""
    path = made.folder / "soak.yaml"
    limits = dict.fromkeys(("daily_requests", "monthly_requests", "monthly_tokens"), _UNLIMITED)
    rates = {name: {"requests": _UNLIMITED} for name in ("api", "auth", "chat", "account", "attack")}
    provider = {
        "plugin": "openrouter",
        "base_url": made.upstream.base_url,
        "api_key_env": "OPENROUTER_API_KEY",
    }
    settings = {
        "limits": {"user": limits, "premium": limits},
        "rate_limits": rates,
        "providers": {"openrouter": provider},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def report(done: Soak) -> None:
    """Print the table, and what was found."""
    say(f"{'minutes':>8} {'requests':>9} {'per s':>6} {'rss MB':>7} {'fds':>5} {'sockets':>7} {'threads':>7}")
    step = max(1, len(done.samples) // ROWS)
    before = done.samples[0]
    for each in done.samples[step::step]:
        rate = (each.requests - before.requests) / max(0.001, each.seconds - before.seconds)
        say(
            f"{each.seconds / 60:8.2f} {each.requests:9} {rate:6.1f} {each.rss / 2**20:7.1f}"
            f" {each.descriptors:5} {each.sockets:7} {each.threads:7}"
        )
        before = each
    for verdict in done.verdicts:
        say(verdict.line)
    for fault in done.faults:
        say(f"WRONG: {fault}")
    say("all flat, nothing wrong" if done.holds else "NOT AS IT SHOULD BE")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
