"""What one worker tells the database, up to ten times a second: the events, the roll-ups, the accounts.

The three steps come in this order, always, and each may be repeated: an event has an id of its own, a roll-up and
an account know how far they have counted the journal. At most one command per account is in flight; after an
unknown outcome the account's entry is read before anything else is said to it, in a way that keeps what is
still under way from arriving later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from pymongo import ReturnDocument, UpdateOne

from proxy.database import Database
from proxy.documents import ACCOUNTS, EVENTS
from proxy.metering import duplicates
from proxy.metering.account_commands import count_update, fence
from proxy.metering.event import Event, placed, plain, totals_of, usage_event
from proxy.metering.rollups import ROLLUPS, sums_of, updates
from proxy.metering.slices import Batch, Closed, Slice

_REST_SECONDS, _LONGEST_REST_SECONDS = 0.001, 2.0
"""How long an account's news may wait for each account that has some, and how long in all.

An account costs the same, however many of its requests are told of at once: some 70 us here and 400 us of the database.
"""

_BATCH_ACCOUNTS = 500
_BATCH_EVENTS = 2_000
"""What is told at once takes half a second where the database shares two processors with everything else (measured)."""

_EVENTS_AT_ONCE = 100
"""After so many, which take a millisecond, everything else has its turn."""

_LOOK_AROUND_SECONDS = 5.0
_MOST_AT_REST = 10_000


class GroupCommit:
    """The writing side of a worker: its slices, which have news, and how many requests the database does not know."""

    def __init__(self, database: Database, journal: str) -> None:
        """Write under the journal's name."""
        self._accounts = database[ACCOUNTS]
        self._events = database[EVENTS]
        self._rollups = database[ROLLUPS]
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._looked_around_at = self._loop.time()
        self._writing = asyncio.Lock()
        self.slices: dict[str, Slice] = {}
        self.dirty: dict[str, None] = {}  # an ordered set: who has waited longest is the next to be written
        self.backlog = 0
        self.is_lost = False

    def ended(self, slice_: Slice, held: Mapping[str, int], closed: Closed | None) -> None:
        """End a request of a share: what it has used, unless that is nothing, is to be written."""
        slice_.release(held, closed)
        self.backlog += closed is not None
        self.touched(slice_)

    def touched(self, slice_: Slice) -> None:
        """Take note that an account has news."""
        self.dirty[slice_.user_id] = None

    async def write(self, *, everything: bool = False, is_patient: bool = False) -> bool:
        """Write down what has ended since the last time, and give back what is left over (or `everything`).

        Who `is_patient` leaves out accounts that were told of a moment ago: the more have news, the longer is that moment.
        Returns whether there is nothing more to write. Raises `PyMongoError` when the database is away; the same
        is written again next time. Who asks while another one writes waits, and then writes the rest.
        """
        async with self._writing:
            if self.is_lost:
                return True  # what it has to say is in its journal, and whoever recovers that says it
            chosen: list[Slice] = []
            try:
                rest = min(len(self.dirty) * _REST_SECONDS, _LONGEST_REST_SECONDS) if is_patient else 0.0
                await self._choose(chosen, rest, everything=everything)
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
            slice_.drop_batch()  # whether it arrived or not, what is leased now is in the entry
        elif batch is not None and entry is not None and entry["thru"] >= batch.thru:
            self._counted(slice_, batch)
        slice_.take_entry(entry)
        if (entry is None and slice_.is_promised) or (entry is not None and entry.get("lost")):
            self.is_lost = True

    def _counted(self, slice_: Slice, batch: Batch) -> None:
        slice_.counted()
        self.backlog -= len(batch.closed)

    async def _choose(self, chosen: list[Slice], rest: float, *, everything: bool) -> None:
        """Lock and add the slices that have something to say, did not for a while, and have no command in flight."""
        now, events = self._loop.time(), 0
        for user_id in self._candidates(now, everything=everything):
            slice_ = self.slices[user_id]
            # What is left over near a limit is what others wait for.
            if now - slice_.told_at < rest and not slice_.is_near:
                continue
            if slice_.lock.locked():
                self.touched(slice_)
                continue
            batch = slice_.next_batch(now, everything=everything)
            self.dirty.pop(user_id, None)
            if batch is None:
                continue
            self.touched(slice_)
            await slice_.lock.acquire()
            chosen.append(slice_)
            slice_.told_at = now
            events += len(batch.closed)
            if len(chosen) == _BATCH_ACCOUNTS or events >= _BATCH_EVENTS:
                break

    def _candidates(self, now: float, *, everything: bool) -> list[str]:
        """Return the accounts to look at: those with news, and now and then those that may lie idle."""
        if everything or now - self._looked_around_at >= _LOOK_AROUND_SECONDS:
            self._looked_around_at = now
            for user_id, slice_ in list(self.slices.items()):
                slice_.forget(now)
                if len(self.slices) > _MOST_AT_REST and slice_.is_at_rest and not slice_.lock.locked():
                    del self.slices[user_id]
                    self.dirty.pop(user_id, None)
            # Whoever has no news comes last, and is looked at once, in however many commits that takes.
            self.dirty |= {user_id: None for user_id in self.slices if user_id not in self.dirty}
        return list(self.dirty)

    async def _write(self, chosen: Sequence[Slice]) -> None:
        if not chosen:
            return
        for slice_ in chosen:
            if slice_.is_unsure:
                await self.look(slice_)
        if self.is_lost:
            return
        batches = [
            (slice_, slice_.batch, await self._events_of(slice_.batch))
            for slice_ in chosen
            if slice_.batch is not None
        ]
        await duplicates.insert(self._events, [event for *_, own in batches for event in own])
        await self._roll_up([(own, batch.thru) for _, batch, own in batches])
        commands = []
        for slice_, batch, own in batches:
            guard, update = count_update(slice_, batch, self._journal, totals_of(*own))
            commands.append(UpdateOne(guard, update))
            slice_.is_unsure = True
        if not commands:
            return
        result = await self._accounts.bulk_write(commands, ordered=False)
        if result.matched_count == len(commands):
            for slice_, batch, _ in batches:
                self._counted(slice_, batch)

    async def _events_of(self, batch: Batch) -> list[Event]:
        """Build a batch's events, the same at every try, without keeping the event loop for long."""
        events = []
        for place, closed in enumerate(batch.closed, start=1):
            event = usage_event(closed.reservation, closed.settlement, closed.uses)
            event["at"] = plain(event["at"])
            events.append(placed(event, self._journal, closed.start))
            if not place % _EVENTS_AT_ONCE:
                await asyncio.sleep(0)
        return events

    async def _roll_up(self, batches: Iterable[tuple[Sequence[Event], int]]) -> None:
        commands = [
            command
            for events, thru in batches
            if events
            for command in updates(sums_of(events), self._journal, thru)
        ]
        await duplicates.write(self._rollups, commands)
