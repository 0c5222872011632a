"""Tests of proxy/metering/watch.py: a drift is found, and stays in sight until it is mended."""

from __future__ import annotations

import asyncio

from proxy.documents import ACCOUNTS
from proxy.metering.watch import LedgerWatch
from proxy.metrics import Metrics
from tests.proxy.metering.meters import connected


async def test_a_drift_stays_in_sight_until_it_is_mended(mongodb_uri: str) -> None:
    """One wrong account among more than a sample is found in time, and is seen in every check after that."""
    async with connected(mongodb_uri) as books:
        accounts, metrics = books.database[ACCOUNTS], Metrics()
        await accounts.insert_many([{"_id": f"user{number}", "c": {}} for number in range(40)])
        await accounts.update_one({"_id": "user7"}, {"$set": {"c.Tt.u": 80}})
        watch = LedgerWatch(books.database, metrics)
        async with asyncio.timeout(60):
            while await watch.check() == 0:
                pass
        for _ in range(10):
            assert await watch.check() == 1
            assert metrics.value("aipasta_ledger_drift") == 1
        await accounts.update_one({"_id": "user7"}, {"$set": {"c.Tt.u": 0}})
        assert await watch.check() == 0
        assert metrics.value("aipasta_ledger_drift") == 0
