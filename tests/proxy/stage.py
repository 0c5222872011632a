"""A stage for tests of the data plane: a real gateway in front of the three simulated providers, and their books."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from openai import AsyncOpenAI, OpenAI

from proxy.documents import User
from tests.gateway import RunningGateway, provider_settings, running_gateway
from tests.upstreams import Entry, HuggingFace, OpenAICompatible, OpenRouter, serving
from tests.upstreams.books import PATIENCE

MINI = "openai/gpt-4o-mini"
"""A paid model at OpenRouter; its backing stops when its caller leaves."""

FREE = "liquid/lfm-2.5-2.6b:free"
LLAMA = "meta-llama/llama-3.3-70b-instruct"
OSS = "openai/gpt-oss-120b"
"""A model at both routers, dear at one backing of Hugging Face and cheap at another."""

PLAIN = "llama3.2:latest"
KEYS = {"openrouter": ("sk-or-v1-canary",), "huggingface": ("hf_canary",)}
ONE_TRY = {"retries": {"rounds": 1}, "breaker": {"least_requests": 1_000}}
"""Every target is tried once, and none is spared, so that a test that asks for failures sees them."""


@dataclass(frozen=True)
class Stage:
    """The gateway and its providers."""

    gateway: RunningGateway
    openrouter: OpenRouter
    huggingface: HuggingFace
    plain: OpenAICompatible

    def sdk(self, key: str, **options: Any) -> AsyncOpenAI:
        """Return OpenAI's own client, to be used as a context manager."""
        return AsyncOpenAI(
            base_url=f"{self.gateway.base_url}/v1", api_key=key, **{"max_retries": 0, **options}
        )

    def blocking_sdk(self, key: str) -> OpenAI:
        """Return OpenAI's own blocking client."""
        return OpenAI(base_url=f"{self.gateway.base_url}/v1", api_key=key, max_retries=0)

    async def events(self, count: int) -> list[dict[str, Any]]:
        """Wait until there are that many usage events, and return them, oldest first."""
        await self.until(lambda: self._has_events(count))
        events = await self.gateway.events()
        assert len(events) == count, [event["outcome"] for event in events]
        return events

    async def event(self) -> dict[str, Any]:
        """Wait for the one usage event."""
        return (await self.events(1))[0]

    async def until(self, claim: Callable[[], Awaitable[bool]]) -> None:
        """Wait until a claim holds."""
        async with asyncio.timeout(PATIENCE):
            while not await claim():  # noqa: ASYNC110  the database is asked; it tells nobody by itself
                await asyncio.sleep(0.01)

    async def assert_balanced(self, user: User) -> None:
        """Check that what a user's account says becomes the sum of his events, which are written first."""
        async with asyncio.timeout(PATIENCE):
            while not await self._is_balanced(user):  # noqa: ASYNC110  the database is asked
                await asyncio.sleep(0.02)

    async def _is_balanced(self, user: User) -> bool:
        events = [event for event in await self.gateway.events() if event["userId"] == str(user.id)]
        tokens = sum(event["tokens"]["prompt"] + event["tokens"]["completion"] for event in events)
        requests = sum(event["requests"] for event in events)
        cost = sum((Decimal(event["costPico"]) for event in events), Decimal(0)) / 10**12
        standing = await self.gateway.parts.meter.standing(str(user.id), self.gateway.parts.clock())
        totals = (standing.requests, standing.tokens, standing.cost_usd) == (requests, tokens, cost)
        return totals and (standing.daily_requests, standing.monthly_tokens) == (requests, tokens)

    async def _has_events(self, count: int) -> bool:
        return await self.gateway.parts.database["usageevents"].count_documents({}) >= count


@asynccontextmanager
async def staged(
    mongodb_uri: str,
    *,
    timeouts: Mapping[str, float] | None = None,
    keeps_records: bool = False,
    **values: Any,
) -> AsyncIterator[Stage]:
    """Run everything for a while; `timeouts` are the providers', `values` are settings by their names.

    Failures are not tried again at the same target unless a test says so. Unless OpenRouter `keeps_records`, nobody can tell afterwards what a cut stream has cost, and estimates stand.
    """
    openrouter = OpenRouter(generation_delay=0.0 if keeps_records else math.inf)
    huggingface, plain = HuggingFace(), OpenAICompatible()
    values = {"reconcile_seconds": 10.0 if keeps_records else 0.0, "resilience": ONE_TRY, **values}
    async with serving(openrouter, huggingface, plain):
        patience = {"timeouts": dict(timeouts or {})}
        providers = {
            "openrouter": provider_settings("openrouter", openrouter.base_url, **patience),
            "huggingface": provider_settings("huggingface", huggingface.base_url, tier="free", **patience),
            "plain": provider_settings("openai_compatible", plain.base_url, tier="free", **patience),
        }
        keys = {**KEYS, **values.pop("provider_keys", {})}
        async with running_gateway(mongodb_uri, providers, provider_keys=keys, **values) as gateway:
            yield Stage(gateway, openrouter, huggingface, plain)


def ask(model: str, text: str = "hello there", /, **fields: Any) -> dict[str, Any]:
    """Write the body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def assert_equals_books(event: Mapping[str, Any], entry: Entry) -> None:
    """Check an event against the provider's own books, to the last digit."""
    tokens = event["tokens"]
    assert (tokens["prompt"], tokens["completion"]) == (entry.prompt_tokens, entry.completion_tokens)
    assert (tokens["cached"], tokens["cacheWrite"]) == (entry.cached_tokens, entry.cache_write_tokens)
    assert tokens["reasoning"] == entry.reasoning_tokens
    assert event["costUsd"] is not None
    assert event["costUsd"].to_decimal() == entry.cost
    assert not event["estimated"]
