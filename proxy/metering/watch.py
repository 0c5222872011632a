"""A few accounts are checked every minute, so that a drift of the ledger is seen and not hoped against."""

from __future__ import annotations

import asyncio

import structlog

from proxy import background
from proxy.database import Database
from proxy.documents import ACCOUNTS
from proxy.metering.verify import verify
from proxy.metrics import Metrics

WATCH_SECONDS = 60.0
_SAMPLE = 10
log = structlog.get_logger(__name__)


class LedgerWatch:
    """Checks a random sample of the accounts, for ever."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        """Report to the metric `aipasta_ledger_drift`."""
        self._database = database
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._watch(), name="ledger-watch")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            await background.end([self._task])

    async def check(self) -> int:
        """Check a sample now; return how many counters of it are wrong."""
        cursor = await self._database[ACCOUNTS].aggregate(
            [{"$sample": {"size": _SAMPLE}}, {"$project": {"_id": 1}}]
        )
        report = await verify(self._database, [account["_id"] async for account in cursor])
        for drift in report.drifts:
            log.error("the ledger has drifted", user=drift.user_id, counter=drift.counter, what=drift.what)
        self._metrics.ledger_drift.set(report.drift)
        return report.drift

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await background.survived(
                "checking the ledger", self.check(), while_away="the ledger could not be checked"
            )
