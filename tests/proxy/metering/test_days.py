"""Tests of proxy/metering/days.py: the sums of all users by day, kept while they can be trusted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.metering import days
from proxy.metering.days import DAYS
from proxy.metering.rollups import ROLLUPS
from tests.proxy.metering.meters import connected

TODAY = datetime.now(UTC).date()
YESTERDAY = (TODAY - timedelta(days=1)).isoformat()


def rollup(user: str, day: str, prompt: int, model: str = "a/one") -> dict[str, Any]:
    """Make a user's roll-up of a day."""
    amounts = {
        "requests": 1,
        "prompt": prompt,
        "completion": 1,
        "usdPico": 10 * prompt,
        "inrPico": 830 * prompt,
    }
    names = {"userId": user, "day": day, "provider": "p", "model": model, "chat": False}
    return {"_id": f"day:api:{user}:{day}:p:{model}", **names, **amounts}


async def test_today_is_always_as_it_is_now(mongodb_uri: str) -> None:
    """What is used today is in the next sum; a model may be called anything."""
    async with connected(mongodb_uri) as books:
        rollups = books.database[ROLLUPS]
        for number in (1, 2):
            await rollups.insert_one(rollup(f"u{number}", TODAY.isoformat(), 100 * number, "$weird.name"))
            (day,) = await days.sums(books.database, "0000")
            assert (day["provider"], day["model"], day["chat"]) == (["p"], ["$weird.name"], [False])
            assert day["requests"] == [number]
            assert day["topUsers"] == ["u2", "u1"][-number:]
            assert day["topTokens"] == [201, 101][-number:]


async def test_a_day_that_is_over_is_kept(mongodb_uri: str) -> None:
    """Yesterday's sum is made once, and made anew when it has been kept for long enough."""
    async with connected(mongodb_uri) as books:
        rollups, kept = books.database[ROLLUPS], books.database[DAYS]
        await rollups.insert_one(rollup("u1", YESTERDAY, 100))
        assert [day["_id"] for day in await days.sums(books.database, "0000")] == [YESTERDAY]
        await rollups.insert_one(rollup("u2", YESTERDAY, 5))
        (before,) = await days.sums(books.database, "0000")
        assert before["prompt"] == [100]
        await kept.update_one({"_id": YESTERDAY}, {"$set": {"until": datetime.now(UTC)}})
        (after,) = await days.sums(books.database, "0000")
        assert after["prompt"] == [105]


async def test_only_days_with_use_are_looked_at(mongodb_uri: str) -> None:
    """Half a century between two days costs nothing, and what is before the first day asked for is left out."""
    async with connected(mongodb_uri) as books:
        await books.database[ROLLUPS].insert_many(
            [rollup("u1", "1970-01-01", 1), rollup("u1", YESTERDAY, 2), {"_id": "key:k", "userId": "u1"}]
        )
        assert [day["_id"] for day in await days.sums(books.database, "0000")] == ["1970-01-01", YESTERDAY]
        assert [day["_id"] for day in await days.sums(books.database, "1970-01-02")] == [YESTERDAY]
        assert await books.database[DAYS].count_documents({}) == 2
