"""Tests of admin_api/models/endpoints.py."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from proxy.core.routing import Role
from tests.admin_api.playground import FREE, Playground, playground
from tests.upstreams import Behaviour, Failure

DEAR = "anthropic/claude-sonnet-4.6"
SECOND = "huggingface/openai/gpt-oss-120b"


async def listed(play: Playground, query: str = "") -> list[dict[str, Any]]:
    answer = await play.gateway.http.get(f"/api/models{query}")
    assert answer.status_code == 200, answer.text
    models: list[dict[str, Any]] = answer.json()["data"]["models"]
    return models


def message_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["status"] == "fail"
    return str(body["message"])


async def test_the_whole_list(mongodb_uri: str) -> None:
    """Without a query the list has every model of both providers, each with every field that the frontend reads."""
    async with playground(mongodb_uri) as play:
        answer = await play.gateway.http.get("/api/models", headers={"x-client-info": "Mozilla/5.0"})
        body = answer.json()
        models = body["data"]["models"]
        known = len(play.openrouter.catalogue.records) + len(play.huggingface.catalogue.records)
        assert body["status"] == "success"
        assert body["results"] == body["total"] == len(models) == known
        assert body["pagination"] == {
            "page": 1,
            "limit": known,
            "total": known,
            "totalPages": 1,
            "hasNext": False,
            "hasPrev": False,
        }
        assert len({model["id"] for model in models}) == known
        for model in models:
            assert model["id"] == model["modelId"]
            assert len(model["id"]) >= 3
            assert all(isinstance(model[field], str) for field in ("name", "provider", "description"))
            assert {"text", "image", "audio", "video", "code", "function_calling"} == set(
                model["capabilities"]
            )
            assert {"maxTokens", "contextLength", "rateLimit"} == set(model["limits"])
            assert {"input", "output", "image", "audio"} < set(model["pricing"])
            assert {"architecture", "parameterCount", "tags", "popularity", "performance"} < set(
                model["metadata"]
            )
            assert model["status"] == "active"
            assert model["isAvailable"] is True
            assert model["isFavorite"] is False
            assert model["canUse"] is (model["tier"] == "free")


async def test_prices_are_per_thousand_tokens(mongodb_uri: str) -> None:
    """OpenRouter's dollars per token become dollars per 1,000; a free model costs 0 for input, output and image."""
    async with playground(mongodb_uri) as play:
        models = {model["id"]: model for model in await listed(play)}
        record = play.openrouter.catalogue.records[DEAR]["pricing"]
        assert models[DEAR]["pricing"]["input"] == pytest.approx(float(record["prompt"]) * 1000)
        assert models[DEAR]["pricing"]["outputPerMillion"] == pytest.approx(float(record["completion"]) * 1e6)
        free = models[FREE]["pricing"]
        assert (free["input"], free["output"], free["image"]) == (0, 0, 0)
        assert free["unit"] == "USD per 1K tokens"


async def test_two_providers_with_one_id(mongodb_uri: str) -> None:
    """Where both providers have an id, both models appear, and the second one's id is one that routes to it."""
    async with playground(mongodb_uri) as play:
        models = {model["id"]: model for model in await listed(play)}
        assert models["openai/gpt-oss-120b"]["provider"] == "openrouter"
        assert models[SECOND]["provider"] == "huggingface"
        person = await play.person(Role.PREMIUM)
        answer = await person.say("hello", SECOND)
        assert answer.json()["data"]["aiMessage"]["model"]["provider"] == "huggingface"
        assert len(play.huggingface.books) == 1


async def test_filters(mongodb_uri: str) -> None:
    """Provider, search, category, capabilities and prices each narrow the list, together with the others."""
    async with playground(mongodb_uri) as play:
        everything = await listed(play)
        of_openai = await listed(play, "?provider=OpenAI")
        assert {model["ownedBy"] for model in of_openai} == {"openai"}
        assert {model["provider"] for model in await listed(play, "?provider=huggingface")} == {"huggingface"}
        found = await listed(play, "?search=%20CLAUDE%20")
        assert found
        assert all("claude" in f"{m['id']}{m['name']}{m['description']}".lower() for m in found)
        assert await listed(play, "?search=(.*)%5B") == []
        code = await listed(play, "?category=code")
        assert [model["id"] for model in code] == [m["id"] for m in everything if m["category"] == "code"]
        able = await listed(play, "?capabilities=image,%20function_calling")
        assert all(m["capabilities"]["image"] and m["capabilities"]["function_calling"] for m in able)
        assert 0 < len(able) < len(everything)
        dear = await listed(play, "?minPrice=0.002&maxPrice=0.003")
        assert dear
        assert all(0.002 <= model["pricing"]["input"] <= 0.003 for model in dear)
        both = await listed(play, "?provider=anthropic&minPrice=0.002")
        assert {model["ownedBy"] for model in both} == {"anthropic"}


