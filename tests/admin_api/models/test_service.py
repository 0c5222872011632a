"""Tests of admin_api/models/service.py: what admins decide about models."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from admin_api.models.service import edit_model
from proxy.core.routing import Role
from proxy.errors import InvalidRequest, NotFound
from tests.admin_api.playground import FREE, HUGGINGFACE_KEY, OPENROUTER_KEY, Playground, playground
from tests.gateway import running_gateway

PAID = "openai/gpt-4o"
OPEN = "meta-llama/Llama-3.3-70B-Instruct"


async def edited(play: Playground, model: str, **changes: Any) -> dict[str, Any]:
    return await edit_model(model, changes, play.gateway.parts)


async def test_a_model_is_taken_out_of_service(mongodb_uri: str) -> None:
    """A model that is not available or in maintenance is in no list, takes no requests, and admins still see it."""
    async with playground(mongodb_uri) as play:
        admin, payer = await play.person(Role.ADMIN), await play.person(Role.PREMIUM)
        for changes in ({"isAvailable": False}, {"isAvailable": True, "status": "maintenance"}):
            model = await edited(play, PAID, **changes)
            assert model["id"] == PAID
            assert model["isAvailable"] is False
            assert model["canUse"] is False
            assert (await payer.get(f"/api/models/{PAID}")).status_code == 404
            assert (await payer.say("hello", PAID)).status_code == 404
            seen = {m["id"]: m for m in (await admin.get("/api/models")).json()["data"]["models"]}
            assert seen[PAID]["isAvailable"] is False
            assert PAID not in {m["id"] for m in (await payer.get("/api/models")).json()["data"]["models"]}
        assert (await edited(play, PAID, status="beta"))["status"] == "beta"
        assert (await payer.say("hello", PAID)).status_code == 200


async def test_edits_survive_a_sync(mongodb_uri: str) -> None:
    """What an admin has decided stays when the provider's list is read again, and when the gateway starts anew."""
    async with playground(mongodb_uri) as play:
        admin = await play.person(Role.ADMIN)
        await edited(play, PAID, isAvailable=False, status="deprecated", pricing={"input": 1, "output": 2})
        await edited(play, FREE, status="beta")
        assert (await admin.post("/api/models/sync")).status_code == 200
        settings = play.gateway.parts.settings
        keys = {"openrouter": (OPENROUTER_KEY,), "huggingface": (HUGGINGFACE_KEY,)}
        async with running_gateway(mongodb_uri, settings.providers, provider_keys=keys) as anew:
            for gateway in (play.gateway, anew):
                entry = gateway.parts.catalog.current.entries["openrouter"][PAID]
                assert (entry.is_available, entry.status) == (False, "deprecated")
                assert entry.info.price is not None
                assert entry.info.price.prompt == Decimal("0.001")
                assert gateway.parts.catalog.current.entries["openrouter"][FREE].status == "beta"


async def test_edits_reach_every_worker(mongodb_uri: str) -> None:
    """Another process on the same database applies an edit long before it reads its providers' models again."""
    async with playground(mongodb_uri) as play:
        settings = play.gateway.parts.settings
        keys = {"openrouter": (OPENROUTER_KEY,), "huggingface": (HUGGINGFACE_KEY,)}
        async with running_gateway(mongodb_uri, settings.providers, provider_keys=keys) as other:
            await edited(play, PAID, isAvailable=False)
            async with asyncio.timeout(60):
                while other.parts.catalog.current.entries["openrouter"][PAID].is_available:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


async def test_an_own_price_is_charged(mongodb_uri: str) -> None:
    """An admin's price is what an answer costs where the provider names no cost; null goes back to the provider's."""
    async with playground(mongodb_uri) as play:
        model = await edited(play, OPEN, pricing={"input": 0.5, "output": 2})
        assert (model["pricing"]["input"], model["pricing"]["output"]) == (0.5, 2)
        person = await play.person()
        answer = (await person.say("hello", OPEN)).json()["data"]["aiMessage"]
        usage = answer["usage"]
        expected = usage["promptTokens"] * Decimal("0.0005") + usage["completionTokens"] * Decimal("0.002")
        assert answer["cost"]["usd"] == pytest.approx(float(expected))
        (event,) = await play.gateway.events()
        assert event["costUsd"].to_decimal() == expected
        assert event["costSource"] == "price_table"
        half = await edited(play, OPEN, pricing={"output": 3})
        assert (half["pricing"]["input"], half["pricing"]["output"]) == (0.5, 3)
        back = await edited(play, OPEN, pricing=None)
        assert back["pricing"]["output"] < 0.01
        await person.say("hello", OPEN)
        assert (await play.gateway.events())[-1]["costUsd"].to_decimal() == play.huggingface.books[-1].cost


async def test_a_providers_own_cost_wins(mongodb_uri: str) -> None:
    """An admin's price does not replace a cost that the provider itself reports."""
    async with playground(mongodb_uri) as play:
        await edited(play, PAID, pricing={"input": 50, "output": 50})
        await (await play.person(Role.PREMIUM)).say("hello", PAID)
        (event,) = await play.gateway.events()
        assert event["costUsd"].to_decimal() == play.openrouter.books[0].cost


WRONG_EDITS: tuple[dict[str, Any], ...] = (
    {},
    {"pricing": {"input": -0.1}},
    {"pricing": {"output": -1}},
    {"pricing": {"input": "1"}},
    {"pricing": {"image": 1}},
    {"status": "gone"},
    {"status": None},
    {"isAvailable": "no"},
    {"isAvailable": None},
    {"name": "another"},
)


async def test_wrong_edits(mongodb_uri: str) -> None:
    """A negative price, an unknown status, a wrong type or an unknown field is refused and changes nothing."""
    async with playground(mongodb_uri) as play:
        before = play.gateway.parts.catalog.current
        for changes in WRONG_EDITS:
            with pytest.raises(InvalidRequest):
                await edited(play, PAID, **changes)
        assert play.gateway.parts.catalog.current is before


async def test_edits_of_what_is_not_there(mongodb_uri: str) -> None:
    """An unknown model is not found; half a price needs the other half where the provider names none."""
    async with playground(mongodb_uri) as play:
        with pytest.raises(NotFound):
            await edited(play, "no/such", isAvailable=False)
        unpriced = next(
            entry.info.id for entry in play.gateway.parts.catalog.current.all() if entry.info.price is None
        )
        with pytest.raises(InvalidRequest):
            await edited(play, unpriced, pricing={"input": 1})
        whole = await edited(play, unpriced, pricing={"input": 1, "output": 2})
        assert whole["pricing"]["input"] == 1
