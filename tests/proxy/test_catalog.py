"""Tests of proxy/catalog.py: a provider that is down costs its own freshness and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy import catalog
from proxy.catalog import CatalogError
from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.settings import ProviderSettings
from tests.gateway import RunningGateway, provider_settings, running_gateway
from tests.proxy.stage import FREE, KEYS, MINI, OSS, ask
from tests.proxy.test_errors import assert_openai_error
from tests.upstreams import Behaviour, Failure, HuggingFace, OpenRouter, serving

SECRET = KEYS["openrouter"][0]
HOUR = 3600.0


def providers(
    openrouter: OpenRouter, huggingface: HuggingFace, first_byte: float
) -> dict[str, ProviderSettings]:
    patience = {"first_byte": first_byte}
    return {
        "openrouter": provider_settings("openrouter", openrouter.base_url, timeouts=patience),
        "huggingface": provider_settings("huggingface", huggingface.base_url, tier="free"),
    }


@asynccontextmanager
async def gateway_for(
    mongodb_uri: str,
    openrouter: OpenRouter,
    huggingface: HuggingFace,
    *,
    first_byte: float = 5,
    **values: Any,
) -> AsyncIterator[RunningGateway]:
    configured = providers(openrouter, huggingface, first_byte)
    async with running_gateway(mongodb_uri, configured, provider_keys=KEYS, **values) as gateway:
        yield gateway


async def eventually(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not claim():  # noqa: ASYNC110  the catalogue changes behind the test's back
            await asyncio.sleep(0.02)


async def test_a_provider_that_is_down_at_the_start_comes_later(
    mongodb_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused connections and silence do not hold up the start; what is there is served, the rest when it comes."""
    monkeypatch.setattr(catalog, "FIRST_READ_SECONDS", 0.3)
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with serving(openrouter, huggingface):
        await huggingface.pause()
        openrouter.script.enqueue(Behaviour(delay_headers=HOUR), path="/models")
        values: dict[str, Any] = {"first_byte": HOUR, "catalog_refresh_seconds": 1}
        async with (
            asyncio.timeout(60),
            gateway_for(mongodb_uri, openrouter, huggingface, **values) as gateway,
        ):
            key = await gateway.key(role=Role.PREMIUM)
            response = await gateway.chat(key, ask(MINI))
            assert_openai_error(response, 503, "service_unavailable")
            assert response.headers["retry-after"] == "5"
            await huggingface.start()
            await eventually(lambda: bool(gateway.parts.catalog.current.entries["huggingface"]))
            assert (await gateway.chat(key, ask(f"huggingface/{OSS}"))).status_code == 200
            assert_openai_error(await gateway.chat(key, ask(MINI)), 404, "model_not_found")


async def test_a_provider_that_was_silent_at_the_start_comes_later(mongodb_uri: str) -> None:
    """Silence is a failed reading when the patience for a first byte ends, and then the provider is asked again."""
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with serving(openrouter, huggingface):
        openrouter.script.enqueue(Behaviour(delay_headers=HOUR), path="/models")
        values: dict[str, Any] = {"first_byte": 1, "catalog_refresh_seconds": 1}
        async with gateway_for(mongodb_uri, openrouter, huggingface, **values) as gateway:
            await eventually(lambda: bool(gateway.parts.catalog.current.entries["openrouter"]))
            key = await gateway.key(role=Role.PREMIUM)
            assert (await gateway.chat(key, ask(MINI))).status_code == 200


@pytest.mark.parametrize(
    "trouble",
    [Behaviour(error="500_documented"), Behaviour(delay_headers=HOUR)],
    ids=["nonsense", "silence"],
)
async def test_stored_models_are_served_while_a_provider_is_down(
    mongodb_uri: str, monkeypatch: pytest.MonkeyPatch, trouble: Behaviour
) -> None:
    """After a restart the models of the last reading are there at once, be their provider down, silent or confused."""
    monkeypatch.setattr(catalog, "FIRST_READ_SECONDS", HOUR)
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with serving(openrouter, huggingface):
        async with gateway_for(mongodb_uri, openrouter, huggingface) as gateway:
            before = gateway.parts.catalog.current.entries
        openrouter.script.always(trouble, path="/models")
        await huggingface.pause()
        later: dict[str, Any] = {"first_byte": HOUR, "clock": lambda: utc_now() + timedelta(days=1)}
        async with asyncio.timeout(60), gateway_for(mongodb_uri, openrouter, huggingface, **later) as gateway:
            assert gateway.parts.catalog.current.entries == before
            assert (await gateway.chat(await gateway.key(), ask(FREE))).status_code == 200
            listed = await gateway.http.get(
                "/v1/models", headers={"authorization": f"Bearer {await gateway.key(role=Role.PREMIUM)}"}
            )
            assert {MINI, OSS} <= {model["id"] for model in listed.json()["data"]}


