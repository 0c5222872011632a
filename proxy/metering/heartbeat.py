"""Who is alive: one document per worker, renewed every second; a worker that cannot renew it admits nothing.

A worker may admit until a fixed time after it *sent* its last accepted heartbeat, by a clock that also runs
while the machine sleeps. It is lost when a guarded change of its document says so, which nobody may make
before the worker has been silent for longer than it may admit, and nobody who has been out of touch himself.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

from proxy.database import Database

WORKERS = "workers"
BEAT_SECONDS = 1.0
ADMIT_SECONDS = 15.0
LOST_SECONDS = 30.0


class Heartbeat:
    """This process's heartbeats, on a connection of their own, so that no queue before the database delays them."""

    def __init__(self, database: Database) -> None:
        """Keep the workers' documents in this database."""
        self._workers = database[WORKERS]
        self._admit_until = 0.0
        self._in_touch_since: float | None = None
        self.skew = timedelta(0)

    @property
    def may_admit(self) -> bool:
        """Say whether the last accepted heartbeat is young enough."""
        return _boottime() < self._admit_until

    async def enlist(self, name: str) -> None:
        """Announce a worker."""
        await self._workers.update_one(
            {"_id": name}, [{"$set": {"state": "alive", "at": "$$NOW"}}], upsert=True
        )
        await self.beat(name, datetime.now().astimezone())

    async def beat(self, name: str, now: datetime) -> bool:
        """Renew a worker's document; return whether the worker is still alive to the others."""
        sent = _boottime()
        try:
            found = await self._workers.find_one_and_update(
                {"_id": name, "state": "alive"},
                [{"$set": {"at": "$$NOW"}}],
                return_document=ReturnDocument.AFTER,
            )
        except PyMongoError:
            self._in_touch_since = None
            raise
        if found is None:
            return False
        self._admit_until = sent + ADMIT_SECONDS
        self._in_touch_since = self._in_touch_since or sent
        self.skew = found["at"] - now
        return True

    async def delist(self, name: str) -> None:
        """Forget a worker whose journal has been finished."""
        await self._workers.delete_one({"_id": name})

    async def find_lost(self) -> list[str]:
        """Declare lost who has been silent for too long, if we have been in touch ourselves; return all lost."""
        if self._in_touch_since is None or _boottime() - self._in_touch_since < LOST_SECONDS:
            return []
        silent = {"$dateSubtract": {"startDate": "$$NOW", "unit": "second", "amount": int(LOST_SECONDS)}}
        async for worker in self._workers.find({"state": "alive", "$expr": {"$lt": ["$at", silent]}}):
            guard = {"_id": worker["_id"], "state": "alive", "at": worker["at"]}
            await self._workers.update_one(guard, {"$set": {"state": "lost"}})
        return [str(worker["_id"]) async for worker in self._workers.find({"state": "lost"}, {"_id": 1})]

    def facts(self) -> dict[str, Any]:
        """Return what an operator may want to know."""
        return {"may_admit": self.may_admit, "clock_skew_seconds": self.skew.total_seconds()}


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
