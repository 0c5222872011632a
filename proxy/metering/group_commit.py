"""What one worker tells the database, about ten times a second: the events, the roll-ups, the accounts.

The three steps come in this order, always, and each may be repeated: an event has an id of its own, a roll-up and
an account know how far they have counted the journal. At most one command per account is in flight; after an
unknown outcome the account's entry is read before anything else is said to it, in a way that keeps what is
still under way from arriving later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError

from proxy.database import Database
from proxy.documents import ACCOUNTS, EVENTS
from proxy.metering.event import Event, totals_of
from proxy.metering.rollups import ROLLUPS, sums_of, updates
from proxy.metering.slices import Closed, Slice, count_update, fence

_DUPLICATE = 11000
_BATCH_ACCOUNTS = 500
_LOOK_AROUND_SECONDS = 5.0
_MOST_AT_REST = 10_000


class GroupCommit:
    """The writing side of a worker: its slices, and which of them have news."""

    def __init__(self, database: Database, journal: str) -> None:
        """Write under the journal's name."""
        self._accounts = database[ACCOUNTS]
        self._events = database[EVENTS]
        self._rollups = database[ROLLUPS]
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._looked_around_at = 0.0
        self.slices: dict[str, Slice] = {}
        self.dirty: set[str] = set()
        self.is_lost = False

    @property
    def backlog(self) -> int:
        """Return how many ended requests the database does not know yet."""
        return sum(len(slice_.closed) for slice_ in self.slices.values())

    async def write(self, *, everything: bool = False) -> bool:
        """Write down what has ended since the last time, and give back what is left over (or `everything`).

        Returns whether there is nothing more to write. Raises `PyMongoError` when the database is away; the same
        is written again next time.
        """
        if self.is_lost:
            return True  # what it has to say is in its journal, and whoever recovers that says it
        chosen = await self._choose(everything=everything)
        try:
            await self._write(chosen)
        finally:
            for slice_ in chosen:
                slice_.lock.release()
        return not self.dirty

    async def look(self, slice_: Slice) -> None:
        """Learn after an unknown outcome what the document says, and keep what is still under way from arriving."""
        name = self._journal
        account = await self._accounts.find_one_and_update(
            {"_id": slice_.user_id, f"j.{name}": {"$exists": True}},
            fence(name),
            projection={f"j.{name}": 1},
            return_document=ReturnDocument.AFTER,
        )
        entry = None if account is None else account["j"][name]
        batch = slice_.batch
        if batch is not None and not batch.closed:
            slice_.batch = None  # whether it arrived or not, what is leased now is in the entry
        elif batch is not None and entry is not None and entry["thru"] >= batch.thru:
            slice_.counted()
        slice_.take_entry(entry)
        if (entry is None and slice_.closed) or (entry is not None and entry.get("lost")):
            self.is_lost = True

    async def _choose(self, *, everything: bool) -> list[Slice]:
        """Take the slices that have something to say and of which no command is in flight, and lock them."""
        now = self._loop.time()
        chosen: list[Slice] = []
        for user_id in self._candidates(now, everything=everything):
            slice_ = self.slices[user_id]
            if slice_.lock.locked():
                continue
            if slice_.next_batch(now, everything=everything) is None:
                self.dirty.discard(user_id)
                if slice_.is_at_rest and len(self.slices) > _MOST_AT_REST:
                    del self.slices[user_id]
                continue
            await slice_.lock.acquire()
            chosen.append(slice_)
            if len(chosen) == _BATCH_ACCOUNTS:
                break
        return chosen

    def _candidates(self, now: float, *, everything: bool) -> list[str]:
        """Return the accounts to look at: those with news, and now and then those that may lie idle."""
        if not everything and now - self._looked_around_at < _LOOK_AROUND_SECONDS:
            return list(self.dirty)
        self._looked_around_at = now
        return list(self.slices)

    async def _write(self, chosen: Sequence[Slice]) -> None:
        if not chosen:
            return
        for slice_ in chosen:
            if slice_.is_unsure:
                await self.look(slice_)
        batches = [(slice_, slice_.batch) for slice_ in chosen if slice_.batch is not None]
        await self._insert([closed.event for _, batch in batches for closed in batch.closed])
        await self._roll_up([(batch.closed, batch.thru) for _, batch in batches])
        commands = []
        for slice_, batch in batches:
            totals = _sum(totals_of(closed.event) for closed in batch.closed)
            guard, update = count_update(slice_, batch, self._journal, totals)
            commands.append(UpdateOne(guard, update))
            slice_.is_unsure = True
        if not commands:
            return
        result = await self._accounts.bulk_write(commands, ordered=False)
        if result.matched_count == len(commands):
            for slice_, _ in batches:
                slice_.counted()

    async def _insert(self, events: Sequence[Event]) -> None:
        if not events:
            return
        try:
            await self._events.insert_many(events, ordered=False)
        except BulkWriteError as exc:
            if any(error["code"] != _DUPLICATE for error in exc.details["writeErrors"]):
                raise

    async def _roll_up(self, batches: Iterable[tuple[Sequence[Closed], int]]) -> None:
        commands = [
            command
            for closed, thru in batches
            if closed
            for command in updates(sums_of(item.event for item in closed), self._journal, thru)
        ]
        if not commands:
            return
        try:
            await self._rollups.bulk_write(commands, ordered=False)
        except BulkWriteError as exc:
            if any(error["code"] != _DUPLICATE for error in exc.details["writeErrors"]):
                raise


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0) + amount
    return total
