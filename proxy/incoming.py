"""The receiving half of an exchange: a body, which is asked for only where somebody may send it, and never without end.

A body has a greatest size that depends on its route and is checked before it is read. What has not come with its head
waits until its sender is known, as far as its route wants to know him. All bodies that are on their way have a bound
together, and one in small chunks does not keep others waiting for their turn.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from sanic import Request
from sanic.exceptions import BadRequest, ExpectationFailed, PayloadTooLarge
from sanic.http import Http, Stage
from sanic.http.http1 import HTTP_CONTINUE

from proxy.errors import Unavailable
from proxy.outgoing import Outgoing

LINGER_SECONDS = 2.0
CHUNKS_IN_A_TURN = 256
"""How many chunks are read in one turn of the loop, of which many thousand may have arrived."""

_LONGEST_CHUNK_HEAD = 256
# The CRLF is the end of what stands before: of the head, or of the chunk.
_CHUNK_HEAD = re.compile(rb"\r\n[0-9A-Fa-f]{1,15}(?:[ \t]*;[\t -~\x80-\xff]*)?\r\n")

Admit = Callable[[Request], Awaitable[object]]
"""Raises what refuses a request by its head; a route has one as `ctx.admit` where its bodies may be large."""


class Incoming(Http):
    """The exchange of requests and answers on one connection, as far as it receives bodies."""

    __slots__ = ("_arriving", "_chunks", "body_limit")
    protocol: Outgoing
    request_body: Any
    request_bytes: Any
    request_bytes_left: Any

    def init_for_request(self) -> None:
        """Forget the request before."""
        super().init_for_request()  # type: ignore[no-untyped-call]  # Sanic has no annotation here
        self.body_limit: int | None = None
        self._chunks = self._arriving = 0

    def expect_body(self, request: Request) -> None:
        """Note how the body comes, if there is one."""
        headers = request.headers
        size, coding = headers.get("content-length"), headers.get("transfer-encoding")
        self.request_bytes_left = self.request_bytes = 0
        if size is None and coding is None:
            return
        if (expected := headers.get("expect")) is not None:
            if expected.lower() != "100-continue":
                raise ExpectationFailed("`Expect` may only be `100-continue`.")
            self.expecting_continue = True
        if coding == "chunked":
            self.request_body = "chunked"
        elif coding is None and size is not None:
            self.request_body = True
            self.request_bytes_left = self.request_bytes = int(size)
        else:
            raise BadRequest("The head of the request is malformed.")

    def take_small_body(self, request: Request) -> None:
        """Take a body that has come with its head and that any route may have: reading it later took 1 % of a chat's CPU."""
        if self._is_here and self.request_bytes_left <= self.protocol.door.least_body_bytes:
            request.body = self._take()

    async def receive_body(self, admit: Admit | None) -> bytes:
        """Return a body that has not come with its head, unless `admit` raises or there is no room for it.

        Where the body is large, the connection then ends with the answer: nobody waits for the rest.
        """
        door = self.protocol.door
        if self.is_body_too_large():
            await self._refuse_body()
        if admit is not None:
            self.body_limit = door.least_body_bytes
            await admit(self.request)
            self.body_limit = None
        body = self._take() if self._is_here else await self._gather()
        # Sanic stops reading while a large body waits, and then never sees that the client has left.
        self.protocol.transport.resume_reading()
        return body

    async def _gather(self) -> bytes:
        """Wait for a body; one whose size is known stays where it arrives: to move each piece took four copies more."""
        body = bytearray()
        try:
            if self.request_body is True:
                await self._send_continue()
                while not self._is_here:
                    self._count(len(self.recv_buffer))
                    await self._receive_more()
                return self._take()
            while self.request_body:
                body += await self.read() or b""
                self._count(len(body))
        finally:
            self.protocol.door.arriving_bytes -= self._arriving
            self._arriving = 0
        return bytes(body)

    def _count(self, arrived: int) -> None:
        """Count what has arrived of this body with what has of all others; raise `Unavailable` where that is too much."""
        door = self.protocol.door
        door.arriving_bytes += arrived - self._arriving
        self._arriving = arrived
        if door.arriving_bytes > door.most_arriving_bytes:
            self.body_limit = door.least_body_bytes
            raise Unavailable("This gateway is receiving all that it can; try again.", retry_after=1)

    async def _send_continue(self) -> None:
        """Ask for the body where the client waits to be asked."""
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(HTTP_CONTINUE)

    @property
    def _is_here(self) -> bool:
        """Say whether a body of known size has arrived as a whole."""
        is_sized = self.request_body is True and not self.expecting_continue
        return is_sized and bool(self.request_bytes_left <= len(self.recv_buffer))

    def _take(self) -> bytes:
        """Take such a body."""
        buffer, size = self.recv_buffer, self.request_bytes_left
        with memoryview(buffer) as view:
            body = bytes(view[:size])
        del buffer[:size]
        self.request_body, self.request_bytes_left = None, 0
        return body

    async def read(self) -> bytes | None:
        """Read a piece of the body, which has a limit that depends on the route and is checked before it is read."""
        if self.is_body_too_large():
            await self._refuse_body()
        await self._send_continue()
        if self.request_body == "chunked" and not self.request_bytes_left:
            await self._check_chunk_head()
        return await super().read()

    def is_body_too_large(self) -> bool:
        """Say whether there is more of the body than its route takes, as far as it is known."""
        if self.body_limit is None:
            self.body_limit = self._limit_of_route()
        self.request_max_size = self.body_limit
        return bool(self.request_bytes > self.body_limit)

    async def _refuse_body(self) -> None:
        """Raise, and before that, when the answer is out already, give the client time to read it."""
        self.keep_alive = self.expecting_continue = False
        if self.stage is not Stage.HANDLER:
            await self._linger()
        raise PayloadTooLarge(f"The body must not be larger than {self.body_limit} bytes.")

    def _limit_of_route(self) -> int:
        route, door = self.request.route, self.protocol.door
        takes_much = route is not None and getattr(route.ctx, "takes_chat", False)
        return door.chat_body_bytes if takes_much else door.bounds.body_bytes

    async def _check_chunk_head(self) -> None:
        """Wait for a chunk's first line, and for the end of the chunk before it, and take them by the letter."""
        self._chunks += 1
        if self._chunks % CHUNKS_IN_A_TURN == 0:
            await asyncio.sleep(0)
        buffer = self.recv_buffer
        while (end := buffer.find(b"\r\n", 2)) < 0 and len(buffer) <= _LONGEST_CHUNK_HEAD:
            await self._receive_more()
        if not 0 <= end <= _LONGEST_CHUNK_HEAD or _CHUNK_HEAD.fullmatch(buffer, 0, end + 2) is None:
            self.keep_alive = False
            raise BadRequest("The body is badly chunked.")

    async def _linger(self) -> None:
        """Read on without keeping anything: closing at once would reset the connection, and take the answer along."""
        self.protocol.shut()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while True:
                    self.recv_buffer.clear()
                    await self._receive_more()
