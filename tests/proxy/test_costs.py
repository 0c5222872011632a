"""Tests of what an answer costs, from the provider's bill to the event: to the last digit, wherever the figure comes from."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from proxy.core.routing import Role
from proxy.settings import ProviderSettings
from tests.gateway import provider_settings, running_gateway
from tests.proxy.stage import MINI, PLAIN, ask, assert_equals_books, staged
from tests.upstreams import Behaviour, OpenAICompatible, OpenRouter

MIXED = "deepseek-ai/DeepSeek-V4-Pro"
"""Some backings of this one have a price, and some have none."""

CACHING = "anthropic/claude-sonnet-4.6"
LASTING = "anthropic/claude-sonnet-5.5"
"""This one has a price for what is cached for an hour."""

RECORDS = OpenRouter().catalogue.records
OVERRIDING = [model for model, record in RECORDS.items() if record["pricing"].get("overrides")]
WITH_FEE = [
    model
    for model, record in RECORDS.items()
    if Decimal(record["pricing"].get("request") or 0) > 0 and not record["pricing"].get("overrides")
]

SCRIPTED: dict[str, tuple[str, Behaviour]] = {
    "a discount": (MINI, Behaviour(discount=Decimal("0.01"))),
    "a cost of its own": (MINI, Behaviour(cost=Decimal("0.0000057915"))),
    "nothing": (MINI, Behaviour(cost=Decimal(0))),
    "a lot": (MINI, Behaviour(cost=Decimal("12.345678901"))),
    "no figure": (MINI, Behaviour(reported_cost="null")),
    "no figure at all": (MINI, Behaviour(reported_cost="absent")),
    "cached": (CACHING, Behaviour(prompt_tokens=5000, cached_tokens=4000, cache_write_tokens=500)),
    "cached, no figure": (
        CACHING,
        Behaviour(prompt_tokens=5000, cached_tokens=4000, cache_write_tokens=500, reported_cost="null"),
    ),
    "more thought than said": (MINI, Behaviour(completion_tokens=2567, reasoning_tokens=2567)),
    "searches": (MINI, Behaviour(web_searches=3)),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_event_costs_what_the_books_say(mongodb_uri: str, *, stream: bool) -> None:
    """Whether the provider names its figure or leaves it to the price table, event and books agree to the last digit."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        for model, behaviour in SCRIPTED.values():
            stage.openrouter.script.enqueue(behaviour)
            assert (await stage.gateway.chat(key, ask(model, stream=stream))).status_code == 200
        events = await stage.events(len(SCRIPTED))
        for (name, (_, behaviour)), event, entry in zip(
            SCRIPTED.items(), events, stage.openrouter.books, strict=True
        ):
            assert_equals_books(event, entry)
            source = "provider" if behaviour.reported_cost == "billed" else "price_table"
            assert event["costSource"] == source, name
            assert event["costInr"].to_decimal() == event["costUsd"].to_decimal() * 83, name
        await stage.assert_balanced(user)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("reported", ["billed", "null"])
async def test_what_is_cached_for_an_hour_costs_more(
    mongodb_uri: str, reported: Any, *, stream: bool
) -> None:
    """Anthropic's API says how much was written for an hour: that has its own price, unless the provider names its figure."""
    body: dict[str, Any] = {"model": LASTING, "max_tokens": 50, "stream": stream}
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        headers = {"x-api-key": await stage.gateway.key(user)}
        for ttl in ("1h", "5m"):
            kept = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": ttl}}
            asked = body | {"messages": [{"role": "user", "content": [kept]}]}
            stage.openrouter.script.enqueue(
                Behaviour(
                    prompt_tokens=5000, cached_tokens=4000, cache_write_tokens=500, reported_cost=reported
                )
            )
            answer = await stage.gateway.http.post("/v1/messages", json=asked, headers=headers)
            assert answer.status_code == 200, answer.text
        by_the_hour, usual = await stage.events(2)
        for event, entry in zip((by_the_hour, usual), stage.openrouter.books, strict=True):
            assert_equals_books(event, entry)
        assert by_the_hour["costUsd"].to_decimal() > usual["costUsd"].to_decimal()
        await stage.assert_balanced(user)


async def test_ones_own_key_at_the_backing_costs_both(mongodb_uri: str) -> None:
    """With the owner's key at the backing, the event has the router's fee and what the backing charges."""
    async with staged(mongodb_uri) as stage:
        stage.openrouter.script.enqueue(Behaviour(byok=True, prompt_tokens=10_000))
        assert (
            await stage.gateway.chat(await stage.gateway.key(role=Role.PREMIUM), ask(MINI))
        ).status_code == 200
        event, entry = await stage.event(), stage.openrouter.books[0]
        assert entry.cost is not None
        assert entry.upstream_cost is not None
        assert event["costUsd"].to_decimal() == entry.cost + entry.upstream_cost


