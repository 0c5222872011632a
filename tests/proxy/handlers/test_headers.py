"""Tests of proxy/handlers/headers.py, on a real gateway."""

from __future__ import annotations

from proxy.handlers.headers import ALWAYS, IN_PRODUCTION
from proxy.settings import ProviderSettings
from tests.gateway import RunningGateway, running_gateway

HSTS = "strict-transport-security"


async def answers_of(gateway: RunningGateway) -> list[dict[str, str]]:
    key = await gateway.key()
    body = {"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    answers = [
        await gateway.http.get("/"),
        await gateway.http.get("/health"),
        await gateway.http.get("/nowhere"),
        await gateway.http.put("/health"),
        await gateway.http.options("/health"),
        await gateway.http.get("/api/auth/me"),
        await gateway.http.post("/api/auth/login", content=b"{"),
        await gateway.chat(key, body),
        await gateway.chat("wrong", body),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 405, 204, 401, 400, 200, 401]
    return [dict(answer.headers) for answer in answers]


async def test_every_answer_is_protected(mongodb_uri: str) -> None:
    """Successes, errors and streams carry the same headers, and none says what the server is made of."""
    async with running_gateway(mongodb_uri) as gateway:
        for headers in await answers_of(gateway):
            assert headers.items() >= ALWAYS.items()
            assert HSTS not in headers
            assert not {"server", "x-powered-by"} & headers.keys()


async def test_production_asks_for_tls(mongodb_uri: str) -> None:
    """In production browsers are told to come back over TLS alone."""
    demo = {"demo": ProviderSettings(plugin="demo")}
    async with running_gateway(mongodb_uri, demo, environment="production") as gateway:
        for headers in await answers_of(gateway):
            assert headers.items() >= (ALWAYS | IN_PRODUCTION).items()
