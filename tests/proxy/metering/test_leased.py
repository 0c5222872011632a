"""Tests of proxy/metering/leased.py: what goes on in the background goes on, whatever happens to it."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from proxy.metering.leased import LeasedMeter
from proxy.metering.slices import FIRST_APPETITE, Slice
from tests.proxy.metering.meters import Books, connected, leased, settlement, want


@contextmanager
def few_descriptors() -> Iterator[Callable[[], None]]:
    """Yield what takes every file descriptor that the process has left, as a crowd of connections does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
    taken: list[int] = []

    def take_all() -> None:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))

    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield take_all
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def request(meter: LeasedMeter, **values: Any) -> None:
    await meter.settle(await meter.reserve(want(**values)), settlement())


async def stored(books: Books, count: int) -> None:
    """Wait until so many events are stored, and by nobody's asking for it."""
    async with asyncio.timeout(10):
        while len(await books.events()) < count:  # noqa: ASYNC110  it is the database that is waited for
            await asyncio.sleep(0.02)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what the meter does by itself."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110  nothing says it
            await asyncio.sleep(0.02)


async def test_a_moment_without_descriptors_is_survived(
    mongodb_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal cannot be synced when no descriptor is free; the commits go on, and then the syncing too."""
    async with connected(mongodb_uri) as books, leased(mongodb_uri, tmp_path) as meter:
        await request(meter)
        await stored(books, 1)
        worker = meter._current
        assert worker is not None
        made = 1
        with few_descriptors() as take_all:
            async with asyncio.timeout(20):
                while "cannot be synced: Too many open files" not in capsys.readouterr().out:
                    take_all()
                    await request(meter)
                    made += 1
                    await asyncio.sleep(0.05)
        await request(meter)
        await stored(books, made + 1)
        await until(lambda: not worker.has_unsynced)
    async with connected(mongodb_uri) as books:
        await books.assert_exact()


async def test_a_lost_workers_last_commit_may_be_late(mongodb_uri: str, tmp_path: Path) -> None:
    """A worker that was declared lost lets its journal go while its commit is under way: the others' commits go on."""
    async with connected(mongodb_uri) as books, leased(mongodb_uri, tmp_path) as meter:
        held = await meter.reserve(want())
        lost = meter._current
        assert lost is not None
        await books.database["workers"].update_one({"_id": lost.journal.name}, {"$set": {"state": "lost"}})
        await until(lambda: meter._current is not lost)
        is_under_way, may_go_on = asyncio.Event(), asyncio.Event()
        commit = lost._group.write

        async def slow(**options: Any) -> bool:
            is_under_way.set()
            await may_go_on.wait()
            return await commit(**options)

        lost._group.write = slow  # type: ignore[method-assign]
        await meter.settle(held, settlement())
        async with asyncio.timeout(10):
            await is_under_way.wait()
        await until(lambda: lost.journal.name not in meter._workers)
        may_go_on.set()
        await request(meter, user_id="another")
        await stored(books, 2)


async def test_who_no_longer_waits_for_a_commit_leaves_nothing_locked(
    mongodb_uri: str, tmp_path: Path
) -> None:
    """A reader's flush that is cancelled between two accounts leaves neither of them locked."""
    async with connected(mongodb_uri) as books, leased(mongodb_uri, tmp_path) as meter:
        held = [await meter.reserve(want(user_id=user)) for user in ("one", "two")]
        await meter.flush()
        assert meter._current is not None
        one, two = (meter._current._group.slices[user].lock for user in ("one", "two"))
        await two.acquire()

        async def next_in_line() -> None:
            async with two:
                await asyncio.sleep(0.3)

        waiting = asyncio.create_task(next_in_line())
        await asyncio.sleep(0)
        for reservation in held:
            await meter.settle(reservation, settlement())
        flushing = asyncio.create_task(meter.flush())
        two.release()  # to the one in line, who has not run yet when the flush asks whether it is free
        await asyncio.sleep(0.02)
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        await waiting
        await stored(books, 2)
        await until(lambda: not one.locked() and not two.locked())


async def test_who_comes_during_a_slow_lease_is_not_refused_for_it(
    mongodb_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that takes longer than anybody's patience was not asked for those who came meanwhile: they get one too."""
    monkeypatch.setattr("proxy.metering.worker.PATIENCE_SECONDS", 0.0)
    async with connected(mongodb_uri) as books, leased(mongodb_uri, tmp_path) as meter:
        worker = meter._current
        assert worker is not None
        is_under_way, may_go_on = asyncio.Event(), asyncio.Event()
        ask = worker._ask

        async def slow(slice_: Slice) -> bool:
            has_heard = await ask(slice_)
            is_under_way.set()
            await may_go_on.wait()
            return has_heard

        monkeypatch.setattr(worker, "_ask", slow)
        first = asyncio.create_task(request(meter))
        await is_under_way.wait()
        crowd = [asyncio.create_task(request(meter)) for _ in range(5 * FIRST_APPETITE)]
        await asyncio.sleep(0)
        may_go_on.set()
        await asyncio.gather(first, *crowd)
        await stored(books, 1 + len(crowd))
