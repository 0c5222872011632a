"""Tests of proxy/protocol.py on bare sockets: nothing is read twice, nothing is waited for too long, all is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import Any

import pytest
from sanic import HTTPResponse, Request

from proxy.bounds import Bounds
from proxy.core.routing import Role
from proxy.handlers.headers import HotResponse
from tests.gateway import provider_settings, running_gateway
from tests.proxy.bare_app import application, port_of
from tests.proxy.bare_provider import BareProvider, body_of
from tests.proxy.core.test_heads import BAD
from tests.proxy.stage import MINI, PLAIN, ask, staged
from tests.raw import connected, exchange, statuses
from tests.upstreams import Behaviour

SMUGGLED = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BAD_CHUNKS: tuple[bytes, ...] = (
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcXX0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"-3\r\nabc\r\n0\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n",
    b"\r\nabc\r\n0\r\n\r\n",
    b"3_0\r\nabc\r\n0\r\n\r\n",
    "\u0663\r\nabc\r\n0\r\n\r\n".encode(),
    b"3\nabc\r\n0\r\n\r\n",
    b"3;a\x00b\r\nabc\r\n0\r\n\r\n",
    b"3;" + b"a" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX-Trailer: a\r\n\r\n",
    b"ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
)


async def test_nothing_is_smuggled(mongodb_uri: str) -> None:
    """Every ambiguous head and chunk is 400, the connection is closed, and what follows is never read as a request."""
    async with running_gateway(mongodb_uri) as gateway:
        heads = [head + b"\r\n" for head in BAD]
        chunks = [CHUNKED + chunk for chunk in BAD_CHUNKS]
        for data in (*heads, *chunks):
            answer = await exchange(gateway.base_url, data + SMUGGLED)
            assert statuses(answer) == [400], (data, answer)
            assert b"\r\nconnection: close\r\n" in answer, data
            assert b'"code":"VALIDATION_ERROR"' in answer, data


async def test_what_is_right_stays_right(mongodb_uri: str) -> None:
    """Chunks with extensions, an empty line before a request, 100-continue and pipelines are served in their order."""
    async with running_gateway(mongodb_uri) as gateway, connected(gateway.base_url) as connection:
        body = b'{"email":"a@example.com","password":"nonsense"}'
        chunks = (
            b"".join(b"%X;x=y\r\n%b\r\n" % (len(part), part) for part in (body[:10], body[10:]))
            + b"0\r\n\r\n"
        )
        await connection.send(b"\r\n" + CHUNKED + chunks + SMUGGLED + SMUGGLED)
        assert statuses(await connection.answer()) == [401]
        assert statuses(await connection.answer()) == [200]
        assert statuses(await connection.answer()) == [200]
        await connection.send(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
        assert statuses(await connection.answer()) == [100]
        await connection.send(body)
        assert statuses(await connection.answer()) == [401]
        await connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert statuses(await connection.rest()) == [200]


async def test_the_old_protocol(mongodb_uri: str) -> None:
    """HTTP/1.0 is answered and closed, and its streams come without chunks and end with the connection."""
    async with running_gateway(mongodb_uri) as gateway:
        answer = await exchange(gateway.base_url, b"GET /health HTTP/1.0\r\n\r\n")
        assert statuses(answer) == [200]
        assert b"connection: close" in answer
        head = f"POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer {await gateway.key()}\r\n"

        async def chat(connection: str, *, stream: bool) -> bytes:
            body = json.dumps(ask("demo/echo", stream=stream)).encode()
            rest = f"Connection: {connection}\r\nContent-Length: {len(body)}\r\n\r\n"
            return await exchange(gateway.base_url, f"{head}{rest}".encode() + body)

        answer = await chat("close", stream=False)
        assert statuses(answer) == [200]
        _, _, whole = answer.partition(b"\r\n\r\n")
        assert json.loads(whole)["object"] == "chat.completion"
        assert f"content-length: {len(whole)}".encode() in answer.lower()
        answer = await chat("keep-alive", stream=True)
        assert statuses(answer) == [200]
        _, _, stream = answer.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in answer.lower()
        assert stream.startswith(b"data: {")
        assert stream.endswith(b"data: [DONE]\n\n")


async def test_an_expectation_that_nobody_meets(mongodb_uri: str) -> None:
    """Whatever bytes stand in `Expect`, the answer is 400 in the shape of the path, and repeats none of them."""
    async with running_gateway(mongodb_uri) as gateway:
        for path, mark in (
            (b"/v1/chat/completions", b'"param":null'),
            (b"/v1/messages", b'{"type":"error","error":{'),
            (b"/api/auth/login", b'"code":"VALIDATION_ERROR"'),
        ):
            for given in (b"\xff", b"\xed\xa0\xbd", b"200-ok"):
                head = b"POST %b HTTP/1.1\r\nHost: x\r\nExpect: %b\r\nContent-Length: 9\r\n\r\n" % (
                    path,
                    given,
                )
                answer = await exchange(gateway.base_url, head)
                assert statuses(answer) == [400], (path, answer)
                assert mark in answer, (path, answer)
                assert given not in answer


async def test_bodies_and_heads_have_limits(mongodb_uri: str) -> None:
    """What is too large is refused from its Content-Length, before it is sent; a chat may be larger than the rest."""
    async with running_gateway(mongodb_uri, limits={"chat_body_bytes": 200_000}) as gateway:
        for path, size, status in (
            (b"/api/auth/login", 65_537, 413),
            (b"/nowhere", 65_537, 404),
            (b"/v1/chat/completions", 200_001, 413),
            (b"/api/chat", 200_001, 413),
        ):
            head = b"POST %b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (
                path,
                size,
            )
            answer = await exchange(gateway.base_url, head)
            assert statuses(answer) == [status], (path, answer)
            assert b"connection: close" in answer
        large = POST + b"Content-Length: 30000000\r\n\r\n" + b"x" * 3_000_000
        assert statuses(await exchange(gateway.base_url, large)) == [413]
        endless = CHUNKED + b"8000\r\n" + b"x" * 0x8000 + b"\r\n8000\r\n" + b"x" * 0x8000 + b"\r\n1\r\n"
        assert statuses(await exchange(gateway.base_url, endless)) == [413]
        head = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 17_000
        assert statuses(await exchange(gateway.base_url, head)) == [431]
        deep = b"[" * 30_000 + b"]" * 30_000
        answer = await exchange(
            gateway.base_url, POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(deep) + deep
        )
        assert statuses(answer) == [400]


TOO_SLOW: dict[str, tuple[bytes, bytes, list[int]]] = {
    "silent": (b"", b"", []),
    "half a line": (b"GET / HT", b"", [408]),
    "dripping head": (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"y", [408]),
    "no body": (POST + b"Content-Length: 1000\r\n\r\n", b"", [408]),
    "dripping body": (POST + b"Content-Length: 1000\r\n\r\n", b"y", [408]),
    "dripping chunks": (CHUNKED, b"1\r\ny\r\n", [408]),
    "idle": (SMUGGLED, b"", [200]),
}
"""What is sent at first, what follows piece by piece, and the statuses that are answered."""


async def test_nobody_is_waited_for_too_long(mongodb_uri: str) -> None:
    """A head, a body and an idle connection have their seconds, which no byte prolongs."""
    bounds = Bounds(head_seconds=1.0, body_seconds=1.0, idle_seconds=1.0)
    async with running_gateway(mongodb_uri, connections=bounds) as gateway:
        answers = await asyncio.gather(
            *(dripping(gateway.base_url, data, drip) for data, drip, _ in TOO_SLOW.values())
        )
    for (name, (*_, expected)), answer in zip(TOO_SLOW.items(), answers, strict=True):
        assert statuses(answer) == expected, name
        assert (b'"REQUEST_TIMEOUT"' in answer) == (408 in expected), name


async def dripping(base_url: str, data: bytes, drip: bytes) -> bytes:
    """Send data, and then for ever another piece; return what was answered when the connection is closed."""
    async with connected(base_url) as connection:
        await connection.send(data)
        ending = asyncio.create_task(connection.rest())
        while not ending.done():
            await asyncio.sleep(0.1)
            if drip and not ending.done():
                connection.writer.write(drip)
        return await ending


async def torrent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as a provider whose stream never ends, in pieces of 64 KiB."""
    head = await reader.readuntil(b"\r\n\r\n")
    kind, first = b"application/json", b'{"object":"list","data":[{"id":"torrent","object":"model"}]}'
    piece = b""
    if head.startswith(b"POST"):
        kind, first = b"text/event-stream", b""
        delta = {"choices": [{"index": 0, "delta": {"content": "x" * 65_536}}]}
        piece = b"data: %b\n\n" % json.dumps(delta).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %b\r\n\r\n%b" % (kind, first))
    with contextlib.suppress(ConnectionError):
        while piece:
            writer.write(piece)
            await writer.drain()
    writer.close()


