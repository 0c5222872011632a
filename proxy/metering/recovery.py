"""Finishing what a dead worker has left: its open requests get an event, its slices go back, nothing twice.

Whoever holds the lock of a journal owns it. He closes the requests that were open, exactly where the provider's
record of the generation tells how they ended, else with a marked estimate; inserts the events; adds to the
roll-ups what they have not seen; and takes the journal's entry out of every account that has one, in one update
that counts what was not counted. Every step may be repeated. Accounts are found by their entries, not by the
journal's requests: where there is no entry, nothing is left to apply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import structlog
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from plugins.contract import Usage
from proxy.core.bill import Bill, counted
from proxy.core.pricing import Charge, CostSource
from proxy.database import Database
from proxy.documents import ACCOUNTS, EVENTS
from proxy.metering import journal
from proxy.metering.contract import Progress
from proxy.metering.event import Event, lost_event, totals_of, undone, usage_event
from proxy.metering.journal import FoundJournal
from proxy.metering.memory import recall, unknown
from proxy.metering.rollups import ROLLUPS, keys_of, sums_of, updates
from proxy.metering.slices import Closed

_DUPLICATE = 11000
_READ_BATCH = 500

Resolve = Callable[[str, str], Awaitable[Usage | None]]
"""Asks a provider by name what became of a generation; `None` when it cannot be told."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Found:
    """What a journal says of its requests."""

    opened: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    closed: list[Closed] = field(default_factory=list)
    end: int = 0


