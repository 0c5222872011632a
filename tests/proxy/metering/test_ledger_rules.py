"""The rules of leases and ledger, in any order, with commands whose outcome nobody knows, crashes and zombies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from proxy import background, database
from proxy.clock import utc_now
from proxy.core.limits import UserLimits
from proxy.core.rules import Demand, KeyLimits
from proxy.errors import GatewayError
from proxy.metering import worker as workers
from proxy.metering.contract import Reservation
from proxy.metering.heartbeat import Heartbeat
from proxy.metering.journal import FoundJournal, Journal
from proxy.metering.recovery import Recovery
from proxy.metering.worker import Worker
from tests.proxy.metering.flaky import Fault, FlakyDatabase
from tests.proxy.metering.meters import PRICE, RATE, Books, nobody_can_tell, reserved, settlement, want

T = TypeVar("T")
LIMITS = UserLimits(40, 1000, 12_000)
KEY_LIMITS = KeyLimits(total_budget=Decimal("0.01"), concurrent_requests=6)
FAULTS = st.lists(st.sampled_from([None, *Fault]), max_size=3)
SELDOM = st.integers(0, 5)
STEPS, HAVOC = 8, 40
_numbers = itertools.count()


class Ending(StrEnum):
    """How a request ends."""

    SETTLED = "settled"
    OVER = "settled above its hold"
    REFUNDED = "refunded"
    NOT_YET = "not yet"


ASKED = st.tuples(
    st.integers(1, 300),
    st.integers(16, 400),
    st.sampled_from([*[Ending.SETTLED] * 3, *[Ending.NOT_YET] * 3, Ending.REFUNDED, Ending.OVER]),
)


@dataclass(eq=False)
class Open:
    """An admitted request."""

    reservation: Reservation
    worker: Worker


class LedgerRules(RuleBasedStateMachine):
    """Workers that share one account, and a model that knows only who was admitted and how it ended."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    books: ClassVar[Books]

    def __init__(self) -> None:
        """Begin with two workers and a new user."""
        super().__init__()
        self.user = f"user{next(_numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.flaky, self.trouble = FlakyDatabase.over(self.books.database)
        self.heartbeat = Heartbeat(self.books.database, clock=utc_now)
        self.recovery = Recovery(self.flaky, self.heartbeat, self.folder, nobody_can_tell, usd_inr_rate=RATE)
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

    async def _hire(self) -> None:
        journal = Journal(self.folder, segment_bytes=2**16)
        await self.heartbeat.enlist(journal.name)
        self.names.append(journal.name)
        self.workers.append(Worker(self.flaky, journal, self.heartbeat))

    @rule(at=st.integers(0, 1), asked=st.lists(ASKED, min_size=1, max_size=6), faults=FAULTS)
    def serve(self, at: int, asked: list[tuple[int, int, Ending]], faults: list[Fault | None]) -> None:
        """Ask a worker for some admissions, and end some of the requests at once."""
        self._serve(at, asked, faults)

    def _serve(self, at: int, asked: list[tuple[int, int, Ending]], faults: list[Fault | None]) -> None:
        chosen = self.workers[at]
        self.trouble.faults = faults
        for prompt, output, ending in asked:
            wanted = want(
                user_id=self.user,
                session_id=(None, f"{self.user}:one", f"{self.user}:two")[prompt % 3],
                limits=LIMITS,
                key_limits=KEY_LIMITS,
                demand=Demand(prompt, PRICE),
                output_tokens=output,
            )
            with contextlib.suppress(GatewayError):
                admitted = Open(self.do(reserved(chosen, wanted)), chosen)
                self.open.append(admitted)
                self._end(admitted, ending)
        self.trouble.faults = []

    @rule(
        endings=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(Ending))), min_size=1, max_size=6)
    )
    def end(self, endings: list[tuple[int, Ending]]) -> None:
        """End requests, in any order."""
        for which, ending in endings:
            if self.open:
                self._end(self.open[which % len(self.open)], ending)

    def _end(self, ended: Open, ending: Ending) -> None:
        held = ended.reservation
        if ending is Ending.NOT_YET:
            return
        self.open.remove(ended)
        if ending is Ending.REFUNDED:
            ended.worker.refund(held)
            return
        completion = held.output_tokens // 3 + (400 if ending is Ending.OVER else 0)
        uses = ended.worker.settle(held, settlement(held.want.demand.prompt_tokens, completion))
        assert uses is not None
        self.settled[held.want.request_id] = completion
        for counter, amount in uses.counters.items():
            over = max(0, amount - held.held[counter])
            self.overshoot[counter] = self.overshoot.get(counter, 0) + over

    @rule(at=st.integers(0, 1), everything=st.booleans(), faults=FAULTS)
    def commit(self, at: int, everything: bool, faults: list[Fault | None]) -> None:  # noqa: FBT001  likewise
        """Tell the database what has ended."""
        self._commit(at, faults, everything=everything)

    def _commit(self, at: int, faults: list[Fault | None], *, everything: bool) -> None:
        self.trouble.faults = faults
        with contextlib.suppress(PyMongoError):
            self.do(self.workers[at].commit(everything=everything))
        self.trouble.faults = []

    @rule()
    def arrive(self) -> None:
        """Let the commands arrive that are under way."""
        self.do(self.trouble.arrive())

    @rule(at=SELDOM, faults=FAULTS)
    def crash(self, at: int, faults: list[Fault | None]) -> None:
        """Kill a worker; another finishes its journal, if the database lets it, else later."""
        if at < len(self.workers):
            self._crash(at, faults)

    def _crash(self, at: int, faults: list[Fault | None]) -> None:
        dead = self.workers.pop(at)
        self._bury(dead)
        self.trouble.faults = faults
        self._finish(dead.journal.name)
        self.do(self._hire())

    @rule(at=SELDOM)
    def lose(self, at: int) -> None:
        """Give a worker up that is only silent: what it has leased counts as used."""
        if at < len(self.workers):
            self._lose(at)

    def _lose(self, at: int) -> None:
        name = self.workers[at].journal.name
        self.lost.add(name)
        self.do(self.recovery.book_lost(name))

    @rule(at=st.integers(0, 1))
    def wake_up(self, at: int) -> None:
        """Have a lost worker notice it: it ends under its name, and goes on under a new one."""
        self._wake_up(at)

    def _wake_up(self, at: int) -> None:
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

    @initialize(seed=st.integers(0, 2**32))
    def havoc(self, seed: int) -> None:
        """Do many of these things, for hypothesis alone prefers short stories."""
        dice = random.Random(seed)
        for _ in range(HAVOC):
            at = dice.randrange(2)
            faults = [dice.choice((None, *Fault)) for _ in range(dice.choice((0, 0, 1, 3)))]
            match dice.choice("ssssseeeccccaxlw"):
                case "s":
                    sizes = range(dice.randint(1, 5))
                    endings = (*Ending, Ending.SETTLED, Ending.SETTLED, Ending.NOT_YET)
                    asked = [
                        (dice.randint(1, 300), dice.randint(16, 400), dice.choice(endings)) for _ in sizes
                    ]
                    self._serve(at, asked, faults)
                case "e":
                    for item in dice.sample(self.open, len(self.open) // 2):
                        self._end(item, dice.choice((Ending.SETTLED, Ending.REFUNDED)))
                case "c":
                    self._commit(at, faults, everything=dice.random() < 0.3)
                case "a":
                    self.do(self.trouble.arrive())
                case "x":
                    self._crash(at, faults)
                case "l":
                    self._lose(at)
                case "w":
                    self._wake_up(at)
            self.nothing_is_overspent()

    @invariant()
    def nothing_is_overspent(self) -> None:
        """Used and leased stay within the limits but for what a provider charged above a hold; leases are somebody's."""
        account = self.do(self.books.account(self.user))
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
        for item in self.workers:
            # What was promised is covered, whatever has become of which command.
            share = item._group.slices.get(self.user)
            entry = account.get("j", {}).get(item.journal.name, {})
            for name, counter in ({} if share is None else share.counters).items():
                assert counter.held <= entry.get("s", {}).get(name, 0), name

    def teardown(self) -> None:
        """Let the dust settle: every event is there once, counters are their sums, and nothing is held."""
        try:
            self.do(self._come_to_rest())
        finally:
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
        stored = self.books.database["usageevents"].find({"userId": self.user, "kind": "usage"})
        events = {event["_id"]: event async for event in stored}
        assert events.keys() == self.settled.keys() | self.unknown
        for request_id, completion in self.settled.items():
            assert events[request_id]["tokens"]["completion"] == completion
        await self.books.assert_exact(self.user)
        account = await self.books.account(self.user)
        assert not account.get("j")
        requests = sum(event["requests"] for event in events.values())
        assert account.get("t", {}).get("requests", 0) == requests
        for session in (None, f"{self.user}:one", f"{self.user}:two"):
            own = [event for event in events.values() if session in (None, event["sessionId"])]
            places = {"day": {"$exists": True}} if session is None else {"sessionId": session}
            found = self.books.database["rollups"].find({"userId": self.user, **places})
            rolled_up = [(rollup["requests"], rollup["completion"]) async for rollup in found]
            expected = [(event["requests"], event["tokens"]["completion"]) for event in own]
            assert [sum(column) for column in zip(*rolled_up, strict=True)] == [
                sum(column) for column in zip(*expected, strict=True)
            ]

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


@contextlib.contextmanager
def ready(uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let machines be made, on a database."""
    monkeypatch.setattr(workers, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(workers, "_RETRY_SECONDS", 0.002)
    with asyncio.Runner() as runner:
        client = runner.run(_connect(uri))
        LedgerRules.loop = runner.get_loop()
        LedgerRules.books = Books(database.database_of(client, "unused"))
        try:
            yield
        finally:
            runner.run(client.close())


@pytest.mark.parametrize("examples", [5, pytest.param(40, marks=pytest.mark.long)])
def test_no_order_of_events_breaks_the_rules(
    mongodb_uri: str, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    """Leases, settlements, unknown outcomes, crashes, recoveries and zombies, in any order, keep every invariant."""
    with ready(mongodb_uri, monkeypatch):
        run_state_machine_as_test(
            LedgerRules,
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )


def test_what_was_said_to_an_entry_that_is_gone_is_not_done_to_another(
    mongodb_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's first lease and its last count arrive when it is dead and its journal finished: the count is not done twice."""
    with ready(mongodb_uri, monkeypatch):
        machine = LedgerRules()
        settled = [(100, 100, Ending.SETTLED)]
        machine._serve(0, settled, [Fault.DONE_LATER])
        machine._serve(0, settled, [])
        assert len(machine.settled) == 1
        machine._commit(0, [None, None, Fault.DONE_LATER], everything=False)
        assert len(machine.trouble.under_way) == 2
        machine._crash(0, [])
        machine.do(machine.trouble.arrive())
        machine.nothing_is_overspent()
        machine.teardown()


async def _connect(uri: str) -> AsyncMongoClient[dict[str, Any]]:
    client = database.connect(uri)
    await database.database_of(client, "unused")["accounts"].create_index("js", name="journals")
    return client
