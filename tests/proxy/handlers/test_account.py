"""Tests of proxy/handlers/account.py: a key and a request explained, to their owner alone."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from plugins.contract import Price, Usage
from proxy.core.bill import Bill, counted
from proxy.core.pricing import Charge, CostSource, cost_of
from proxy.core.routing import Role
from proxy.metering.contract import Reservation
from proxy.metering.event import usage_event
from tests.proxy.metering.meters import settlement, want
from tests.proxy.stage import MINI, Stage, staged
from tests.upstreams import Behaviour

ASK = {"model": MINI, "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 50}


async def get(stage: Stage, key: str, path: str, status: int = 200) -> dict[str, Any]:
    response = await stage.gateway.http.get(path, headers={"authorization": f"Bearer {key}"})
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_a_key_tells_its_limits_and_what_is_left(mongodb_uri: str) -> None:
    """Every limit of the user and of the key is there, with what is used to the last digit and when it renews."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM, totalBudget=0.5, requestsPerMinute=7)
        response = await stage.gateway.chat(key, ASK)
        assert response.headers["x-ratelimit-limit-requests"] == "7"
        assert response.headers["x-ratelimit-remaining-requests"] == "6"
        assert response.headers["x-ratelimit-limit-tokens"] == "500000"
        body = await get(stage, key, "/v1/key")
        limits = {(limit["scope"], limit["counts"], limit["window"]): limit for limit in body["limits"]}
        assert set(limits) == {
            ("user", "requests", "day"),
            ("user", "requests", "month"),
            ("user", "tokens", "month"),
            ("key", "requests", "minute"),
            ("key", "usd", "total"),
        }
        budget = limits["key", "usd", "total"]
        assert Decimal(budget["used"]) == stage.openrouter.books[0].cost
        assert Decimal(budget["remaining"]) == Decimal("0.5") - Decimal(budget["used"])
        assert budget["resets_at"] is None
        assert limits["user", "requests", "day"]["used"] == 1
        assert limits["user", "tokens", "month"]["used"] == stage.openrouter.books[0].total_tokens


async def test_a_request_is_explained_line_by_line(mongodb_uri: str) -> None:
    """The route, the attempts, the tokens and the cost of a request are those of the provider's books."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        stage.openrouter.script.enqueue(Behaviour(cached_tokens=4, prompt_tokens=20, reported_cost="null"))
        request_id = (await stage.gateway.chat(key, ASK)).headers["x-request-id"]
        told = await get(stage, key, f"/v1/requests/{request_id}")
        entry = stage.openrouter.books[0]
        assert told["id"] == request_id
        assert told["route"]["generation_id"] == entry.generation_id
        assert [attempt["outcome"] for attempt in told["attempts"]] == ["completed"]
        assert told["tokens"]["prompt_cached"] == 4
        assert told["tokens"]["prompt_uncached"] == entry.prompt_tokens - 4
        assert told["cost"]["source"] == "price_table"
        lines = told["cost"]["lines"]
        assert {line["item"] for line in lines} == {"prompt", "cached", "completion"}
        assert sum(Decimal(line["usd"]) for line in lines) == Decimal(told["cost"]["usd"]) == entry.cost
        assert (await get(stage, await stage.gateway.key(user), f"/v1/requests/{request_id}"))[
            "id"
        ] == request_id


async def test_what_few_requests_have_is_explained_too(mongodb_uri: str) -> None:
    """Sound, pictures and what is cached for an hour have lines, with which the sum is the cost to the last digit."""
    price = Price(
        prompt=Decimal("0.000002"),
        completion=Decimal("0.000006"),
        cache_read=Decimal("0.0000002"),
        cache_write=Decimal("0.0000025"),
        cache_write_1h=Decimal("0.000004"),
        audio=Decimal("0.00004"),
        audio_output=Decimal("0.00008"),
        image_output=Decimal("0.00003"),
    )
    usage = Usage(
        1000,
        100,
        cached_tokens=300,
        cache_write_tokens=200,
        cache_write_1h_tokens=150,
        audio_tokens=70,
        audio_output_tokens=30,
        image_output_tokens=10,
    )
    bill = Bill(counted(usage), Charge(cost_of(price, usage), CostSource.PRICE_TABLE, estimated=False))
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user()
        reservation = Reservation(want(user_id=str(user.id)), (), {}, 100)
        event = usage_event(reservation, settlement(bill=bill, price=price))
        await stage.gateway.parts.database["usageevents"].insert_one(event)
        told = await get(stage, await stage.gateway.key(user), f"/v1/requests/{event['_id']}")
    assert told["tokens"] == {
        "prompt": 1000,
        "prompt_uncached": 500,
        "prompt_cached": 300,
        "prompt_cache_write": 200,
        "prompt_cache_write_1h": 150,
        "prompt_audio": 70,
        "completion": 100,
        "completion_reasoning": 0,
        "completion_audio": 30,
        "completion_image": 10,
    }
    lines = {line["item"]: (line["count"], line["usd_each"]) for line in told["cost"]["lines"]}
    assert lines == {
        "prompt": (500, "0.000002"),
        "cached": (300, "0.0000002"),
        "cacheWrite": (50, "0.0000025"),
        "cacheWrite1h": (150, "0.000004"),
        "audioSurcharge": (70, "0.000038"),
        "completion": (100, "0.000006"),
        "audioOutputSurcharge": (30, "0.000074"),
        "imageOutputSurcharge": (10, "0.000024"),
    }
    assert sum(Decimal(line["usd"]) for line in told["cost"]["lines"]) == Decimal(told["cost"]["usd"])


async def test_only_the_owner_is_told(mongodb_uri: str) -> None:
    """Somebody else's request, and one that never was, are the same 404; without a key there is a 401."""
    async with staged(mongodb_uri) as stage:
        key, other = await stage.gateway.key(role=Role.PREMIUM), await stage.gateway.key()
        request_id = (await stage.gateway.chat(key, ASK)).headers["x-request-id"]
        bodies = [await get(stage, other, f"/v1/requests/{name}", 404) for name in (request_id, "req_none")]
        assert bodies[0] == bodies[1]
        for path in ("/v1/key", f"/v1/requests/{request_id}"):
            assert (await stage.gateway.http.get(path)).status_code == 401


async def test_a_budget_ends_in_402(mongodb_uri: str) -> None:
    """A key whose budget cannot pay for the worst case is refused with 402, and the provider is not asked."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM, dailyBudget="0.000001")
        response = await stage.gateway.chat(key, ASK)
        assert response.status_code == 402
        assert response.json()["error"]["type"] == "insufficient_quota"
        assert response.headers["x-should-retry"] == "false"
        assert not stage.openrouter.books
        unpriced = await stage.gateway.chat(key, {**ASK, "model": "openrouter/auto"})
        assert (unpriced.status_code, unpriced.json()["error"]["code"]) == (400, "model_not_priced")
        rich = await stage.gateway.key(role=Role.PREMIUM, dailyBudget=1)
        assert (await stage.gateway.chat(rich, ASK)).status_code == 200
        price = stage.openrouter.books[0].body["provider"]["max_price"]
        assert (Decimal(price["prompt"]), Decimal(price["completion"])) == (Decimal("0.15"), Decimal("0.6"))
