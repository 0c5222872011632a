"""Tests of proxy/server.py: the whole application starts, serves beside its like, and ends in good order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from admin_api import deletion, mail
from proxy.core.routing import Role
from proxy.documents import User
from proxy.metering import leased
from tests.gateway import PASSWORD, running_gateway
from tests.proxy.stage import FREE, MINI, ask, assert_equals_books, staged
from tests.proxy.test_errors import assert_openai_error
from tests.upstreams import Behaviour


async def test_the_first_admin_is_made_at_the_start(mongodb_uri: str) -> None:
    """ADMIN_EMAIL and ADMIN_PASSWORD make one admin, once, however often the gateway starts."""
    admin: dict[str, Any] = {"admin_email": "Root@Example.com", "admin_password": PASSWORD}
    for _ in range(2):
        async with running_gateway(mongodb_uri, **admin):
            (user,) = await User.find_all().to_list()
            assert (user.email, user.role, user.isActive) == ("root@example.com", Role.ADMIN, True)


async def test_a_start_without_any_provider_serves_accounts(mongodb_uri: str) -> None:
    """In production without a provider key the gateway runs, and every model is unavailable for now."""
    async with running_gateway(mongodb_uri, environment="production") as gateway:
        assert gateway.parts.relay.endpoints == {}
        assert (await gateway.http.get("/health/ready")).status_code == 200
        response = await gateway.chat(await gateway.key(), ask("demo/echo"))
        assert_openai_error(response, 503, "service_unavailable")


async def test_an_immediate_stop_is_a_stop(mongodb_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is stopped as soon as it has started ends at once: no wait for its background work runs out."""
    hour = 3600.0
    monkeypatch.setattr(deletion, "_LAST_SECONDS", hour)
    monkeypatch.setattr(mail, "_LAST_MAILS_SECONDS", hour)
    monkeypatch.setattr(leased, "STOP_SECONDS", hour)
    async with asyncio.timeout(60):
        for _ in range(3):
            async with running_gateway(mongodb_uri, drain_seconds=hour):
                pass


async def test_a_drain_finishes_what_runs_and_refuses_the_rest(mongodb_uri: str) -> None:
    """While draining, a running stream ends well and is recorded, new calls are 503, and readiness says so."""
    async with staged(mongodb_uri) as stage:
        gateway = stage.gateway
        key = await gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(pieces=10, delay_between=0.05))
        running = asyncio.create_task(gateway.chat(key, ask(MINI, stream=True)))
        await stage.openrouter.books.until(lambda books: bool(books) and books[-1].pieces_sent > 1)
        draining = asyncio.create_task(gateway.parts.completions.drain(10))
        await asyncio.sleep(0)
        refused = await gateway.chat(key, ask(FREE))
        assert_openai_error(refused, 503, "service_unavailable")
        assert refused.headers["retry-after"] == "1"
        ready = await gateway.http.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "DRAINING"})
        assert (await gateway.http.get("/health")).status_code == 200
        assert (await running).text.endswith("data: [DONE]\n\n")
        await draining
        assert_equals_books(await stage.event(), stage.openrouter.books[0])


async def test_a_drain_has_an_end(mongodb_uri: str) -> None:
    """What outlasts the drain is ended: a stream by an error event, a whole answer by 503; both are recorded."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        stage.openrouter.script.enqueue(
            Behaviour(pieces=1000, delay_between=0.05), Behaviour(delay_headers=4.5)
        )
        stream = asyncio.create_task(stage.gateway.chat(key, ask(MINI, stream=True)))
        await stage.openrouter.books.until(lambda books: bool(books) and books[-1].pieces_sent > 1)
        whole = asyncio.create_task(stage.gateway.chat(key, ask(MINI)))
        await stage.openrouter.books.until(lambda books: len(books) == 2)
        await stage.gateway.parts.completions.drain(0.1)
        assert '"service_unavailable"' in (await stream).text
        assert "[DONE]" not in (await stream).text
        assert_openai_error(await whole, 503, "service_unavailable")
        assert [event["outcome"] for event in await stage.events(2)] == ["shutdown", "shutdown"]
        await stage.assert_balanced(user)


async def test_a_drain_waits_for_records(mongodb_uri: str) -> None:
    """What a stream cost that the drain has cut is what its provider writes down a moment later, not an estimate."""
    async with staged(mongodb_uri, keeps_records=True) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        endless = Behaviour(pieces=1000, delay_between=0.05, generation_delay=1.0)
        stage.openrouter.script.enqueue(endless)
        stream = asyncio.create_task(stage.gateway.chat(key, ask(MINI, stream=True)))
        await stage.openrouter.books.until(lambda books: bool(books) and books[-1].pieces_sent > 1)
        await stage.gateway.parts.completions.drain(0.1)
        await stream
        event = await stage.event()
        assert event["outcome"] == "shutdown"
        assert_equals_books(event, stage.openrouter.books[0])


async def test_two_gateways_share_one_database(mongodb_uri: str) -> None:
    """Fifty requests a day over two gateways are fifty, and a key made at one is good at the other."""
    async with running_gateway(mongodb_uri) as first, running_gateway(mongodb_uri) as second:
        key = await first.key()
        body: dict[str, Any] = ask("demo/echo", max_tokens=16)
        calls = [gateway.chat(key, body) for _ in range(30) for gateway in (first, second)]
        statuses = [response.status_code for response in await asyncio.gather(*calls)]
        assert (statuses.count(200), statuses.count(429)) == (50, 10)


async def test_a_strangers_sanic_variables_change_nothing(mongodb_uri: str, monkeypatch: Any) -> None:
    """Sanic's own environment variables are not read: there is one reader."""
    monkeypatch.setenv("SANIC_REQUEST_MAX_SIZE", "10")
    async with running_gateway(mongodb_uri) as gateway:
        assert (await gateway.chat(await gateway.key(), ask("demo/echo"))).status_code == 200
