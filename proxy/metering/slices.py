"""One worker's share of one account: what it has leased, what its requests hold of that, what they have used.

All amounts are by counter. What the account document says is taken over as it stands (`leased`, `version`,
`thru`), never added up from memory; what a request may take is what is leased and neither held, nor spent and
not yet counted in the document, nor on its way back. Nothing here awaits.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from plugins.values import Value
from proxy.core.refusals import held_elsewhere
from proxy.core.rules import Rule, affordable_output
from proxy.errors import GatewayError
from proxy.metering.contract import Reservation, Settlement, Want
from proxy.metering.event import Uses

FIRST_APPETITE = 16
_MOST_APPETITE = 4096
_QUICK_SECONDS = 30.0
"""How long a lease should last: a command to the database costs as much as two requests."""

_LONG_AGO = -inf
LEASED_SHARE = 16
"""A lease takes at most this part of what is left, unless the waiting requests need more."""

IDLE_SECONDS = 60.0
MOST_EVENTS = 1000
"""More than this many ended requests are not told to the database at once, so that a command stays short."""


class Closed(Value, frozen=True):
    """A request that has ended: all that its event is made of, and where its end stands in the journal.

    That begins at `start`, and `offset` is behind it.
    """

    start: int
    offset: int
    uses: Uses
    reservation: Reservation
    settlement: Settlement


class Hold(Value, frozen=True):
    """What a request holds of each counter, and what is `left` of it beside all holds, as far as this process knows."""

    amounts: Mapping[str, int]
    left: Mapping[str, int]


@dataclass(slots=True)
class Waiter:
    """A request that waits for a lease; `tries` is how often one was asked for with it in mind."""

    want: Want
    rules: tuple[Rule, ...]
    admitted: asyncio.Future[Reservation]
    patient_until: float
    tries: int = 0


class Batch(Value, frozen=True):
    """What the next command counts in the account: the same at every try, until it is known to have arrived.

    `taken` is what that takes off the lease: what was used, as far as it was leased, and what is `returned`.
    """

    closed: tuple[Closed, ...]
    thru: int
    used: Mapping[str, int]
    returned: Mapping[str, int]
    taken: Mapping[str, int]


@dataclass(slots=True)
class Counter:
    """One counter of an account, as this worker uses it.

    What is `leased` is this worker's, by the document's word. Open requests hold some of it (`held`), ended ones have
    used some that the document has not counted yet (`spent`), and some is on its way back (`returning`). `limit`, `used`
    and `remaining`, which nobody had leased or used, are the document's word at the last lease.
    """

    leased: int = 0
    held: int = 0
    spent: int = 0
    returning: int = 0
    limit: int | None = None
    used: int = 0
    remaining: int = 0
    appetite: int = FIRST_APPETITE
    leased_at: float = _LONG_AGO
    last_use: float = 0.0
    is_near: bool = False

    def available(self) -> int:
        """Return what of the lease nobody holds, has spent, or is giving back."""
        return self.leased - self.held - self.spent - self.returning

    def usable(self, limit: int) -> int:
        """Return what a request under this limit may still take here.

        That is less than what is available where the limit is already exceeded, and nothing where it has been
        lowered since the last lease: the document has to be asked first how much of it is left.
        """
        available = self.available()
        if self.limit is None:
            return available
        if limit < self.limit:
            return -1
        return available if self.remaining >= 0 else available + self.remaining


@dataclass(slots=True)
class Slice:
    """The share; `version` is `None` where the document has no entry of this worker's journal.

    `is_near` says that a limit is so near that others wait for what is left over, `told_at` when the document was last told.
    """

    user_id: str
    version: int | None = None
    thru: int = 0
    counters: defaultdict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    closed: list[Closed] = field(default_factory=list)
    batch: Batch | None = None
    waiting: deque[Waiter] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_unsure: bool = False
    is_near: bool = False
    told_at: float = _LONG_AGO

    def usable(self, rule: Rule) -> int:
        """Return what a request may still take here of a limit."""
        counter = self.counters.get(rule.counter)
        return 0 if counter is None else counter.usable(rule.limit)

    def hold(self, rules: Iterable[Rule], needs: Mapping[str, int], now: float) -> Hold | None:
        """Take what a request needs of each limit, by its counter's first letter; nothing if this share lacks some of it."""
        counters = self.counters
        amounts: dict[str, int] = {}
        left: dict[str, int] = {}
        # Each step as in `Counter.usable`: every request takes this way, and calls take longest.
        for rule in rules:
            name = rule.counter
            counter, need = counters[name], needs[name[0]]
            rest = counter.leased - counter.held - counter.spent - counter.returning - need
            elsewhere, limit = counter.remaining, counter.limit
            if rest < 0 or (limit is not None and (rule.limit < limit or rest + elsewhere < 0)):
                self.release(amounts, None)
                return None
            counter.held += need
            counter.last_use = now
            amounts[name] = need
            left[name] = rest + elsewhere if elsewhere > 0 else rest
        return Hold(amounts, left)

    def affordable(self, rules: Iterable[Rule], wish: int) -> int:
        """Return the output cap, at most `wish`, that this share pays for; negative when it pays for nothing."""
        return affordable_output(rules, {rule.counter: self.usable(rule) for rule in rules}, wish)

    def short(self, rules: Iterable[Rule], output_tokens: int) -> list[Rule]:
        """Return the limits of which this share does not pay for a request with this output cap."""
        return [rule for rule in rules if self.usable(rule) < rule.need(output_tokens)]

    def used_of(self, rule: Rule) -> int:
        """Return what is known to be used of a limit, here and by all others."""
        counter = self.counters[rule.counter]
        return counter.used + counter.spent

    def remaining_of(self, rule: Rule) -> int:
        """Return what nobody had leased or used of a limit when the document was last asked."""
        return self.counters[rule.counter].remaining

    def release(self, amounts: Mapping[str, int], closed: Closed | None) -> None:
        """End a request: its hold goes, what its event uses is spent."""
        counters = self.counters
        if closed is None:
            for name, amount in amounts.items():
                counters[name].held -= amount
            return
        used = closed.uses.counters
        for name, amount in amounts.items():
            counter = counters[name]
            counter.held -= amount
            counter.spent += used[name]
        self.closed.append(closed)

    def take_entry(self, entry: Mapping[str, Any] | None) -> None:
        """Take over what the document says of this share."""
        self.is_unsure = False
        for counter in self.counters.values():
            counter.leased = 0
        if entry is None:
            self.version = None
            return
        self.version, self.thru = entry["v"], entry["thru"]
        for name, amount in entry.get("s", {}).items():
            self.counters[name].leased = int(amount)

    def take_counters(
        self, counters: Mapping[str, Mapping[str, int]], rules: Iterable[Rule], now: float
    ) -> None:
        """Take over what the document says of the counters."""
        for rule in rules:
            found, counter = counters.get(rule.counter, {}), self.counters[rule.counter]
            counter.limit = rule.limit
            counter.used = int(found.get("u", 0))
            counter.remaining = rule.limit - counter.used - int(found.get("l", 0))
            counter.last_use = now

    def appetite(self, rule: Rule, typical: int, now: float) -> int:
        """Return how much to lease ahead of need; it doubles while slices are used up quickly."""
        counter = self.counters[rule.counter]
        if now - counter.leased_at < _QUICK_SECONDS:
            counter.appetite = min(counter.appetite * 2, _MOST_APPETITE)
        else:
            counter.appetite = max(FIRST_APPETITE, counter.appetite // 2)
        counter.leased_at = now
        return counter.appetite * typical

    def note_nearness(self, rule: Rule, typical: int) -> None:
        """Remember whether a limit is so near that what is left over goes back at once."""
        counter = self.counters[rule.counter]
        counter.is_near = counter.remaining // LEASED_SHARE < counter.appetite * typical
        self.is_near = any(each.is_near for each in self.counters.values())

    def next_batch(self, now: float, *, everything: bool = False) -> Batch | None:
        """Return what there is to count or to give back; the last batch again if it has not arrived."""
        if self.batch is not None:
            return self.batch
        returned = {}
        for name, counter in self.counters.items():
            left = counter.available()
            if left > 0 and (everything or self._is_left_over(counter, now)):
                returned[name] = left
                counter.leased_at = _LONG_AGO  # it was not used up, however soon the next one is
        closed = tuple(self.closed[:MOST_EVENTS])
        if not closed and not returned:
            return None
        used: dict[str, int] = {}
        for item in closed:
            for name, amount in item.uses.counters.items():
                used[name] = used.get(name, 0) + amount
        taken = {}
        for name in {*used, *returned}:
            counter, counted, back = self.counters[name], used.get(name, 0), returned.get(name, 0)
            # What open requests hold stays leased, however much a provider has charged another one above its hold.
            free = counter.leased - counter.held - (counter.spent - counted)
            amount = min(counted + back, free)
            if amount > 0:
                taken[name] = amount
            counter.returning = back
        thru = max((item.offset for item in closed), default=self.thru)
        self.batch = Batch(closed, thru, used, returned, taken)
        return self.batch

    def counted(self) -> None:
        """Take note that the batch has arrived."""
        batch = self.batch
        if batch is None:
            return
        self.is_unsure = False
        if self.version is not None:
            self.version += 1
        for name in {*batch.used, *batch.taken}:
            counter, taken, used = self.counters[name], batch.taken.get(name, 0), batch.used.get(name, 0)
            counter.leased -= taken
            counter.spent -= used
            counter.used += used
            counter.remaining += taken - used
        self.closed = self.closed[len(batch.closed) :]
        self.thru = batch.thru
        self.drop_batch()

    def drop_batch(self) -> None:
        """Have no batch any more: it has arrived, or what it would give back is in the document's word already."""
        if self.batch is not None:
            for name in self.batch.returned:
                self.counters[name].returning = 0
            self.batch = None

    def forget(self, now: float) -> None:
        """Forget the counters of windows that have ended, or that nobody uses here any more."""
        for name, counter in list(self.counters.items()):
            is_in_use = counter.leased or counter.held or counter.spent
            if not is_in_use and now - counter.last_use > IDLE_SECONDS:
                del self.counters[name]

    def held_elsewhere(self, waiter: Waiter) -> GatewayError:
        """Return what refuses who was asked for, because others hold what he needs."""
        short = self.short(waiter.rules, waiter.want.least_output)
        return held_elsewhere((short or waiter.rules)[0])

    def refuse_all(self, error: GatewayError) -> None:
        """Refuse everybody who waits."""
        for waiter in self.waiting:
            if not waiter.admitted.done():
                waiter.admitted.set_exception(error)
        self.waiting.clear()

    @property
    def is_promised(self) -> bool:
        """Say whether something depends on the document's entry: without it, this worker was given up."""
        return bool(self.closed) or any(counter.held for counter in self.counters.values())

    @property
    def is_at_rest(self) -> bool:
        """Say whether the share can be forgotten: nothing open, nothing to count, nothing leased."""
        return not (
            self.closed
            or self.waiting
            or self.batch
            or any(counter.held or counter.leased for counter in self.counters.values())
        )

    def _is_left_over(self, counter: Counter, now: float) -> bool:
        """Say whether an amount that is available should rather be available to others."""
        if now - counter.last_use > IDLE_SECONDS:
            return True
        # Whoever was told once that there is not enough may need just this amount, which is of no use to him here.
        return counter.is_near and all(waiter.tries for waiter in self.waiting)
