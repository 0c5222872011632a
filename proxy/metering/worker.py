"""One worker of the leased meter: its journal, what it has leased, and who waits for more.

Admission and settlement happen in memory and in the journal; the database hears of them from `group_commit`.
Requests that wait for the same account are summed into one lease command.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import structlog
from msgspec.structs import replace
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from plugins.values import Value
from proxy.core.refusals import refusal
from proxy.core.rules import Rule, limits_in_force, needs_of, rules_of
from proxy.database import Database, away, lost
from proxy.documents import ACCOUNTS
from proxy.errors import GatewayError, InternalError, Unavailable
from proxy.metering.account_commands import lease_filter, lease_pipeline
from proxy.metering.contract import Progress, Reservation, Settlement, Want
from proxy.metering.event import Uses, uses_of
from proxy.metering.group_commit import GroupCommit
from proxy.metering.heartbeat import Heartbeat
from proxy.metering.journal import Journal, JournalError
from proxy.metering.memory import remember
from proxy.metering.records import Noted, Opened
from proxy.metering.slices import Closed, Slice, Waiter

PATIENCE_SECONDS = 1.0
"""How long a request waits for amounts that other workers and requests hold, before it is refused."""

ANSWER_SECONDS = 1.2
"""How long a request waits for the database here, before it is told to come again: two seconds with all the rest."""

_RETRY_SECONDS = 0.04

MOST_UNWRITTEN = 20_000
"""Ended requests that may wait for the database, at some 2.5 KB each; past them nobody is admitted until it has caught up."""

WITHOUT_BOOKS = "The gateway cannot keep its books; try again later."
_LEASES_AT_ONCE = 16
"""More commands at once would wait for each other in the driver, where waiting counts as the database's silence."""

log = structlog.get_logger(__name__)


class _Open(Value, frozen=True):
    """A request under way: where the journal begins to tell of it, and the share that pays for it."""

    start: int
    share: Slice


