"""The connections to one provider: as many as are needed up to a bound, the one that was used last first.

A pool ends as it began after whatever was cancelled: what bounds it is a slot that an exchange takes when it asks for
a connection, and that the connection itself gives back at the exchange's end, of whatever kind.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import aiohappyeyeballs
import httpx
from aiohappyeyeballs import AddrInfoType

from plugins.values import Value
from proxy.connection import Connection
from proxy.together import Together

_IDLE_SECONDS = 20.0
"""How long an idle connection is kept; providers close theirs after 60 s and more."""

_DNS_SECONDS = 60.0

_HAPPY_EYEBALLS_SECONDS = 0.25
"""How long one address may take before the next one is tried beside it (RFC 8305)."""

_CLOSING_SECONDS = 1.0


class Origin(Value, frozen=True):
    """Where a provider is."""

    host: str
    port: int
    is_secure: bool


class Pool:
    """At most `limit` connections to an origin; idle ones are reused, the last one first."""

    def __init__(self, origin: Origin, limit: int, tls: ssl.SSLContext | None = None) -> None:
        """Open nothing yet."""
        self._origin = origin
        self._tls = tls
        self._limit = limit
        self._in_use = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._to_write: Together[Connection] = Together(_write_all)
        self._dialing: set[asyncio.Task[Connection]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._last_lost: asyncio.Future[None] | None = None
        self._addresses: Sequence[AddrInfoType] = []
        self._addresses_until = 0.0
        self._looking_up = asyncio.Lock()

    async def connection(self, *, connect: float | None, pool: float | None) -> Connection:
        """Return a connection that has nothing to do, waiting at most so many seconds for each step.

        The caller must use it at once, whose end gives it back. Raises `httpx.TransportError`.
        """
        if self._in_use < self._limit:
            self._in_use += 1
        else:
            await self._slot(pool)
        return self._idle_one() or await self._dial(connect)

    def connection_at_once(self) -> Connection | None:
        """Return such a connection if nothing has to be waited for: a coroutine and a semaphore took 0.7 us of a chat's 250."""
        if self._in_use == self._limit:
            return None
        connection = self._idle_one()
        if connection is not None:
            self._in_use += 1
        return connection

    async def aclose(self) -> None:
        """Close every connection."""
        self._is_closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in tuple(self._open):
            connection.close()
        if self._dialing:
            await asyncio.wait(self._dialing, timeout=_CLOSING_SECONDS)
        if self._open:
            self._last_lost = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._last_lost}, timeout=_CLOSING_SECONDS)

    # What connections call.

    def opened(self, connection: Connection) -> None:
        """Count it among those that have to be closed."""
        self._open.add(connection)

    def has_request(self, connection: Connection) -> None:
        """Let it write its request together with the others of this turn."""
        self._to_write.add(connection)

    def ended(self, connection: Connection) -> None:
        """Give its slot to another exchange, and itself too if it is open."""
        self._release()
        if not connection.is_open:
            return
        if self._is_closed:
            connection.close()
            return
        connection.idle_since = connection.loop.time()
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweeping = connection.loop.call_later(_IDLE_SECONDS, self._sweep)

    def lost(self, connection: Connection) -> None:
        """Forget it."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._last_lost is not None and not self._open and not self._last_lost.done():
            self._last_lost.set_result(None)

    def _sweep(self) -> None:
        """Close what has been idle for too long; the longest stands first."""
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since + _IDLE_SECONDS <= loop.time():
            self._idle.popleft().close()
        self._sweeping = None
        if self._idle:
            self._sweeping = loop.call_at(self._idle[0].idle_since + _IDLE_SECONDS, self._sweep)

    def _idle_one(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _slot(self, patience: float | None) -> None:
        """Wait for an exchange to give its slot to this one; who came first is the next."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():  # it was given one just then
                self._release()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(exc, TimeoutError):
                raise httpx.PoolTimeout("every connection is in use") from exc
            raise

    def _release(self) -> None:
        """Give a slot to the exchange that has waited the longest, or back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._in_use -= 1

    async def _dial(self, patience: float | None) -> Connection:
        """Make a connection; one whose caller is cancelled meanwhile keeps its slot, and is there for others then."""
        # Not to be cancelled: uvloop would close the socket, and leave an object that closes its number once more.
        dialing = asyncio.create_task(self._connect(patience))
        self._dialing.add(dialing)
        dialing.add_done_callback(self._dialing.discard)
        try:
            return await asyncio.shield(dialing)
        except asyncio.CancelledError:
            dialing.add_done_callback(self._unwanted)
            raise
        except (OSError, UnicodeError) as exc:  # the latter is a name that cannot be one
            self._release()
            # It may have moved.
            self._addresses_until = 0.0
            # A TLS handshake that takes too long is aborted.
            is_late = isinstance(exc, TimeoutError | ConnectionAbortedError)
            raise (httpx.ConnectTimeout if is_late else httpx.ConnectError)(str(exc)) from exc

    def _unwanted(self, dialing: asyncio.Task[Connection]) -> None:
        if dialing.cancelled() or dialing.exception() is not None:
            self._release()
        else:
            self.ended(dialing.result())

    async def _connect(self, patience: float | None) -> Connection:
        loop = asyncio.get_running_loop()
        deadline = None if patience is None else loop.time() + patience
        async with asyncio.timeout_at(deadline):
            reached = await aiohappyeyeballs.start_connection(
                await self._look_up(), happy_eyeballs_delay=_HAPPY_EYEBALLS_SECONDS, interleave=1
            )
        secure: dict[str, Any] = {}
        if self._origin.is_secure:
            secure["ssl"] = self._tls or _system_tls()
            secure["server_hostname"] = self._origin.host.rstrip(".")
            secure["ssl_handshake_timeout"] = deadline and max(0.001, deadline - loop.time())
        _, connection = await loop.create_connection(lambda: Connection(self, loop), sock=reached, **secure)
        if self._is_closed:
            connection.close()
        return connection

    async def _look_up(self) -> Sequence[AddrInfoType]:
        """Return the origin's addresses, at most a minute old; who asks meanwhile waits for the same answer."""
        loop = asyncio.get_running_loop()
        async with self._looking_up:
            if loop.time() >= self._addresses_until:
                self._addresses = await loop.getaddrinfo(
                    self._origin.host, self._origin.port, type=socket.SOCK_STREAM
                )
                self._addresses_until = loop.time() + _DNS_SECONDS
            return self._addresses


def _write_all(connections: Iterable[Connection]) -> None:
    for connection in connections:
        connection.write()


@functools.cache
def _system_tls() -> ssl.SSLContext:
    """Trust what the system trusts; made once, because it takes tens of milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
