"""HTTP/1 as a server on the open internet speaks it: Sanic's, with what it leaves open closed.

Heads and chunks are taken by the letter or refused, and the connection with them. Every phase of a connection has
a deadline that no byte prolongs. A worker has a bound on connections: past it, and while it drains, only /health and
/metrics are served, and everything else is answered 503 at once, before its body is read. So is a call for which there
is no room, before anybody asks whose it is.

It costs no CPU: a trivial request with 18 header lines took 248 us, where Sanic's own protocol took 284 (measured in
three pairs of runs). Heads take 5 to 10 of them, deadlines nothing, and `send` saves asking for signal handlers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Any

from sanic import Request
from sanic.exceptions import BadRequest, RequestTimeout, SanicException, ServiceUnavailable
from sanic.headers import format_http1_response
from sanic.http import Stage

from proxy.core import heads
from proxy.errors import Unavailable
from proxy.handlers.headers import HotResponse
from proxy.incoming import Incoming
from proxy.outgoing import Outgoing
from proxy.request_log import new_request_id

TICK_SECONDS = 1.0
CROWDED_IDLE_SECONDS = 5.0
NEW_SECONDS = 1.0
"""How long after a connection was made its first request is waited for, should everything be about to end.

A client on a busy machine needs more than 0.25 s between the two (seen), and takes a close before it has asked for a fault.
"""

_PROGRESS_BYTES = 16 * 2**10
_HEAD_TOO_LARGE = 431
_MOST_UNREAD = 2**16
# Of lines that are well-formed. A loop over them, which is what Sanic has, takes a third longer (measured).
_HEADERS = re.compile("([^:]+):[ \t]*(.*)\r\n")
_VERSIONS = frozenset({"HTTP/1.0", "HTTP/1.1"})
_ALWAYS_SERVED = frozenset({"/health", "/health/ready", "/metrics"})


class StrictHttp(Incoming):
    """The exchange of requests and answers on one connection."""

    __slots__ = ()
    response_func: Any

    async def http1_request_header(self) -> None:
        """Read a whole head, refuse it before anything in it is used, and make the request of it.

        All of it in one pass: Sanic's own, called after ours, would find, decode and keep everything a second time.
        """
        buffer, seen = self.recv_buffer, 0
        if buffer[:2] == b"\r\n":  # RFC 9112 section 2.2: old clients end a body with one too many
            del buffer[:2]
        while (end := buffer.find(b"\r\n\r\n", seen)) < 0 and len(buffer) <= self.HEADER_MAX_SIZE:
            seen = max(0, len(buffer) - 3)
            await self._receive_more()
        if not 0 <= end <= self.HEADER_MAX_SIZE:
            raise SanicException("The head of the request is too large.", _HEAD_TOO_LARGE)
        head = bytes(buffer[: end + 2])
        fault = heads.fault(head)
        if fault is not None:
            raise BadRequest(fault)
        request = self._request_of(head)
        self.expect_body(request)
        # What begins a chunk stays: the CRLF before it.
        del buffer[: end + 2 if self.request_body == "chunked" else end + 4]
        self.take_small_body(request)
        self.request, request.stream = request, self
        self.protocol.state["requests_count"] += 1

    def _request_of(self, head: bytes) -> Request:
        line, _, lines = head.decode(errors="surrogateescape").partition("\r\n")
        method, url, version = line.split(" ")
        if version not in _VERSIONS:
            raise BadRequest("The head of the request is malformed.")
        headers: Any = _HEADERS.findall(lines)  # of which Sanic makes its own kind, that knows no case
        request: Request = self.protocol.request_class(
            url_bytes=url.encode("ascii"),
            headers=headers,
            head=head[:-2],
            version=version[5:],
            method=method,
            transport=self.protocol.transport,
            app=self.protocol.app,
        )
        connection = request.headers.get("connection")
        self.keep_alive = version == "HTTP/1.1" if connection is None else connection.lower() == "keep-alive"
        self.head_only = method.upper() == "HEAD"
        self.url = url  # only now: of a bad one, Sanic would make another request for the error's answer
        return request

    async def http1_response_header(self, data: bytes, end_stream: bool) -> None:  # noqa: FBT001  Sanic's signature
        """Send the head of an answer; to HTTP/1.0, which knows no chunks, a stream ends with its connection."""
        response = self.response
        if self.request_body and self.is_body_too_large():
            self.keep_alive = self.expecting_continue = False
        if isinstance(response, HotResponse) and self._may_be_hot:
            await self._send_hot(response, data or response.body or b"", is_whole=end_stream)
            return
        is_whole = end_stream or getattr(response, "body", None) or "content-length" in response.headers
        if self.request.version != "1.0" or is_whole:
            await super().http1_response_header(data, end_stream)
            return
        self.keep_alive = False
        response.headers["connection"] = "close"
        await self._send(format_http1_response(response.status, response.processed_headers))
        self.response_func = self._send_as_it_is
        self.stage = Stage.RESPONSE
        await self._send_as_it_is(data, end_stream)

    @property
    def _may_be_hot(self) -> bool:
        """Say whether the present request may be answered with a head that an answer writes itself."""
        return self.request.version == "1.1" and not self.request_body

    def answer_now(self) -> bool:
        """Send an answer that is all here, if it knows its head and the client has room for it, and say so.

        Nothing is waited for, and no coroutine is made that could be: by Sanic's way there are four.
        """
        response = self.response
        if not isinstance(response, HotResponse) or self.stage is not Stage.HANDLER:
            return False
        if not self._may_be_hot or not self.protocol.has_room:
            return False
        body = response.body or b""
        self.protocol.write(response.head(len(body), keep_alive=self.keep_alive) + body)
        self.response_func, self.stage = None, Stage.IDLE
        return True

    async def _send_hot(self, response: HotResponse, data: bytes, *, is_whole: bool) -> None:
        """Send an answer that knows its head, for which Sanic takes 1.9 % of a chat's CPU, and this 0.8."""
        head = response.head(len(data) if is_whole else None, keep_alive=self.keep_alive)
        if data and not is_whole:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        await self._send(head + data)
        # Only now: whoever waited for room may have been cancelled, and then the head is still to be sent.
        self.response_func = None if is_whole else self.http1_response_chunked
        self.stage = Stage.IDLE if is_whole else Stage.RESPONSE

    def send_now(self, data: bytes) -> bool:
        """Send a piece of an answer in chunks, if the client has room for it and the head is out, and say so."""
        protocol = self.protocol
        if self.response_func != self.http1_response_chunked or not protocol.has_room:
            return False
        protocol.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    async def _send_as_it_is(self, data: bytes, end_stream: bool) -> None:  # noqa: FBT001  Sanic's signature
        if data and not self.head_only:
            await self._send(data)
        if end_stream:
            self.response_func, self.stage = None, Stage.IDLE


