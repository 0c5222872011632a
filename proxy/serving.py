"""One server on one socket, from its start to the end of its drain.

Sanic's own runner cannot be told in which order to end: here readiness goes first, new work is refused, what runs
has its time, what is left is ended and waited for, and only then are the parts closed that all of it needs.
SIGTERM, Ctrl-C and a terminal that is closed mean the same, once or often. A worker also stops when its parent is gone.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import uvloop
from sanic import Sanic
from sanic.config import Config

from proxy.door import Door
from proxy.listener import count_listeners
from proxy.protocol import NEW_SECONDS, Protocol
from proxy.settings import Settings

App = Sanic[Config, SimpleNamespace]
Server = Any  # Sanic's AsyncioServer, which has no annotations
BACKLOG = 2_048
"""Connections that may wait to be accepted; one that finds the line full is delayed by a second or many."""

ACCEPTS = 16
"""Connections that are accepted in one turn of the loop."""

READY, MAKE_WAY = b"r", b"w"
"""What a worker tells its parent once it serves, and the parent its worker when somebody else takes what is new."""

_LAST_SECONDS = 1.0
_LAST_TURNS = 8
"""How often the line is looked at before it is closed; in each of these turns, ACCEPTS are let in."""

_POLL_SECONDS = 0.05


def signals() -> tuple[signal.Signals, ...]:
    """Return the signals that mean the end; a closed terminal's is not among them where it is ignored, as under `nohup`."""
    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return ending if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else ending[:2]


def run(
    app: App, listener: socket.socket, settings: Settings, *, parent: socket.socket | None = None
) -> None:
    """Serve until a signal, or until `parent`, the other end of which a parent holds, says so by ending."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Run(app, listener, settings, parent).run())


class _Run:
    def __init__(
        self, app: App, listener: socket.socket, settings: Settings, parent: socket.socket | None
    ) -> None:
        self._app = app
        self._listener = listener
        self._settings = settings
        self._parent = parent
        self._stop = asyncio.Event()
        self._make_way = asyncio.Event()

    async def run(self) -> None:
        """Start, serve, drain."""
        loop = asyncio.get_running_loop()
        ending = signals()
        for number in ending:
            loop.add_signal_handler(number, self._stop.set)
        if self._parent is not None:
            self._parent.settimeout(0)
            loop.add_reader(self._parent, self._hear)
        server = await create_server(self._app, self._listener)
        try:
            await self._serve(server)
        finally:
            _close_listeners(server)
            await asyncio.sleep(0)  # its socket is closed in the loop's next turn
        # From here on there is nothing to end early, and a signal that comes late must not change the exit status.
        signal.pthread_sigmask(signal.SIG_BLOCK, ending)

    async def _serve(self, server: Server) -> None:
        if await self._unless_stopped(_prepare(server)):
            # From here on there may be somebody in line, who is not to be reset by an end that comes early.
            await _open(server)
            if self._parent is not None:
                with suppress(ConnectionError):  # it has ended, and `_hear` hears of it
                    self._parent.send(READY)
            await self._stop.wait()
            successor = asyncio.create_task(self._give_way(server))
            await stop(server, self._settings.drain_seconds)
            successor.cancel()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do something, and say whether it was done before somebody wanted to stop."""
        task, stopped = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            return False
        await task
        return True

    def _hear(self) -> None:
        """Take note of what the parent says, or that it has ended."""
        if self._parent is None:
            return
        said = b""
        with suppress(ConnectionError):
            said = self._parent.recv(16)
        if said == MAKE_WAY:
            self._make_way.set()
            return
        asyncio.get_running_loop().remove_reader(self._parent)
        self._stop.set()

    async def _give_way(self, server: Server) -> None:
        """Leave new connections to a newer gateway on the same port as soon as there is one."""
        if self._parent is not None:
            await self._make_way.wait()
        else:
            await _successor(self._settings)
        await _close_door(server)


async def create_server(app: App, listener: socket.socket) -> Server:
    """Make a server that does not listen yet."""
    return await app.create_server(
        sock=listener,
        protocol=Protocol,
        backlog=BACKLOG,
        return_asyncio_server=True,
        asyncio_server_kwargs={"start_serving": False},
    )


async def start(server: Server) -> None:
    """Open the parts of the application, then the door."""
    await _prepare(server)
    await _open(server)


async def _prepare(server: Server) -> None:
    await server.startup()
    await server.before_start()


async def _open(server: Server) -> None:
    await _listen(server)
    await server.after_start()


async def _listen(server: Server) -> None:
    """Begin to accept, through several handles of the one socket.

    libuv accepts one connection per handle and turn of its loop; with a single one, newcomers waited for 1.5 s while
    50 others kept a worker busy, and now 0.1 s (measured).
    """
    loop, app = asyncio.get_running_loop(), server.app
    await server.start_serving()
    newcomer = partial(Protocol, app=app, loop=loop, connections=server.connections)
    app.ctx.listeners = [server.server]
    for _ in range(ACCEPTS - 1):
        handle = server.server.sockets[0].dup()
        app.ctx.listeners.append(await loop.create_server(newcomer, sock=handle, backlog=BACKLOG))


async def _close_door(server: Server) -> None:
    """Let in whoever stands in line, for closing a listener resets him, and then nobody any more."""
    for _ in range(_LAST_TURNS):
        await asyncio.sleep(0)
    _close_listeners(server)


def _close_listeners(server: Server) -> None:
    for listener in getattr(server.app.ctx, "listeners", (server.server,)):
        listener.close()


async def stop(server: Server, seconds: float) -> None:
    """Refuse new work, let what runs end within `seconds`, end the rest, and close the parts of the application."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    door: Door = server.app.ctx.door
    connections: set[Protocol] = server.connections
    door.is_draining = True
    for connection in list(connections):
        connection.stop()
    await server.before_stop()
    deadline = max(deadline, loop.time() + _LAST_SECONDS)
    await _until(lambda: not any(connection.is_busy for connection in connections), deadline)
    await _close_door(server)
    # Who came until now has asked in good faith, and is told at least to come again.
    await _until(
        lambda: not any(each.is_new or each.is_busy for each in connections), loop.time() + NEW_SECONDS
    )
    ending = [task for task in [connection.end() for connection in list(connections)] if task is not None]
    if ending:
        await asyncio.wait(ending, timeout=_LAST_SECONDS)
    await server.after_stop()


async def _until(is_so: Callable[[], bool], deadline: float) -> None:
    """Wait until something is so, or until a moment of the loop's clock."""
    while not is_so() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  there are as many ends as connections
        await asyncio.sleep(_POLL_SECONDS)


async def _successor(settings: Settings) -> None:
    """Return when a newer gateway listens on our port; never, where that is not allowed."""
    while not settings.reuse_port or count_listeners(settings.port) < 2:  # noqa: ASYNC110, PLR2004  the kernel knows, and there are two
        await asyncio.sleep(_POLL_SECONDS * 5)
