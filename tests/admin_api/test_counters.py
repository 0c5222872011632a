"""Tests of admin_api/counters.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from admin_api.counters import Counters
from proxy import database
from proxy.database import Database
from proxy.errors import Unavailable


@asynccontextmanager
async def store(uri: str, *, pool_size: int = 20) -> AsyncIterator[Database]:
    client = database.connect(uri, pool_size=pool_size)
    try:
        yield database.database_of(client, "aipasta")
    finally:
        await client.close()


def so_many(together: int) -> Mapping[str, Any]:
    return {"n": {"$add": [{"$ifNull": ["$n", 0]}, together]}}


async def test_a_crowd_is_counted_together(mongodb_uri: str) -> None:
    """Two hundred at once, and as many who come meanwhile, take two commands, each has its own place, and none is kept."""
    async with store(mongodb_uri) as opened:
        counters = Counters(opened["counters"])
        first = [asyncio.create_task(counters.count("crowd", so_many)) for _ in range(200)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert not counters._gathering  # the first command is on its way
        second = [asyncio.create_task(counters.count("crowd", so_many)) for _ in range(200)]
        counted = await asyncio.gather(*first, *second)
        assert {each.state["n"] for each in counted} == {200, 400}
        places = [each.state["n"] - each.together + each.place for each in counted]
        assert places == list(range(1, 401))
        assert (await counters.count("crowd", so_many)).state["n"] == 401
        assert not counters._gathering
        assert not counters._locks


async def test_who_leaves_takes_nobody_with_him(mongodb_uri: str) -> None:
    """The first of a crowd may go at any moment: the others are counted, and so is he."""
    async with store(mongodb_uri) as opened:
        counters = Counters(opened["counters"])
        for turns in range(4):
            first, *others = [asyncio.create_task(counters.count(f"{turns}", so_many)) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            first.cancel()
            counted = await asyncio.gather(*others)
            # Before it runs at all, a task is no request.
            assert [each.state["n"] for each in counted] == [2 if turns == 0 else 3] * 2


@pytest.mark.usefixtures("production_timeouts")
async def test_a_crowd_in_the_driver_is_no_outage(mongodb_uri: str) -> None:
    """Who gets no connection in time is told so, and only he: the next one is counted at once."""
    async with store(mongodb_uri, pool_size=1) as opened:
        counters = Counters(opened["counters"])
        await counters.count("one", so_many)
        slow = opened["counters"].find_one({"$where": "sleep(1000) || true"})
        holding = asyncio.create_task(slow)
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await counters.count("one", so_many)
        await holding
        assert (await counters.count("one", so_many)).state["n"] == 2