class Recovery:
    """Takes over the journals of a folder, and the slices of workers that are lost with theirs."""

    def __init__(self, database: Database, folder: Path, resolve: Resolve, *, usd_inr_rate: Decimal) -> None:
        """Write to this database."""
        self._accounts = database[ACCOUNTS]
        self._events = database[EVENTS]
        self._rollups = database[ROLLUPS]
        self._folder = folder
        self._resolve = resolve
        self._usd_inr_rate = usd_inr_rate

    async def take_over(self, own: Iterable[str]) -> list[str]:
        """Finish every journal whose worker is dead; return their names."""
        finished = []
        for name in journal.names(self._folder):
            if name in own:
                continue
            found = FoundJournal.take(self._folder / name)
            if found is not None:
                await self.finish(found)
                finished.append(name)
        return finished

    async def finish(self, found: FoundJournal) -> None:
        """Bring everything in a journal to where it belongs, and delete it."""
        delete = False
        try:
            contents = await asyncio.to_thread(_read, found)
            if contents.opened:
                log.warning(
                    "closing the requests of a dead worker", journal=found.name, open=len(contents.opened)
                )
            closed = [*contents.closed, *await self._close_open(contents)]
            closed = await self._stored([_with_place(item, found.name) for item in closed])
            users = {item.event["userId"] for item in closed}
            async for account in self._accounts.find({"js": found.name}, {"_id": 1}):
                users.add(account["_id"])
            for user_id in users:
                own = [item for item in closed if item.event["userId"] == user_id]
                await self._settle_account(str(user_id), found.name, own)
            delete = True
        finally:
            found.end_here(delete=delete)

    async def book_lost(self, name: str) -> None:
        """Book as used what a lost worker has leased: nobody can tell what its open requests have cost."""
        async for account in self._accounts.find({"js": name}, {f"j.{name}": 1}):
            entry = account["j"][name]
            if not entry.get("lost"):
                await self._book(account["_id"], name, entry)
        async for account in self._accounts.find({f"j.{name}.lost": True, "js": name}, {f"j.{name}": 1}):
            booked = lost_event(str(account["_id"]), name, account["j"][name]["s"], self._usd_inr_rate)
            await self._insert([booked])

    async def _book(self, user_id: str, name: str, entry: Mapping[str, Any]) -> None:
        leased = entry.get("s", {})
        changes = {f"c.{counter}.u": amount for counter, amount in leased.items()}
        changes |= {f"c.{counter}.l": -amount for counter, amount in leased.items()}
        guard = {"_id": user_id, f"j.{name}.v": entry["v"]}
        update = {
            "$inc": {**changes, f"j.{name}.v": 1},
            "$set": {f"j.{name}.lost": True, f"j.{name}.s": dict(leased)},
        }
        await self._accounts.update_one(guard, update)

    async def _close_open(self, contents: _Found) -> list[Closed]:
        """Make the events of the requests that were open when the worker died."""
        closed = await asyncio.gather(
            *(
                self._close_one(request_id, record, contents.notes.get(request_id))
                for request_id, record in contents.opened.items()
            )
        )
        # Behind everything in the journal, and in the same order at every try.
        return [Closed(contents.end + place, event) for place, event in enumerate(closed, start=1)]

    async def _close_one(self, request_id: str, record: dict[str, Any], note: dict[str, Any] | None) -> Event:
        reservation = recall(request_id, record, record["held"])
        progress = None if note is None else _progress(note)
        usage = None
        if progress is not None and progress.generation_id is not None:
            usage = await self._resolve(progress.provider, progress.generation_id)
        settlement = unknown(reservation, progress, self._usd_inr_rate)
        if usage is not None:
            settlement = replace(settlement, bill=_exact(usage))
        return usage_event(reservation, settlement)

    async def _stored(self, closed: Sequence[Closed]) -> list[Closed]:
        """Insert the events; where one is there already, the stored one is what counts."""
        by_id = {str(item.event["_id"]): item for item in closed}
        await self._insert([item.event for item in closed])
        ids = list(by_id)
        for start in range(0, len(ids), _READ_BATCH):
            async for event in self._events.find({"_id": {"$in": ids[start : start + _READ_BATCH]}}):
                by_id[event["_id"]] = Closed(by_id[event["_id"]].offset, event)
        return list(by_id.values())

    async def _settle_account(self, user_id: str, name: str, closed: Sequence[Closed]) -> None:
        """Take the journal's entry out of an account, counting what it has not counted yet."""
        while True:
            account = await self._accounts.find_one(
                {"_id": user_id, f"j.{name}": {"$exists": True}}, {f"j.{name}": 1}
            )
            if account is None:
                return
            entry = account["j"][name]
            await self._roll_up(name, closed)
            missing = [item.event for item in closed if item.offset > entry["thru"]]
            if entry.get("lost"):
                # What was booked for a lost worker is taken back: now it is known what was used.
                missing.append(undone(lost_event(user_id, name, entry["s"], self._usd_inr_rate)))
                await self._insert([missing[-1]])
            if await self._take_entry(user_id, name, entry, missing):
                return

    async def _take_entry(
        self, user_id: str, name: str, entry: Mapping[str, Any], missing: Sequence[Event]
    ) -> bool:
        changes: dict[str, int] = {}
        for event in missing:
            for counter, amount in event["windows"].items():
                changes[f"c.{counter}.u"] = changes.get(f"c.{counter}.u", 0) + amount
            for total, amount in totals_of(event).items():
                changes[f"t.{total}"] = changes.get(f"t.{total}", 0) + amount
        if not entry.get("lost"):
            changes |= {f"c.{counter}.l": -amount for counter, amount in entry.get("s", {}).items()}
        update: dict[str, Any] = {"$unset": {f"j.{name}": ""}, "$pull": {"js": name}}
        if changes:
            update["$inc"] = changes
        guard = {"_id": user_id, f"j.{name}.v": entry["v"]}
        return (await self._accounts.update_one(guard, update)).modified_count == 1

    async def _roll_up(self, name: str, closed: Sequence[Closed]) -> None:
        """Add to each roll-up what it has not seen of this journal."""
        keys = {key for item in closed for key in keys_of(item.event)}
        seen = dict.fromkeys(keys, -1)
        async for rollup in self._rollups.find({"_id": {"$in": list(keys)}}, {f"thru.{name}": 1}):
            seen[rollup["_id"]] = rollup.get("thru", {}).get(name, -1)
        commands: list[UpdateOne] = []
        for key in keys:
            new = [item for item in closed if key in keys_of(item.event) and item.offset > seen[key]]
            if new:
                sums = {key: sums_of(item.event for item in new)[key]}
                commands += updates(sums, name, max(item.offset for item in new))
        if commands:
            await self._rollups.bulk_write(commands, ordered=False)

    async def _insert(self, events: Sequence[Event]) -> None:
        if not events:
            return
        try:
            await self._events.insert_many(events, ordered=False)
        except BulkWriteError as exc:
            if any(error["code"] != _DUPLICATE for error in exc.details["writeErrors"]):
                raise
        except DuplicateKeyError:
            return


def _read(found: FoundJournal) -> _Found:
    contents = _Found()
    for offset, record in found.entries():
        request_id = record["id"]
        contents.end = max(contents.end, offset)
        match record["k"]:
            case "open":
                contents.opened[request_id] = record
            case "note":
                contents.notes[request_id] = record
            case "close":
                contents.opened.pop(request_id, None)
                if record["event"] is not None:
                    contents.closed.append(Closed(offset, record["event"]))
    return contents


def _progress(note: Mapping[str, Any]) -> Progress:
    return Progress(
        provider=note["provider"],
        model=note["model"],
        generation_id=note["generation"],
        backing=note["backing"],
        deltas=note["deltas"],
        output_bytes=note["bytes"],
    )


def _exact(usage: Usage) -> Bill:
    return Bill(counted(usage), Charge(usage.cost, CostSource.PROVIDER, estimated=False))


def _with_place(item: Closed, name: str) -> Closed:
    """Say in an event which journal it comes from, so that a check knows whether its account has counted it."""
    item.event.setdefault("journal", name)
    item.event.setdefault("offset", item.offset - 1)
    return item
