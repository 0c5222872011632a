"""Tests of admin_api/users/statistics.py."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from proxy.core.routing import Role
from proxy.metering.rollups import ROLLUPS
from tests.admin_api.accounts import message_of, signed_in
from tests.admin_api.playground import FREE, Playground, playground

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
PAID = "openai/gpt-4o"


async def settled(place: Playground, count: int) -> list[dict[str, Any]]:
    """Wait until so many usage events are stored and summed."""
    rollups, summed = place.gateway.parts.database[ROLLUPS], 0
    for _ in range(100):
        summed = sum([row["requests"] async for row in rollups.find({"day": {"$exists": True}})])
        if summed >= count:
            return await place.gateway.events()
        await asyncio.sleep(0.05)
    raise AssertionError(f"{summed} of {count} events")


async def test_statistics_equal_the_usage_events(mongodb_uri: str) -> None:
    """Tokens, USD and INR are the events' sums in all, by model and by day; conversations are counted beside them."""
    async with playground(mongodb_uri) as place:
        account = await signed_in(place.gateway, Role.PREMIUM)
        for message, model in (("one", FREE), ("two", PAID), ("three", PAID)):
            answer = await account.send("POST", "/api/chat", {"message": message, "modelId": model})
            assert answer.status_code == 200, answer.text
        key = await place.gateway.key(account.user)
        body = {"model": FREE, "messages": [{"role": "user", "content": "by key"}]}
        assert (await place.gateway.chat(key, body)).status_code == 200
        stranger = await place.gateway.key()
        assert (await place.gateway.chat(stranger, body)).status_code == 200
        events = [event for event in await settled(place, 5) if event["userId"] == str(account.id)]
        assert len(events) == 4

        described = (await account.send("GET", "/api/user/stats?period=7d")).json()["data"]
        overview = described["overview"]
        tokens = sum(event["tokens"]["prompt"] + event["tokens"]["completion"] for event in events)
        usd = sum(event["costUsd"].to_decimal() for event in events)
        inr = sum(event["costInr"].to_decimal() for event in events)
        assert usd > 0
        assert described["period"] == "7d"
        assert overview["totalTokens"] == tokens
        assert Decimal(str(overview["totalCostUSD"])) == usd
        assert Decimal(str(overview["totalCostINR"])) == inr
        assert (overview["totalSessions"], overview["totalMessages"], overview["totalRequests"]) == (3, 6, 4)
        by_key = next(event["tokens"] for event in events if event["sessionId"] is None)
        in_chats = tokens - by_key["prompt"] - by_key["completion"]
        assert overview["avgTokensPerSession"] == pytest.approx(in_chats / 3)
        assert overview["avgMessagesPerSession"] == 2
        for rows, cost in ((described["modelUsage"], "totalCost"), (described["dailyUsage"], "cost")):
            assert sum(row[cost] for row in rows) == pytest.approx(float(usd))
            assert sum(row[f"{cost}INR"] for row in rows) == pytest.approx(float(inr))
        assert sum(row["totalTokens"] for row in described["modelUsage"]) == tokens
        assert sum(row["tokens"] for row in described["dailyUsage"]) == tokens
        assert sum(row["messages"] for row in described["dailyUsage"]) == 6
        counts = {row["modelId"]: row["count"] for row in described["modelUsage"]}
        assert sum(counts.values()) == 4
        assert all(row["modelName"] and row["provider"] == "openrouter" for row in described["modelUsage"])


async def test_limits_say_what_is_left_and_when_it_renews(mongodb_uri: str) -> None:
    """Used and remaining add up to the limit; a day renews at UTC midnight, a month with the next."""
    async with playground(mongodb_uri, clock=lambda: NOON) as place:
        account = await signed_in(place.gateway)
        assert (
            await account.send("POST", "/api/chat", {"message": "hi", "modelId": FREE})
        ).status_code == 200
        await settled(place, 1)
        limits = (await account.send("GET", "/api/user/stats")).json()["data"]["limits"]
        me = (await account.send("GET", "/api/auth/me")).json()["data"]["user"]
        assert (limits["daily"], limits["monthly"], limits["tokens"]) == (50, 1000, 100_000)
        for name in ("daily", "monthly", "tokens"):
            assert limits["used"][name] + limits["remaining"][name] == limits[name]
        assert (limits["used"]["daily"], limits["used"]["monthly"]) == (1, 1)
        assert limits["used"]["tokens"] > 0
        assert me["credits"] == limits["remaining"]["daily"] == 49
        assert me["tokens"]["balance"] == limits["remaining"]["tokens"]
        midnight = (NOON + timedelta(days=1)).replace(hour=0)
        assert datetime.fromisoformat(limits["renewsAt"]["daily"]) == midnight
        first = (NOON.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0)
        assert datetime.fromisoformat(limits["renewsAt"]["monthly"]) == first


async def test_periods(mongodb_uri: str) -> None:
    """A period ends now and begins with the day so many days before; other words are a 400."""
    async with playground(mongodb_uri, clock=lambda: NOON) as place:
        account = await signed_in(place.gateway)
        assert (
            await account.send("POST", "/api/chat", {"message": "hi", "modelId": FREE})
        ).status_code == 200
        await settled(place, 1)
        rollups = place.gateway.parts.database[ROLLUPS]
        today = await rollups.find_one({"userId": str(account.id), "day": f"{NOON:%Y-%m-%d}"})
        assert today is not None
        for days in (7, 8, 30, 31, 90, 91, 365, 366):
            day = f"{NOON - timedelta(days=days):%Y-%m-%d}"
            await rollups.insert_one({**today, "_id": f"copy of {day}", "day": day})
        for period, requests in (("7d", 2), ("30d", 4), ("90d", 6), ("1y", 8), ("", 4)):
            query = f"?period={period}" if period else ""
            described = (await account.send("GET", f"/api/user/stats{query}")).json()["data"]
            assert described["overview"]["totalRequests"] == requests, period
            assert len(described["dailyUsage"]) == requests
            dates = [row["date"] for row in described["dailyUsage"]]
            assert dates == sorted(dates)
        for wrong in ("period=2d", "period=", "period=7d&period=30d", "period[$ne]=7d&period=x", "period=7D"):
            refused = await account.send("GET", f"/api/user/stats?{wrong}")
            assert message_of(refused, 400, "VALIDATION_ERROR").startswith("Validation failed: period: ")


async def test_a_new_user_has_used_nothing(mongodb_uri: str) -> None:
    """Without any use every number is 0 and no list is missing."""
    async with playground(mongodb_uri) as place:
        account = await signed_in(place.gateway)
        described = (await account.send("GET", "/api/user/stats")).json()["data"]
        assert set(described["overview"].values()) == {0}
        assert (described["modelUsage"], described["dailyUsage"]) == ([], [])
        assert described["limits"]["used"] == {"daily": 0, "monthly": 0, "tokens": 0}
