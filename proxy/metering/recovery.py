"""Finishing what a dead worker has left: its open requests get an event, its slices go back, nothing twice.

Whoever holds the lock of a journal owns it. He closes the requests that were open, exactly where the provider's
record of the generation tells how they ended, else with a marked estimate; inserts the events; adds to the
roll-ups what they have not seen; and takes the journal's entry out of every account that has one, in one update
that counts what was not counted. Every step may be repeated. Accounts are found by their entries, not by the
journal's requests: where there is no entry, nothing is left to apply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog
from msgspec.structs import replace
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from plugins.contract import Usage
from proxy import background
from proxy.core.bill import Bill, counted
from proxy.core.pricing import Charge, CostSource, charge_said
from proxy.database import Database
from proxy.documents import ACCOUNTS, EVENTS
from proxy.metering import duplicates, journal, rollups
from proxy.metering.accounts import booked_of
from proxy.metering.contract import Progress, Reservation
from proxy.metering.event import Event, endless, lost_event, placed, totals_of, undone, usage_event
from proxy.metering.heartbeat import Heartbeat
from proxy.metering.journal import FoundJournal, JournalError
from proxy.metering.memory import recall, unknown
from proxy.metering.records import Ended, Noted, Opened
from proxy.metering.rollups import ROLLUPS, keys_of, sums_of

_BATCH = 500
_JOURNALS_AT_ONCE = 4
_QUESTIONS_AT_ONCE = 32

Resolve = Callable[[str, str], Awaitable[Usage | None]]
"""Asks a provider by name what became of a generation; `None` when it cannot be told."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class _Booked(NamedTuple):
    """An event, and the offset behind the end of its request."""

    offset: int
    event: Event


@dataclass(slots=True)
class _Found:
    """What a journal says of its requests."""

    name: str
    opened: dict[str, Opened] = field(default_factory=dict)
    notes: dict[str, Progress] = field(default_factory=dict)
    closed: list[_Booked] = field(default_factory=list)
    end: int = 0

    @property
    def thru(self) -> int:
        """Return an offset that is behind everything which the dead worker or its recovery counts."""
        return self.end + len(self.opened)