class Worker:
    """A journal, and everything that is being counted under its name."""

    def __init__(self, database: Database, journal: Journal, heartbeat: Heartbeat) -> None:
        """Count under the journal's name, and promise nothing once `heartbeat` says that others may have given up."""
        self._heartbeat = heartbeat
        self._accounts = database[ACCOUNTS]
        self._group = GroupCommit(database, journal.name)
        self.journal = journal
        self._leasing: dict[str, asyncio.Task[None]] = {}
        self._open: dict[str, _Open] = {}
        self._loop = asyncio.get_running_loop()
        self._synced = journal.end
        self._lease_places = asyncio.Semaphore(_LEASES_AT_ONCE)
        # A version grows with each command of a share, of which there will never be so many.
        self._first_versions = itertools.count(1, 2**32)

    @property
    def backlog(self) -> int:
        """Return how many ended requests the database does not know yet."""
        return self._group.backlog

    @property
    def is_lost(self) -> bool:
        """Say whether the others have given this worker up."""
        return self._group.is_lost

    @property
    def has_unsynced(self) -> bool:
        """Say whether the journal has grown since the last `sync`."""
        return self.journal.end != self._synced

    async def sync(self) -> None:
        """Make the journal survive the machine; raise `JournalError`, and try it again when there is more to sync."""
        self._synced = self.journal.end
        await self.journal.sync()

    def has_news_of(self, user_id: str) -> bool:
        """Say whether the database does not know everything of an account yet."""
        return user_id in self._group.dirty

    @property
    def open_requests(self) -> int:
        """Return how many requests hold something here."""
        return len(self._open)

    def check(self) -> None:
        """Raise `Unavailable` if nobody could be admitted now, whatever the disk says."""
        if self._group.is_lost:
            raise _given_up()
        if not self._heartbeat.may_admit:
            raise away()
        if self._group.backlog >= MOST_UNWRITTEN:
            raise Unavailable("The gateway is behind with its books; try again in a moment.", retry_after=2)

    def admit(self, want: Want) -> Reservation | None:
        """Admit a request from what is leased; `None` if more has to be. Raises `Unavailable` when nobody is admitted."""
        self.check()
        slice_ = self._group.slices.get(want.user_id)
        if slice_ is None or slice_.waiting:
            return None
        return self._admit(slice_, want, want.wished_output)

    async def lease(self, want: Want) -> Reservation:
        """Lease more, and admit a request from that; raise what refuses it."""
        slice_ = self._group.slices.get(want.user_id)
        if slice_ is None:
            slice_ = self._group.slices[want.user_id] = Slice(want.user_id, thru=self.journal.end)
        patient_until = self._loop.time() + PATIENCE_SECONDS
        rules = rules_of(want.limits, want.key_id, want.key_limits, want.demand, want.at)
        waiter = Waiter(want, rules, self._loop.create_future(), patient_until)
        slice_.waiting.append(waiter)
        self._lease(slice_)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await waiter.admitted
        except TimeoutError as exc:
            self._abandon(waiter)
            if waiter.tries:  # the database has answered, and what is missing is held by others
                raise slice_.held_elsewhere(waiter) from exc
            raise Unavailable("The database does not answer in time; try again.", retry_after=2) from exc
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise

    def note(self, reservation: Reservation, progress: Progress) -> None:
        """Write into the journal how far a request has come."""
        self.journal.note(Noted(reservation.want.request_id, progress))

    def settle(self, reservation: Reservation, settlement: Settlement) -> Uses | None:
        """Write a request's end into the journal and count it here; return what it used, `None` if that was done before."""
        request_id = reservation.want.request_id
        request = self._open.get(request_id)
        if request is None:
            return None
        uses, start = uses_of(reservation, settlement), self.journal.end
        offset = self._close(request_id, settlement)
        # Not before: what cannot be written down is open, and found by whoever comes next.
        del self._open[request_id]
        closed = Closed(start, offset, uses, reservation, settlement)
        self._group.ended(request.share, reservation.held, closed)
        self._lease(request.share)
        return uses

    def refund(self, reservation: Reservation) -> None:
        """Give a request's amounts back: it never reached a provider."""
        request = self._open.pop(reservation.want.request_id, None)
        if request is not None:
            self._close(reservation.want.request_id, None)
            self._group.ended(request.share, reservation.held, None)
            self._lease(request.share)

    async def commit(self, *, everything: bool = False, is_patient: bool = False) -> bool:
        """Write down what has ended, and give back what is left over (or `everything`); say whether that was all.

        Who `is_patient` tells of each of many accounts less often, unless much waits to be written.
        Raises `PyMongoError` when the database is away; the same is written again next time.
        """
        is_patient &= self.backlog < MOST_UNWRITTEN // 2
        is_done = await self._group.write(everything=everything, is_patient=is_patient)
        if self.journal.has_old_segments:
            self.journal.release(self._needed_from())
        return is_done

    async def flush(self) -> None:
        """Write down everything that has ended until now; raise `PyMongoError`."""
        end = self.journal.end
        while not self.is_lost and self._uncounted_from() <= end:
            _ = await self.commit()
            await asyncio.sleep(0)

    async def commit_all(self, seconds: float) -> None:
        """Write down everything and give everything back; raise `TimeoutError` when that takes too long."""
        deadline = self._loop.time() + seconds
        while not await self.commit(everything=True):
            if self._loop.time() > deadline:
                raise TimeoutError(f"{len(self._group.dirty)} accounts still have news")
            await asyncio.sleep(_RETRY_SECONDS)  # for whoever leases just now, and holds an account

    def _needed_from(self) -> int:
        """Return the offset from which on the journal is still needed, should this process die."""
        starts = [request.start for request in itertools.islice(self._open.values(), 1)]
        return min([*starts, self._uncounted_from(), self.journal.end])

    def _uncounted_from(self) -> int:
        """Return where the first end begins that the database does not know; behind everything if it knows all."""
        # Where anything is left, there is news.
        shares = map(self._group.slices.__getitem__, self._group.dirty)
        return min((share.closed[0].start for share in shares if share.closed), default=2**62)

    def _admit(self, slice_: Slice, want: Want, output: int) -> Reservation | None:
        """Admit a request with an output cap over all its choices, if the share pays for that."""
        rules = limits_in_force(want.limits, want.key_id, want.key_limits, want.at)
        hold = slice_.hold(rules, needs_of(want.demand, output), self._loop.time())
        if hold is None:
            return None
        start = self.journal.end
        try:
            self.journal.open(Opened(want.request_id, remember(want), hold.amounts))
        except JournalError as exc:
            slice_.release(hold.amounts, None)
            log.error("no request is served: the journal is in trouble", cause=str(exc))  # noqa: TRY400
            raise Unavailable(WITHOUT_BOOKS, retry_after=5) from exc
        self._open[want.request_id] = _Open(start, slice_)
        return Reservation(want, rules, hold.amounts, output // want.choices, hold.left)

    def _close(self, request_id: str, settlement: Settlement | None) -> int:
        """Write the end of a request; should the disk refuse even that, the database is told all the same."""
        try:
            return self.journal.close(request_id, settlement)
        except JournalError as exc:
            cause = str(exc)
        if settlement is not None and settlement.attempts:
            # The part that grows without bound: whoever has to finish this journal can do without.
            try:
                return self.journal.close(request_id, replace(settlement, attempts=()))
            except JournalError as exc:
                cause = str(exc)
        log.error("the end of a request is not in the journal", request=request_id, cause=cause)
        return self.journal.close_unwritten(request_id)

    def _abandon(self, waiter: Waiter) -> None:
        """Give back what was admitted for a request just when it stopped waiting."""
        admitted = waiter.admitted
        if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
            self.refund(admitted.result())

    def _lease(self, slice_: Slice) -> None:
        """See to it that somebody serves those who wait, if anybody does."""
        if slice_.waiting and slice_.user_id not in self._leasing:
            task = self._leasing[slice_.user_id] = self._loop.create_task(self._serve_waiting(slice_))
            task.add_done_callback(_report)

    async def _serve_waiting(self, slice_: Slice) -> None:
        """Lease for all who wait at once, until nobody does."""
        try:
            while slice_.waiting:
                async with self._lease_places, slice_.lock:
                    await self._serve_once(slice_)
                if slice_.waiting:
                    self._group.touched(slice_)
                    await asyncio.sleep(_RETRY_SECONDS)
        except BaseException:
            # A defect of ours must not leave anybody waiting.
            slice_.refuse_all(InternalError("The gateway failed to admit this request."))
            raise
        finally:
            # Here and not in a callback: whoever comes next must not take this task for one that still serves.
            del self._leasing[slice_.user_id]

    async def _serve_once(self, slice_: Slice) -> None:
        try:
            if slice_.is_unsure:
                await self._group.look(slice_)
            if not self.is_lost:
                self._admit_waiting(slice_, has_leased=False)
            if slice_.waiting and not self.is_lost and await self._ask(slice_):
                self._admit_waiting(slice_, has_leased=True)
        except PyMongoError as exc:
            slice_.is_unsure = True
            slice_.refuse_all(lost(exc))
        if self.is_lost:
            slice_.refuse_all(_given_up())

    async def stop_leasing(self) -> None:
        """Refuse whoever still waits, and wait until no lease is under way."""
        for slice_ in self._group.slices.values():
            slice_.refuse_all(Unavailable("This gateway is shutting down; try again.", retry_after=1))
        if self._leasing:
            await asyncio.wait(list(self._leasing.values()))

    async def _ask(self, slice_: Slice) -> bool:
        """Send one lease command for everybody who waits; say whether the document has heard it."""
        waiters = [waiter for waiter in slice_.waiting if not waiter.admitted.done()]
        if not waiters:
            return False
        asks = self._asks(slice_, waiters)
        name = self.journal.name
        try:
            account = await self._accounts.find_one_and_update(
                lease_filter(slice_, name),
                lease_pipeline(name, self.journal.end, next(self._first_versions), asks),
                projection={f"j.{name}": 1, **{f"c.{rule.counter}": 1 for rule, *_ in asks}},
                upsert=slice_.version is None,
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:
            account = None
        if account is None:
            await self._group.look(slice_)
            return False
        for waiter in waiters:
            waiter.tries += 1
        self._group.touched(slice_)
        slice_.take_entry(account["j"][name])
        slice_.take_counters(account.get("c", {}), (rule for rule, *_ in asks), self._loop.time())
        first = _first_of(waiters)
        for rule, *_ in asks:
            slice_.note_nearness(rule, rule.need(first.want.wished_output))
        return True

    def _asks(self, slice_: Slice, waiters: Sequence[Waiter]) -> list[tuple[Rule, int, int, int]]:
        """Say of each limit what the first waiter needs at least, what all need, and what is wanted ahead."""
        rules: dict[str, Rule] = {}
        needs: dict[str, int] = {}
        for waiter in waiters:
            for rule in waiter.rules:
                rules[rule.counter] = rule  # the latest, should the limit have been changed in between
                needs[rule.counter] = needs.get(rule.counter, 0) + rule.need(waiter.want.wished_output)
        first = _first_of(waiters)
        least = {rule.counter: rule.need(first.want.least_output) for rule in first.rules}
        asks, now = [], self._loop.time()
        for name, rule in rules.items():
            here = max(0, slice_.usable(rule))
            typical = rule.need(first.want.wished_output)
            ahead = slice_.appetite(rule, typical, now) if needs[name] > here else 0
            asks.append((rule, max(0, least.get(name, 0) - here), max(0, needs[name] - here), ahead))
        return asks

    def _admit_waiting(self, slice_: Slice, *, has_leased: bool) -> None:
        """Admit who can be admitted, in order; refuse who asks for more than there is."""
        still = []
        for waiter in slice_.waiting:
            if waiter.admitted.done():
                continue
            want, rules = waiter.want, waiter.rules
            output = slice_.affordable(rules, want.wished_output)
            lowered = has_leased and want.least_output <= output and self._has_all(slice_, rules, want)
            try:
                admitted = None
                if output >= want.wished_output or lowered:
                    self.check()  # the last heartbeat may have become too old while the lease was under way
                    admitted = self._admit(slice_, want, output // want.choices * want.choices)
                if admitted is not None:
                    waiter.admitted.set_result(admitted)
                elif not has_leased or not self._refuse(slice_, waiter):
                    still.append(waiter)
            except GatewayError as exc:
                waiter.admitted.set_exception(exc)
        slice_.waiting.clear()
        slice_.waiting.extend(still)

    def _has_all(self, slice_: Slice, rules: Sequence[Rule], want: Want) -> bool:
        """Say whether nothing more can be leased of the limits that are too small for the wish."""
        return all(slice_.remaining_of(rule) <= 0 for rule in slice_.short(rules, want.wished_output))

    def _refuse(self, slice_: Slice, waiter: Waiter) -> bool:
        """Refuse a waiter if no waiting can help, or he was asked for and has waited long enough; say whether he was."""
        want = waiter.want
        for rule in waiter.rules:
            used = slice_.used_of(rule)
            if used + rule.need(want.least_output) > rule.limit:
                waiter.admitted.set_exception(refusal(rule, used, want.least_output, want.at))
                return True
        # Who came while the command was under way was not asked for, however long that took.
        if not waiter.tries or self._loop.time() < waiter.patient_until:
            return False
        waiter.admitted.set_exception(slice_.held_elsewhere(waiter))
        return True


def _first_of(waiters: Sequence[Waiter]) -> Waiter:
    """Choose who must be served: whoever was refused for the moment must not keep those behind him waiting."""
    return min(waiters, key=lambda waiter: waiter.tries)


def _given_up() -> Unavailable:
    return Unavailable("This gateway has lost its place for a moment; try again.", retry_after=1)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (defect := task.exception()) is not None:
        log.error("leasing has failed", exc_info=defect)
