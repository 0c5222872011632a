"""Tests of proxy/metering/verify.py: a right ledger has no drift, under load too, and a wrong one is found out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.documents import ACCOUNTS, EVENTS
from proxy.metering.verify import verify
from tests.proxy.metering.meters import METERS, USER, budget, connected, settlement, want


@pytest.mark.parametrize("running", METERS, ids=lambda meter: meter.__name__)
async def test_a_ledger_at_work_has_no_drift(mongodb_uri: str, tmp_path: Path, running: Any) -> None:
    """Checks in the middle of reservations, settlements and commits find nothing wrong."""
    async with connected(mongodb_uri) as books:
        async with running(mongodb_uri, tmp_path) as meter:

            async def use() -> None:
                for _ in range(20):
                    reservation = await meter.reserve(want(key_limits=budget("100")))
                    await asyncio.sleep(0.01)
                    await meter.settle(reservation, settlement())

            async def check() -> int:
                drift = 0
                for _ in range(10):
                    report = await verify(books.database)
                    drift += report.drift
                return drift

            found, *_ = await asyncio.gather(check(), *(use() for _ in range(10)))
            assert found == 0
        report = await verify(books.database)
        assert (report.accounts, report.events, report.drift, report.open_holds) == (1, 200, 0, 0)


async def test_planted_defects_are_found(mongodb_uri: str, tmp_path: Path) -> None:
    """An event that is missing, one that was counted twice, and a hold that nobody has are three drifts."""
    async with connected(mongodb_uri) as books:
        async with METERS[0](mongodb_uri, tmp_path) as meter:
            for _ in range(3):
                await meter.settle(await meter.reserve(want()), settlement())
        accounts, events = books.database[ACCOUNTS], books.database[EVENTS]
        (event, *_) = await books.events()
        await events.delete_one({"_id": event["_id"]})
        drifts = (await verify(books.database)).drifts
        assert {drift.what for drift in drifts} == {"used"}
        assert {drift.counted - drift.expected for drift in drifts} == {1, 80}
        await events.insert_one(dict(event))
        assert (await verify(books.database)).drift == 0
        counter = next(name for name in event["windows"] if name.startswith("T"))
        await accounts.update_one({"_id": USER}, {"$inc": {f"c.{counter}.u": 80}})
        assert [drift.counter for drift in (await verify(books.database)).drifts] == [counter]
        await accounts.update_one({"_id": USER}, {"$inc": {f"c.{counter}.u": -80, f"c.{counter}.l": 5}})
        (drift,) = (await verify(books.database, [USER])).drifts
        assert (drift.what, drift.counted, drift.expected) == ("held", 5, 0)