class Recovery:
    """Takes over the journals of a folder, and the slices of workers that are lost with theirs."""

    def __init__(
        self,
        database: Database,
        heartbeat: Heartbeat,
        folder: Path,
        resolve: Resolve,
        *,
        usd_inr_rate: Decimal,
    ) -> None:
        """Write to this database, and tell `heartbeat` which workers are finished."""
        self._accounts = database[ACCOUNTS]
        self._events = database[EVENTS]
        self._rollups = database[ROLLUPS]
        self._heartbeat = heartbeat
        self._folder = folder
        self._resolve = resolve
        self._usd_inr_rate = usd_inr_rate
        self._running: dict[str, asyncio.Task[None]] = {}
        self._unopened: set[str] = set()
        self._foreign: set[str] = set()
        self._questions = asyncio.Semaphore(_QUESTIONS_AT_ONCE)

    def begin(self, own: Iterable[str]) -> None:
        """Begin to finish every journal whose worker is dead, a few at once; one may wait long for its provider."""
        for name in journal.names(self._folder):
            if len(self._running) >= _JOURNALS_AT_ONCE:
                return
            if name in own or name in self._running or name in self._foreign:
                continue
            found = self._take(name)
            if found is not None:
                task = self._running[name] = asyncio.create_task(self._try_to_finish(found))
                task.add_done_callback(_report)

    def _take(self, name: str) -> FoundJournal | None:
        """Take a journal over if it can be had; one that another user's gateway has left keeps nobody from the rest."""
        try:
            found = FoundJournal.take(self._folder / name)
        except OSError as exc:
            if name not in self._unopened:
                log.error("a journal cannot be opened", journal=name, cause=exc.strerror)  # noqa: TRY400
            self._unopened.add(name)
            return None
        self._unopened.discard(name)
        return found

    async def take_over(self, own: Iterable[str], seconds: float) -> None:
        """Begin, and wait until what was begun is finished; raise `TimeoutError` when that takes too long."""
        self.begin(own)
        if self._running:
            _, pending = await asyncio.wait(list(self._running.values()), timeout=seconds)
            if pending:
                raise TimeoutError(f"{len(pending)} journals are not finished")

    async def stop(self) -> None:
        """Leave what is not finished to the next start."""
        await background.end(list(self._running.values()))

    async def finish(self, found: FoundJournal) -> None:
        """Bring everything in a journal to where it belongs, and delete it."""
        is_finished = False
        try:
            contents = await asyncio.to_thread(_read, found)
            if contents.opened:
                log.warning(
                    "closing the requests of a dead worker", journal=found.name, open=len(contents.opened)
                )
            for user_id, closed in (await self._by_user(contents)).items():
                await self._settle_account(user_id, contents, closed)
            await self._heartbeat.finish(found.name)
            is_finished = True
        finally:
            found.end_here(delete=is_finished)

    async def book_lost(self, name: str) -> None:
        """Book as used what a lost worker has leased: nobody can tell what its open requests have cost."""
        has_entries = False
        async for account in self._accounts.find({"js": name}, {f"j.{name}": 1}):
            entry = account["j"][name]
            if not entry.get("lost"):
                await self._book(account["_id"], name, entry)
        async for account in self._accounts.find({"js": name}, {f"j.{name}": 1}):
            has_entries = True
            entry = account["j"][name]
            if not entry.get("lost"):
                return  # it was faster than we: next time
            await self._insert_lost(str(account["_id"]), name, entry)
        if has_entries:
            await self._heartbeat.booked(name)
        else:
            await self._heartbeat.finish(name)

    async def retire(self, name: str) -> None:
        """Take away what is kept of a finished journal for commands that might have been under way."""
        async for account in self._accounts.find({"js": name}, {f"j.{name}": 1}):
            # A first lease that arrived when its worker was dead and finished: nobody has taken anything of it.
            await self._take_entry(str(account["_id"]), name, account["j"][name], [])
        await self._rollups.update_many(*rollups.retirement(name))
        if await self._accounts.find_one({"js": name}, {"_id": 1}) is None:
            await self._heartbeat.forget(name)

    async def _try_to_finish(self, found: FoundJournal) -> None:
        try:
            await self.finish(found)
        except PyMongoError as exc:
            log.warning("recovery waits for the database", journal=found.name, cause=str(exc)[:200])
        except OSError as exc:
            log.error("a journal cannot be read", journal=found.name, cause=exc.strerror)  # noqa: TRY400
        except JournalError as exc:
            self._foreign.add(found.name)
            log.error("a journal is left as it is", journal=found.name, cause=str(exc))  # noqa: TRY400
        finally:
            del self._running[found.name]

    async def _book(self, user_id: str, name: str, entry: Mapping[str, Any]) -> None:
        changes = {f"c.{counter}.l": -amount for counter, amount in entry.get("s", {}).items()}
        changes |= {f"c.{counter}.u": amount for counter, amount in booked_of(entry).items()}
        guard = {"_id": user_id, f"j.{name}.v": entry["v"]}
        update = {"$inc": {**changes, f"j.{name}.v": 1}, "$set": {f"j.{name}.lost": True}}
        await self._accounts.update_one(guard, update)

    async def _insert_lost(self, user_id: str, name: str, entry: Mapping[str, Any]) -> Event:
        booked = lost_event(user_id, name, booked_of(entry), self._usd_inr_rate)
        await duplicates.insert(self._events, [booked])
        return booked

    async def _by_user(self, contents: _Found) -> dict[str, list[_Booked]]:
        """Insert what has ended, and return it by user, with everybody whom the journal still has an entry for."""
        by_user: dict[str, list[_Booked]] = {}
        async for account in self._accounts.find({"js": contents.name}, {"_id": 1}):
            by_user[str(account["_id"])] = []
        closed = [*contents.closed, *await self._close_open(contents)]
        for item in await self._stored(closed, contents.name):
            by_user.setdefault(item.event["userId"], []).append(item)
        return by_user

    async def _close_open(self, contents: _Found) -> list[_Booked]:
        """Make the events of the requests that were open when the worker died."""
        closed = await asyncio.gather(
            *(
                self._close_one(record, contents.notes.get(request_id))
                for request_id, record in contents.opened.items()
            )
        )
        # Behind everything in the journal, and in the same order at every try.
        return [
            _Booked(end, placed(event, contents.name, end - 1))
            for end, event in enumerate(closed, start=contents.end + 1)
        ]

    async def _close_one(self, record: Opened, progress: Progress | None) -> Event:
        reservation = _recalled(record)
        usage = None
        if progress is not None and progress.generation_id is not None:
            async with self._questions:
                usage = await self._resolve(progress.provider, progress.generation_id)
        settlement = unknown(reservation, progress, self._usd_inr_rate)
        if usage is not None:
            settlement = replace(settlement, bill=_exact(usage))
        return usage_event(reservation, settlement)

    async def _stored(self, closed: Sequence[_Booked], name: str) -> list[_Booked]:
        """Insert the events; where one is there already, the stored one is what counts."""
        by_id = {str(item.event["_id"]): item for item in closed}
        for part in _parts(closed):
            await duplicates.insert(self._events, [item.event for item in part])
        for ids in _parts(list(by_id)):
            async for event in self._events.find({"_id": {"$in": ids}}):
                # It says itself where it was counted from, should its end not be in the journal.
                is_ours = event.get("journal") == name
                offset = event["offset"] + 1 if is_ours else by_id[event["_id"]].offset
                by_id[event["_id"]] = _Booked(offset, event)
        return sorted(by_id.values(), key=lambda item: item.offset)

    async def _settle_account(self, user_id: str, contents: _Found, closed: Sequence[_Booked]) -> None:
        """Take the journal's entry out of an account, counting what it has not counted yet."""
        name = contents.name
        while True:
            account = await self._accounts.find_one(
                {"_id": user_id, f"j.{name}": {"$exists": True}}, {f"j.{name}": 1}
            )
            if account is None:
                return
            entry = account["j"][name]
            await self._roll_up(contents, closed)
            missing = [item.event for item in closed if item.offset > entry["thru"]]
            if entry.get("lost"):
                # What was booked for a lost worker is taken back: now it is known what was used.
                missing.append(undone(await self._insert_lost(user_id, name, entry)))
                await duplicates.insert(self._events, [missing[-1]])
            if await self._take_entry(user_id, name, entry, missing):
                return

    async def _take_entry(
        self, user_id: str, name: str, entry: Mapping[str, Any], missing: Sequence[Event]
    ) -> bool:
        totals = endless(totals_of(*missing)) if missing else {}
        changes: dict[str, Any] = {f"t.{name}": total for name, total in totals.items()}
        for event in missing:
            for counter, amount in event["windows"].items():
                changes[f"c.{counter}.u"] = changes.get(f"c.{counter}.u", 0) + amount
        if not entry.get("lost"):
            changes |= {f"c.{counter}.l": -amount for counter, amount in entry.get("s", {}).items()}
        update: dict[str, Any] = {"$unset": {f"j.{name}": ""}, "$pull": {"js": name}}
        if changes:
            update["$inc"] = changes
        guard = {"_id": user_id, f"j.{name}.v": entry["v"]}
        return (await self._accounts.update_one(guard, update)).modified_count == 1

    async def _roll_up(self, contents: _Found, closed: Sequence[_Booked]) -> None:
        """Add to each roll-up what it has not seen of this journal."""
        by_key: dict[str, list[_Booked]] = {}
        for item in closed:
            for key in keys_of(item.event):
                by_key.setdefault(key, []).append(item)
        for keys in _parts(list(by_key)):
            while commands := await self._additions(contents, {key: by_key[key] for key in keys}):
                # One that fails was overtaken by a command of the dead worker, which has changed what is missing.
                await duplicates.write(self._rollups, commands)

    async def _additions(self, contents: _Found, by_key: Mapping[str, Sequence[_Booked]]) -> list[UpdateOne]:
        name = contents.name
        seen: dict[str, int] = {}
        async for rollup in self._rollups.find({"_id": {"$in": list(by_key)}}, {f"thru.{name}": 1}):
            if name in rollup.get("thru", {}):
                seen[rollup["_id"]] = rollup["thru"][name]
        commands = []
        for key, closed in by_key.items():
            new = [item.event for item in closed if item.offset > seen.get(key, -1)]
            if new:
                sums = sums_of(new)[key]
                commands.append(rollups.update_from(key, sums, name, seen.get(key), contents.thru))
        return commands


def _parts(items: Sequence[T]) -> Iterator[list[T]]:
    """Cut a long row into pieces that one command can hold."""
    for start in range(0, len(items), _BATCH):
        yield list(items[start : start + _BATCH])


def _read(found: FoundJournal) -> _Found:
    contents = _Found(found.name)
    for start, offset, record in found.entries():
        contents.end = max(contents.end, offset)
        match record:
            case Opened():
                contents.opened[record.id] = record
            case Noted():
                contents.notes[record.id] = record.progress
            case Ended(opened, settlement):
                contents.opened.pop(opened.id, None)
                if settlement is not None:
                    event = usage_event(_recalled(opened), settlement)
                    contents.closed.append(_Booked(offset, placed(event, found.name, start)))
    return contents


def _exact(usage: Usage) -> Bill:
    unknown_cost = Charge(None, CostSource.UNKNOWN, estimated=True)
    return Bill(counted(usage), charge_said(usage) or unknown_cost)


def _recalled(record: Opened) -> Reservation:
    return recall(record.id, record.memory, record.held)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (defect := task.exception()) is not None:
        log.error("recovery has failed", exc_info=defect)
