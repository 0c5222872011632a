"""Tests of proxy/metering/worker.py: who is admitted from memory, and what a changed limit or a full disk does to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import monitoring

from proxy.clock import utc_now
from proxy.core.limits import UserLimits
from proxy.errors import GatewayError, RateLimited, Unavailable
from proxy.metering import group_commit
from proxy.metering import worker as worker_module
from proxy.metering.heartbeat import Heartbeat
from proxy.metering.journal import Journal, JournalError
from proxy.metering.worker import Worker
from tests.gateway import provider_settings, running_gateway
from tests.proxy.metering.meters import PLENTY, USER, Books, connected, leased, reserved, settlement, want
from tests.proxy.metering.test_journal import SEGMENT, full_disk
from tests.proxy.stage import FREE, ask
from tests.upstreams import OpenRouter, serving


class Monitor(monitoring.CommandListener):
    """Notes which task sends which command to the database."""

    def __init__(self) -> None:
        """Note nothing yet."""
        self.is_on = False
        self.commands: list[tuple[asyncio.Task[Any] | None, str]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Note a command; the driver says so in the task that waits for it."""
        if self.is_on:
            self.commands.append((asyncio.current_task(), event.command_name))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Let it pass."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Let it pass."""

    @contextmanager
    def listening(self) -> Iterator[list[tuple[asyncio.Task[Any] | None, str]]]:
        """Listen for a while."""
        self.commands.clear()
        self.is_on = True
        try:
            yield self.commands
        finally:
            self.is_on = False


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor:
    """Listen to every client that is made from here on in this test."""
    monitor = Monitor()
    listeners = monitoring._LISTENERS
    monkeypatch.setattr(monitoring, "_LISTENERS", listeners._replace(command_listeners=[monitor]))
    return monitor


