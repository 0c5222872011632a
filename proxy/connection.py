"""One connection to a provider: HTTP/1.1 on a socket, one exchange at a time, read by httptools (llhttp, in C).

What a connection does not understand, or did not ask for, closes it: bytes that nobody waits for would be taken for
the answer to the next request. A connection goes back to its pool by itself, at an answer's last byte and only if
nothing came after it and all of the request had been sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, cast

import httptools
import httpx

_MOST_OVERHEAD = 32 * 2**10
"""How many bytes may come that are no body: a head, a chunk's extensions, trailers."""

_HIGH_WATER = 64 * 2**10
"""How much of a body may wait to be read before the provider has to wait too."""

_LEFT_SECONDS = 1.0

_FIRST_FINAL_STATUS = 200


class Disconnected(httpx.RemoteProtocolError):
    """The provider closed the connection before it answered."""


class CutOff(httpx.RemoteProtocolError):
    """An answer ended before its end."""


class Home(Protocol):
    """Where connections live when they have nothing to do."""

    def opened(self, connection: Connection) -> None:
        """Learn of a connection."""

    def has_request(self, connection: Connection) -> None:
        """Learn of a request: `write` is to be called soon."""

    def ended(self, connection: Connection) -> None:
        """Learn that an exchange is over; the connection may be open for another one."""

    def lost(self, connection: Connection) -> None:
        """Learn that a connection is no more."""


