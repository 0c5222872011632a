"""The client's end of a streamed answer: begun once, written by one at a time, and left at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from proxy.call import Client, ClientGone

_KEEP_ALIVE = b": keep-alive\n\n"


class Audience:
    """Whoever waits for one answer.

    `headers` are those that a stream will begin with; nothing is sent once the client `is_gone`.
    """

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        """Begin before the first byte."""
        self._client = client
        self._loop = loop
        self._writing: asyncio.Lock | None = None
        self._last_sent = self._loop.time()
        self.headers: Mapping[str, str] = {}
        self.has_started = False
        self.is_gone = False

    @property
    def is_slow(self) -> bool:
        """Say whether a piece is on its way to the client now, which does not read it."""
        return self._writing is not None and self._writing.locked()

    async def send(self, data: bytes) -> None:
        """Send a piece, the headers first, waiting for a slow reader; take note if the client has left."""
        await self._send(data, self._client.send)

    def send_now(self, data: bytes) -> bool:
        """Send a piece if there is nothing to wait for, and say so; to a client that has left, there never is."""
        if self.is_gone:
            return True
        if not self.has_started or self.is_slow:
            return False
        try:
            is_sent = self._client.send_now(data)
        except ClientGone:
            self.is_gone = True
            return True
        if is_sent:
            self._last_sent = self._loop.time()
        return is_sent

    async def finish(self, data: bytes) -> None:
        """Send the last piece likewise."""
        await self._send(data, self._client.finish)

    async def _send(self, data: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        if self.is_gone:
            return
        if self._writing is None:  # a whole answer needs none
            self._writing = asyncio.Lock()
        try:
            async with self._writing:
                if not self.has_started:
                    await self._client.start(self.headers)
                    self.has_started = True
                await send(data)
                self._last_sent = self._loop.time()
        except ClientGone:
            self.is_gone = True

    async def keep_alive(self, silence: float) -> None:
        """Send a comment if nothing was sent for that many seconds, so that no proxy cuts the stream.

        One that would have to wait is of no use: so much is on its way that the client has yet to read. And whoever
        is told that a stream has begun can get no other answer any more.
        """
        is_silent = self._loop.time() - self._last_sent >= silence
        if is_silent and not self.is_slow and self._client.has_room:
            await self.send(_KEEP_ALIVE)
