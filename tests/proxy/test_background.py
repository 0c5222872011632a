"""Tests of proxy/background.py: a task ends, whatever it does with the request to."""

from __future__ import annotations

import asyncio

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
    async with asyncio.timeout(2):
        await background.end(tasks)
    assert missed == 2
    assert all(task.done() for task in tasks)
    await background.end([])
