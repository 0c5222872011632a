"""Tortures the meter for some minutes and prints what was found: `python -m tests.torture --minutes 5 --seed 7`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.torture import trials
from tests.torture.trials import Trial

KILLS_PER_MINUTE, MONGOD_KILLS_PER_MINUTE = 20, 2
WIDTH = 66
PATIENT = ("freeze-gateway", "direct")


def main() -> int:
    """Run the trials; return 0 when everything holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="about how long it may take (default 5)")
    parser.add_argument("--seed", type=int, help="the dice; printed, so that a run can be had again")
    parser.add_argument("--only", nargs="*", choices=sorted(_all(5)), help="run these trials alone")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    say(f"seed {seed}")
    began = time.monotonic()
    chosen = {name: run for name, run in _all(options.minutes).items() if name in (options.only or _all(5))}
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        done = asyncio.run(_run(chosen, Path(folder), seed))
    is_right = all(trial.holds for trial in done)
    say(f"\n{'all held' if is_right else 'NOT ALL HELD'} ({time.monotonic() - began:.0f} s, seed {seed})")
    return 0 if is_right else 1


Run = Callable[[Path, random.Random], Awaitable[Trial]]


def _all(minutes: float) -> dict[str, Run]:
    """Return the trials, the kills as many as there is time for."""
    kills, mongod_kills = round(KILLS_PER_MINUTE * minutes), round(MONGOD_KILLS_PER_MINUTE * minutes)

    async def both(folder: Path, dice: random.Random) -> Trial:
        return await trials.kill(folder, dice, kills=kills, mongod_kills=mongod_kills)

    async def direct(folder: Path, dice: random.Random) -> Trial:
        few = max(3, kills // 10)
        return await trials.kill(folder, dice, kills=few, mongod_kills=1, metering="direct", gateways=2)

    return {
        "spend": trials.spend,
        "kill": both,
        "freeze-mongod": trials.freeze_mongod,
        "freeze-gateway": trials.freeze_gateway,
        "fail-over": trials.fail_over,
        "cheat": trials.cheat,
        "direct": direct,
    }


async def _run(chosen: dict[str, Run], folder: Path, seed: int) -> Sequence[Trial]:
    """Run them one after the other, but those that mostly wait beside each other."""

    async def one(name: str) -> Trial:
        began = time.monotonic()
        trial = await chosen[name](folder / name, random.Random(f"{seed} {name}"))
        _show(trial, time.monotonic() - began)
        return trial

    done = [await one(name) for name in chosen if name not in PATIENT]
    return [*done, *await asyncio.gather(*(one(name) for name in chosen if name in PATIENT))]


def _show(trial: Trial, seconds: float) -> None:
    say(f"\n{trial.name} ({seconds:.0f} s)")
    for claim in trial.claims:
        say(f"  {'ok    ' if claim.holds else 'FAILED'} {claim.text:<{WIDTH}} {claim.finding}")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