async def test_a_request_from_a_slice_asks_no_database(mongodb_uri: str, monitor: Monitor) -> None:
    """Once a slice is leased, a request sends the database nothing: neither before its upstream call nor at its end."""
    async with (
        serving(openrouter := OpenRouter()),
        running_gateway(
            mongodb_uri,
            {"openrouter": provider_settings("openrouter", openrouter.base_url)},
            provider_keys={"openrouter": ("sk-or-v1-one",)},
        ) as gateway,
    ):
        plenty = {"dailyRequests": 10**5, "monthlyRequests": 10**6, "monthlyTokens": 10**8}
        key = await gateway.key(await gateway.user(usageLimits=plenty))
        assert (await gateway.chat(key, ask(FREE, max_tokens=20))).status_code == 200
        in_background = asyncio.all_tasks()
        with monitor.listening() as commands:
            answers = [await gateway.chat(key, ask(FREE, max_tokens=20)) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        assert len(openrouter.books) == 6
        assert [name for task, name in commands if task not in in_background] == []
        with monitor.listening() as commands:
            assert (await gateway.chat(await gateway.key(), ask(FREE))).status_code == 200
        assert "findAndModify" in [name for task, name in commands if task not in in_background]


async def test_many_who_wait_are_one_command(mongodb_uri: str, tmp_path: Path, monitor: Monitor) -> None:
    """A hundred first requests of one user, all at once, are admitted by very few lease commands."""
    async with connected(mongodb_uri) as books, leased(mongodb_uri, tmp_path) as meter:
        with monitor.listening() as commands:
            held = await asyncio.gather(*(meter.reserve(want()) for _ in range(100)))
        leases = [name for task, name in commands if task is not None and "_serve_waiting" in repr(task)]
        assert 1 <= len(leases) <= 4
        for reservation in held:
            await meter.settle(reservation, settlement())
        await meter.flush()
        assert len(await books.events()) == 100


@asynccontextmanager
async def working(uri: str, folder: Path) -> AsyncIterator[tuple[Worker, Books]]:
    """Run one worker on a small journal."""
    async with connected(uri) as books:
        heartbeat = Heartbeat(books.database, clock=utc_now)
        journal = Journal(folder, segment_bytes=SEGMENT)
        await heartbeat.enlist(journal.name)
        worker = Worker(books.database, journal, heartbeat)
        try:
            yield worker, books
            await worker.commit_all(10)
        finally:
            journal.end_here(delete=True)


def limited(daily: int) -> UserLimits:
    return UserLimits(daily, 1000, 10**9)


async def test_a_limit_that_is_lowered_in_mid_lease_counts_at_once(mongodb_uri: str, tmp_path: Path) -> None:
    """What was leased under a higher limit admits nobody past the lower one; a higher one is there at once too."""
    async with working(mongodb_uri, tmp_path) as (worker, books):

        async def serve(daily: int) -> bool:
            try:
                reservation = await reserved(worker, want(limits=limited(daily)))
            except RateLimited:
                return False
            worker.settle(reservation, settlement())
            return True

        assert [await serve(1000) for _ in range(3)] == [True] * 3
        assert [await serve(5) for _ in range(4)] == [True, True, False, False]
        assert [await serve(7) for _ in range(3)] == [True, True, False]
        await worker.commit_all(10)
        await books.assert_exact()


async def test_on_a_full_disk_nobody_is_served_and_nothing_is_lost(mongodb_uri: str, tmp_path: Path) -> None:
    """Without room in the journal requests are 503; those that run are settled, and with room all goes on."""
    async with working(mongodb_uri, tmp_path) as (worker, books):
        running = [await reserved(worker, want()) for _ in range(3)]
        served = 0

        async def serve_for_ever() -> None:
            nonlocal served
            while True:
                worker.settle(await reserved(worker, want()), settlement())
                served += 1

        with full_disk(SEGMENT - 1):
            with pytest.raises(Unavailable, match="cannot keep its books"):
                await serve_for_ever()
            with pytest.raises(JournalError, match="cannot grow"):
                worker.journal.check()
            for reservation in running:
                worker.settle(reservation, settlement())
            await worker.commit_all(10)
        assert len(await books.events()) == served + 3
        worker.journal.check()
        again = await reserved(worker, want())
        worker.settle(again, settlement())
        await worker.commit_all(10)
        assert len(await books.events()) == served + 4
        await books.assert_exact()


async def test_a_worker_out_of_touch_promises_nothing(
    mongodb_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its last heartbeat is too old, a worker admits nobody, however much it has leased."""
    async with working(mongodb_uri, tmp_path) as (worker, books):
        first = await reserved(worker, want())
        monkeypatch.setattr(worker._heartbeat, "_admit_until", 0.0)
        with pytest.raises(Unavailable):
            await reserved(worker, want())
        worker.settle(first, settlement())
        await worker.commit_all(10)
        assert (await books.account(USER))["c"]
        await books.assert_exact()


async def test_nobody_is_admitted_past_what_may_wait_to_be_written(
    mongodb_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that falls behind does not fill the memory: the next request is 503 until it has caught up."""
    monkeypatch.setattr(worker_module, "MOST_UNWRITTEN", 3)
    async with working(mongodb_uri, tmp_path) as (worker, books):
        refunded, *running = [await reserved(worker, want()) for _ in range(5)]
        worker.refund(refunded)
        for reservation in running[:3]:
            worker.settle(reservation, settlement())
        with pytest.raises(Unavailable, match="behind with its books"):
            await reserved(worker, want())
        with pytest.raises(Unavailable, match="behind with its books"):
            worker.check()
        worker.settle(running[3], settlement())
        assert worker.backlog == 4
        await worker.flush()
        assert worker.backlog == 0
        worker.settle(await reserved(worker, want()), settlement())
        await worker.commit_all(10)
        assert len(await books.events()) == 5
        await books.assert_exact()


async def test_no_account_waits_for_others_that_come_again(
    mongodb_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more accounts with news than a command takes, those are written next that have waited longest."""
    monkeypatch.setattr(group_commit, "_BATCH_ACCOUNTS", 2)
    users = [f"{number:024x}" for number in range(6)]
    async with working(mongodb_uri, tmp_path) as (worker, books):

        async def serve(*names: str) -> None:
            for name in names:
                worker.settle(await reserved(worker, want(user_id=name)), settlement())

        await serve(*users)
        for at in (0, 2, 4):
            assert not await worker.commit()
            assert {event["userId"] for event in await books.events()} == set(users[: at + 2])
            await serve(*users[: at + 2])


async def test_many_accounts_are_told_of_less_often(
    mongodb_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is patient leaves out accounts that were told of a moment ago, but not those that are near a limit."""
    monkeypatch.setattr(group_commit, "_REST_SECONDS", 60.0)
    monkeypatch.setattr(group_commit, "_LONGEST_REST_SECONDS", 60.0)
    async with working(mongodb_uri, tmp_path) as (worker, books):

        async def known_after(count: int, *, is_patient: bool = True, limits: UserLimits = PLENTY) -> int:
            for _ in range(count):
                worker.settle(await reserved(worker, want(limits=limits)), settlement())
            await worker.commit(is_patient=is_patient)
            return len(await books.events())

        assert await known_after(1) == 1
        assert await known_after(2) == 1
        assert await known_after(0, is_patient=False) == 3
        assert await known_after(1) == 3
        assert await known_after(20, limits=limited(40)) == 24
        await worker.commit_all(10)
        await books.assert_exact()


async def test_those_who_wait_are_told_when_the_gateway_ends(mongodb_uri: str, tmp_path: Path) -> None:
    """Whoever still waits for a lease when the worker ends gets an answer, and leaves nothing held."""
    async with working(mongodb_uri, tmp_path) as (worker, books):
        limits = limited(1)
        first = await reserved(worker, want(limits=limits))
        waiting = [asyncio.create_task(reserved(worker, want(limits=limits))) for _ in range(3)]
        await asyncio.sleep(0.1)
        await worker.stop_leasing()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, GatewayError) for answer in answers)
        worker.refund(first)
        await worker.commit_all(10)
        await books.assert_exact()
