"""A few accounts are checked every minute, so that a drift of the ledger is seen and not hoped against.

An account that is wrong is checked every time from then on, until it is right: an alert has to see it for a while.
"""

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
_MOST_SUSPECTS = 20
log = structlog.get_logger(__name__)


class LedgerWatch:
    """Checks a random sample of the accounts, for ever."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        """Report to the metric `aipasta_ledger_drift`."""
        self._database = database
        self._metrics = metrics
        self._suspects: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._watch(), name="ledger-watch")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            await background.end([self._task])

    async def check(self) -> int:
        """Check a sample now, and whoever was wrong before; return how many counters are."""
        cursor = await self._database[ACCOUNTS].aggregate(
            [{"$sample": {"size": _SAMPLE}}, {"$project": {"_id": 1}}]
        )
        chosen = {*self._suspects, *[account["_id"] async for account in cursor]}
        report = await verify(self._database, sorted(chosen))
        self._suspects = sorted({drift.user_id for drift in report.drifts})[:_MOST_SUSPECTS]
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