async def test_sorting(mongodb_uri: str) -> None:
    """The list comes by popularity, price, name or age; what has no known price comes last either way."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        assert (await person.say("hello", DEAR)).status_code == 200
        await play.gateway.settled()
        play.gateway.app.ctx.popularity._fresh_until = 0.0
        popular = await listed(play)
        assert popular[0]["id"] == DEAR
        assert popular[0]["metadata"]["popularity"]["usage"] == 1
        for order, sign in (("price_low", 1), ("price_high", -1)):
            prices = [model["pricing"]["input"] for model in await listed(play, f"?sort={order}")]
            known = [price for price in prices if price is not None]
            assert known == sorted(known, key=lambda price: sign * price)
            assert prices[: len(known)] == known
            assert len(known) < len(prices)
        names = [model["name"].casefold() for model in await listed(play, "?sort=name")]
        assert names == sorted(names)
        ages = [model["metadata"]["createdAt"] or 0 for model in await listed(play, "?sort=newest")]
        assert ages == sorted(ages, reverse=True)


async def test_pages(mongodb_uri: str) -> None:
    """Pages follow each other without gaps, and say where they stand."""
    async with playground(mongodb_uri) as play:
        whole = [model["id"] for model in await listed(play, "?sort=name")]
        first = await play.gateway.http.get("/api/models?sort=name&limit=10")
        third = await play.gateway.http.get("/api/models?sort=name&limit=10&page=3")
        assert first.json()["pagination"]["hasNext"] is True
        assert third.json()["pagination"]["hasPrev"] is True
        assert [model["id"] for model in third.json()["data"]["models"]] == whole[20:30]
        assert third.json()["total"] == len(whole)
        beyond = await play.gateway.http.get("/api/models?limit=1000&page=2")
        assert beyond.json()["results"] == 0


WRONG_QUERIES = (
    "page=0",
    "page=x",
    "limit=0",
    "limit=1001",
    "limit=1.5",
    "sort=random",
    "category=specialized",
    "capabilities=flying",
    "minPrice=-1",
    "maxPrice=NaN",
    "maxPrice=much",
    f"search={'a' * 101}",
)


async def test_wrong_queries(mongodb_uri: str) -> None:
    """A query that makes no sense is answered 400, in a sentence that names the parameter."""
    async with playground(mongodb_uri) as play:
        for query in WRONG_QUERIES:
            message = message_of(await play.gateway.http.get(f"/api/models?{query}"), 400)
            assert query.partition("=")[0].lower() in message.lower()


async def test_one_model(mongodb_uri: str) -> None:
    """A model is found by its id, the slash raw or encoded, `:free` in it or a provider's name before it."""
    async with playground(mongodb_uri) as play:
        for path, model in (
            (DEAR, DEAR),
            (DEAR.replace("/", "%2F"), DEAR),
            (FREE, FREE),
            (FREE.replace("/", "%2F").replace(":", "%3A"), FREE),
            (f"openrouter/{DEAR}", DEAR),
            (SECOND, SECOND),
        ):
            answer = await play.gateway.http.get(f"/api/models/{path}")
            assert answer.status_code == 200, answer.text
            assert answer.json()["data"]["model"]["id"] == model
        assert message_of(await play.gateway.http.get("/api/models/no/such"), 404) == "Model not found"


async def test_who_is_signed_in(mongodb_uri: str) -> None:
    """A signed-in user sees his favourites and what his role may use; a bad token is refused."""
    async with playground(mongodb_uri) as play:
        fan = await play.person(preferences={"favoriteModels": [FREE, SECOND]})
        models = {m["id"]: m for m in (await fan.get("/api/models")).json()["data"]["models"]}
        assert {name for name, model in models.items() if model["isFavorite"]} == {FREE, SECOND}
        assert models[DEAR]["canUse"] is False
        assert models[FREE]["canUse"] is True
        payer = await play.person(Role.PREMIUM)
        one = await payer.get(f"/api/models/{DEAR}")
        assert one.json()["data"]["model"]["canUse"] is True
        bad = {"authorization": "Bearer nonsense"}
        message_of(await play.gateway.http.get("/api/models", headers=bad), 401)


