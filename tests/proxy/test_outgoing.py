"""What a connection writes: together with others at the end of a turn, in order, all of it, and not without end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from sanic import HTTPResponse, Request
from sanic.exceptions import RequestCancelled

from proxy.handlers.headers import HotResponse
from proxy.outgoing import Outgoing
from tests.proxy.bare_app import application, port_of
from tests.raw import connected

Handler = Callable[[Request], Awaitable[HTTPResponse]]

pytestmark = pytest.mark.both_loops
PIECE = bytes(range(256)) * 64
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"


def sender(request: Request) -> Outgoing:
    protocol = request.transport.get_protocol()
    assert isinstance(protocol, Outgoing)
    return protocol


async def much(request: Request) -> None:
    """Write a megabyte in one turn of the loop, and look how much of it waits."""
    response = HotResponse(b"", {}, "application/octet-stream")
    await request.app.ctx.dispatch.respond(request, response)
    for _ in range(64):
        await response.send(PIECE)
        assert len(sender(request)._unsent) < 2**16


async def shut(request: Request) -> HTTPResponse:
    """Answer by hand, say that this was all, and then answer as if it was not."""
    sender(request).write(HEAD + b"all")
    sender(request).shut()
    with pytest.raises(RequestCancelled):
        sender(request).write(b"too late")
    return HotResponse(b"too late", {}, "text/plain")


async def closed(request: Request) -> HTTPResponse:
    """Answer by hand, and close the connection in the same turn."""
    sender(request).write(HEAD + b"all")
    sender(request).close()
    return HotResponse(b"too late", {}, "text/plain")


async def cut(request: Request) -> HTTPResponse:
    """Answer by hand, and abort the connection in the same turn."""
    sender(request).write(HEAD + b"all")
    sender(request).abort()
    return HotResponse(b"too late", {}, "text/plain")


async def lost(request: Request) -> HTTPResponse:
    """Answer on a connection whose transport is aborted behind its back."""
    sender(request).write(HEAD + b"all")
    sender(request).transport.abort()
    return HotResponse(b"too late", {}, "text/plain")


async def small(_request: Request) -> HTTPResponse:
    return HotResponse(b"small", {}, "text/plain")


async def fill(request: Request) -> HTTPResponse:
    """Answer with more than sockets take."""
    request.app.ctx.asked += 1
    return HotResponse(b"x" * 16_000_000, {}, "text/plain")


async def test_a_whole_answer_waits_for_room() -> None:
    """Behind one that is not read yet, the next answer waits, and keeps what comes after it from being made."""
    app = application(fill)
    app.ctx.asked = 0
    async with port_of(app) as port, connected(f"http://127.0.0.1:{port}") as connection:
        await connection.send(b"GET /fill HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        await asyncio.sleep(0.5)
        assert app.ctx.asked == 2
        for _ in range(3):
            head, _, body = (await connection.answer()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert body == b"x" * 16_000_000
        assert app.ctx.asked == 3


async def test_much_is_sent_as_it_is() -> None:
    """What is written in one turn arrives whole and in order, and little of it is kept back."""
    async with (
        port_of(application(much)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        assert (await http.get("/much")).content == PIECE * 64


@pytest.mark.parametrize("handler", [shut, closed, cut])
async def test_what_was_written_before_the_end_is_sent(handler: Handler) -> None:
    """However a connection is ended in the turn of its answer, the answer is sent, and nothing after it."""
    assert await asked(handler) == HEAD + b"all"


async def test_nobody_loses_by_a_connection_that_is_lost() -> None:
    """Connections that are gone by the end of the turn keep nothing from the others of that turn."""
    async with port_of(application(lost, small)) as port:
        answers = await asyncio.gather(*(ask(port, path) for path in ("lost", "small") * 20))
    assert all(answer.endswith(b"small") for answer in answers[1::2])
    assert not any(answers[0::2])


async def asked(handler: Handler) -> bytes:
    async with port_of(application(handler)) as port:
        return await ask(port, handler.__name__)


async def ask(port: int, path: str) -> bytes:
    """Send a request, and return all that comes until the connection ends or nothing more does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode())
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
