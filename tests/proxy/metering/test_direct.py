"""Tests of proxy/metering/direct.py: what only the meter without a memory does, closing the holds of the dead above all."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from proxy.core.limits import UserLimits
from proxy.documents import Outcome
from proxy.errors import RateLimited, Unavailable
from proxy.metering.direct import DirectMeter
from proxy.metrics import Metrics
from tests.proxy.metering.flaky import Fault, FlakyDatabase
from tests.proxy.metering.meters import PLENTY, RATE, USER, budget, connected, direct, settlement, want

LATER = timedelta(seconds=61)


async def test_a_hold_of_a_dead_process_is_closed_once(mongodb_uri: str, tmp_path: Path) -> None:
    """Holds that ran out become events of unknown outcome, whoever sweeps and however many do at once."""
    async with direct(mongodb_uri, tmp_path) as dead, direct(mongodb_uri, tmp_path) as sweeper:
        now = datetime.now(UTC)
        for _ in range(5):
            await dead.reserve(want(at=now))
        assert await sweeper.sweep(now + timedelta(seconds=59)) == 0
        await asyncio.gather(*(each.sweep(now + LATER) for each in (dead, sweeper, dead, sweeper)))
        async with connected(mongodb_uri) as books:
            events = await books.events()
            assert [(event["outcome"], event["estimated"], event["requests"]) for event in events] == [
                ("unknown", True, 1)
            ] * 5
            assert {event["tokens"]["prompt"] for event in events} == {40}
            await books.assert_exact()
        standing = await sweeper.standing(USER, now)
        assert (standing.requests, standing.tokens, standing.daily_requests) == (5, 200, 5)


@pytest.mark.parametrize("account_exists", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("fault", Fault)
async def test_a_hold_that_nobody_heard_of_is_called_off(
    mongodb_uri: str, fault: Fault, *, account_exists: bool
) -> None:
    """Whether a hold was written before its request was refused, or is written afterwards: it holds nothing in the end."""
    async with connected(mongodb_uri) as books:
        store, trouble = FlakyDatabase.over(books.database)
        meter = DirectMeter(store, Metrics(), hold_seconds=60, usd_inr_rate=RATE)
        if account_exists:
            await meter.refund(await meter.reserve(want()))
            # The answer to the hold is lost, and that to the first try of calling it off.
            trouble.faults = [fault, Fault.DONE]
        else:
            trouble.faults = [None, None, fault, Fault.DONE]
        now = datetime.now(UTC)
        with pytest.raises(Unavailable):
            await meter.reserve(want(at=now, key_limits=budget("1")))
        await asyncio.gather(*meter._background)
        await trouble.arrive()
        account = await books.account()
        assert {name: found for name, found in account["c"].items() if found["l"] or found["u"]} == {}
        await meter.sweep(now + LATER)
        await books.assert_exact()
        assert await books.events() == []


async def test_a_late_settlement_is_a_correction(mongodb_uri: str, tmp_path: Path) -> None:
    """A process that was thought dead settles after all: a second event makes the sum right, and only once."""
    async with direct(mongodb_uri, tmp_path) as meter, connected(mongodb_uri) as books:
        now = datetime.now(UTC)
        reservation = await meter.reserve(want(at=now))
        assert await meter.sweep(now + LATER) == 1
        true = settlement(70, 30, "0.5")
        await asyncio.gather(*(meter.settle(reservation, true) for _ in range(4)))
        await meter.settle(reservation, true)
        first, second = sorted(await books.events(), key=lambda event: str(event["_id"]))
        assert (first["kind"], second["kind"], second["refersTo"]) == ("usage", "correction", first["_id"])
        for name, amount in (("prompt", 70), ("completion", 30)):
            assert first["tokens"][name] + second["tokens"][name] == amount
        assert first["requests"] + second["requests"] == 1
        costs = [event["costPico"] for event in (first, second)]
        assert sum(costs) == Decimal("0.5") * 10**12
        await books.assert_exact()
        standing = await meter.standing(USER, now)
        assert (standing.requests, standing.tokens, standing.cost_usd) == (1, 100, Decimal("0.5"))


async def test_a_correction_that_was_interrupted_is_finished(mongodb_uri: str, tmp_path: Path) -> None:
    """A process that dies between writing a correction and counting it leaves a hold by which the sweeper counts it."""
    async with direct(mongodb_uri, tmp_path) as meter, connected(mongodb_uri) as books:
        now = datetime.now(UTC)
        reservation = await meter.reserve(want(at=now))
        await meter.sweep(now + LATER)
        await meter.settle(reservation, settlement(70, 30, "0.5"))
        correction = next(event for event in await books.events() if event["kind"] == "correction")
        accounts = books.database["accounts"]
        windows = dict(correction["windows"])
        await accounts.update_one(
            {"_id": USER},
            {
                "$push": {"h": {"_id": correction["_id"], "exp": now, "s": dict.fromkeys(windows, 0)}},
                "$inc": {
                    **{f"c.{name}.u": -amount for name, amount in windows.items()},
                    "t.requests": -correction["requests"],
                    "t.tokens": -correction["tokens"]["prompt"] - correction["tokens"]["completion"],
                    "t.usdPico": -correction["costPico"],
                    "t.inrPico": -correction["costInrPico"],
                },
            },
        )
        assert await meter.sweep(now + LATER) == 1
        assert await meter.sweep(now + LATER) == 0
        await books.assert_exact()
        assert (await meter.standing(USER, now)).tokens == 100


async def test_settling_and_sweeping_at_once_count_once(mongodb_uri: str, tmp_path: Path) -> None:
    """A settlement that races the sweeper is counted once, in one event or in an event and its correction."""
    async with direct(mongodb_uri, tmp_path) as meter, connected(mongodb_uri) as books:
        now = datetime.now(UTC)
        reservations = [await meter.reserve(want(at=now)) for _ in range(20)]
        work = [meter.settle(each, settlement(60, 20, "0.25")) for each in reservations]
        await asyncio.gather(*work, meter.sweep(now + LATER), meter.sweep(now + LATER))
        await meter.sweep(now + LATER)
        await books.assert_exact()
        standing = await meter.standing(USER, now)
        assert (standing.requests, standing.tokens, standing.cost_usd) == (20, 1600, Decimal(5))


async def test_a_refund_gives_everything_back(mongodb_uri: str, tmp_path: Path) -> None:
    """What never reached a provider leaves no event and no count, however often it is refunded."""
    async with direct(mongodb_uri, tmp_path) as meter, connected(mongodb_uri) as books:
        reservation = await meter.reserve(want())
        await asyncio.gather(*(meter.refund(reservation) for _ in range(3)))
        assert await books.events() == []
        await books.assert_exact()
        assert (await meter.standing(USER, datetime.now(UTC))).requests == 0


async def test_a_window_is_that_of_admission(mongodb_uri: str, tmp_path: Path) -> None:
    """A request belongs to the day and month in which it was admitted, and the next day has another counter."""
    async with direct(mongodb_uri, tmp_path) as meter, connected(mongodb_uri) as books:
        evening = datetime(2026, 11, 30, 23, 59, 59, 900_000, tzinfo=UTC)
        one_a_day = UserLimits(1, 10, 10**6)
        reservation = await meter.reserve(want(at=evening, limits=one_a_day))
        with pytest.raises(RateLimited):
            await meter.reserve(want(at=evening, limits=one_a_day))
        morning = evening + timedelta(seconds=1)
        other = await meter.reserve(want(at=morning, limits=one_a_day))
        for each in (reservation, other):
            await meter.settle(each, settlement())
        await books.assert_exact()
        for moment in (evening, morning):
            standing = await meter.standing(USER, moment)
            assert (standing.daily_requests, standing.monthly_requests, standing.requests) == (1, 1, 2)


async def test_a_hundred_first_requests_open_one_account(mongodb_uri: str, tmp_path: Path) -> None:
    """The first requests of a new user may all come at once."""
    async with direct(mongodb_uri, tmp_path) as meter, connected(mongodb_uri) as books:
        wants = [want(limits=PLENTY) for _ in range(100)]
        reservations = await asyncio.gather(*(meter.reserve(each) for each in wants))
        failed = settlement(0, 0, "0", outcome=Outcome.UPSTREAM_ERROR)
        await asyncio.gather(*(meter.settle(each, failed) for each in reservations[:50]))
        await asyncio.gather(*(meter.settle(each, settlement()) for each in reservations[50:]))
        await books.assert_exact()
        assert (await meter.standing(USER, datetime.now(UTC))).requests == 50