async def test_categories_and_providers(mongodb_uri: str) -> None:
    """Categories and providers add up to the list, and their prices are those of their models."""
    async with playground(mongodb_uri) as play:
        everything = await listed(play)
        http = play.gateway.http
        groups = (await http.get("/api/models/categories")).json()["data"]["categories"]
        assert sum(group["modelCount"] for group in groups) == len(everything)
        for group in groups:
            answer = await http.get(f"/api/models/category/{group['name']}?limit=1000")
            members = answer.json()["data"]["models"]
            assert len(members) == group["modelCount"] == answer.json()["pagination"]["total"]
            assert {member["category"] for member in members} == {group["name"]}
            assert sorted({member["provider"] for member in members}) == group["providers"]
            assert group["popularModels"] == [
                {"modelId": member["id"], "name": member["name"]} for member in members[:3]
            ]
        providers = (await http.get("/api/models/providers")).json()["data"]["providers"]
        assert [provider["name"] for provider in providers] == ["openrouter", "huggingface"]
        for provider in providers:
            members = [model for model in everything if model["provider"] == provider["name"]]
            prices = [m["pricing"]["input"] for m in members if m["pricing"]["input"] is not None]
            assert provider["modelCount"] == len(members)
            assert provider["pricing"]["min"] == min(prices)
            assert provider["pricing"]["max"] == max(prices)
            assert provider["pricing"]["average"] == pytest.approx(sum(prices) / len(prices))
        short = await http.get("/api/models/category/multimodal?limit=2&page=2")
        assert short.json()["results"] == 2
        assert message_of(await http.get("/api/models/category/specialized"), 400) == "Invalid category"
        message_of(await http.get("/api/models/category/code?limit=1001"), 400)


async def test_sync_reports(mongodb_uri: str) -> None:
    """A sync tells by provider what was added, updated and gone, and what went wrong."""
    async with playground(mongodb_uri) as play:
        admin = await play.person(Role.ADMIN)
        records = play.openrouter.catalogue.records
        records["new/model"] = {**records[FREE], "id": "new/model", "canonical_slug": "new/model"}
        records[DEAR] = {**records[DEAR], "name": "Another name"}
        del records["openai/gpt-4o"]
        play.huggingface.script.always(Behaviour(error=Failure(503, {"error": "down"})), path="/models")
        answer = await admin.post("/api/models/sync")
        assert answer.status_code == 200, answer.text
        results = answer.json()["data"]["results"]
        assert results["openRouter"] == {"added": 1, "updated": 1, "gone": 1, "errors": 0, "message": None}
        assert results["huggingFace"]["errors"] == 1
        assert results["huggingFace"]["message"]
        models = {model["id"]: model for model in await listed(play)}
        assert models[DEAR]["name"] == "Another name"
        assert "new/model" in models
        assert "openai/gpt-4o" not in models
        assert any(model["provider"] == "huggingface" for model in models.values())
        (audited,) = await play.gateway.parts.database["auditlog"].find({"action": "models.sync"}).to_list()
        assert audited["actorId"] == str(admin.user.id)
        again = (await admin.post("/api/models/sync")).json()["data"]["results"]["openRouter"]
        assert (again["added"], again["updated"], again["gone"]) == (0, 0, 0)


async def test_sync_refusals(mongodb_uri: str) -> None:
    """A sync is for admins alone, and fails as a whole only when no provider could be read."""
    async with playground(mongodb_uri) as play:
        message_of(await play.gateway.http.post("/api/models/sync"), 401)
        message_of(await (await play.person(Role.PREMIUM)).post("/api/models/sync"), 403)
        for upstream in (play.openrouter, play.huggingface):
            upstream.script.always(Behaviour(error=Failure(500, {"error": "down"})), path="/models")
        answer = await (await play.person(Role.ADMIN)).post("/api/models/sync")
        assert answer.status_code == 502
        assert answer.json()["code"] == "PROVIDER_ERROR"
        assert answer.json()["data"]["results"]["openRouter"]["errors"] == 1
        assert await listed(play)


async def test_a_large_catalogue_answers_quickly(mongodb_uri: str) -> None:
    """650 models are listed for a fraction of a second of CPU, from memory."""
    async with playground(mongodb_uri) as play:
        admin = await play.person(Role.ADMIN)
        records = play.openrouter.catalogue.records
        for number in range(650 - len(records)):
            name = f"many/model-{number}"
            records[name] = {**records[DEAR], "id": name, "canonical_slug": name}
        assert (await admin.post("/api/models/sync")).status_code == 200
        asked = len(play.openrouter.requests)
        began = time.process_time()
        models = await listed(play, "?search=model&sort=price_low")
        assert time.process_time() - began < 0.5
        assert len(models) > 600
        assert len(play.openrouter.requests) == asked
