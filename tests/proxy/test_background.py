"""Tests of proxy/background.py: a task ends, whatever it does with the request to."""

from __future__ import annotations

import asyncio

import pytest
from pymongo.errors import AutoReconnect

from proxy import background


async def test_a_task_that_misses_its_cancellation_ends() -> None:
    """A task that swallows a cancellation, as pymongo does, is asked again; one that fails does not matter."""
    missed = 0

    async def deaf() -> None:
        nonlocal missed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if missed == 2:
                    raise
                missed += 1

    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("on the way out")

    async def done() -> None:
        return

    tasks = [asyncio.create_task(each()) for each in (deaf, failing, done)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await background.end(tasks)
    assert missed == 2
    assert all(task.done() for task in tasks)
    await background.end([])


async def test_a_defect_is_not_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """What a step returns is returned; a defect is logged with its trace, a cancellation passes."""

    async def good() -> int:
        return 7

    async def bad() -> int:
        raise ValueError("a defect")

    assert await background.survived("counting", good()) == 7
    assert await background.survived("counting", bad()) is None
    said = capsys.readouterr().out
    assert "a step of the background work has failed" in said
    assert "ValueError" in said
    task = asyncio.create_task(background.survived("counting", asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_database_that_is_away_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A step that meets no database is a warning with its cause and no trace, in the words that were given for it."""

    async def lost() -> int:
        raise AutoReconnect("nobody answers")

    assert await background.survived("counting", lost()) is None
    assert await background.survived("adding", lost(), while_away="the sum is not known") is None
    first, second = capsys.readouterr().out.splitlines()
    assert all(
        word in first for word in ("warning", "counting", "waiting for the database", "nobody answers")
    )
    assert all(word in second for word in ("warning", "adding", "the sum is not known", "nobody answers"))
