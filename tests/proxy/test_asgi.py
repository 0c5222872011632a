"""Tests of the gateway under a real ASGI server, uvicorn: as Vercel runs it."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from httpx_aiohttp import AiohttpTransport
from openai import AsyncOpenAI

from proxy import database
from proxy.asgi import Application, Message, StartFailed
from proxy.core.routing import Role
from proxy.limits import Limits
from proxy.metering.direct import DirectMeter
from proxy.metering.verify import verify
from proxy.settings import Settings
from tests.gateway import JWT_SECRET, RunningGateway, provider_settings
from tests.proxy.stage import FREE, MINI, ask
from tests.upstreams import Behaviour, OpenRouter, serving

Events = list[dict[str, Any]]
PATHS = ("/v1/models", "/v1/messages", "/api/auth/me")


@dataclass(frozen=True)
class Stage:
    """The application under its server, and the provider behind it."""

    application: Application
    gateway: RunningGateway
    openrouter: OpenRouter

    async def events(self) -> Events:
        """Return the usage events that are in the database now, without waiting for any."""
        return await self.gateway.parts.database["usageevents"].find().sort("at").to_list()


def settings_for(openrouter: OpenRouter, **values: Any) -> Settings:
    providers = {"openrouter": provider_settings("openrouter", openrouter.base_url)}
    settings = Settings(jwt_secret=JWT_SECRET, providers=providers, **values)
    return settings.model_copy(update={"provider_keys": {"openrouter": ("sk-or-v1-canary",)}})


@asynccontextmanager
async def listening(application: Application, *, lifespan: bool = True) -> AsyncIterator[str]:
    """Let uvicorn serve an application on a free port for a while."""
    config = uvicorn.Config(application, lifespan="on" if lifespan else "off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve(sockets=[listener]))
        async with asyncio.timeout(30):
            while not server.started and not running.done():  # noqa: ASYNC110  uvicorn tells nobody
                await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def staged(
    mongodb_uri: str, *, lifespan: bool = True, record_after: float = math.inf, **values: Any
) -> AsyncIterator[Stage]:
    """Run everything for a while; OpenRouter can tell `record_after` seconds later what a request has cost."""
    openrouter = OpenRouter(generation_delay=record_after)
    values = {"reconcile_seconds": 0.0 if math.isinf(record_after) else 10.0, **values}
    async with serving(openrouter):
        application = Application(settings_for(openrouter, **values), mongodb_uri)
        async with (
            listening(application, lifespan=lifespan) as base_url,
            httpx.AsyncClient(
                base_url=base_url, transport=AiohttpTransport(trust_env=False), timeout=30
            ) as http,
        ):
            if not lifespan:
                await http.get("/health")
            assert application._life is not None
            yield Stage(application, RunningGateway(application._life.app, base_url, http), openrouter)
        if not lifespan:
            await application._stop()


async def test_an_sdk_lists_chats_and_streams(mongodb_uri: str) -> None:
    """OpenAI's SDK works, and each answer's usage event is there when the answer is, without any waiting."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        assert isinstance(stage.gateway.parts.meter, DirectMeter)
        async with AsyncOpenAI(base_url=f"{stage.gateway.base_url}/v1", api_key=key, max_retries=0) as sdk:
            assert MINI in [model.id async for model in sdk.models.list()]
            answer = await sdk.chat.completions.create(**ask(MINI))
            assert answer.choices[0].message.content
            assert [event["outcome"] for event in await stage.events()] == ["completed"]
            async for _ in await sdk.chat.completions.create(**ask(MINI), stream=True):
                pass
            assert [event["outcome"] for event in await stage.events()] == ["completed"] * 2
        spent = sum(entry.cost or 0 for entry in stage.openrouter.books)
        assert sum(event["costUsd"].to_decimal() for event in await stage.events()) == spent
        report = await verify(stage.gateway.parts.database)
        assert (report.drift, report.open_holds) == (0, 0)


