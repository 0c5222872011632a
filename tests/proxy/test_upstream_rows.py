"""Tests of what OpenRouter and Hugging Face do that no other test of the gateway meets: limits, slugs, late records."""

from __future__ import annotations

from proxy.core.routing import Role
from tests.proxy.stage import FREE, LLAMA, MINI, OSS, PLAIN, ask, assert_equals_books, staged
from tests.upstreams import Behaviour, FreeLimits


async def test_free_limits_go_on_to_a_fallback(mongodb_uri: str) -> None:
    """OpenRouter's own limit on free models is 429 to a caller, and a reason to ask somebody else; neither is charged."""
    async with staged(mongodb_uri, fallbacks={"free": (FREE, PLAIN)}) as stage:
        stage.openrouter.free_limits = FreeLimits(per_minute=2, per_day=2)
        user = await stage.gateway.user()
        key = await stage.gateway.key(user)
        statuses = [(await stage.gateway.chat(key, ask(FREE))).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        response = await stage.gateway.chat(key, ask("free"))
        assert (response.status_code, response.headers["x-aipasta-provider"]) == (200, "plain")
        events = await stage.events(4)
        assert [event["requests"] for event in events] == [1, 1, 0, 1]
        await stage.assert_balanced(user)


async def test_a_changed_slug_is_recorded(mongodb_uri: str) -> None:
    """The event keeps the model that was asked for beside the one that is said to have served."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for stream in (False, True):
            stage.openrouter.script.enqueue(Behaviour(served_model=LLAMA))
            assert (await stage.gateway.chat(key, ask(MINI, stream=stream))).status_code == 200
        for event, entry in zip(await stage.events(2), stage.openrouter.books, strict=True):
            assert (event["requestedModel"], event["model"], event["servedModel"]) == (MINI, MINI, LLAMA)
            assert_equals_books(event, entry)


async def test_a_late_record_makes_a_cut_stream_exact(mongodb_uri: str) -> None:
    """What a stream that was cut has cost is what /generation says, be it 404 at first; so says the attempt too."""
    async with staged(mongodb_uri, keeps_records=True) as stage:
        stage.openrouter.generation_delay = 0.5
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        stage.openrouter.script.enqueue(Behaviour(cut="rst", cut_after=2))
        assert "[DONE]" not in (await stage.gateway.chat(key, ask(MINI, stream=True))).text
        event, entry = await stage.event(), stage.openrouter.books[0]
        assert sum("/generation?" in each for each in stage.openrouter.requests) >= 2
        assert not event["estimated"]
        assert event["costUsd"].to_decimal() == entry.cost != 0
        assert event["attempts"][0]["costUsd"] == event["costUsd"]
        assert event["generationId"] == entry.generation_id
        await stage.assert_balanced(user)


async def test_the_token_is_judged_before_the_model(mongodb_uri: str) -> None:
    """A token that Hugging Face refuses is our trouble, whatever the model: 502, and never the caller's 404."""
    async with staged(mongodb_uri) as stage:
        stage.huggingface.keys = frozenset()
        key = await stage.gateway.key(role=Role.PREMIUM)
        assert (await stage.gateway.chat(key, ask(f"huggingface/{OSS}:no-such-backing"))).status_code == 502


async def test_a_slow_whole_answer_is_504(mongodb_uri: str) -> None:
    """The router's own loss of patience, a page of HTML, is a clear 504 that costs nothing."""
    async with staged(mongodb_uri) as stage:
        stage.huggingface.gateway_timeout = 0.05
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.huggingface.script.enqueue(Behaviour(delay_headers=0.3))
        response = await stage.gateway.chat(key, ask(f"huggingface/{OSS}"))
        assert (response.status_code, response.json()["error"]["code"]) == (504, "provider_timeout")
        assert "<" not in response.json()["error"]["message"]
        assert (await stage.event())["costUsd"].to_decimal() == stage.huggingface.books[0].cost == 0
