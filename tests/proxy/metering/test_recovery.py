"""Tests of proxy/metering/recovery.py: what a dead worker leaves behind is finished, exactly once."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest

from plugins.contract import Usage
from proxy import background
from proxy.metering import heartbeat, journal
from proxy.metering.contract import Progress
from proxy.metering.leased import LeasedMeter
from proxy.metering.rollups import ROLLUPS
from tests.proxy.metering.meters import KEY, USER, Books, budget, connected, leased, settlement, want
from tests.proxy.metering.test_journal import written


async def die(meter: LeasedMeter) -> None:
    """End a meter as `kill -9` does: nothing more is written, and the kernel lets go of its lock."""
    # Who is ended while the driver connects leaves a socket behind: to the kernel, and here to the collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        await background.end(meter._tasks)
        await meter._recovery.stop()
        meter._tasks = []
        gc.collect()
    for worker in meter._workers.values():
        worker.journal.end_here(delete=False)
    meter._workers = {}
    meter._current = None
    meter._recovery._folder = meter._folder / "nowhere"


async def rolled_up(books: Books, key: str) -> dict[str, int]:
    """Return one roll-up's sums."""
    found = await books.database[ROLLUPS].find_one({"_id": key}) or {}
    return {name: found[name] for name in ("requests", "prompt", "completion", "usdPico")}


async def test_open_requests_of_a_dead_worker_are_closed(mongodb_uri: str, tmp_path: Path) -> None:
    """Settled ones keep their events, open ones are estimated from their last note, and nothing stays held."""
    async with connected(mongodb_uri) as books:
        async with leased(mongodb_uri, tmp_path) as dying:
            settled = [await dying.reserve(want()) for _ in range(3)]
            for reservation in settled[:2]:
                await dying.settle(reservation, settlement())
            await dying.flush()
            await dying.settle(settled[2], settlement())
            untouched, noted = await dying.reserve(want()), await dying.reserve(want(key_limits=budget("1")))
            dying.note(
                noted, Progress("openrouter", "some/model", "gen-1", "DeepInfra", deltas=7, output_bytes=10)
            )
            await die(dying)
        async with leased(mongodb_uri, tmp_path):
            await asyncio.sleep(0.3)
        events = {event["_id"]: event for event in await books.events()}
        assert len(events) == 5
        assert {event["outcome"] for event in events.values()} == {"completed", "unknown"}
        unknown = events[untouched.want.request_id]
        assert (unknown["tokens"]["prompt"], unknown["estimated"]) == (40, True)
        estimate = events[noted.want.request_id]
        assert (estimate["tokens"]["completion"], estimate["generationId"]) == (7, "gen-1")
        assert estimate["costPico"] == 40 * 10**6 + 7 * 2 * 10**6
        await books.assert_exact()
        day = estimate["at"].strftime("%Y-%m-%d")
        sums = await rolled_up(books, f"day:api:{USER}:{day}:openrouter:some/model")
        assert sums["requests"] == 5
        assert sums["completion"] == 3 * 20 + 7
        assert await rolled_up(books, f"key:{KEY}") == sums
        assert journal.names(tmp_path) == []


async def test_the_generation_record_makes_it_exact(mongodb_uri: str, tmp_path: Path) -> None:
    """An open request whose head had arrived is settled by what its provider has recorded."""

    async def tell(provider: str, generation_id: str) -> Usage | None:
        assert (provider, generation_id) == ("openrouter", "gen-7")
        # The router's fee, and what its owner's own key has paid at the backing.
        return Usage(61, 17, cost=Decimal("0.000003"), upstream_cost=Decimal("0.00012"), is_byok=True)

    async with connected(mongodb_uri) as books:
        async with leased(mongodb_uri, tmp_path) as dying:
            reservation = await dying.reserve(want(key_limits=budget("1")))
            dying.note(reservation, Progress("openrouter", "some/model", "gen-7"))
            await die(dying)
        async with leased(mongodb_uri, tmp_path, tell):
            await asyncio.sleep(0.3)
        (event,) = await books.events()
        assert (event["tokens"]["prompt"], event["tokens"]["completion"]) == (61, 17)
        assert (event["costSource"], event["estimated"], event["costPico"]) == (
            "provider",
            False,
            123 * 10**6,
        )
        await books.assert_exact()


