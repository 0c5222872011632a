"""The admins' statistics and figures, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy.core.routing import Role
from tests.admin_api.playground import FREE, playground
from tests.upstreams import Behaviour

PAID = "openai/gpt-4o"


async def test_statistics_are_those_of_the_usage_events(mongodb_uri: str) -> None:
    """Tokens and costs of every part equal the sums over the events, in tokens, USD and INR."""
    async with playground(mongodb_uri) as place:
        admin, person = await place.person(Role.ADMIN), await place.person(Role.PREMIUM)
        for model in (FREE, PAID, PAID):
            assert (await person.say(f"hello to {model}", model)).status_code == 200
        key = await place.gateway.key(person.user)
        await place.gateway.chat(key, {"model": PAID, "messages": [{"role": "user", "content": "by key"}]})
        events = await place.gateway.events()
        assert len(events) == 4
        chats = [event for event in events if event["sessionId"] is not None]
        response = await admin.get("/api/admin/stats?period=7d")
        data = response.json()["data"]
        stats: dict[str, Any] = data["stats"]
        assert data["period"] == "7d"
        assert stats["sessions"]["totalTokens"] == sum(map(tokens_of, chats)) > 0
        assert stats["sessions"]["totalCost"] == cost_of(chats)
        assert stats["sessions"]["total"] == stats["sessions"]["recent"] == 3
        assert stats["messages"]["total"] == stats["messages"]["recent"] == 6
        assert stats["messages"]["avgTokens"] == sum(map(tokens_of, chats)) / 3
        assert stats["messages"]["byRole"] == [
            {"_id": "assistant", "count": 3},
            {"_id": "user", "count": 3},
        ]
        assert stats["messages"]["dailyActivity"] == [
            {
                "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                "messages": 6,
                "tokens": sum(map(tokens_of, chats)),
            }
        ]
        paid = [event for event in events if event["model"] == PAID]
        (used,) = [row for row in stats["models"]["mostUsed"] if row["modelId"] == PAID]
        assert used["requests"] == 3
        assert used["tokensUsed"] == sum(map(tokens_of, paid))
        assert used["totalCost"] == cost_of(paid)
        assert stats["users"]["total"] == 2
        assert stats["users"]["new"] == 2
        assert {row["_id"]: row["count"] for row in stats["users"]["byRole"]} == {"admin": 1, "premium": 1}
        (top,) = stats["users"]["topUsers"]
        assert top["email"] == person.user.email
        assert top["tokensUsed"] == sum(map(tokens_of, events))
        assert stats["models"]["total"] == sum(row["count"] for row in stats["models"]["byCategory"]) > 0
        assert len(stats["recentActivity"]) == 6
        assert stats["recentActivity"][0]["user"]["email"] == person.user.email
        assert "hello" not in response.text


def tokens_of(event: dict[str, Any]) -> int:
    total: int = event["tokens"]["prompt"] + event["tokens"]["completion"]
    return total


def cost_of(events: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "usd": float(sum(event["costUsd"].to_decimal() for event in events)),
        "inr": float(sum(event["costInr"].to_decimal() for event in events)),
    }


async def test_an_empty_service_has_statistics(mongodb_uri: str) -> None:
    """Before anybody has chatted, every sum is 0 and nothing is divided by it."""
    async with playground(mongodb_uri) as place:
        admin = await place.person(Role.ADMIN)
        stats = (await admin.get("/api/admin/stats")).json()["data"]["stats"]
        assert stats["sessions"]["avgDuration"] == 0
        assert stats["messages"]["avgTokens"] == 0
        assert stats["users"]["topUsers"] == []
        assert stats["recentActivity"] == []
        assert (await admin.get("/api/admin/stats?period=2y")).status_code == 400


async def test_what_is_older_than_the_period_is_left_out(mongodb_uri: str) -> None:
    """A period begins its number of days ago; totals count from the beginning."""
    now = datetime.now(UTC)
    moments = [now - timedelta(days=8)]
    async with playground(mongodb_uri, clock=lambda: moments[-1]) as place:
        person = await place.person()
        assert (await person.say("hello", FREE)).status_code == 200
        moments.append(now)
        admin = await place.person(Role.ADMIN)
        week = (await admin.get("/api/admin/stats?period=7d")).json()["data"]["stats"]
        month = (await admin.get("/api/admin/stats?period=30d")).json()["data"]["stats"]
        assert week["sessions"]["total"] == month["sessions"]["total"] == 1
        assert (week["sessions"]["recent"], month["sessions"]["recent"]) == (0, 1)
        assert week["sessions"]["totalTokens"] == 0
        assert month["sessions"]["totalTokens"] > 0
        assert week["users"]["topUsers"] == []
        assert [user["email"] for user in month["users"]["topUsers"]] == [person.user.email]


async def test_the_system_is_measured(mongodb_uri: str) -> None:
    """The figures of process, database and providers are there and plausible."""
    async with playground(mongodb_uri) as place:
        admin = await place.person(Role.ADMIN)
        metrics = (await admin.get("/api/admin/system")).json()["data"]["metrics"]
        assert metrics["server"]["uptime"] >= 0
        assert 10**7 < metrics["server"]["memory"]["rss"] < 10**10
        assert metrics["server"]["cpuUsage"]["user"] > 0
        assert metrics["database"]["isConnected"] is True
        assert metrics["database"]["collections"]["users"] == 1
        assert metrics["database"]["collections"]["models"] > 0
        providers = {provider["name"]: provider for provider in metrics["providers"]}
        assert providers.keys() == {"openrouter", "huggingface"}
        assert all(provider["isFresh"] and provider["models"] > 0 for provider in providers.values())
        assert providers["openrouter"]["apiKeys"] == {"total": 1, "setAside": 0}


async def test_a_provider_in_trouble_shows(mongodb_uri: str) -> None:
    """A key that is refused and a target that is spared stand in the system's view."""
    resilience = {"breaker": {"least_requests": 1}}
    async with playground(mongodb_uri, resilience=resilience) as place:
        place.openrouter.script.always(Behaviour(error="401_bad_key"))
        person, admin = await place.person(Role.PREMIUM), await place.person(Role.ADMIN)
        refused = await person.post("/api/chat", {"message": "Hello", "modelId": PAID})
        assert refused.status_code == 502
        providers = (await admin.get("/api/admin/system")).json()["data"]["metrics"]["providers"]
        shown = next(provider for provider in providers if provider["name"] == "openrouter")
        assert shown["apiKeys"] == {"total": 1, "setAside": 1}
        (breaker,) = shown["breakers"]
        assert (breaker["model"], breaker["state"]) == (PAID, "open")
        assert 0 < breaker["seconds"] <= 5


@pytest.mark.parametrize("encode", [True, False])
async def test_a_model_is_edited(mongodb_uri: str, *, encode: bool) -> None:
    """Availability, status and price hold at once; a negative price and an unknown model are refused."""
    async with playground(mongodb_uri) as place:
        admin = await place.person(Role.ADMIN)
        url = f"/api/admin/models/{PAID.replace('/', '%2F') if encode else PAID}"
        changed = await admin.patch(url, {"pricing": {"input": 0.5}, "status": "beta"})
        assert changed.json()["message"] == "Model updated successfully"
        assert changed.json()["data"]["model"]["pricing"]["input"] == 0.5
        assert changed.json()["data"]["model"]["status"] == "beta"
        for body in (
            {"pricing": {"input": -1}},
            {"pricing": {"output": 5e-324}},
            {"status": "gone"},
            {"isAvailable": "no"},
            {"provider": "x"},
            {},
        ):
            assert (await admin.patch(url, body)).status_code == 400
        missing = await admin.patch("/api/admin/models/no%2Fsuch", {"isAvailable": True})
        assert missing.status_code == 404