class Body(httpx.AsyncByteStream):
    """An answer: its head, then its body as it arrives. Closed before its end, it closes the connection.

    Whether it `has_arrived` says nothing of how much of it was read.
    """

    def __init__(self, connection: Connection) -> None:
        """Wait for what this connection receives."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._connection: Connection | None = connection
        self._loop = connection.loop
        self.has_arrived = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_wanted = True
        self._failure: httpx.TransportError | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._take: Callable[[bytes], bool] | None = None

    @property
    def is_full(self) -> bool:
        """Say whether so much waits to be read that no more should come."""
        return self._size >= _HIGH_WATER

    def add(self, pieces: Sequence[bytes]) -> None:
        """Keep what has arrived at once until it is read."""
        if self._is_wanted:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._pieces.append(piece)
            self._size += len(piece)

    def end(self, failure: httpx.TransportError | None) -> None:
        """Take no more from the connection: this was the end, or has to be for some reason."""
        self._connection = None
        self._failure = failure
        self.has_arrived = failure is None
        self.wake()

    def wake(self) -> None:
        """Let who waits look at what has arrived; or do for him what he would do with it."""
        if self._waiter is None or self._waiter.done():
            return
        is_enough = False
        if self._take is not None:
            is_enough = bool(self._pieces) and self._take(self._pop())
            if not is_enough and self._connection is not None:
                return
        self._waiter.set_result(is_enough)

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces; those that arrived together are one."""
        return self

    async def __anext__(self) -> bytes:
        """Return what has arrived since the last time."""
        while not self._pieces:
            if self.has_arrived:
                raise StopAsyncIteration
            await self.news()
        return self._pop()

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Give what arrives to `take`, until that says it is enough, or the body ends; say whether it was enough.

        It is called from where the bytes arrive: with a task woken for each piece, a streamed chunk took 45 calls of Python
        functions on its way, where it now takes 26.
        """
        while True:
            if self._pieces and take(self._pop()):
                return True
            if self.has_arrived:
                return False
            self._take = take
            try:
                if await self.news():
                    return True
            finally:
                self._take = None

    def news(self) -> asyncio.Future[bool]:
        """Return what to wait for until more has arrived; raise what the answer failed with."""
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        return self._waiter

    def rest(self) -> bytes:
        """Return what has arrived since the last time, or nothing."""
        return self._pop() if self._pieces else b""

    async def aclose(self) -> None:
        """Close the connection, unless all has arrived: then it went back to the pool by itself."""
        self._close()

    def leave(self) -> None:
        """Let a body whose last event was read come to its end by itself, within a second.

        A stream's last chunk tends to come a moment after its `[DONE]`. Who closes in between opens a connection for
        every stream, and waiting would keep the client waiting too.
        """
        self.ignore()
        if self._connection is not None:
            self._connection.read_on()
            self._loop.call_later(_LEFT_SECONDS, self._close)

    def ignore(self) -> None:
        """Keep nothing that arrives from now on."""
        self._is_wanted = False
        self._pieces, self._size = [], 0

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _pop(self) -> bytes:
        pieces, self._pieces, self._size = self._pieces, [], 0
        if self._connection is not None:
            self._connection.read_on()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Connection(asyncio.Protocol):
    """A connection; `is_open` says whether it can be used."""

    def __init__(self, home: Home, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to this pool, and be read by tasks of this loop."""
        self.loop = loop
        self.is_open = False
        self.idle_since = 0.0
        self._home = home
        # Twenty chunks tend to arrive at once, and a method of ours would be called for each of them.
        self._arrived: list[bytes] = []
        self.on_body = self._arrived.append
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._body: Body | None = None
        self._unwritten: Sequence[bytes] = ()
        self._headers: list[tuple[bytes, bytes]] = []
        self._overhead = 0
        self._answers_head = False
        self._ends_with_connection = False
        self._is_complete = False
        self._is_reusable = False
        self._is_paused = False

    async def send(self, request: Sequence[bytes], *, is_head: bool = False) -> Body:
        """Send a request and wait for its answer's head; raise `httpx.TransportError` when there is none.

        Whoever does not read the body to its end must close it. `is_head` speaks of the method.
        """
        body = self._body = Body(self)
        self._overhead, self._answers_head, self._is_complete = 0, is_head, False
        if self.is_open:
            self._unwritten = request
            self._home.has_request(self)
        else:
            self._end(Disconnected("the connection was closed at once"))
        try:
            while not body.status:
                await body.news()
        except BaseException:
            # The answer may still come, and is nobody's. Whether the request was on its way must not depend on the moment.
            self.write()
            self.close()
            raise
        return body

    def write(self) -> None:
        """Write the request that is to be sent, unless the connection was lost meanwhile."""
        if self._unwritten and self.is_open and not self._transport.is_closing():
            self._transport.writelines(self._unwritten)
            self._unwritten = ()

    def read_on(self) -> None:
        """Receive again, now that what had arrived was read."""
        if self._is_paused and self.is_open:
            self._is_paused = False
            self._transport.resume_reading()

    def close(self, failure: httpx.TransportError | None = None) -> None:
        """Close at once; an exchange under way ends with the failure."""
        self._abort()
        self._end(failure or CutOff("the answer was not read to its end"))

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True
        self._home.opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives, and see what it means for the exchange."""
        body = self._body
        if body is None or self._unwritten:
            self._break_off(None)
            return
        try:
            self._feed(data, body)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._is_reusable = False
            if not self._is_complete:
                self.close(httpx.RemoteProtocolError(f"not HTTP: {exc}"))
                return
        if self._is_complete:
            self._complete()
        elif self._overhead > _MOST_OVERHEAD:
            self.close(httpx.RemoteProtocolError("too much beside the body"))
        else:
            body.wake()
            if body.is_full and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()

    def eof_received(self) -> None:
        """Close when the provider does, which may be how an answer ends."""
        self._break_off(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits, and the pool."""
        self._break_off(exc)
        self._home.lost(self)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin a head, or find that something comes after the answer."""
        self._headers = []
        self._is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers come here too, when nobody looks at the list any more."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Take a head, unless it is an interim one (100, 103)."""
        status, body = self._parser.get_status_code(), self._body
        if body is None or self._is_complete or status < _FIRST_FINAL_STATUS:
            return
        body.status, body.headers = status, self._headers
        self._headers = []
        self._ends_with_connection = not self._parser.should_keep_alive() and not _is_framed(body.headers)
        if self._answers_head:
            # The parser cannot know, and would wait for the body that the head tells of.
            self._is_complete = True
            body.ignore()

    def on_message_complete(self) -> None:
        """Take note of the end, unless it is an interim answer's."""
        if self._body is not None and self._body.status and not self._is_complete:
            self._keep_arrived(self._body)
            self._is_complete = True
            self._is_reusable = self._parser.should_keep_alive()

    def _feed(self, data: bytes, body: Body) -> None:
        self._overhead += len(data)
        if self._overhead > _MOST_OVERHEAD and not body.status:
            # What came in one piece is no head only because it is longer than one may be.
            room = len(data) - (self._overhead - _MOST_OVERHEAD)
            self._parser.feed_data(data[:room])
            if not body.status:
                return
            data = data[room:]
        try:
            self._parser.feed_data(data)
        finally:
            self._keep_arrived(body)

    def _keep_arrived(self, body: Body) -> None:
        """Keep the pieces of a body; those that come after its end are nobody's."""
        if not self._arrived:
            return
        self._overhead = 0
        if not self._is_complete:
            body.add(self._arrived)
        self._arrived.clear()

    def _complete(self) -> None:
        """Leave an answer that has arrived as a whole to its reader, and be free for another one."""
        # What is not sent of a request that was answered early would be taken for the next one.
        if self._is_reusable and not self._transport.get_write_buffer_size():
            self.read_on()
        else:
            self._abort()
        self._end(None)

    def _break_off(self, exc: Exception | None) -> None:
        self._abort()
        if self._body is None:
            return
        if self._unwritten:
            self._end(httpx.ConnectError("the connection ended before the request was written"))
        elif self._body.status:
            is_end = self._ends_with_connection and exc is None
            self._end(None if is_end else CutOff("the answer was cut off"))
        elif exc is None:
            self._end(Disconnected("the connection was closed"))
        else:
            self._end(httpx.ReadError(str(exc)))

    def _abort(self) -> None:
        if self.is_open:
            self.is_open = False
            # `close` would first send what is left of a request.
            self._transport.abort()

    def _end(self, failure: httpx.TransportError | None) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.end(failure)
            self._home.ended(self)


def _is_framed(headers: list[tuple[bytes, bytes]]) -> bool:
    """Say whether an answer has an end of its own, not only its connection's."""
    values = {name.lower(): value for name, value in headers}
    encoding = values.get(b"transfer-encoding")
    if encoding is not None:
        return encoding.lower().rstrip().endswith(b"chunked")
    return b"content-length" in values
