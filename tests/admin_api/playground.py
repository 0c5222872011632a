"""A gateway between two simulated providers, and the people who use its account service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.documents import User
from tests.admin_api.accounts import token_of
from tests.gateway import RunningGateway, provider_settings, running_gateway
from tests.proxy.stage import ONE_TRY
from tests.upstreams import HuggingFace, OpenRouter, serving

OPENROUTER_KEY = "sk-or-v1-for-tests"
HUGGINGFACE_KEY = "hf_fortests"
FREE = "meta-llama/llama-3.3-70b-instruct:free"


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    user: User
    http: httpx.AsyncClient
    headers: dict[str, str]

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask for something."""
        return await self.http.get(path, headers=self.headers, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Send a body."""
        return await self.http.post(path, headers=self.headers, json=body, **options)

    async def patch(self, path: str, body: Any) -> httpx.Response:
        """Change something."""
        return await self.http.patch(path, headers=self.headers, json=body)

    async def delete(self, path: str) -> httpx.Response:
        """Delete something."""
        return await self.http.delete(path, headers=self.headers)

    async def say(self, message: str, model: str, **fields: Any) -> httpx.Response:
        """Send a chat message."""
        return await self.post("/api/chat", {"message": message, "modelId": model, **fields})


@dataclass(frozen=True)
class Playground:
    """The gateway and its providers."""

    gateway: RunningGateway
    openrouter: OpenRouter
    huggingface: HuggingFace

    async def person(self, role: Role = Role.USER, **fields: Any) -> Person:
        """Sign a new user in."""
        user = await self.gateway.user(role, **fields)
        token = await token_of(self.gateway, user)
        return Person(user, self.gateway.http, {"authorization": f"Bearer {token}"})

    async def documents(self, collection: str, **query: Any) -> list[dict[str, Any]]:
        """Return what is stored, oldest first."""
        return await self.gateway.parts.database[collection].find(query).sort("createdAt").to_list()


@asynccontextmanager
async def playground(
    mongodb_uri: str, *, clock: Callable[[], datetime] = utc_now, **settings: Any
) -> AsyncIterator[Playground]:
    """Serve both providers and a gateway in front of them."""
    openrouter, huggingface = OpenRouter(), HuggingFace()
    async with serving(openrouter, huggingface):
        providers = {
            "openrouter": provider_settings("openrouter", openrouter.base_url, api_key_env="TEST_KEY"),
            "huggingface": provider_settings(
                "huggingface", huggingface.base_url, api_key_env="TEST_KEY", tier="free"
            ),
        }
        settings = {"resilience": ONE_TRY, **settings}
        keys = {"openrouter": (OPENROUTER_KEY,), "huggingface": (HUGGINGFACE_KEY,)}
        async with running_gateway(
            mongodb_uri, providers, provider_keys=keys, clock=clock, **settings
        ) as gateway:
            yield Playground(gateway, openrouter, huggingface)