class Protocol(Outgoing):
    """One connection."""

    __slots__ = ("_arrival", "_is_one_too_many", "_made_at", "_phase", "_since")
    HTTP_CLASS = StrictHttp
    recv_buffer: bytearray
    _task: Any

    def __init__(self, *, app: Any, **options: Any) -> None:
        """Begin; `app.ctx.door` is the door that it came through."""
        self._is_one_too_many = False
        self._phase: tuple[object, ...] = ()
        self._since = 0.0
        self._arrival: asyncio.Future[None] | None = None
        super().__init__(app=app, **options)
        self.request_handler = self._handle

    def connection_made(self, transport: Any) -> None:
        """Take a connection; one past the bound is served with a refusal, one past twice the bound not at all."""
        super().connection_made(transport)
        self._made_at = self.loop.time()
        most = self.door.bounds.most
        self._is_one_too_many = len(self.connections) > most
        if len(self.connections) > 2 * most:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Keep what arrives until it is read, but not without end."""
        self.recv_buffer += data
        if len(self.recv_buffer) >= _MOST_UNREAD:
            self.transport.pause_reading()
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def receive_more(self) -> asyncio.Future[None]:  # type: ignore[override]  # Sanic but awaits what it returns
        """Return what to wait for until more has arrived: Sanic has an event, of which each connection has one waiter."""
        self.transport.resume_reading()
        self._arrival = self.loop.create_future()
        return self._arrival

    def stop(self) -> None:
        """Close the connection now, or with the answer that is under way, or that to a request that may be."""
        if self.http is not None:
            self.http.keep_alive = False
        if not self.is_new and not self.recv_buffer:
            self.close_if_idle()

    def end(self) -> asyncio.Task[None] | None:
        """Close the connection, whatever it does, and return what still ends then."""
        task: asyncio.Task[None] | None = self._task
        if not self.close_if_idle():
            self.abort()
        return task

    @property
    def is_new(self) -> bool:
        """Say whether the first request may still be on its way: to close now would reset it, unread."""
        has_asked = self.state["requests_count"] > 0 or self._task is None
        return not has_asked and self.loop.time() - self._made_at < NEW_SECONDS

    @property
    def is_busy(self) -> bool:
        """Say whether a request is being answered."""
        return bool(self.http)

    def check_timeouts(self) -> None:
        """Look every second how long the connection has been in its phase.

        Nothing is measured on the way of a request: the error is a second at most.
        """
        if self.http is None or self.transport is None:
            return
        (*phase, patience), now = self._present_phase(), self.loop.time()
        if tuple(phase) != self._phase:
            self._phase, self._since = tuple(phase), now
        elif now - self._since > patience:
            self._expire()
        self._callback_check_timeouts = self.loop.call_later(TICK_SECONDS, self.check_timeouts)

    def _present_phase(self) -> tuple[object, int, int, float]:
        """Return what the connection waits for, whose number it is, how far that is, and how long it may last."""
        http, bounds, count = self.http, self.door.bounds, self.state["requests_count"]
        if not self._can_write.is_set():
            left = self.transport.get_write_buffer_size() // _PROGRESS_BYTES
            return "reader", count, left, bounds.reader_seconds
        if http.stage is Stage.IDLE:
            if count == 0:
                return "head", count, 0, bounds.head_seconds
            is_crowded = len(self.connections) > bounds.most // 2
            return Stage.IDLE, count, 0, CROWDED_IDLE_SECONDS if is_crowded else bounds.idle_seconds
        if http.stage is Stage.REQUEST:
            return "head", count, 0, bounds.head_seconds
        if http.request_body:
            return "body", count, 0, bounds.body_seconds
        return "answer", count, 0, self.door.answer_seconds

    def _expire(self) -> None:
        phase, http = self._phase[0], self.http
        if phase == "reader":
            self.abort()
            return
        if http.stage is Stage.IDLE:
            self.close()
            return
        late = phase in {"head", "body"}
        http.exception = (
            RequestTimeout("The request did not arrive in time.")
            if late
            else ServiceUnavailable("The answer took too long.")
        )
        self._task.cancel()

    def _handle(self, request: Request) -> Awaitable[None]:
        """Answer a request, unless there is no room for it."""
        door = self.door
        http: Any = request.stream  # which `self.http` finds out each time
        if door.is_draining or self._is_one_too_many:
            http.keep_alive = False
            if request.path not in _ALWAYS_SERVED:
                http.body_limit = 0
                return self._refuse(
                    request, "shutting down" if door.is_draining else "at its limit of connections"
                )
        if door.is_full_for(request):
            # A small body is read without being looked at, and the connection kept; a large one is not waited for.
            http.body_limit = door.bounds.body_bytes
            return self._refuse(request, "at its limit of concurrent requests")
        if self.transport is not None:
            # Reading stops while a large body waits, and then nobody sees that the client has left.
            self.transport.resume_reading()
        answered: Awaitable[None] = self.app.ctx.dispatch.answer(request, http)
        return answered

    async def _refuse(self, request: Request, state: str) -> None:
        """Answer before anything is read but the head: a refusal must cost little where there is much of it."""
        request.ctx.id = new_request_id()
        refusal = Unavailable(f"This gateway is {state}; try again.", retry_after=1)
        await self.app.handle_exception(request, refusal, run_middleware=False)
