"""Tests of proxy/pulse.py, on a real database that is frozen and thawed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy import database
from proxy.errors import Unavailable
from proxy.mongod import embedded_mongod
from proxy.pulse import FRESH_SECONDS, Pulse
from tests.proxy.test_auth import frozen


async def becomes(pulse: Pulse, *, well: bool) -> None:
    async with asyncio.timeout(15):
        while await is_well(pulse) is not well:  # noqa: ASYNC110  the server is asked
            await asyncio.sleep(0.05)


async def is_well(pulse: Pulse) -> bool:
    """Say what is known, which takes no turn of the loop."""
    turns = asyncio.create_task(asyncio.sleep(0))
    try:
        await pulse.check()
    except Unavailable:
        return False
    finally:
        assert not turns.done()
        await turns
    return True


@pytest.mark.usefixtures("production_timeouts")
async def test_what_is_known_is_said_at_once(tmp_path: Path) -> None:
    """A database that stops to answer is known to, and known again when it answers, and nobody who asks waits for that."""
    with embedded_mongod(tmp_path) as mongod:
        client = database.connect(mongod.uri)
        pulse = Pulse(database.database_of(client, "unused"))
        await pulse.start()
        try:
            assert await is_well(pulse)
            with frozen(tmp_path):
                await becomes(pulse, well=False)
            await becomes(pulse, well=True)
        finally:
            await pulse.stop()
            await client.close()


@pytest.mark.usefixtures("production_timeouts")
async def test_who_has_slept_asks_anew(tmp_path: Path) -> None:
    """What was heard long ago is not believed: the first who asks then waits for an answer."""
    with embedded_mongod(tmp_path) as mongod:
        client = database.connect(mongod.uri)
        pulse = Pulse(database.database_of(client, "unused"))
        await pulse.start()
        await pulse.stop()
        try:
            with frozen(tmp_path):
                await pulse.check()
                pulse._heard_at -= FRESH_SECONDS
                with pytest.raises(Unavailable):
                    await pulse.check()
            pulse._heard_at -= FRESH_SECONDS
            async with asyncio.timeout(15):
                while not await answers(pulse):
                    await asyncio.sleep(0.05)
                    pulse._heard_at -= FRESH_SECONDS
        finally:
            await client.close()


async def answers(pulse: Pulse) -> bool:
    try:
        await pulse.check()
    except Unavailable:
        return False
    return True
