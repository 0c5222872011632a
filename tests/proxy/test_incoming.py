"""Tests of proxy/incoming.py on bare sockets: whose body is waited for, how much of all of them, and for how long."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tracemalloc
from typing import Any

import pytest
from sanic import HTTPResponse, Request
from sanic.response import text

from proxy.bounds import Bounds
from proxy.door import Door
from proxy.incoming import CHUNKS_IN_A_TURN
from tests.gateway import RunningGateway, running_gateway
from tests.proxy.bare_app import application, port_of
from tests.proxy.stage import PLAIN, ask, staged
from tests.raw import connected, exchange, statuses
from tests.server_process import PROJECT
from tests.upstreams import Behaviour

LARGE = b"Content-Length: 20000000\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
PATHS = (b"/v1/chat/completions", b"/v1/embeddings", b"/v1/responses", b"/v1/messages")
QUESTION = b'{"model":"demo/echo","messages":[{"role":"user","content":"hi"}],"x":"%b"}'


def head_of(path: bytes, *lines: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, b"".join(lines))


def bearing(key: str) -> bytes:
    return f"Authorization: Bearer {key}\r\n".encode()


async def test_nobody_waits_for_the_body_of_a_stranger(mongodb_uri: str) -> None:
    """Without a key, or with a wrong one, a large body is 401 by its head, in the path's shape, and the end."""
    async with running_gateway(mongodb_uri) as gateway:
        wrong = bearing(await gateway.key()).replace(b"aipasta_", b"aipasta_x")
        for path in (*PATHS, b"/api/chat"):
            for key in (b"", wrong, b"Authorization: Basic eDp5\r\n"):
                for more in (b"", b"Expect: 100-continue\r\n"):
                    answer = await exchange(gateway.base_url, head_of(path, key, LARGE, more))
                    assert statuses(answer) == [401], (path, answer)
                    assert b"\r\nconnection: close\r\n" in answer
                    assert b"\r\nx-request-id: req_" in answer
                    assert (b'{"type":"error","error":{' in answer) == (path == b"/v1/messages")
            async with connected(gateway.base_url) as connection:
                await connection.send(head_of(path, CHUNKED))
                assert statuses(await connection.answer()) == [401]


async def test_whose_body_is_waited_for(mongodb_uri: str) -> None:
    """A key that is good lets a body come, in whichever header; what it is good for is looked at again with the body."""
    async with running_gateway(mongodb_uri) as gateway:
        key = await gateway.key(await gateway.user(usageLimits={"monthlyTokens": 10**9}))
        for path, line in (
            (PATHS[0], bearing(key)),
            (PATHS[3], bearing(key)),
            (PATHS[3], f"x-api-key: {key}\r\n".encode()),
        ):
            async with connected(gateway.base_url) as connection:
                await connection.send(head_of(path, line, LARGE, b"Expect: 100-continue\r\n"))
                assert statuses(await connection.answer()) == [100], path
        elsewhere = await gateway.key(allowedIps=["203.0.113.0/24"])
        answer = await exchange(gateway.base_url, head_of(PATHS[0], bearing(elsewhere), LARGE))
        assert statuses(answer) == [403]
        body = QUESTION % (b"x" * 100_000)
        for lines in ((b"Content-Length: %d\r\n" % len(body), body), (CHUNKED, chunks(body, 50_000))):
            async with connected(gateway.base_url) as connection:
                await connection.send(head_of(PATHS[0], bearing(key), lines[0]) + lines[1])
                assert statuses(await connection.answer()) == [200]
        assert gateway.app.ctx.door.arriving_bytes == 0


async def test_a_body_that_is_late_is_one_request() -> None:
    """What was begun before its body was waited for in vain is not begun again to be answered."""
    begun: list[Request] = []

    def begin(request: Request) -> HTTPResponse | None:
        begun.append(request)
        return None

    app = application(size, begin=begin)
    patience = Bounds(body_seconds=1, idle_seconds=1)
    app.ctx.door = Door(patience, chat_body_bytes=2**20, answer_seconds=60)
    async with port_of(app) as port:
        answer = await exchange(f"http://127.0.0.1:{port}", head_of(b"/size", b"Content-Length: 9\r\n"))
    assert statuses(answer) == [408]
    assert len(begun) == 1