@pytest.mark.parametrize("step", ["_stored", "_roll_up", "_take_entry"])
async def test_recovery_may_die_at_every_step(mongodb_uri: str, tmp_path: Path, step: str) -> None:
    """A recovery that ends after any of its steps is begun again by the next, and nothing is counted twice."""
    async with connected(mongodb_uri) as books:
        async with leased(mongodb_uri, tmp_path) as dying:
            reservations = [await dying.reserve(want()) for _ in range(4)]
            for reservation in reservations[:2]:
                await dying.settle(reservation, settlement())
            await die(dying)
        async with leased(mongodb_uri, tmp_path) as healthy:
            folder = healthy._recovery._folder
            await die(healthy)
            healthy._recovery._folder = folder
            original = getattr(healthy._recovery, step)

            async def interrupted(*arguments: object) -> object:
                await original(*arguments)
                raise asyncio.CancelledError

            setattr(healthy._recovery, step, interrupted)
            with pytest.raises(asyncio.CancelledError):
                await _finish_all(healthy)
            delattr(healthy._recovery, step)
            await _finish_all(healthy)
        assert len(await books.events()) == 4
        await books.assert_exact()
        day = reservations[0].want.at.strftime("%Y-%m-%d")
        assert (await rolled_up(books, f"day:api:{USER}:{day}:openrouter:some/model"))["requests"] == 4


async def test_a_journal_that_cannot_be_opened_is_passed_over(mongodb_uri: str, tmp_path: Path) -> None:
    """What the gateway of another user has left keeps nobody from finishing the others, nor from ending well."""
    async with connected(mongodb_uri) as books:
        async with leased(mongodb_uri, tmp_path) as dying:
            for reservation in [await dying.reserve(want()) for _ in range(2)]:
                await dying.settle(reservation, settlement())
            await die(dying)
        foreign = tmp_path / ("0" * 16)  # the first to be looked at
        (foreign / "lock").mkdir(parents=True)  # to root, too, nothing that opens
        async with leased(mongodb_uri, tmp_path):
            await until(lambda: has_kind(books, "usage"))
        assert len(await books.events()) == 2
        await books.assert_exact()
        assert journal.names(tmp_path) == [foreign.name]


async def test_a_journal_of_another_version_is_left_to_it(mongodb_uri: str, tmp_path: Path) -> None:
    """It is looked at once, and kept; whatever else there is to finish is finished."""
    async with connected(mongodb_uri) as books:
        segment = written(tmp_path)
        segment.write_bytes(segment.read_bytes().replace(b"AIP2", b"AIP1"))
        foreign = segment.parent.name
        async with leased(mongodb_uri, tmp_path) as dying:
            await dying.settle(await dying.reserve(want()), settlement())
            await die(dying)
        async with leased(mongodb_uri, tmp_path) as heir:
            await until(lambda: has_kind(books, "usage"))
            await until(lambda: has_left(heir, foreign))
            heir._recovery.begin(set(heir._workers))
            assert foreign not in heir._recovery._running  # the other one may still be on its way
        assert journal.names(tmp_path) == [foreign]
        assert len(await books.events()) == 1


async def test_a_lost_worker_is_booked_and_corrected(
    mongodb_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a silent worker had leased is booked as used; when it wakes up, a correction makes it right."""
    monkeypatch.setattr(heartbeat, "LOST_SECONDS", 1.0)
    async with connected(mongodb_uri) as books:
        async with leased(mongodb_uri, tmp_path / "there") as sleeper, leased(mongodb_uri, tmp_path / "here"):
            reservation = await sleeper.reserve(want(key_limits=budget("1")))
            other = await sleeper.reserve(want(key_limits=budget("1")))
            awake = asyncio.Event()
            with monkeypatch.context() as asleep:
                asleep.setattr(sleeper, "_beat", awake.wait)
                asleep.setattr(sleeper, "_recover", awake.wait)
                await until(lambda: has_kind(books, "lost"))
                account = await books.account()
                assert {counter: found["l"] for counter, found in account["c"].items() if found["l"]} == {}
                monkeypatch.setattr(heartbeat, "LOST_SECONDS", 30.0)
            awake.set()
            await sleeper.settle(reservation, settlement())
            await sleeper._beat()
            again = await sleeper.reserve(want())
            await sleeper.settle(other, settlement())
            await sleeper.settle(again, settlement())
            await sleeper._beat()
            await sleeper._recover()
            await sleeper._recovery.take_over(set(sleeper._workers), 5)
        assert sorted(event["kind"] for event in await books.events()) == [
            "correction",
            "lost",
            *["usage"] * 3,
        ]
        await books.assert_exact()


async def _finish_all(meter: LeasedMeter) -> None:
    """Finish every journal, here and now."""
    for name in journal.names(meter._folder):
        found = journal.FoundJournal.take(meter._folder / name)
        assert found is not None
        await meter._recovery.finish(found)


async def has_kind(books: Books, kind: str) -> bool:
    """Say whether there is an event of a kind."""
    return any(event["kind"] == kind for event in await books.events())


async def has_left(meter: LeasedMeter, name: str) -> bool:
    """Say whether a meter has found that a journal is not its to finish."""
    return name in meter._recovery._foreign


async def until(claim: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a claim holds."""
    async with asyncio.timeout(20):
        while not await claim():  # noqa: ASYNC110  the database is asked; it tells nobody by itself
            await asyncio.sleep(0.05)
