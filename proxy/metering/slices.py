"""One worker's share of one account: what it has leased, what its requests hold of that, what they have used.

All amounts are by counter. What the account document says is taken over as it stands (`leased`, `version`,
`thru`), never added up from memory; what a request may take is what is leased and neither held, nor spent and
not yet counted in the document, nor on its way back. Nothing here awaits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxy.core.rules import Rule, affordable_output
from proxy.metering.contract import Reservation, Want

FIRST_APPETITE = 16
_MOST_APPETITE = 4096
_QUICK_SECONDS = 0.5
_SHARE = 16
"""A lease takes at most this part of what is left, unless the waiting requests need more."""

IDLE_SECONDS = 60.0


class Closed(NamedTuple):
    """A request that has ended: where in the journal, its event, and what that adds to the counters."""

    offset: int
    event: dict[str, Any]


@dataclass(slots=True)
class Waiter:
    """A request that waits for a lease."""

    want: Want
    rules: tuple[Rule, ...]
    admitted: asyncio.Future[Reservation]
    patient_until: float
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What the next command counts in the account: the same at every try, until it is known to have arrived."""

    closed: tuple[Closed, ...]
    thru: int
    used: Mapping[str, int]
    returned: Mapping[str, int]


@dataclass(slots=True)
class Slice:
    """The share; `version` is `None` where the document has no entry of this worker's journal."""

    user_id: str
    version: int | None = None
    thru: int = 0
    leased: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    remaining: dict[str, int] = field(default_factory=dict)
    closed: list[Closed] = field(default_factory=list)
    batch: Batch | None = None
    waiting: deque[Waiter] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_unsure: bool = False
    last_use: float = 0.0
    _appetite: dict[str, int] = field(default_factory=dict)
    _leased_at: dict[str, float] = field(default_factory=dict)
    _near: set[str] = field(default_factory=set)

    def available(self, counter: str) -> int:
        """Return what a request may still take here of a counter."""
        returning = self.batch.returned.get(counter, 0) if self.batch else 0
        return (
            self.leased.get(counter, 0) - self.held.get(counter, 0) - self.spent.get(counter, 0) - returning
        )

    def affordable(self, rules: Iterable[Rule], wish: int) -> int:
        """Return the output cap, at most `wish`, that this share pays for; negative when it pays for nothing."""
        available = {rule.counter: self.available(rule.counter) for rule in rules}
        return affordable_output(rules, available, wish)

    def hold(self, amounts: Mapping[str, int], now: float) -> None:
        """Take a request's amounts."""
        _add(self.held, amounts)
        self.last_use = now

    def release(self, amounts: Mapping[str, int], closed: Closed | None, now: float) -> None:
        """End a request: its hold goes, what its event uses is spent."""
        _add(self.held, amounts, sign=-1)
        if closed is not None:
            _add(self.spent, closed.event["windows"])
            self.closed.append(closed)
        self.last_use = now

    def take_entry(self, entry: Mapping[str, Any] | None) -> None:
        """Take over what the document says of this share."""
        self.is_unsure = False
        if entry is None:
            self.version, self.leased = None, {}
            return
        self.version, self.thru = entry["v"], entry["thru"]
        self.leased = {name: int(amount) for name, amount in entry.get("s", {}).items()}

    def take_counters(self, counters: Mapping[str, Mapping[str, int]], rules: Iterable[Rule]) -> None:
        """Take over what the document says of the counters."""
        for rule in rules:
            found = counters.get(rule.counter, {})
            self.used[rule.counter] = int(found.get("u", 0))
            self.remaining[rule.counter] = rule.limit - self.used[rule.counter] - int(found.get("l", 0))

    def appetite(self, rule: Rule, typical: int, now: float) -> int:
        """Return how much to lease ahead of need; it doubles while slices are used up within half a second."""
        name = rule.counter
        holds = self._appetite.get(name, FIRST_APPETITE)
        if now - self._leased_at.get(name, -1.0) < _QUICK_SECONDS:
            holds = min(holds * 2, _MOST_APPETITE)
        else:
            holds = max(FIRST_APPETITE, holds // 2)
        self._appetite[name] = holds
        self._leased_at[name] = now
        return holds * typical

    def note_nearness(self, rule: Rule, ahead: int) -> None:
        """Remember whether a limit is so near that what is left over goes back at once."""
        if self.remaining.get(rule.counter, 0) // _SHARE < ahead:
            self._near.add(rule.counter)
        else:
            self._near.discard(rule.counter)

    def next_batch(self, now: float, *, everything: bool = False) -> Batch | None:
        """Return what there is to count or to give back; the last batch again if it has not arrived."""
        if self.batch is not None:
            return self.batch
        is_idle = everything or (now - self.last_use > IDLE_SECONDS and not self.held_anything)
        returned = {}
        for counter in self.leased:
            left = self.available(counter)
            if left > 0 and (is_idle or counter in self._near) and not self.waiting:
                returned[counter] = left
        if not self.closed and not returned:
            return None
        used: dict[str, int] = {}
        for closed in self.closed:
            _add(used, closed.event["windows"])
        thru = max((closed.offset for closed in self.closed), default=self.thru)
        self.batch = Batch(tuple(self.closed), thru, used, returned)
        return self.batch

    def counted(self) -> None:
        """Take note that the batch has arrived."""
        batch = self.batch
        if batch is None:
            return
        self.is_unsure = False
        if self.version is not None:
            self.version += 1
        for name, amount in self.taken_by(batch).items():
            self.leased[name] -= amount
            if self.leased[name] == 0:
                del self.leased[name]
        _add(self.spent, batch.used, sign=-1)
        self.closed = self.closed[len(batch.closed) :]
        self.thru = batch.thru
        self.batch = None

    def taken_by(self, batch: Batch) -> dict[str, int]:
        """Return what a batch takes off the lease: what was used and what goes back, but never below nothing."""
        names = {*batch.used, *batch.returned}
        amounts = {name: batch.used.get(name, 0) + batch.returned.get(name, 0) for name in names}
        return {
            name: min(amount, self.leased[name]) for name, amount in amounts.items() if self.leased.get(name)
        }

    @property
    def held_anything(self) -> bool:
        """Say whether a request is open here."""
        return any(self.held.values())

    @property
    def is_at_rest(self) -> bool:
        """Say whether the share can be forgotten: nothing open, nothing to count, nothing leased."""
        return not (self.held_anything or self.closed or self.waiting or self.leased or self.batch)


def lease_filter(slice_: Slice, journal: str) -> dict[str, Any]:
    """Return the guard of a lease: the entry is as this share knows it."""
    guard = {"$exists": False} if slice_.version is None else slice_.version
    return {"_id": slice_.user_id, f"j.{journal}" + (".v" if slice_.version is not None else ""): guard}


def lease_pipeline(
    journal: str, start: int, asks: Iterable[tuple[Rule, int, int, int]]
) -> list[dict[str, Any]]:
    """Return the update that grants all or nothing: for each rule what the first, and all, waiting requests need,
    and what is wanted ahead of need.

    Remaining, the check of every limit, the grant and the write happen in one update of one document.
    """
    left, grants, checks = {}, {}, []
    for rule, first, every, ahead in asks:
        name = rule.counter
        left[name] = {"$subtract": [rule.limit, _taken(name)]}
        checks.append({"$gte": [f"$_left.{name}", first]})
        share = {"$floor": {"$divide": [f"$_left.{name}", _SHARE]}}
        most = {"$max": [every, {"$min": [ahead, share]}]}
        amount = {"$max": [0, {"$min": [f"$_left.{name}", most]}]}
        grants[name] = {"$toLong": {"$cond": ["$_ok", amount, 0]}}
    counters = {
        f"c.{name}": {
            "u": {"$ifNull": [f"$c.{name}.u", 0]},
            "l": {"$add": [{"$ifNull": [f"$c.{name}.l", 0]}, f"$_grant.{name}"]},
        }
        for name in grants
    }
    slices = {
        f"j.{journal}.s.{name}": {"$add": [{"$ifNull": [f"$j.{journal}.s.{name}", 0]}, f"$_grant.{name}"]}
        for name in grants
    }
    entry = {
        f"j.{journal}.v": {"$add": [{"$ifNull": [f"$j.{journal}.v", 0]}, 1]},
        f"j.{journal}.thru": {"$ifNull": [f"$j.{journal}.thru", start]},
        "js": {"$setUnion": [{"$ifNull": ["$js", []]}, [journal]]},
    }
    return [
        {"$set": {"_left": left}},
        {"$set": {"_ok": {"$and": checks}}},
        {"$set": {"_grant": grants}},
        {"$set": {**counters, **slices, **entry}},
        {"$unset": ["_left", "_ok", "_grant"]},
    ]


def fence(journal: str) -> dict[str, Any]:
    """Return the update that makes every command fail that was sent before and may still arrive."""
    return {"$inc": {f"j.{journal}.v": 1}}


def count_update(
    slice_: Slice, batch: Batch, journal: str, totals: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the guard and the update that count a share's batch."""
    changes: dict[str, int] = {f"c.{name}.u": amount for name, amount in batch.used.items() if amount}
    empty: dict[str, str] = {}
    for name, amount in slice_.taken_by(batch).items():
        changes[f"c.{name}.l"] = -amount
        if amount == slice_.leased[name]:
            empty[f"j.{journal}.s.{name}"] = ""
        else:
            changes[f"j.{journal}.s.{name}"] = -amount
    changes |= {f"t.{name}": amount for name, amount in totals.items() if amount}
    changes[f"j.{journal}.v"] = 1
    update: dict[str, Any] = {"$set": {f"j.{journal}.thru": batch.thru}, "$inc": changes}
    if empty:
        update["$unset"] = empty
    guard = {
        "_id": slice_.user_id,
        f"j.{journal}.v": slice_.version,
        f"j.{journal}.thru": slice_.thru,
        f"j.{journal}.lost": {"$exists": False},
    }
    return guard, update


def _taken(name: str) -> dict[str, Any]:
    return {"$add": [{"$ifNull": [f"$c.{name}.u", 0]}, {"$ifNull": [f"$c.{name}.l", 0]}]}


def _add(into: dict[str, int], amounts: Mapping[str, int], *, sign: int = 1) -> None:
    for name, amount in amounts.items():
        total = into.get(name, 0) + sign * amount
        if total:
            into[name] = total
        else:
            into.pop(name, None)
