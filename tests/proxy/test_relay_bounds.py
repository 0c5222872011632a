"""Tests of what proxy/relay.py bears: hostile heads, endless bodies, thousands of cancellations, slow clients."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from plugins.contract import FailureKind, ProviderOptions, UpstreamRequest
from plugins.openai_compatible import OpenAICompatible as Plugin
from proxy.relay import MAX_ANSWER_BYTES, Endpoint, Relay, RelayFailed
from proxy.routes import Timeouts
from proxy.transport import transport_for
from tests.gateway import RunningGateway, provider_settings, running_gateway
from tests.proxy.stage import ask

PATIENCE = Timeouts(connect=5, first_byte=2, idle=2, total=20)
ASK = UpstreamRequest(
    "POST", "/chat/completions", {"Content-Type": "application/json"}, orjson.dumps({"a": 1})
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
POOL = 250
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """Run a bare server that reads requests and answers each so; yield its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or b"0"))
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4_096)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def relaying(answer: Answer, *, connections: int = 10) -> AsyncIterator[Relay]:
    """Relay to a bare server."""
    async with answering(answer) as base_url:
        plugin = Plugin(ProviderOptions("plain"))
        transport = transport_for(plugin, lambda: datetime.now(UTC), connections=connections)
        relay = Relay({"plain": Endpoint(plugin, base_url, (), PATIENCE, transport)})
        try:
            yield relay
        finally:
            await relay.aclose()


async def endless(writer: asyncio.StreamWriter, begin: bytes, more: bytes) -> None:
    """Send for ever, as fast as it is read."""
    writer.write(begin)
    while True:
        writer.write(more)
        await writer.drain()
        await asyncio.sleep(0)


HEADS: dict[str, tuple[bytes, bytes]] = {
    "a header without end": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 65_536),
    "headers without end": (b"HTTP/1.1 200 OK\r\n", b"".join(b"X-%d: y\r\n" % n for n in range(4_096))),
    "a status line without end": (b"HTTP/1.1 200 ", b"O" * 65_536),
    "not HTTP": (b"", b"\x16\x03\x01garbage\r\n\r\n"),
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_is_bounded(name: str) -> None:
    """Whatever a provider sends in the place of a head ends in one failure, without being kept."""
    begin, more = HEADS[name]
    sent = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(begin)
        while True:
            writer.write(more)
            await writer.drain()
            sent += len(more)
            await asyncio.sleep(0)

    async with relaying(answer) as relay:
        with pytest.raises(RelayFailed) as caught:
            await relay.fetch("plain", ASK)
        assert caught.value.failure.kind in (FailureKind.PROVIDER, FailureKind.TIMEOUT)
        assert caught.value.reached
        assert sent < 16 * 2**20


async def test_a_body_is_bounded() -> None:
    """A whole answer without end fails at its bound, and closing it stops the provider."""
    stopped = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        piece = b"%x\r\n%b\r\n" % (65_536, b"x" * 65_536)
        try:
            await endless(writer, HEAD, piece)
        finally:
            stopped.set()

    async with relaying(answer) as relay:
        response = await relay.send("plain", ASK)
        with pytest.raises(RelayFailed, match="too large"):
            await response.read(MAX_ANSWER_BYTES // 16)
        await response.aclose()
        async with asyncio.timeout(60):
            await stopped.wait()


async def test_five_thousand_cancels_leave_the_pool_whole() -> None:
    """After 5,000 requests cancelled at random moments twice the pool's size succeed; memory and descriptors stay."""
    dice = random.Random(11)

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for _ in range(3):
            await asyncio.sleep(0.003)
            writer.write(b"5\r\ndata:\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with relaying(answer, connections=POOL) as relay:

        async def whole() -> bytes:
            response = await relay.send("plain", ASK)
            try:
                return await response.read(1_000)
            finally:
                await response.aclose()

        async def cancelled() -> None:
            task = asyncio.create_task(whole())
            await asyncio.sleep(dice.random() * 0.03)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        async def cancel_many(times: int) -> None:
            for _ in range(times // POOL):
                await asyncio.gather(*(cancelled() for _ in range(POOL)))

        await cancel_many(2 * POOL)
        before = descriptors(), resident()
        await cancel_many(5_000)
        assert descriptors() <= before[0] + 2 * POOL
        assert resident() < before[1] + 24 * 2**20
        answers = await asyncio.gather(*(whole() for _ in range(2 * POOL)))
        assert answers == [b"data:" * 3] * (2 * POOL)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


EVENT = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 20_000)
EVENTS = 2_000


@asynccontextmanager
async def talkative(mongodb_uri: str, **timeouts: float) -> AsyncIterator[tuple[RunningGateway, list[int]]]:
    """Run a gateway before a provider whose every answer is a stream of 40 MB, and count the bytes that it could send."""
    models = b'{"object":"list","data":[{"id":"m"}]}'
    sent: list[int] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        if not is_ready.is_set():
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(models), models))
            return
        writer.write(HEAD)
        for _ in range(EVENTS):
            writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            await writer.drain()
            sent.append(len(EVENT))
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    is_ready = asyncio.Event()
    async with answering(answer) as base_url:
        plain = provider_settings("openai_compatible", base_url, tier="free", timeouts=timeouts)
        async with running_gateway(mongodb_uri, {"plain": plain}) as gateway:
            is_ready.set()
            yield gateway, sent


async def test_a_slow_client_slows_its_provider(mongodb_uri: str) -> None:
    """What a client does not read its provider does not get to send; when it reads on, it gets everything."""
    async with talkative(mongodb_uri, idle=60, total=120) as (gateway, sent):
        reader, writer = await asking(gateway, ask("m", stream=True))
        assert 0 < await at_rest(lambda: sum(sent)) < 20 * 2**20, "of 40 MB that wait to be sent"
        received, tail = 0, b""
        while data := await reader.read(2**20):
            received += len(data)
            tail = (tail + data)[-100:]
        writer.close()
        await writer.wait_closed()
        assert tail.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert received > sum(sent) == EVENTS * len(EVENT)
        assert [event["outcome"] for event in await gateway.events()] == ["completed"]


async def test_a_client_that_does_not_read_is_not_its_providers_fault(mongodb_uri: str) -> None:
    """A stream that stands still because of its client ends as that client's leaving, when it has stood long enough."""
    async with talkative(mongodb_uri, idle=1, total=60) as (gateway, sent):
        _, writer = await asking(gateway, ask("m", stream=True))
        async with asyncio.timeout(20):
            while not (events := await gateway.events()):  # noqa: ASYNC110  it is written when it is written
                await asyncio.sleep(0.1)
        writer.close()
        assert sum(sent) < EVENTS * len(EVENT)
        assert [event["outcome"] for event in events] == ["client_gone"]
        assert [attempt["outcome"] for attempt in events[0]["attempts"]] == ["client_gone"]


async def asking(
    gateway: RunningGateway, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask over a socket with a small buffer, so that what is not read is soon noticed."""
    host, port = gateway.base_url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    client.settimeout(0)
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=client, limit=65_536)
    user = await gateway.user(usageLimits={"monthlyTokens": 10**9})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {await gateway.key(user)}\r\n"
    content = orjson.dumps(body)
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    return reader, writer


async def at_rest(number: Callable[[], int]) -> int:
    """Wait until a number has begun to grow, and then has stopped; return it."""
    async with asyncio.timeout(30):
        before = 0
        while number() == 0 or number() != before:
            before = number()
            await asyncio.sleep(0.5)
    return before
