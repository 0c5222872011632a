"""Bytes to a server as no client library would send them, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

SECONDS = 15.0


@dataclass(frozen=True)
class Connection:
    """A bare connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Return everything until the server closes, or resets the connection, as whoever goes on sending makes it."""
        pieces: list[bytes] = []
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionResetError):
                while piece := await self.reader.read(2**16):
                    pieces.append(piece)
        return b"".join(pieces)

    async def answer(self) -> bytes:
        """Return one answer with its body, which is as long as Content-Length says."""
        async with asyncio.timeout(SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            return head + await self.reader.readexactly(int(length[1]) if length else 0)


@asynccontextmanager
async def connected(base_url: str) -> AsyncIterator[Connection]:
    """Connect for a while."""
    host, port = base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


async def exchange(base_url: str, data: bytes) -> bytes:
    """Send bytes, and return everything that comes back until the server closes."""
    async with connected(base_url) as connection:
        await connection.send(data)
        return await connection.rest()


def statuses(answers: bytes) -> list[int]:
    """Return the statuses of some answers in their order."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]
