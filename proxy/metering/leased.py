"""Metering on leases and a journal: a request is admitted in memory, and nothing it used can be lost.

A worker holds slices of the accounts whose requests it serves, promises nothing that is not in its journal, and
tells the database up to ten times a second what has become of its promises. Should it die, whoever finds its journal
finishes it. The rules are in the modules that this one drives: `slices`, `worker`, `journal`, `heartbeat` and
`recovery`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path

import structlog
from msgspec.structs import replace
from pymongo import ASCENDING
from pymongo.errors import PyMongoError

from proxy import background
from proxy.database import Database, away, lost
from proxy.documents import ACCOUNTS
from proxy.errors import Unavailable
from proxy.metering import days
from proxy.metering.accounts import standings_of
from proxy.metering.contract import Progress, Reservation, Settlement, Standing, Want
from proxy.metering.heartbeat import BEAT_SECONDS, Heartbeat
from proxy.metering.janitor import Janitor
from proxy.metering.journal import Journal, JournalError, throw_away_litter
from proxy.metering.recovery import Recovery, Resolve
from proxy.metering.rollups import INDEXES, ROLLUPS
from proxy.metering.worker import WITHOUT_BOOKS, Worker
from proxy.metrics import Metrics

COMMIT_SECONDS = 0.1
SYNC_SECONDS = 0.1
RECOVER_SECONDS = 2.0
TIDY_SECONDS = 60.0
STOP_SECONDS = 5.0
log = structlog.get_logger(__name__)


class LeasedMeter:
    """The meter of one process."""

    settles_at_once = True

    def __init__(
        self,
        database: Database,
        heartbeat: Heartbeat,
        folder: Path,
        resolve: Resolve,
        metrics: Metrics,
        *,
        usd_inr_rate: Decimal,
    ) -> None:
        """Keep the journal under `folder`; `heartbeat` has the same database on a connection of its own."""
        self._database = database
        self._accounts = database[ACCOUNTS]
        self._folder = folder
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._recovery = Recovery(database, heartbeat, folder, resolve, usd_inr_rate=usd_inr_rate)
        self._janitor = Janitor(database)
        self._workers: dict[str, Worker] = {}
        self._of_request: dict[str, Worker] = {}
        self._current: Worker | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = asyncio.Event()

    async def start(self) -> None:
        """Begin, and finish in the background what dead siblings have left.

        Raises `JournalError` if nothing can be recorded, and `PyMongoError`.
        """
        await self._accounts.create_index([("js", ASCENDING)], name="journals")
        await self._database[ROLLUPS].create_indexes(list(INDEXES))
        await self._enlist()
        loops = {
            "commit": self._commit_for_ever,
            "sync": self._sync_for_ever,
            "beat": self._beat_for_ever,
            "recover": self._recover_for_ever,
            "tidy": self._tidy_for_ever,
        }
        self._tasks = [asyncio.create_task(loop(), name=f"meter-{name}") for name, loop in loops.items()]
        for task in self._tasks:
            task.add_done_callback(_report_end)

    async def stop(self) -> None:
        """Write down everything; what the database does not take is left to the next start."""
        self._is_stopping.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for name, worker in self._workers.items():
            await worker.stop_leasing()
            try:
                await worker.commit_all(STOP_SECONDS)
            except (PyMongoError, TimeoutError) as exc:
                log.warning("the journal is left to the next start", journal=name, cause=str(exc)[:200])
            worker.journal.end_here(delete=False)
        self._workers, self._current = {}, None
        try:
            await self._recovery.take_over(set(), STOP_SECONDS)
        except OSError as exc:  # a TimeoutError is one, and so is a folder that cannot be read
            log.warning("a journal is left to the next start", cause=str(exc)[:200])
        await self._recovery.stop()

    def check(self) -> None:
        """Raise `Unavailable` if this worker could admit nobody now."""
        worker = self._admitting()
        worker.check()
        try:
            worker.journal.check()
        except JournalError as exc:
            raise Unavailable(WITHOUT_BOOKS, retry_after=5) from exc

    def _admitting(self) -> Worker:
        if self._current is None:
            raise away()
        return self._current

    async def reserve(self, want: Want) -> Reservation:
        """Admit a request from this worker's slice of its account."""
        worker = self._admitting()
        if self._heartbeat.skew:  # a copy takes 9 us, a fifth of an admission
            want = replace(want, at=want.at + self._heartbeat.skew)
        reservation = worker.admit(want) or await worker.lease(want)
        self._of_request[want.request_id] = worker
        return reservation

    def note(self, reservation: Reservation, progress: Progress) -> None:
        """Write into the journal how far a request has come."""
        worker = self._of_request.get(reservation.want.request_id)
        if worker is not None:
            worker.note(reservation, progress)

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Write a request's event into the journal; the database hears of it with the next commit."""
        worker = self._of_request.pop(reservation.want.request_id, None)
        uses = None if worker is None else worker.settle(reservation, settlement)
        if uses is not None and uses.is_over_hold:
            self._metrics.over_hold.labels(settlement.provider).inc()

    async def refund(self, reservation: Reservation) -> None:
        """Give a request's amounts back to this worker's slice."""
        worker = self._of_request.pop(reservation.want.request_id, None)
        if worker is not None:
            worker.refund(reservation)

    async def flush(self) -> None:
        """Write down now what the next commit would."""
        try:
            for worker in list(self._workers.values()):
                await worker.flush()
        except PyMongoError as exc:
            raise lost(exc) from exc

    async def standing(self, user_id: str, at: datetime) -> Standing:
        """Read a user's account, after writing down what has ended here."""
        return (await self.standings([user_id], at))[user_id]

    async def standings(self, user_ids: Sequence[str], at: datetime) -> dict[str, Standing]:
        """Read users' accounts likewise."""
        try:
            if self._current is not None and any(map(self._current.has_news_of, user_ids)):
                await self._current.flush()
            return await standings_of(self._accounts, user_ids, at + self._heartbeat.skew)
        except PyMongoError as exc:
            raise lost(exc) from exc

    async def _enlist(self) -> None:
        """Go on under a new name, with a new journal."""
        journal = Journal(self._folder)
        try:
            await self._heartbeat.enlist(journal.name)
        except BaseException:
            journal.end_here(delete=True)
            raise
        self._current = self._workers[journal.name] = Worker(self._database, journal, self._heartbeat)

    async def _commit_for_ever(self) -> None:
        while not self._is_stopping.is_set():
            await self._pause(COMMIT_SECONDS)
            for worker in list(self._workers.values()):
                await self._try("committing", partial(worker.commit, is_patient=True))
            self._report()

    async def _sync_for_ever(self) -> None:
        # Not between commits: a slow database must not keep the journal from the disk.
        while not self._is_stopping.is_set():
            await self._pause(SYNC_SECONDS)
            for worker in list(self._workers.values()):
                if worker.has_unsynced:
                    await self._try("syncing", worker.sync)

    async def _beat_for_ever(self) -> None:
        while not self._is_stopping.is_set():
            await self._try("the heartbeat", self._beat)
            await self._pause(BEAT_SECONDS)

    async def _beat(self) -> None:
        worker = self._current
        if worker is None:
            return
        is_alive = await self._heartbeat.beat(worker.journal.name)
        if worker.is_lost or not is_alive:
            log.error(
                "this worker was declared lost; it goes on under a new name", journal=worker.journal.name
            )
            await self._enlist()
        for name, other in list(self._workers.items()):
            if other is not self._current and other.open_requests == 0:
                # Nothing more comes to it: whoever finds the journal without a lock, we first, finishes it.
                await other.stop_leasing()
                other.journal.end_here(delete=False)
                del self._workers[name]

    async def _recover_for_ever(self) -> None:
        while not self._is_stopping.is_set():
            await self._try("recovery", self._recover)
            await self._pause(RECOVER_SECONDS)

    async def _recover(self) -> None:
        self._recovery.begin(set(self._workers))
        for name in await self._heartbeat.find_lost():
            if name not in self._workers:
                await self._recovery.book_lost(name)

    async def _tidy_for_ever(self) -> None:
        while not self._is_stopping.is_set():
            await self._try("tidying up", self._tidy)
            await self._pause(TIDY_SECONDS)

    async def _tidy(self) -> None:
        for name in await self._heartbeat.find_finished():
            await self._recovery.retire(name)
        now = self._heartbeat.now()
        if await self._janitor.take_turn(now):
            throw_away_litter(self._folder)
            await self._janitor.drop_ended(now)
            _ = await days.sums(self._database, "0000")  # so that nobody has to wait while they are made

    async def _try(self, what: str, step: Callable[[], Awaitable[object]]) -> None:
        """Take a step; whatever it ends with, the next one comes."""
        await background.survived(what, self._step(what, step))

    async def _step(self, what: str, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except (JournalError, OSError) as exc:
            log.error("the journal is in trouble", step=what, cause=str(exc))  # noqa: TRY400  one line says it

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._is_stopping.wait()
        except TimeoutError:
            return

    def _report(self) -> None:
        workers = self._workers.values()
        self._metrics.journal_backlog.set(sum(worker.backlog for worker in workers))
        self._metrics.open_holds.set(sum(worker.open_requests for worker in workers))


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (defect := task.exception()) is not None:
        log.critical("a part of the meter has ended", part=task.get_name(), exc_info=defect)