async def test_a_reader_that_does_not_read_is_cut(mongodb_uri: str) -> None:
    """Who does not take his stream loses it in the end, and its event says so."""
    upstream = await asyncio.start_server(torrent, "127.0.0.1", 0)
    provider = provider_settings(
        "openai_compatible", f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}", tier="free"
    )
    bounds = Bounds(reader_seconds=1.0)
    async with running_gateway(mongodb_uri, {"torrent": provider}, connections=bounds) as gateway:
        body = json.dumps(ask("torrent", stream=True)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {await gateway.key()}\r\n"
        async with connected(gateway.base_url) as connection:
            await connection.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            async with asyncio.timeout(20):
                while not (events := await gateway.events()):  # noqa: ASYNC110  the database is asked
                    await asyncio.sleep(0.1)
        assert [event["outcome"] for event in events] == ["client_gone"]
    upstream.close()


async def test_a_full_house_refuses_at_the_door(mongodb_uri: str) -> None:
    """Past the bound on connections /health and /metrics answer, all else is 503 at once, and room is taken again."""
    async with staged(mongodb_uri, connections=Bounds(most=3)) as stage:
        gateway = stage.gateway
        key = await gateway.key(role=Role.PREMIUM)
        async with connected(gateway.base_url) as first, connected(gateway.base_url) as second:
            held = [first, second]
            for connection in held:
                await connection.send(SMUGGLED)
                assert statuses(await connection.answer()) == [200]
            async with connected(gateway.base_url) as third:
                await third.send(SMUGGLED)
                await third.answer()
                for path in (b"/v1/models", b"/api/auth/me", b"/nowhere"):
                    for size in (0, 50_000):
                        request = b"GET %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path, size)
                        answer = await exchange(gateway.base_url, request + b"x" * size)
                        assert statuses(answer) == [503], (path, answer)
                        assert b"retry-after: 1" in answer
                        assert b"connection: close" in answer
                        assert b"x-request-id: req_" in answer
                for path in (b"/health", b"/health/ready", b"/metrics"):
                    answer = await exchange(gateway.base_url, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
                    assert statuses(answer) == [200]
                await first.send(SMUGGLED)
                assert statuses(await first.answer()) == [200]

            async def has_room() -> bool:
                return (await gateway.chat(key, ask(MINI))).status_code == 200

            await stage.until(has_room)


async def test_a_call_without_room_is_refused_by_its_head(mongodb_uri: str) -> None:
    """While all calls that may be are under way, another is 503 before its body has come, whoever sends it; all else is served."""
    async with staged(mongodb_uri, limits={"concurrent_requests": 1}, drain_seconds=0.0) as stage:
        gateway = stage.gateway
        stage.plain.script.always(Behaviour(delay_headers=30))
        running = asyncio.create_task(gateway.chat(await gateway.key(), ask(PLAIN)))
        await stage.plain.books.until(lambda books: len(books) == 1)
        for path in (
            b"/v1/chat/completions",
            b"/v1/embeddings",
            b"/v1/responses",
            b"/v1/messages",
            b"/api/chat",
        ):
            head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (path, 10**7)
            answer = await exchange(gateway.base_url, head + b"Expect: 100-continue\r\n\r\n")
            assert statuses(answer) == [503], (path, answer)
            for line in (b"retry-after: 1", b"connection: close", b"x-request-id: req_"):
                assert line in answer
        async with connected(gateway.base_url) as connection:
            for _ in range(3):  # what is no JSON is not looked at, and the connection is kept
                await connection.send(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n{{{{"
                )
                answer = await connection.answer()
                assert statuses(answer) == [503]
                assert b"overloaded" in answer or b"service_unavailable" in answer
            for request, status in (
                (b"OPTIONS /v1/chat/completions", 204),
                (b"GET /v1/models", 401),
                (b"GET /health", 200),
            ):
                await connection.send(request + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                assert statuses(await connection.answer()) == [status]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_flood_is_not_even_answered(mongodb_uri: str) -> None:
    """Past twice the bound a connection is dropped, and those that there are go on."""
    async with running_gateway(mongodb_uri, connections=Bounds(most=2, head_seconds=3600)) as gateway:
        many = [
            await asyncio.open_connection(*gateway.base_url.removeprefix("http://").split(":"))
            for _ in range(9)
        ]
        dropped = 0
        for reader, _ in many[4:]:
            try:
                dropped += await asyncio.wait_for(reader.read(), 60) == b""
            except ConnectionResetError:
                dropped += 1
        assert dropped == 5
        for reader, writer in many[:2]:
            writer.write(SMUGGLED)
            assert statuses(await reader.readuntil(b"\r\n\r\n")) == [200]
        for _, writer in many:
            writer.close()


METHODS: tuple[tuple[bytes, bytes, int, bytes], ...] = (
    (b"HEAD", b"/health", 200, b""),
    (b"HEAD", b"/v1/models", 401, b""),
    (b"HEAD", b"/nowhere", 404, b""),
    (b"HEAD", b"/v1/chat/completions", 405, b""),
    (b"OPTIONS", b"/health", 200, b""),
    (b"OPTIONS", b"/v1/chat/completions", 200, b""),
    (b"TRACE", b"/health", 405, b"{"),
    (b"TRACE", b"/v1/chat/completions", 405, b"{"),
    (b"CONNECT", b"/health", 405, b"{"),
    (b"DELETE", b"/health", 405, b"{"),
    (b"PATCH", b"/v1/chat/completions", 405, b"{"),
    (b"BREW", b"/health", 405, b"{"),
    (b"get", b"/health", 405, b"{"),
    (b"GET", b"/nowhere", 404, b"{"),
    (b"GET", b"/v1/nowhere", 404, b"{"),
    (b"GET", b"/%00", 404, b"{"),
    (b"GET", b"/health?x=%ff", 200, b"{"),
    (b"GET", b"http://x/health", 200, b"{"),
    (b"GET", b"//health", 404, b"{"),
    (b"GET", b"nowhere", 400, b"{"),
    (b"OPTIONS", b"*", 200, b""),
    (b"CONNECT", b"x:80", 400, b"{"),
)


async def test_methods_and_targets(mongodb_uri: str) -> None:
    """Every method and every form of target has its status; HEAD has no body, and an error always has its shape."""
    async with running_gateway(mongodb_uri) as gateway:
        for method, target, status, start in METHODS:
            request = b"%b %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (method, target)
            answer = await exchange(gateway.base_url, request)
            _, _, body = answer.partition(b"\r\n\r\n")
            allowed = {200, 204} if (method, status) == (b"OPTIONS", 200) else {status}
            assert set(statuses(answer)) <= allowed, (method, target, answer)
            assert body[:1] == start, (method, target, answer)
            if status == 405:
                assert b"\r\nallow: " in answer, (method, target, answer)


async def test_a_client_that_leaves_while_it_sends_is_gone(mongodb_uri: str) -> None:
    """Heads and bodies that are cut off in the middle leave nothing behind."""
    async with running_gateway(mongodb_uri) as gateway:
        for data in (b"GET / HT", POST + b"Content-Length: 1000\r\n\r\nabc", CHUNKED + b"5\r\nab"):
            async with connected(gateway.base_url) as connection:
                await connection.send(data)
        assert (await gateway.http.get("/health")).status_code == 200


async def test_a_pipeline_of_chats(mongodb_uri: str) -> None:
    """Chats of all sizes on one connection are answered one after the other, each with its own text."""
    async with running_gateway(mongodb_uri) as gateway, connected(gateway.base_url) as connection:
        user = await gateway.user(usageLimits={"monthlyTokens": 10**9})
        key = await gateway.key(user)
        requests: list[bytes] = []
        for number, size in enumerate((1, 65_536, 10, 100_000, 1)):
            content: Any = ask("demo/echo", f"{number} " + "x" * size, max_tokens=16)
            body = json.dumps(content).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        sending = asyncio.create_task(connection.send(b"".join(requests)))
        for number in itertools.islice(itertools.count(), 5):
            answer = await connection.answer()
            assert statuses(answer) == [200], answer
            assert b'"content":"%d ' % number in answer.replace(b": ", b":")
        await sending


async def test_a_stream_behind_a_slow_reader_has_its_head(mongodb_uri: str) -> None:
    """A silent stream behind an answer that is not read yet begins with its own head, whatever is tried meanwhile."""
    has_begun, may_speak = asyncio.Event(), asyncio.Event()
    usage = {"prompt_tokens": 1, "completion_tokens": 1}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await body_of(reader, provider.requests[-1])
        if b'"stream":true' in asked.replace(b": ", b":"):
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n")
            has_begun.set()
            await may_speak.wait()
            writer.write(b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n')
            writer.close()
            return
        said = {"choices": [{"index": 0, "message": {"content": "x" * 16_000_000}}], "usage": usage}
        told = json.dumps(said if asked else {"object": "list", "data": [{"id": "slow", "object": "model"}]})
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(told)
        )
        writer.write(told.encode())

    async with BareProvider(answer) as provider:
        settings = {"slow": provider_settings("openai_compatible", provider.address, tier="free")}
        async with (
            running_gateway(mongodb_uri, settings, keep_alive_seconds=0.05) as gateway,
            connected(gateway.base_url) as connection,
        ):
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {await gateway.key()}\r\n"
            for stream, persistence in ((False, "keep-alive"), (True, "close")):
                body = json.dumps(ask("slow", stream=stream)).encode()
                rest = f"Connection: {persistence}\r\nContent-Length: {len(body)}\r\n\r\n"
                await connection.send(f"{head}{rest}".encode() + body)
            async with asyncio.timeout(15):
                await has_begun.wait()
            await asyncio.sleep(1)  # many times the silence after which a comment is due
            may_speak.set()
            assert statuses(await connection.answer()) == [200]
            streamed = await connection.rest()
    assert streamed.startswith(b"HTTP/1.1 200 OK\r\n")
    assert statuses(streamed) == [200]
    assert b"data: [DONE]\n\n" in streamed


async def fill(_request: Request) -> HTTPResponse:
    """Answer with more than sockets take."""
    return HotResponse(b"x" * 16_000_000, {}, "text/plain")


async def hesitate(request: Request) -> None:
    """Begin a stream that has no room, give up, find that nothing was sent, and say all at once."""
    response = HotResponse(b"", {}, "text/plain")
    await request.app.ctx.dispatch.respond(request, response)
    stream: Any = request.stream
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await stream.send(b"lost", False)  # noqa: FBT003  Sanic's signature
    assert not stream.send_now(b"lost")
    request.app.ctx.has_hesitated.set()
    await stream.send(request.args["say"][0].encode(), "whole" in request.args)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("how", [b"say=all&whole=1", b"say=all"])
async def test_a_head_that_was_not_sent_is_sent_later(how: bytes, version: bytes) -> None:
    """Where the first write of a stream was cancelled, the next begins with the head, and has one framing."""
    app = application(fill, hesitate)
    app.ctx.has_hesitated = asyncio.Event()
    async with port_of(app) as port, connected(f"http://127.0.0.1:{port}") as connection:
        await connection.send(
            b"GET /fill HTTP/1.1\r\nHost: x\r\n\r\nGET /hesitate?%b HTTP/%b\r\nHost: x\r\nConnection: close\r\n\r\n"
            % (how, version)
        )
        async with asyncio.timeout(15):
            await app.ctx.has_hesitated.wait()
        await connection.answer()
        head, _, body = (await connection.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    framings = [name in head for name in (b"content-length: 3", b"transfer-encoding: chunked")]
    if how.endswith(b"whole=1"):
        assert (framings, body) == ([True, False], b"all")
    elif version == b"1.0":
        assert (framings, body) == ([False, False], b"all")
    else:
        assert (framings, body) == ([False, True], b"3\r\nall\r\n0\r\n\r\n")