async def test_who_read_first_and_stored_last_hides_nothing(mongodb_uri: str) -> None:
    """Of two gateways that start at once neither takes the models that both have read for gone."""
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with serving(openrouter, huggingface), gateway_for(mongodb_uri, openrouter, huggingface) as gateway:
        catalog = gateway.parts.catalog
        models = [entry.info for entry in catalog.current.entries["openrouter"].values()]
        earlier = gateway.parts.clock()
        later = earlier + timedelta(milliseconds=5)
        await catalog._store("openrouter", models, later)
        await catalog._store("openrouter", models, earlier)
        await catalog._store(
            "openrouter", [], later
        )  # what the later one does last: it looks for what is gone
        collection = gateway.parts.database["aimodels"]
        listed = {"provider": "openrouter", "isListed": True}
        assert await collection.count_documents(listed) == len(models) > 0


async def test_a_list_of_nothing_is_not_taken_over(mongodb_uri: str) -> None:
    """A gateway that finds no listed model asks the provider, however lately somebody has read it."""
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with serving(openrouter, huggingface):
        async with gateway_for(mongodb_uri, openrouter, huggingface) as gateway:
            before = gateway.parts.catalog.current.entries
            await gateway.parts.database["aimodels"].update_many({}, {"$set": {"isListed": False}})
        async with gateway_for(mongodb_uri, openrouter, huggingface) as gateway:
            assert gateway.parts.catalog.current.entries == before


async def test_a_sibling_shares_what_it_has_read(mongodb_uri: str) -> None:
    """Of two workers on one database, the second takes over the list that the first has just fetched."""
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with (
        serving(openrouter, huggingface),
        gateway_for(mongodb_uri, openrouter, huggingface) as first,
        gateway_for(mongodb_uri, openrouter, huggingface) as second,
    ):
        assert first.parts.catalog.current.entries == second.parts.catalog.current.entries
        await asyncio.sleep(0.2)
        assert openrouter.requests.count("GET /api/v1/models?output_modalities=text,embeddings") == 1
        assert huggingface.requests.count("GET /v1/models") == 1


async def test_what_is_gone_is_gone(mongodb_uri: str) -> None:
    """A model that its provider lists no longer disappears with the next reading, here and after a restart."""
    openrouter, huggingface = OpenRouter(), HuggingFace()
    moment = [datetime(2026, 11, 23, tzinfo=UTC)]
    async with serving(openrouter, huggingface):
        async with gateway_for(mongodb_uri, openrouter, huggingface, clock=lambda: moment[0]) as gateway:
            del openrouter.catalogue.records[MINI]
            moment[0] += timedelta(hours=1)
            refreshed = await gateway.parts.catalog.refresh("openrouter")
            assert (refreshed.added, refreshed.gone) == (0, 1)
            key = await gateway.key(role=Role.PREMIUM)
            assert_openai_error(await gateway.chat(key, ask(MINI)), 404, "model_not_found")
        async with gateway_for(mongodb_uri, openrouter, huggingface, clock=lambda: moment[0]) as gateway:
            assert not gateway.parts.catalog.current.find(MINI)


async def test_what_cannot_be_read_changes_nothing_and_tells_nothing(mongodb_uri: str) -> None:
    """A failed reading is one line without the provider's key, and the old models stay."""
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with serving(openrouter, huggingface), gateway_for(mongodb_uri, openrouter, huggingface) as gateway:
        before = gateway.parts.catalog.current
        leak = Failure(500, {"error": {"message": f"bad key {SECRET} at {openrouter.base_url}"}})
        for behaviour in (
            Behaviour(error=leak),
            Behaviour(error=Failure(200, "<html>")),
            Behaviour(error=Failure(200, {"data": 5})),
        ):
            openrouter.script.enqueue(behaviour, path="/models")
            with pytest.raises(CatalogError) as caught:
                await gateway.parts.catalog.refresh("openrouter")
            assert SECRET not in str(caught.value)
            assert openrouter.base_url not in str(caught.value)
        await openrouter.pause()
        with pytest.raises(CatalogError):
            await gateway.parts.catalog.refresh("openrouter")
        assert gateway.parts.catalog.current is before


async def test_a_record_of_another_release_does_no_harm(mongodb_uri: str) -> None:
    """A stored record that this release cannot read is passed over until its provider is read again."""
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with serving(openrouter, huggingface):
        async with gateway_for(mongodb_uri, openrouter, huggingface) as gateway:
            models = gateway.parts.database["aimodels"]
            await models.update_one({"_id": f"openrouter/{MINI}"}, {"$set": {"record": {"name": 5}}})
        async with gateway_for(mongodb_uri, openrouter, huggingface) as gateway:
            assert not gateway.parts.catalog.current.find(MINI)
            await gateway.parts.catalog.refresh("openrouter")
            assert gateway.parts.catalog.current.find(MINI)


async def test_a_price_keeps_its_digits(mongodb_uri: str) -> None:
    """Prices go through the database and come back as the same decimals, overrides and all."""
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with serving(openrouter, huggingface), gateway_for(mongodb_uri, openrouter, huggingface) as gateway:
        plugin = gateway.parts.relay.endpoints["openrouter"].provider
        request = plugin.models_request(SECRET)
        _, _, body = await gateway.parts.relay.fetch("openrouter", request)
        kept = gateway.parts.catalog.current.entries["openrouter"]
        assert {info.id: info for info in plugin.read_models(body)} == {
            model: entry.info for model, entry in kept.items()
        }
        assert any(entry.info.price and entry.info.price.overrides for entry in kept.values())
