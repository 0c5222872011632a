"""Tests of proxy/completions.py: who is admitted, where his request goes, and what is set for him."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpx

from proxy.core.routing import Role
from tests.gateway import provider_settings, running_gateway
from tests.proxy.stage import FREE, LLAMA, MINI, OSS, PLAIN, Stage, ask, staged
from tests.proxy.test_errors import assert_openai_error
from tests.upstreams import Behaviour, OpenAICompatible

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def at_once(stage: Stage, key: str, count: int, body: dict[str, Any]) -> list[httpx.Response]:
    return await asyncio.gather(*(stage.gateway.chat(key, body) for _ in range(count)))


async def test_fifty_of_sixty(mongodb_uri: str) -> None:
    """Of sixty requests at once, a limit of fifty a day lets exactly fifty through; the rest learn when to come back."""
    async with staged(mongodb_uri, clock=lambda: NOON) as stage:
        user = await stage.gateway.user()
        key = await stage.gateway.key(user)
        answers = await at_once(stage, key, 60, ask(FREE, max_tokens=16))
        assert Counter(answer.status_code for answer in answers) == {200: 50, 429: 10}
        refused = next(answer for answer in answers if answer.status_code == 429)
        late = await stage.gateway.chat(key, ask(FREE))
        error = assert_openai_error(late, 429, "rate_limit_exceeded")
        assert "Daily request limit" in error["message"]
        assert late.headers["x-should-retry"] == "false"
        # By the database's clock, which may be some milliseconds behind.
        assert int(late.headers["retry-after"]) in (12 * 3600, 12 * 3600 + 1)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert len(stage.openrouter.books) == 50
        await stage.events(50)
        await stage.assert_balanced(user)


async def test_limits_of_premium_users_and_of_one_user(mongodb_uri: str) -> None:
    """Premium users have wider limits, and an admin's limits for one user win over his role's."""
    async with staged(mongodb_uri, limits={"premium": limits_of(daily_requests=7)}) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        answers = await at_once(stage, await stage.gateway.key(user), 10, ask(FREE, max_tokens=16))
        assert Counter(answer.status_code for answer in answers) == {200: 7, 429: 3}
        other = await stage.gateway.user(usageLimits={"monthlyRequests": 2})
        answers = await at_once(stage, await stage.gateway.key(other), 5, ask(FREE, max_tokens=16))
        assert Counter(answer.status_code for answer in answers) == {200: 2, 429: 3}
        late = await stage.gateway.chat(await stage.gateway.key(other), ask(FREE))
        assert "Monthly request limit" in late.json()["error"]["message"]


def limits_of(**limits: int) -> dict[str, int]:
    return {"daily_requests": 100, "monthly_requests": 1000, "monthly_tokens": 100_000, **limits}


async def test_what_is_left_is_the_cap(mongodb_uri: str) -> None:
    """Near the end of the month's tokens the cap is lowered and a header says so; below sixteen there is no answer."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(usageLimits={"monthlyTokens": 1_200})
        key = await stage.gateway.key(user)
        stage.openrouter.script.always(Behaviour(text="word " * 2000))
        spent, caps = 0, []
        while True:
            response = await stage.gateway.chat(key, ask(FREE, max_tokens=200))
            if response.status_code != 200:
                break
            caps.append(stage.openrouter.books[-1].body["max_tokens"])
            assert response.headers.get("x-aipasta-max-tokens") == (str(caps[-1]) if caps[-1] < 200 else None)
            spent += stage.openrouter.books[-1].total_tokens
            assert spent <= 1_200
        assert len(caps) >= 3
        assert caps[0] == 200
        assert 16 <= caps[-1] < 200
        error = assert_openai_error(response, 429, "rate_limit_exceeded")
        assert "Monthly token limit" in error["message"]
        assert response.headers["x-should-retry"] == "false"
        await stage.events(len(caps))
        await stage.assert_balanced(user)


async def test_a_whole_limit_is_not_held_for_one_answer(mongodb_uri: str) -> None:
    """Five requests at once without a cap, to a model that could write 235,929 tokens, are all served."""
    async with staged(mongodb_uri) as stage:
        model = next(
            entry.info
            for entry in stage.gateway.parts.catalog.current.all()
            if (entry.info.max_output_tokens or 0) > 100_000 and entry.tier == "free"
        )
        key = await stage.gateway.key()
        stage.openrouter.script.always(Behaviour(delay_headers=0.2))
        answers = await at_once(stage, key, 5, ask(model.id))
        assert [answer.status_code for answer in answers] == [200] * 5
        assert {answer.headers["x-aipasta-max-tokens"] for answer in answers} == {"4096"}


