"""The trials of `make torture` in a short form: smaller, but the same violence and the same judge."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.torture import trials
from tests.torture.trials import Trial

SEED = 20261123


def assert_holds(trial: Trial) -> None:
    assert trial.holds, [(claim.text, claim.finding) for claim in trial.claims if not claim.holds]


@pytest.mark.long
async def test_a_crowd_never_overspends_a_budget(tmp_path: Path) -> None:
    """Hundreds at once over two gateways, leaving at every phase, stay within a budget for a part of them."""
    assert_holds(await trials.spend(tmp_path, random.Random(SEED), parallel=150, gateways=2))


@pytest.mark.long
async def test_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """Gateways and mongod die by `kill -9` under load: the books are exact, and the judge sees planted defects."""
    trial = await trials.kill(tmp_path, random.Random(SEED), kills=5, mongod_kills=1, gateways=2, clients=8)
    # In which phase five kills land is chance; `make torture` has a hundred.
    assert_holds(
        Trial(trial.name, [claim for claim in trial.claims if "half of the kills" not in claim.text])
    )


@pytest.mark.long
async def test_a_provider_that_cheats_is_booked_and_stopped(tmp_path: Path) -> None:
    """What a provider charges above a hold is booked, flagged, and ends the key's budget."""
    assert_holds(await trials.cheat(tmp_path, random.Random(SEED)))


@pytest.mark.long
async def test_a_frozen_database_stops_no_stream(tmp_path: Path) -> None:
    """While mongod is stopped, streams go on, new requests live on leases and then get 503, and all recovers."""
    assert_holds(await trials.freeze_mongod(tmp_path, random.Random(SEED), seconds=8))
