"""Tests of proxy/handlers/headers.py, on a real gateway: over every status, surface and kind of answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx

from proxy.bounds import Bounds
from proxy.core.routing import Role
from proxy.handlers.headers import ALWAYS, IN_PRODUCTION
from proxy.settings import ProviderSettings
from tests.admin_api.accounts import signed_in
from tests.gateway import RunningGateway, running_gateway
from tests.proxy.stage import FREE, MINI, Stage, ask, staged
from tests.upstreams import Behaviour

HSTS = "strict-transport-security"
ORIGIN = "http://localhost:3000"
PREFLIGHT = {"origin": ORIGIN, "access-control-request-method": "POST"}
STATUSES = (200, 201, 204, 400, 401, 402, 403, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504)
BODY: dict[str, Any] = {"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def assert_protected(answer: httpx.Response, *, may_be_read: bool = True) -> None:
    """Check what every answer carries; `may_be_read` says that a page of ours has asked for it."""
    headers, what = answer.headers, f"{answer.status_code} {answer.request.url}"
    own = {"cache-control"} if "cache-control" in headers else set()
    for name in ALWAYS.keys() - own:
        assert headers.get(name) == ALWAYS[name], f"{name}: {what}"
    assert headers["cache-control"] in ("no-store", "no-cache, no-transform"), what
    assert HSTS not in headers
    assert not {"server", "x-powered-by"} & headers.keys()
    assert headers["x-request-id"], what
    assert "Origin" in headers["vary"], what
    if may_be_read:
        assert headers["access-control-allow-origin"] == ORIGIN, what
        assert headers["access-control-allow-credentials"] == "true", what


async def test_every_status_is_protected(mongodb_uri: str) -> None:
    """Each status that the gateway knows carries the security headers, an id and the CORS headers, on both surfaces."""
    limits = {"chat_body_bytes": 100_000}
    patience = {"first_byte": 0.2, "total": 0.4}
    bounds = Bounds(head_seconds=1.0)
    async with staged(mongodb_uri, limits=limits, timeouts=patience, connections=bounds) as stage:
        stage.gateway.http.headers["origin"] = ORIGIN
        seen = [answer async for answer in _answers(stage)]
        for answer in seen:
            # Where the request's head is not known, nobody knows which page has sent it.
            assert_protected(answer, may_be_read=answer.status_code != 408)
        assert {answer.status_code for answer in seen} == set(STATUSES)
        assert any(answer.headers["content-type"].startswith("text/event-stream") for answer in seen[:3])


async def _answers(stage: Stage) -> AsyncIterator[httpx.Response]:
    gateway, http = stage.gateway, stage.gateway.http
    account = await signed_in(gateway, Role.PREMIUM)
    key = await gateway.key(account.user)
    yield await gateway.chat(key, ask(MINI, stream=True))
    yield await gateway.chat(key, ask(MINI))
    yield await account.send("POST", "/api/chat", {"message": "hello", "modelId": FREE, "stream": True})
    for path in ("/", "/health", "/health/ready", "/metrics", "/docs/openapi.json", "/api/models"):
        yield await http.get(path)
        yield await http.head(path)
        yield await http.options(path)
        yield await http.options(path, headers=PREFLIGHT)
    yield await account.send("POST", "/api/user/api-keys", {"name": "k"})
    yield await account.send("GET", "/api/user/export")
    async for refused in _refusals(stage, key):
        yield refused
    async for failed in _failures(stage, key):
        yield failed


async def _refusals(stage: Stage, key: str) -> AsyncIterator[httpx.Response]:
    gateway, http = stage.gateway, stage.gateway.http
    account = await signed_in(gateway)
    yield await http.post("/api/auth/login", content=b"{")
    yield await gateway.chat(key, b"{")
    yield await http.get("/health?token=x")
    yield await http.get("/api/auth/me")
    yield await gateway.chat("wrong", BODY)
    yield await gateway.chat(await gateway.key(role=Role.PREMIUM, totalBudget=0.000001), ask(MINI))
    yield await gateway.chat(await gateway.key(account.user), ask(MINI))
    yield await account.send("GET", "/api/admin/users")
    yield await http.get("/nowhere")
    yield await http.get("/api/nowhere")
    yield await gateway.chat(key, ask("no/such"))
    yield await http.put("/health")
    yield await http.request("TRACE", "/health")
    yield await gateway.chat(key, b" " * 200_000)
    yield await http.post("/api/auth/login", content=b" " * 90_000)
    yield await gateway.chat(key, b"x", headers={"content-encoding": "gzip"})
    busy = await gateway.key(account.user, requestsPerMinute=1)
    yield await gateway.chat(busy, ask(FREE))
    yield await gateway.chat(busy, ask(FREE))


async def _failures(stage: Stage, key: str) -> AsyncIterator[httpx.Response]:
    gateway = stage.gateway
    stage.openrouter.script.enqueue(Behaviour(error="500_documented"), times=4)
    yield await gateway.chat(key, ask(MINI))
    stage.openrouter.script.clear()
    stage.openrouter.script.enqueue(Behaviour(delay_headers=5), times=4)
    yield await gateway.chat(key, ask(MINI))
    endpoint = gateway.parts.relay.endpoints.pop("openrouter")
    yield await gateway.chat(key, ask(MINI))  # a defect
    gateway.parts.relay.endpoints["openrouter"] = endpoint
    yield await _half_a_request(gateway)
    await gateway.parts.completions.drain(0)
    yield await gateway.chat(key, ask(MINI))
    yield await gateway.http.get("/health/ready")


async def _half_a_request(gateway: RunningGateway) -> httpx.Response:
    """Send a part of a head and no more; return the answer."""
    port = int(gateway.base_url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST /api/auth/login HTTP/1.1\r\nOrigin: {ORIGIN}\r\n".encode())
    try:
        raw = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    finally:
        writer.close()
    status, *lines = raw.decode().strip().split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    request = httpx.Request("POST", f"{gateway.base_url}/api/auth/login")
    return httpx.Response(int(status.split()[1]), headers=headers, request=request)


async def test_production_asks_for_tls(mongodb_uri: str) -> None:
    """In production browsers are told to come back over TLS alone, by errors and streams too."""
    demo = {"demo": ProviderSettings(plugin="demo")}
    async with running_gateway(mongodb_uri, demo, environment="production") as gateway:
        answers = [
            await gateway.http.get("/health"),
            await gateway.http.get("/nowhere"),
            await gateway.chat(await gateway.key(), BODY),
            await gateway.chat("wrong", BODY),
        ]
        assert [answer.status_code for answer in answers] == [200, 404, 200, 401]
        for answer in answers:
            assert answer.headers.items() >= IN_PRODUCTION.items()