async def test_the_pieces_of_a_stream_are_not_held_back(mongodb_uri: str) -> None:
    """The first piece arrives while the provider still waits to make the second."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()
        stage.openrouter.script.enqueue(Behaviour(pieces=3, delay_between=0.5))
        headers = {"authorization": f"Bearer {key}"}
        body = ask(FREE, stream=True)
        async with stage.gateway.http.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as answer:
            assert answer.headers["x-accel-buffering"] == "no"
            pieces = answer.aiter_bytes()
            seen = await anext(pieces)
            assert stage.openrouter.books[-1].closed is None
            assert b"[DONE]" not in seen
            assert b"[DONE]" in b"".join([piece async for piece in pieces])


async def test_the_last_byte_waits_for_the_usage_event(mongodb_uri: str) -> None:
    """A stream that breaks off ends for its client when the provider has told its cost, and the event says so."""
    async with staged(mongodb_uri, record_after=0.5) as stage:
        key = await stage.gateway.key()
        stage.openrouter.script.enqueue(Behaviour(cut="rst", cut_after=2, pieces=5))
        answer = await stage.gateway.chat(key, ask(FREE, stream=True))
        (event,) = await stage.events()
        assert '"error"' in answer.text
        assert "[DONE]" not in answer.text
        assert (event["outcome"], event["estimated"]) == ("upstream_error", False)
        assert stage.gateway.parts.completions._services.settlements == set()


async def test_a_client_that_leaves_is_noticed_and_its_usage_written_down(mongodb_uri: str) -> None:
    """A client that closes in mid-stream ends the provider's work, and leaves one event and no hold behind."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(pieces=200, delay_between=0.05, provider="DeepInfra"))
        headers = {"authorization": f"Bearer {key}"}
        async with stage.gateway.http.stream(
            "POST", "/v1/chat/completions", json=ask(MINI, stream=True), headers=headers
        ) as answer:
            await anext(answer.aiter_bytes())
        async with asyncio.timeout(60):
            while not await stage.events():  # noqa: ASYNC110  the database is asked
                await asyncio.sleep(0.02)
        assert [event["outcome"] for event in await stage.events()] == ["client_gone"]
        await stage.gateway.settled()
        assert (await verify(stage.gateway.parts.database)).open_holds == 0


async def test_an_application_returns_when_the_request_it_was_left_with_is_over(mongodb_uri: str) -> None:
    """When the client has gone, the call lasts until the event is written: a function is not frozen before."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(pieces=10, delay_between=0.05, provider="Groq"))
        content = json.dumps(ask(MINI, stream=True)).encode()
        sent = await hold(stage.application, key, {"body": content}, leaves=True)
        (event,) = await stage.events()
        assert sent[0]["status"] == 200
        assert event["outcome"] == "client_gone"
        assert event["tokens"]["completion"] == stage.openrouter.books[-1].completion_tokens


async def test_half_a_body_is_no_request(mongodb_uri: str) -> None:
    """A client that leaves in the middle of its body is let go; one that does not go on is answered 408."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()
        half = {"body": b'{"model":', "more_body": True}
        assert await hold(stage.application, key, half, leaves=True) == []
        stage.application._body_seconds = 0.1
        start, body = await hold(stage.application, key, half, leaves=False)
        assert start["status"] == 408
        assert json.loads(body["body"])["error"]["code"] == "request_timeout"
        assert await stage.events() == []
        assert len(stage.openrouter.books) == 0


