"""Who is alive: one document per worker, renewed every second; a worker that cannot renew it admits nothing.

    alive -> lost       silent for too long; `booked` when all that it had leased counts as used
    any -> finished     everything in its journal has arrived; kept for a while, for commands that are still under way

A worker may admit until a fixed time after it *sent* its last accepted heartbeat, by a clock that also runs
while the machine sleeps. It is lost when a guarded change of its document says so, which nobody may make
before the worker has been silent for longer than it may admit, and nobody who has been out of touch himself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

from proxy.database import Database

WORKERS = "workers"
BEAT_SECONDS = 1.0
ADMIT_SECONDS = 15.0
LOST_SECONDS = 30.0
KEPT_SECONDS = 600
_RESOLUTION = timedelta(milliseconds=1)
"""What the database's clock is read in."""


class Heartbeat:
    """This process's heartbeats, on a connection of their own, so that no queue before the database delays them."""

    def __init__(self, database: Database, *, clock: Callable[[], datetime]) -> None:
        """Keep the workers' documents in this database, and compare its clock with ours."""
        self._workers = database[WORKERS]
        self._clock = clock
        self._admit_until = 0.0
        self._in_touch_since: float | None = None
        self.skew = timedelta(0)
        self._doubt = timedelta.max

    @property
    def may_admit(self) -> bool:
        """Say whether the last accepted heartbeat is young enough."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) < self._admit_until

    def now(self) -> datetime:
        """Return the time of the database's clock, as of the last heartbeat."""
        return self._clock() + self.skew

    async def enlist(self, name: str) -> None:
        """Announce a worker."""
        await self._workers.update_one(
            {"_id": name}, [{"$set": {"state": "alive", "at": "$$NOW"}}], upsert=True
        )
        await self.beat(name)

    async def beat(self, name: str) -> bool:
        """Renew a worker's document; return whether the worker is still alive to the others."""
        sent, now = _boottime(), self._clock()
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
        if self._in_touch_since is None or not self.may_admit:
            self._in_touch_since = sent  # whoever has slept himself knows nothing of the others
        self._admit_until = sent + ADMIT_SECONDS
        self._compare_clocks(found["at"], now, self._clock())
        return True

    def _compare_clocks(self, theirs: datetime, before: datetime, after: datetime) -> None:
        """Estimate how far the database's clock is ahead; a slow answer tells less than a quick one."""
        doubt = (after - before) / 2 + _RESOLUTION
        skew = theirs - before - (after - before) / 2
        if abs(skew) <= doubt:
            skew = timedelta(0)  # for all we know
        if doubt < self._doubt or abs(skew - self.skew) > doubt:
            self.skew, self._doubt = skew, doubt

    async def finish(self, name: str) -> None:
        """Take note that everything of a worker has arrived, or that nothing of it is anywhere."""
        await self._workers.update_one(
            {"_id": name}, [{"$set": {"state": "finished", "at": "$$NOW"}}], upsert=True
        )

    async def booked(self, name: str) -> None:
        """Take note that what a lost worker had leased counts as used."""
        await self._workers.update_one({"_id": name, "state": "lost"}, {"$set": {"booked": True}})

    async def find_lost(self) -> list[str]:
        """Declare lost who has been silent for too long, if we have been in touch ourselves.

        Returns all that are lost and not yet booked.
        """
        if self._in_touch_since is None or _boottime() - self._in_touch_since < LOST_SECONDS:
            return []
        silent = _before(int(LOST_SECONDS))
        async for worker in self._workers.find({"state": "alive", "$expr": {"$lt": ["$at", silent]}}):
            guard = {"_id": worker["_id"], "state": "alive", "at": worker["at"]}
            await self._workers.update_one(guard, {"$set": {"state": "lost"}})
        lost = self._workers.find({"state": "lost", "booked": {"$ne": True}}, {"_id": 1})
        return [str(worker["_id"]) async for worker in lost]

    async def find_finished(self) -> list[str]:
        """Return the workers that were finished so long ago that no command of theirs can still arrive."""
        finished = {"state": "finished", "$expr": {"$lt": ["$at", _before(KEPT_SECONDS)]}}
        return [str(worker["_id"]) async for worker in self._workers.find(finished, {"_id": 1})]

    async def forget(self, name: str) -> None:
        """Delete the document of a finished worker."""
        await self._workers.delete_one({"_id": name, "state": "finished"})

    def facts(self) -> dict[str, Any]:
        """Return what an operator may want to know."""
        return {"may_admit": self.may_admit, "clock_skew_seconds": self.skew.total_seconds()}


def _before(seconds: int) -> dict[str, Any]:
    return {"$dateSubtract": {"startDate": "$$NOW", "unit": "second", "amount": seconds}}


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
