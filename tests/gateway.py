"""A real gateway for tests: the whole application on a socket of its own, in the test's event loop."""

from __future__ import annotations

import gc
import itertools
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from beanie import PydanticObjectId
from httpx_aiohttp import AiohttpTransport
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from admin_api.users.schemas import NewApiKey
from admin_api.users.service import create_api_key
from proxy import serving
from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.documents import User
from proxy.gateway import Gateway
from proxy.routes import Timeouts
from proxy.server import App, create_app
from proxy.settings import ProviderSettings, Settings

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Has no certificates: reading the system's takes longer than starting a gateway should."""

_numbers = itertools.count(1)
JWT_SECRET = "0123456789abcdef0123456789abcdef-for-tests"
PASSWORD = "correct horse battery"


class GivenSettings(Settings):
    """Settings that are given as they are; to look for each in the environment takes as long as to connect."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  not used here, as the others
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing else."""
        return (init_settings,)


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that serves, and a client for it."""

    app: App
    base_url: str
    http: httpx.AsyncClient

    @property
    def parts(self) -> Gateway:
        """Return what it serves with."""
        gateway: Gateway = self.app.ctx.gateway
        return gateway

    async def user(self, role: Role = Role.USER, **fields: Any) -> User:
        """Put a user into the database."""
        now, number = utc_now(), next(_numbers)
        user = User(
            name=f"User {number}",
            email=f"user{number}@example.com",
            password="no password",
            role=role,
            createdAt=now,
            updatedAt=now,
            **fields,
        )
        return await user.insert()

    async def key(self, user: User | None = None, *, role: Role = Role.USER, **wish: Any) -> str:
        """Make an API key, for a new user unless one is given, and return its secret."""
        owner = user or await self.user(role)
        assert isinstance(owner.id, PydanticObjectId)
        wishes = NewApiKey(**{"name": "test", "expiresIn": "never", **wish})
        secret, _ = await create_api_key(owner.id, wishes, most=100, now=utc_now())
        return secret

    async def chat(self, key: str, body: Mapping[str, Any] | bytes, **options: Any) -> httpx.Response:
        """Post a chat completion."""
        headers = {"authorization": f"Bearer {key}", **options.pop("headers", {})}
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        return await self.http.post("/v1/chat/completions", headers=headers, **content, **options)

    async def settled(self) -> None:
        """Wait until the database knows everything that has ended."""
        await self.parts.completions.settled()
        await self.parts.meter.flush()

    async def events(self) -> list[dict[str, Any]]:
        """Return every usage event as it is stored, oldest first."""
        await self.settled()
        return await self.parts.database["usageevents"].find().sort("at").to_list()

    async def account(self, user: User) -> dict[str, Any]:
        """Return a user's account document."""
        await self.settled()
        return await self.parts.database["accounts"].find_one({"_id": str(user.id)}) or {}


def provider_settings(plugin: str, base_url: str, **values: Any) -> ProviderSettings:
    """Configure a provider with a key in the environment variable `TEST_KEY`, impatiently."""
    timeouts = {"connect": 2, "first_byte": 5, "idle": 5, "total": 30}
    return ProviderSettings(
        plugin=plugin,
        base_url=base_url,
        timeouts=Timeouts(**{**timeouts, **values.pop("timeouts", {})}),
        **values,
    )


@asynccontextmanager
async def running_gateway(
    mongodb_uri: str,
    providers: Mapping[str, ProviderSettings] | None = None,
    *,
    provider_keys: Mapping[str, tuple[str, ...]] | None = None,
    clock: Callable[[], datetime] = utc_now,
    **values: Any,
) -> AsyncIterator[RunningGateway]:
    """Serve on a free port for a while; `values` are settings by their names."""
    settings: Settings = GivenSettings(jwt_secret=JWT_SECRET, providers=dict(providers or {}), **values)
    settings = settings.model_copy(update={"provider_keys": dict(provider_keys or {})})
    app = create_app(settings, mongodb_uri, clock=clock, name=f"test-{next(_numbers)}")
    app.config.TOUCHUP = False  # Sanic can rewrite its methods for one application of a process alone
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = await serving.create_server(app, listener)
        gc.disable()  # CPython 3.11's `compile`, to which Sanic gives its router, miscounts when finalizers run inside
        try:
            await serving.start(server)
        finally:
            gc.enable()
        try:
            async with httpx.AsyncClient(
                base_url=base_url, transport=AiohttpTransport(verify=_NO_TLS, trust_env=False), timeout=30
            ) as http:
                yield RunningGateway(app, base_url, http)
        finally:
            await serving.stop(server, settings.drain_seconds)
