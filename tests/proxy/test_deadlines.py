"""Deadlines: what `asyncio.timeout` promises, with one timer for all of them."""

from __future__ import annotations

import asyncio

import pytest

from proxy.deadlines import NEVER, Deadline, Deadlines


def in_seconds(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_who_waits_too_long_is_ended() -> None:
    """The block ends with `TimeoutError`, not before its time, and the task goes on unharmed."""
    deadlines, due = Deadlines(), in_seconds(0.05)
    with pytest.raises(TimeoutError), deadlines.at(due):
        await asyncio.sleep(60)
    assert asyncio.get_running_loop().time() >= due
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_who_is_in_time_is_left_alone() -> None:
    """What ends before its deadline gives back what it returns and raises, and is never ended later."""
    deadlines = Deadlines()
    with deadlines.at(in_seconds(0.02)):
        await asyncio.sleep(0)
    with pytest.raises(KeyError), deadlines.at(in_seconds(0.02)):
        raise KeyError
    await asyncio.sleep(0.3)


async def test_each_of_many_has_its_own() -> None:
    """Of a hundred that wait, those are ended whose time is over, and no others."""
    deadlines, ended = Deadlines(), list[int]()

    async def wait(number: int) -> None:
        try:
            with deadlines.at(in_seconds(0.4 - number / 1000 if number % 2 else NEVER)):
                await asyncio.sleep(0.6)
        except TimeoutError:
            ended.append(number)

    await asyncio.gather(*map(wait, range(100)))
    assert sorted(ended) == list(range(1, 100, 2))


async def test_a_deadline_moves() -> None:
    """Moved on, it does not end what it would have ended; moved back, it does."""
    deadlines, moments = Deadlines(), list[float]()

    async def wait() -> None:
        with deadlines.at(in_seconds(0.05)) as deadline:
            for moment in (in_seconds(60), NEVER):
                deadline.at = moment
                await asyncio.sleep(0.3)
                moments.append(moment)
            deadline.at = in_seconds(0.05)
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await wait()
    assert len(moments) == 2


async def test_who_is_cancelled_by_others_is_cancelled() -> None:
    """A cancellation from outside stays one, also where the deadline comes in the same moment."""
    deadlines = Deadlines()

    async def wait(begun: asyncio.Future[Deadline]) -> None:
        with deadlines.at(NEVER) as deadline:
            begun.set_result(deadline)
            await asyncio.sleep(60)

    for is_late in (False, True):
        begun: asyncio.Future[Deadline] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(wait(begun))
        deadline = await begun
        if is_late:
            deadline.expire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_of_two_the_one_that_is_over_raises() -> None:
    """The inner one's end is seen by the outer block as an exception like any other."""
    deadlines, seen = Deadlines(), False
    with deadlines.at(in_seconds(0.3)):
        try:
            with deadlines.at(in_seconds(0.05)):
                await asyncio.sleep(60)
        except TimeoutError:
            seen = True
        await asyncio.sleep(0.01)
    assert seen
    with pytest.raises(TimeoutError), deadlines.at(in_seconds(0.05)), deadlines.at(in_seconds(60)):
        await asyncio.sleep(60)


async def test_a_clock_of_its_own_ends_with_the_last() -> None:
    """Nothing ticks when nobody is bound."""
    deadlines = Deadlines()
    with deadlines.at(in_seconds(60)):
        await asyncio.sleep(0)
    await asyncio.sleep(0.6)
    assert deadlines._timer is None
