"""A provider that sends the very bytes that a test says, when the test says so, and a client of its own for it."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Self

import httpx

from proxy.connection import Body
from proxy.transport import Network

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PATIENCE = {"connect": 5.0, "pool": 5.0}


class BareProvider:
    """Reads requests and answers each by a function; closes a connection when the function has."""

    def __init__(self, answer: Answer, *, tls: ssl.SSLContext | None = None) -> None:
        """Serve when entered."""
        self.answer = answer
        self.connections = 0
        self.requests: list[bytes] = []
        self.latest: tuple[asyncio.StreamReader, asyncio.StreamWriter]
        self._tls = tls
        self._open = 0
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4_096, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.address = f"{'https://localhost' if self._tls else 'http://127.0.0.1'}:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for the connections to end."""
        self._server.close()
        await self.left(0)

    async def left(self, connections: int) -> None:
        """Wait until no more than so many connections are open."""
        async with asyncio.timeout(10):
            while self._open > connections:
                self._changed.clear()
                await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open += 1
        self.latest = reader, writer
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                await self.answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            self._open -= 1
            self._changed.set()


async def body_of(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """Read a request's body."""
    length = re.search(rb"Content-Length: (\d+)", head)
    return await reader.readexactly(int(length[1]) if length else 0)


def saying(*pieces: bytes, then_close: bool = False) -> Answer:
    """Answer with these pieces, each of which the client gets by itself."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            for _turn in range(3):
                await asyncio.sleep(0)
        if then_close:
            writer.close()

    return answer


def request(provider: BareProvider, method: str = "GET", content: bytes = b"") -> httpx.Request:
    """Make a request to a provider."""
    return httpx.Request(
        method, f"{provider.address}/x", stream=httpx.ByteStream(content), extensions={"timeout": PATIENCE}
    )


async def whole(network: Network, provider: BareProvider, method: str = "GET") -> tuple[int, bytes]:
    """Ask, and return the status and the body of the answer."""
    async with asyncio.timeout(20):
        response = await network.handle_async_request(request(provider, method))
        try:
            pieces: list[bytes] = []
            assert not await body(response).pour(partial(keep, pieces))
            return response.status_code, b"".join(pieces)
        finally:
            await response.aclose()


def keep(pieces: list[bytes], piece: bytes) -> bool:
    """Keep a piece, of which there can never be enough."""
    pieces.append(piece)
    return False


def body(response: httpx.Response) -> Body:
    """Return the body of an answer, to be read piece by piece."""
    assert isinstance(response.stream, Body)
    return response.stream


@asynccontextmanager
async def talking(
    answer: Answer, *, connections: int = 10, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
) -> AsyncIterator[tuple[BareProvider, Network]]:
    """Run a provider and a client; `tls` is the provider's side and the client's."""
    network = Network(connections, tls[1] if tls else None)
    async with BareProvider(answer, tls=tls[0] if tls else None) as provider:
        try:
            yield provider, network
        finally:
            await network.aclose()