async def test_websockets_are_refused(mongodb_uri: str) -> None:
    """There is nothing to be had by a WebSocket, and that is said at once."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    application = Application(Settings(jwt_secret=JWT_SECRET), mongodb_uri)
    await application({"type": "websocket", "path": "/"}, asyncio.Queue[Message]().get, send)
    assert sent == [{"type": "websocket.close"}]


async def hold(
    application: Application, key: str, body: dict[str, Any], *, leaves: bool
) -> list[dict[str, Any]]:
    """Make one request as an ASGI server does, and return what was sent; the client `leaves` as soon as it can."""
    content = [{"type": "http.request", **body}]
    may_leave, sent = asyncio.Event(), list[dict[str, Any]]()
    if body.get("more_body"):
        may_leave.set()

    async def receive() -> Message:
        if content:
            return content.pop()
        await (may_leave if leaves else asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(dict(message))
        if message.get("body"):
            may_leave.set()

    headers = [(b"host", b"x"), (b"authorization", f"Bearer {key}".encode())]
    await application(scope("POST", "/v1/chat/completions", headers), receive, send)
    return sent


async def test_the_account_service_works(mongodb_uri: str) -> None:
    """Signing up and in, the cookie, a key, the playground as a whole and as a stream, the export: all there."""
    async with staged(mongodb_uri) as stage:
        http = stage.gateway.http
        account = {"name": "Asha", "email": "asha@example.com", "password": "a long secret of mine"}
        assert (await http.post("/api/auth/register", json=account)).status_code == 201
        signed_in = await http.post(
            "/api/auth/login", json={name: account[name] for name in ("email", "password")}
        )
        assert signed_in.status_code == 200
        assert "jwt=" in signed_in.headers["set-cookie"]
        headers = {"authorization": f"Bearer {signed_in.json()['token']}"}
        made = await http.post("/api/user/api-keys", json={"name": "first"}, headers=headers)
        assert (await stage.gateway.chat(made.json()["data"]["apiKey"], ask(FREE))).status_code == 200
        question = {"message": "Hello", "modelId": FREE}
        told = await http.post("/api/chat", json=question, headers=headers)
        assert told.json()["data"]["aiMessage"]["content"]
        streamed = await http.post("/api/chat", json=question | {"stream": True}, headers=headers)
        assert "event: done" in streamed.text
        sessions = await http.get("/api/chat/sessions", headers=headers)
        assert sessions.json()["results"] == 2
        export = await http.get("/api/user/export", headers=headers)
        assert export.json()["data"]
        assert len(await stage.events()) == 3


async def test_errors_have_their_shapes(mongodb_uri: str) -> None:
    """/v1 answers errors as OpenAI does and /api in its envelope, with the security headers and a request id."""
    async with staged(mongodb_uri, limits=Limits(chat_body_bytes=2048)) as stage:
        http, key = stage.gateway.http, await stage.gateway.key()
        for answer, status, code in (
            (await http.get("/v1/models"), 401, "missing_api_key"),
            (await http.get("/v1/nothing"), 404, "unknown_url"),
            (await http.delete("/v1/models"), 405, "method_not_allowed"),
            (await stage.gateway.chat(key, ask("no/such-model")), 404, "model_not_found"),
            (await stage.gateway.chat(key, b"{"), 400, None),
            (await stage.gateway.chat(key, ask(FREE, "x" * 4096)), 413, "request_too_large"),
        ):
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["code"] == code
            assert answer.headers["x-request-id"].startswith("req_")
            assert answer.headers["x-content-type-options"] == "nosniff"
        refused = await http.post("/api/auth/login", json={"email": "a@example.com", "password": "wrong one"})
        assert (refused.status_code, refused.json()["status"]) == (401, "fail")
        assert (await http.head("/health")).status_code == 200
        assert await stage.events() == []


async def test_it_starts_with_the_first_request_where_no_start_is_announced(mongodb_uri: str) -> None:
    """Without lifespan events the first requests start it, once, however many there are."""
    async with staged(mongodb_uri, lifespan=False) as stage:
        answers = await asyncio.gather(*(stage.gateway.http.get("/health/ready") for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}
        key = await stage.gateway.key()
        assert (await stage.gateway.chat(key, ask(FREE))).status_code == 200
        assert len(await stage.events()) == 1


@pytest.fixture
def silent_database() -> Iterator[str]:
    """Yield the URI of a database that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"mongodb://127.0.0.1:{listener.getsockname()[1]}/aipasta?directConnection=true"


@pytest.mark.long
@pytest.mark.usefixtures("production_timeouts")
async def test_a_start_that_fails_is_tried_again(mongodb_uri: str, silent_database: str) -> None:
    """Without its database it answers 503 in the right shape, and with it, the next request is served."""
    openrouter = OpenRouter()
    async with serving(openrouter):
        application = Application(settings_for(openrouter), silent_database)
        async with (
            listening(application, lifespan=False) as base_url,
            httpx.AsyncClient(base_url=base_url, transport=AiohttpTransport(trust_env=False)) as http,
        ):
            refused = [await http.get(path) for path in PATHS]
            assert [(each.status_code, each.headers["retry-after"]) for each in refused] == [(503, "1")] * 3
            bodies = [each.json() for each in refused]
            assert bodies[0]["error"]["message"] == bodies[1]["error"]["message"] == bodies[2]["message"]
            assert (bodies[0]["error"]["code"], bodies[1]["type"]) == ("service_unavailable", "error")
            application._uri = mongodb_uri
            assert (await http.get("/health")).status_code == 200
        await application._stop()


@pytest.mark.usefixtures("production_timeouts")
async def test_a_start_that_fails_is_told_to_the_server(mongodb_uri: str, silent_database: str) -> None:
    """A server that announces its start hears why there is none, and ends."""
    nowhere = Application(Settings(jwt_secret=JWT_SECRET), silent_database)
    server = uvicorn.Server(uvicorn.Config(nowhere, lifespan="on", log_config=None, port=0))
    with pytest.raises(SystemExit):
        await server.serve()
    assert not server.started
    client = database.connect(mongodb_uri)
    users = database.database_of(client, "x")["users"]
    await users.create_index("email", name="gone", expireAfterSeconds=60)
    broken = Application(Settings(jwt_secret=JWT_SECRET), mongodb_uri)
    with pytest.raises(StartFailed, match="migrate"):
        await broken._start()
    await client.close()


def test_vercel_sees_an_application() -> None:
    """The class is what an ASGI server takes for an application: an awaitable call of three arguments."""
    assert inspect.iscoroutinefunction(Application.__call__)
    assert list(inspect.signature(Application.__call__).parameters) == ["self", "scope", "receive", "send"]


def scope(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