@pytest.mark.parametrize("reported", ["billed", "null"])
async def test_long_prompts_and_fees(mongodb_uri: str, reported: Any) -> None:
    """Prices that change with the prompt's length, and a fee per request, are applied as the provider does."""
    assert OVERRIDING
    assert WITH_FEE
    cases = [(model, tokens) for model in OVERRIDING[:4] for tokens in (1_000, 272_000, 272_001, 1_000_000)]
    cases += [(model, 50) for model in WITH_FEE[:3]]
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM, usageLimits={"monthlyTokens": 10**9})
        key = await stage.gateway.key(user)
        for model, tokens in cases:
            stage.openrouter.script.enqueue(
                Behaviour(prompt_tokens=tokens, cached_tokens=tokens // 2, reported_cost=reported)
            )
            assert (await stage.gateway.chat(key, ask(model, max_tokens=20))).status_code == 200
        for event, entry in zip(await stage.events(len(cases)), stage.openrouter.books, strict=True):
            assert_equals_books(event, entry)
        await stage.assert_balanced(user)


async def test_a_variable_price_is_the_providers_word_or_unknown(mongodb_uri: str) -> None:
    """A model whose price is "-1" costs what the provider says; if it says nothing the cost is unknown, never negative."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for reported in ("billed", "null"):
            stage.openrouter.script.enqueue(Behaviour(reported_cost=reported))
            assert (await stage.gateway.chat(key, ask("openrouter/auto"))).status_code == 200
        known, unknown = await stage.events(2)
        assert_equals_books(known, stage.openrouter.books[0])
        assert (unknown["costUsd"], unknown["costPico"], unknown["costSource"]) == (None, 0, "unknown")
        assert known["servedModel"] != "openrouter/auto"


@pytest.mark.parametrize("metering", ["direct", "leased"])
async def test_an_absurd_bill_is_an_event_too(mongodb_uri: str, tmp_path: Path, metering: str) -> None:
    """Figures that no answer can have, in dollars or in tokens, neither lose the event nor spoil the account."""
    async with staged(mongodb_uri, metering=metering, data_dir=tmp_path) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        stage.openrouter.script.enqueue(
            Behaviour(cost=Decimal(999_999)),
            Behaviour(prompt_tokens=10**10, reported_cost="null"),
            Behaviour(),
        )
        for status in (200, 200, 429):
            assert (await stage.gateway.chat(key, ask(MINI))).status_code == status
        first, second = await stage.events(2)
        assert (first["costSource"], first["estimated"]) == ("price_table", True)
        assert first["costUsd"].to_decimal() == stage.openrouter.books[0].upstream_cost
        assert second["tokens"]["prompt"] == 10**10
        await stage.assert_balanced(user)


async def test_hugging_face_costs_what_its_backing_costs(mongodb_uri: str) -> None:
    """The backing that the answer's header names sets the price; one without a price is charged the dearest, and says so."""
    async with staged(mongodb_uri) as stage:
        record = stage.huggingface.catalogue.records[MIXED]
        live = [each for each in record["providers"] if each["status"] == "live"]
        user = await stage.gateway.user(usageLimits={"dailyRequests": 100})
        key = await stage.gateway.key(user)
        for stream in (False, True):
            for each in live:
                asked = ask(f"huggingface/{MIXED}:{each['provider']}", stream=stream)
                assert (await stage.gateway.chat(key, asked)).status_code == 200
        events = await stage.events(2 * len(live))
        assert {bool(each.get("pricing")) for each in live} == {True, False}
        for event, entry, each in zip(events, stage.huggingface.books, live * 2, strict=True):
            assert event["backing"] == each["provider"]
            if each.get("pricing"):
                assert_equals_books(event, entry)
            else:
                assert (event["estimated"], event["costSource"]) == (True, "price_table")
                assert event["costUsd"].to_decimal() > 0
        await stage.assert_balanced(user)


async def test_a_plain_server_costs_what_is_configured(mongodb_uri: str) -> None:
    """Prices in the configuration count for a server that has none; without them a free one costs nothing, by declaration."""
    upstream = OpenAICompatible()
    upstream.pricing = {"input": Decimal("0.5"), "output": Decimal("1.5")}
    prices = {PLAIN: {"prompt": "0.0000005", "completion": "0.0000015"}}
    priced: dict[str, ProviderSettings] = {}
    async with upstream:
        priced["plain"] = provider_settings(
            "openai_compatible", upstream.base_url, tier="free", options={"prices": prices}
        )
        async with running_gateway(mongodb_uri, priced) as gateway:
            key = await gateway.key()
            for stream in (False, True):
                assert (await gateway.chat(key, ask(PLAIN, stream=stream))).status_code == 200
            assert (await gateway.chat(key, ask("gpt-4o-mini"))).status_code == 200
            *known, declared = await gateway.events()
        for event, entry in zip(known, upstream.books[:2], strict=True):
            assert_equals_books(event, entry)
        assert (declared["costUsd"].to_decimal(), declared["costSource"]) == (0, "declared")