async def test_other_requests_in_flight_are_waited_for(mongodb_uri: str) -> None:
    """A refusal that is due to open holds alone says to come back in a second, and then there is room."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(usageLimits={"monthlyTokens": 1000})
        key = await stage.gateway.key(user)
        stage.openrouter.script.enqueue(Behaviour(delay_headers=3.0))
        first = asyncio.create_task(stage.gateway.chat(key, ask(FREE, max_tokens=2000)))
        await stage.openrouter.books.until(lambda books: len(books) == 1)
        second = await stage.gateway.chat(key, ask(FREE, max_tokens=100))
        assert_openai_error(second, 429, "rate_limit_exceeded")
        assert second.headers["retry-after"] == "1"
        assert second.headers.get("x-should-retry") is None
        assert (await first).status_code == 200
        assert (await stage.gateway.chat(key, ask(FREE, max_tokens=100))).status_code == 200


async def test_what_costs_money_is_for_those_who_pay(mongodb_uri: str) -> None:
    """A free user is refused a paid model under every name and beside every free one, and every paid extra."""
    aliases = {"best": (MINI,), "mixed": (FREE, MINI)}
    wishes: list[dict[str, Any]] = [
        ask(MINI),
        ask(f"openrouter/{MINI}"),
        ask(f"{MINI}:nitro"),
        ask(f"{MINI}:floor"),
        ask(f"openrouter/{MINI}:nitro"),
        ask("best"),
        ask("openrouter/auto"),
        ask(FREE, models=[FREE, MINI]),
        ask(FREE, models=["best"]),
        ask(f"{FREE}:online"),
        ask(FREE, plugins=[{"id": "web"}]),
        ask(FREE, web_search_options={}),
        ask(FREE, tools=[{"type": "openrouter:web_search"}]),
        ask(FREE, preset="x"),
        ask(FREE, service_tier="priority"),
    ]
    async with staged(mongodb_uri, aliases=aliases) as stage:
        free, premium = await stage.gateway.key(), await stage.gateway.key(role=Role.PREMIUM)
        for body in wishes:
            response = await stage.gateway.chat(free, body)
            assert_openai_error(response, 403, "model_not_allowed")
        assert not stage.openrouter.books
        assert await stage.gateway.events() == []
        for body in wishes[:12]:
            assert (await stage.gateway.chat(premium, body)).status_code == 200, body
        # Of an alias with several members, a free user gets the free one.
        assert (await stage.gateway.chat(free, ask("mixed"))).status_code == 200
        assert stage.openrouter.books[-1].model_asked == FREE
        for body in (ask(OSS), ask(f"huggingface/{OSS}"), ask(f"huggingface/{OSS}:groq"), ask(PLAIN)):
            expected = 403 if body["model"] == "never" else 200
            assert (await stage.gateway.chat(free, body)).status_code == expected, body


NAMES: list[tuple[str, str, str]] = [
    (MINI, "openrouter", MINI),
    (f"openrouter/{MINI}", "openrouter", MINI),
    (f"{MINI}:nitro", "openrouter", f"{MINI}:nitro"),
    ("openrouter/auto", "openrouter", "openrouter/auto"),
    ("openrouter/openrouter/auto", "openrouter", "openrouter/auto"),
    (FREE, "openrouter", FREE),
    (f"huggingface/{OSS}", "huggingface", OSS),
    (f"huggingface/{OSS}:groq", "huggingface", f"{OSS}:groq"),
    (f"{OSS}:groq", "huggingface", f"{OSS}:groq"),
    (PLAIN, "plain", PLAIN),
    (f"plain/{PLAIN}", "plain", PLAIN),
    ("quick", "plain", PLAIN),
]
"""What is asked for, whose books it lands in, and what that provider is asked for."""


async def test_a_name_leads_to_its_provider(mongodb_uri: str) -> None:
    """Exact ids, prefixes, suffixes and aliases each lead to one provider, which is asked for its own id."""
    async with staged(mongodb_uri, aliases={"quick": (PLAIN, FREE)}) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for asked, upstream, sent in NAMES:
            response = await stage.gateway.chat(key, ask(asked))
            assert response.status_code == 200, response.text
            assert getattr(stage, upstream).books[-1].body["model"] == sent
        for event, row in zip(await stage.events(len(NAMES)), NAMES, strict=True):
            assert (event["requestedModel"], event["provider"], event["model"]) == row


async def test_a_fallback_is_asked_before_the_first_byte(mongodb_uri: str) -> None:
    """When one target fails, the next is asked; the client gets its answer, and one event tells of both attempts."""
    async with staged(mongodb_uri, aliases={"any": (f"huggingface/{OSS}", PLAIN)}) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        for failure in ("503_html_sim", "429_hub_ratelimit_headers", "401_bad_token", "402_credits"):
            stage.huggingface.script.enqueue(Behaviour(error=failure))
            response = await stage.gateway.chat(key, ask("any", stream=True))
            assert response.headers["x-aipasta-provider"] == "plain"
            assert response.text.endswith("data: [DONE]\n\n")
        for event, entry in zip(await stage.events(4), stage.plain.books, strict=True):
            first, second = event["attempts"]
            assert (first["provider"], second["provider"], second["outcome"]) == (
                "huggingface",
                "plain",
                "completed",
            )
            assert first["status"] >= 400
            assert (event["provider"], event["requests"]) == ("plain", 1)
            assert event["tokens"]["completion"] == entry.completion_tokens
        stage.huggingface.script.enqueue(Behaviour(error="upstream_message_shape_sim"))
        assert_openai_error(await stage.gateway.chat(key, ask("any")), 400, None)
        stage.huggingface.script.enqueue(Behaviour(error="504_html_sim", error_after=2))
        response = await stage.gateway.chat(key, ask("any", stream=True))
        assert '"error"' in response.text
        assert len(stage.plain.books) == 4
        await stage.events(6)
        await stage.assert_balanced(user)


async def test_models_of_several_providers(mongodb_uri: str) -> None:
    """Each provider sees of `models` only its own, under the names that it knows."""
    async with staged(mongodb_uri, aliases={"quick": (FREE,)}) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        wish = ask(f"openrouter/{MINI}", models=[f"huggingface/{OSS}", "quick", f"openrouter/{LLAMA}"])
        assert (await stage.gateway.chat(key, wish)).status_code == 200
        body = stage.openrouter.books[-1].body
        assert (body["model"], body["models"]) == (MINI, [FREE, LLAMA])
        stage.openrouter.script.enqueue(Behaviour(error="503_documented"))
        assert (await stage.gateway.chat(key, wish)).headers["x-aipasta-provider"] == "huggingface"
        assert "models" not in stage.huggingface.books[-1].body
        assert (await stage.gateway.chat(key, ask(PLAIN, models=[]))).status_code == 200
        assert stage.plain.books[-1].body.get("models", []) == []


async def test_too_many_at_once_are_503(mongodb_uri: str) -> None:
    """Beyond the configured number of requests in flight, a client is told at once to come back."""
    async with staged(mongodb_uri, limits={"concurrent_requests": 3}) as stage:
        key = await stage.gateway.key()
        stage.plain.script.always(Behaviour(delay_headers=0.5))
        running = [asyncio.create_task(stage.gateway.chat(key, ask(PLAIN))) for _ in range(3)]
        await stage.plain.books.until(lambda books: len(books) == 3)
        response = await stage.gateway.chat(key, ask(PLAIN))
        assert_openai_error(response, 503, "service_unavailable")
        assert response.headers["retry-after"] == "1"
        assert [answer.status_code for answer in await asyncio.gather(*running)] == [200] * 3
        assert (await stage.gateway.chat(key, ask(PLAIN))).status_code == 200


async def test_a_small_context_has_room_for_the_answer(mongodb_uri: str) -> None:
    """A server that refuses a cap beyond its context gets none from us that is, where the caller has named none."""
    async with OpenAICompatible(context_length=4_096) as small:
        providers = {"plain": provider_settings("openai_compatible", small.base_url, tier="free")}
        async with running_gateway(mongodb_uri, providers) as gateway:
            key = await gateway.key()
            for text in ("hi", "word " * 2_000):
                answer = await gateway.chat(key, ask(PLAIN, text))
                assert answer.status_code == 200, answer.text
                assert int(answer.headers["x-aipasta-max-tokens"]) >= 1_024
            refused = await gateway.chat(key, ask(PLAIN, max_tokens=4_096))
            assert (refused.status_code, "context" in refused.text) == (400, True)
