"""The rules of leases and ledger, in any order, with commands whose outcome nobody knows, crashes and zombies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from proxy import background, database
from proxy.core.limits import UserLimits
from proxy.core.rules import Demand, KeyLimits
from proxy.errors import GatewayError
from proxy.metering import worker as workers
from proxy.metering.contract import Reservation
from proxy.metering.heartbeat import Heartbeat
from proxy.metering.journal import FoundJournal, Journal
from proxy.metering.recovery import Recovery
from proxy.metering.worker import Worker
from proxy.server import utc_now
from tests.proxy.metering.flaky import Fault, FlakyDatabase
from tests.proxy.metering.meters import PRICE, RATE, USER, Books, nobody_can_tell, settlement, want

T = TypeVar("T")
LIMITS = UserLimits(40, 1000, 12_000)
KEY_LIMITS = KeyLimits(total_budget=Decimal("0.01"), concurrent_requests=6)
FAULTS = st.sampled_from(list(Fault))
_names = itertools.count()


@dataclass
class Open:
    """An admitted request."""

    reservation: Reservation
    worker: Worker


class LedgerRules(RuleBasedStateMachine):
    """Workers that share one account, and a model that knows only who was admitted and how it ended."""

    uri: ClassVar[str]

    def __init__(self) -> None:
        """Begin with two workers on an empty database."""
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.client: AsyncMongoClient[dict[str, Any]] = self.do(self._connect())
        self.database = database.database_of(self.client, "unused")
        self.books = Books(self.database)
        self.flaky, self.trouble = FlakyDatabase.over(self.database)
        self.heartbeat = Heartbeat(self.database, clock=utc_now)
        self.recovery = Recovery(
            self.flaky, self.heartbeat, self.folder, nobody_can_tell, usd_inr_rate=RATE
        )
        self.workers: list[Worker] = []
        self.lost: set[str] = set()
        self.names: list[str] = []
        self.open: list[Open] = []
        self.settled: dict[str, int] = {}
        self.unknown: set[str] = set()
        self.overshoot: dict[str, int] = {}
        for _ in range(2):
            self.do(self._hire())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something to its end."""
        return self.loop.run_until_complete(work)

    async def _connect(self) -> AsyncMongoClient[dict[str, Any]]:
        return database.connect(self.uri.replace("/rules?", f"/rules{next(_names)}?"))

    async def _hire(self) -> None:
        journal = Journal(self.folder, segment_bytes=2**16)
        await self.heartbeat.enlist(journal.name)
        self.names.append(journal.name)
        self.workers.append(Worker(self.flaky, journal, self.heartbeat))

    @rule(
        at=st.integers(0, 1),
        prompt=st.integers(1, 300),
        output=st.integers(16, 400),
        faults=st.lists(FAULTS, max_size=2),
    )
    def reserve(self, at: int, prompt: int, output: int, faults: list[Fault]) -> None:
        """Ask a worker for admission."""
        chosen = self.workers[at]
        self.trouble.faults = faults
        wanted = want(
            limits=LIMITS, key_limits=KEY_LIMITS, demand=Demand(prompt, PRICE), output_tokens=output
        )
        with contextlib.suppress(GatewayError):
            self.open.append(Open(self.do(chosen.reserve(wanted)), chosen))
        self.trouble.faults = []

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 100), share=st.floats(0, 1), is_over=st.sampled_from([False] * 9 + [True]))
    def settle(self, which: int, share: float, is_over: bool) -> None:  # noqa: FBT001  hypothesis names it
        """End a request, mostly within its hold."""
        ended = self.open.pop(which % len(self.open))
        held = ended.reservation
        completion = int(held.output_tokens * share) + (300 if is_over else 0)
        prompt = held.want.demand.prompt_tokens
        event = ended.worker.settle(held, settlement(prompt, completion))
        assert event is not None
        self.settled[held.want.request_id] = completion
        for counter, amount in event["windows"].items():
            over = max(0, amount - held.held[counter])
            self.overshoot[counter] = self.overshoot.get(counter, 0) + over

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 100))
    def refund(self, which: int) -> None:
        """Give a request back that reached nobody."""
        ended = self.open.pop(which % len(self.open))
        ended.worker.refund(ended.reservation)

    @rule(at=st.integers(0, 1), everything=st.booleans(), faults=st.lists(FAULTS, max_size=3))
    def commit(self, at: int, everything: bool, faults: list[Fault]) -> None:  # noqa: FBT001  likewise
        """Tell the database what has ended."""
        self.trouble.faults = faults
        with contextlib.suppress(PyMongoError):
            self.do(self.workers[at].commit(everything=everything))
        self.trouble.faults = []

    @rule()
    def arrive(self) -> None:
        """Let the commands arrive that are under way."""
        self.do(self.trouble.arrive())

    @rule(at=st.integers(0, 1), faults=st.lists(FAULTS, max_size=4))
    def crash(self, at: int, faults: list[Fault]) -> None:
        """Kill a worker; another finishes its journal, if the database lets it, else later."""
        dead = self.workers.pop(at)
        self._bury(dead)
        self.trouble.faults = faults
        self._finish(dead.journal.name)
        self.do(self._hire())

    @rule(at=st.integers(0, 1))
    def lose(self, at: int) -> None:
        """Give a worker up that is only silent: what it has leased counts as used."""
        name = self.workers[at].journal.name
        self.lost.add(name)
        self.do(self.recovery.book_lost(name))

    @precondition(lambda self: self.lost)
    @rule(at=st.integers(0, 1))
    def wake_up(self, at: int) -> None:
        """Have a lost worker notice it: it ends under its name, and goes on under a new one."""
        zombie = self.workers[at]
        if zombie.journal.name not in self.lost:
            return
        with contextlib.suppress(PyMongoError):
            self.do(zombie.commit())
        if any(item.worker is zombie for item in self.open):
            return  # it finishes first what runs
        self.workers.pop(at)
        self.do(zombie.stop_leasing())
        zombie.journal.end_here(delete=False)
        self._finish(zombie.journal.name)
        self.do(self._hire())

    @invariant()
    def nothing_is_overspent(self) -> None:
        """Used and leased stay within the limits but for what a provider charged above a hold; leases are somebody's."""
        account = self.do(self.books.account())
        held: dict[str, int] = {}
        for entry in account.get("j", {}).values():
            for counter, amount in ({} if entry.get("lost") else entry.get("s", {})).items():
                held[counter] = held.get(counter, 0) + amount
        limits = {"Rd": 40, "Rm": 1000, "Tm": 12_000, "Ce": 10**10, "Pe": 6}
        for counter, found in account.get("c", {}).items():
            assert found["l"] == held.get(counter, 0), counter
            assert found["l"] >= 0
            most = limits[counter[:2]] + self.overshoot.get(counter, 0)
            assert found["u"] + found["l"] <= most, counter

    def teardown(self) -> None:
        """Let the dust settle: every event is there once, counters are their sums, and nothing is held."""
        try:
            self.do(self._come_to_rest())
        finally:
            self.do(self.client.drop_database(self.database.name))
            self.do(self.client.close())
            self.do(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _come_to_rest(self) -> None:
        await self.trouble.arrive()
        for item in self.open:
            item.worker.refund(item.reservation)
        for left in self.workers:
            await left.stop_leasing()
            await left.commit_all(5)
            left.journal.end_here(delete=False)
        await self.recovery.take_over(set(), 5)
        for name in self.names:
            await self.recovery.retire(name)
        events = {event["_id"]: event for event in await self.books.events() if event["kind"] == "usage"}
        assert events.keys() == self.settled.keys() | self.unknown
        for request_id, completion in self.settled.items():
            assert events[request_id]["tokens"]["completion"] == completion
        await self.books.assert_exact()
        account = await self.books.account()
        assert not account.get("j")
        requests = sum(event["requests"] for event in events.values())
        assert account.get("t", {}).get("requests", 0) == requests
        rollup = await self.database["rollups"].find_one({"_id": {"$regex": f"^day:api:{USER}"}}) or {}
        assert rollup.get("requests", 0) == requests

    def _bury(self, dead: Worker) -> None:
        self.do(background.end(dead._leasing.values()))
        dead.journal.end_here(delete=False)
        self.unknown |= {item.reservation.want.request_id for item in self.open if item.worker is dead}
        self.open = [item for item in self.open if item.worker is not dead]

    def _finish(self, name: str) -> None:
        """Finish a journal; after a fault the next one who comes along does it."""
        for _ in range(2):
            found = FoundJournal.take(self.folder / name)
            assert found is not None
            try:
                self.do(self.recovery.finish(found))
            except PyMongoError:
                self.trouble.faults = []
            else:
                break
        self.trouble.faults = []


def test_no_order_of_events_breaks_the_rules(mongodb_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases, settlements, unknown outcomes, crashes, recoveries and zombies, in any order, keep every invariant."""
    monkeypatch.setattr(workers, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(workers, "_RETRY_SECONDS", 0.002)
    base, _, options = mongodb_uri.partition("?")
    LedgerRules.uri = f"{base.rpartition('/')[0]}/rules?{options}"
    run_state_machine_as_test(
        LedgerRules,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