@pytest.mark.parametrize("length", [1, 2**16, 2**16 + 1, 300_000])
async def test_a_body_is_the_same_in_however_many_pieces(length: int) -> None:
    """Whether all of it is there or comes piece by piece, it ends where it ends, and the next request begins there."""
    app = application()
    app.add_route(fingerprint, "/fingerprint", methods=["POST"], ctx_takes_chat=True)
    bodies = [random.Random(seed).randbytes(length) for seed in range(4)]
    head = head_of(b"/fingerprint", b"Content-Length: %d\r\n" % length)
    sent = b"".join(head + body for body in bodies)
    async with port_of(app) as port:
        for step in (len(sent), len(head) + length // 2 + 1, 50_001):
            async with connected(f"http://127.0.0.1:{port}") as connection:
                for start in range(0, len(sent), step):
                    await connection.send(sent[start : start + step])
                    await asyncio.sleep(0.01)
                for body in bodies:
                    fingerprinted = hashlib.sha256(body).hexdigest().encode()
                    assert (await connection.answer()).endswith(fingerprinted)


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_all_bodies_together_have_a_bound(mongodb_uri: str, *, is_chunked: bool) -> None:
    """Past it the one that grows is 503, its connection ends, and there is room again for the others and the next."""
    bounds = Bounds(arriving_bytes=2_000_000)
    async with running_gateway(mongodb_uri, connections=bounds, limits=MODEST) as gateway:
        line = CHUNKED if is_chunked else b"Content-Length: %d\r\n" % MOST
        head = head_of(PATHS[0], bearing(await gateway.key()), line)
        body = QUESTION % (b"x" * (MOST - len(QUESTION) + 2))
        if is_chunked:
            head, body = head + b"%x\r\n" % MOST, body + b"\r\n0\r\n\r\n"
        async with connected(gateway.base_url) as first:
            await first.send(head + body[:1_200_000])
            await arrived(gateway, 1_200_000)
            answer = await exchange(gateway.base_url, head + body[:1_200_000])
            assert statuses(answer) == [503]
            assert b"\r\nretry-after: 1\r\n" in answer
            assert b"\r\nconnection: close\r\n" in answer
            await arrived(gateway, 1_200_000)
            await first.send(body[1_200_000:])
            assert statuses(await first.answer()) == [200]
        assert gateway.app.ctx.door.arriving_bytes == 0
        async with connected(gateway.base_url) as leaving:
            await leaving.send(head + body[:1_000_000])
            await arrived(gateway, 1_000_000)
        await arrived(gateway, 0)


async def test_a_long_prompt_is_kept_once(mongodb_uri: str) -> None:
    """While its answer streams, the prompt is there as it was decoded: not as it came, nor as it was sent on."""
    body = ask(PLAIN, "x" * 1_000_000, stream=True)
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(await stage.gateway.user(usageLimits={"monthlyTokens": 10**9}))
        stage.plain.script.enqueue(Behaviour(pieces=400, delay_between=0.02))
        headers = {"authorization": f"Bearer {key}"}
        tracemalloc.start()
        try:
            async with stage.gateway.http.stream(
                "POST", "/v1/chat/completions", json=body, headers=headers
            ) as answer:
                assert (await anext(answer.aiter_lines())).startswith("data: ")
                snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
    ours = [tracemalloc.Filter(inclusive=True, filename_pattern=f"{PROJECT}/{part}/*") for part in PRODUCT]
    kept = snapshot.filter_traces(ours).statistics("filename")
    assert 1_000_000 < sum(each.size for each in kept) < 1_500_000, kept


async def test_small_chunks_leave_others_their_turn() -> None:
    """Of the chunks that have arrived together, only so many are read in one turn of the loop."""
    steps: list[int] = []

    async def watch(stream: Any) -> None:
        seen = 0
        while stream.request_body:
            steps.append(stream.request_bytes - seen)
            seen = stream.request_bytes
            await asyncio.sleep(0)

    def begin(request: Request) -> HTTPResponse | None:
        request.ctx.watching = asyncio.create_task(watch(request.stream))
        return None

    app = application(size, begin=begin)
    async with port_of(app) as port, connected(f"http://127.0.0.1:{port}") as connection:
        await connection.send(head_of(b"/size", CHUNKED) + chunks(b"x" * 50_000, 1))
        answer = await connection.answer()
    assert answer.endswith(b"50000")
    assert 0 < max(steps) <= CHUNKS_IN_A_TURN


PRODUCT = ("proxy", "plugins")
MOST = 1_500_000
MODEST = {
    "chat_body_bytes": MOST,
    "user": {"daily_requests": 9, "monthly_requests": 9, "monthly_tokens": 10**9},
}


async def size(request: Request) -> HTTPResponse:
    """Say how large a body was."""
    await request.ctx.watching
    return text(str(len(request.body)))


async def fingerprint(request: Request) -> HTTPResponse:
    """Name a body by its content."""
    return text(hashlib.sha256(request.body).hexdigest())


def chunks(body: bytes, each: int) -> bytes:
    """Write a body in chunks of a size."""
    pieces = [body[start : start + each] for start in range(0, len(body), each)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def arrived(gateway: RunningGateway, count: int) -> None:
    """Wait until so much of all bodies has come."""
    async with asyncio.timeout(10):
        while gateway.app.ctx.door.arriving_bytes != count:  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0.01)
