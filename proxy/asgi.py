"""The gateway under an ASGI server: for places without a disk, which may freeze a process after every answer.

Sanic leaves to its own server what is done here for every request: a body has a greatest size and a longest time,
and a client that leaves ends its handler. The last byte of an answer waits until what was used is written down,
and metering is `direct`, whatever is configured. The parts are opened when the server announces its start, or, where
it does not, with the first request; a start that fails is tried again with the next one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import structlog
from sanic import Sanic
from sanic.exceptions import RequestCancelled

from proxy import background, database, logs
from proxy.clock import utc_now
from proxy.errors import PayloadTooLarge, RequestTimeout, Unavailable, anthropic_body, envelope, openai_body
from proxy.server import App, create_app
from proxy.settings import Settings, SettingsError, load

BODY_SECONDS = 60.0
SETTLE_SECONDS = 10.0
"""How long the last byte of an answer waits for its usage event; that goes on by itself afterwards, if it may."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_numbers = itertools.count(1)
log = structlog.get_logger(__name__)


class StartFailed(Exception):
    """The gateway could not be started; the message is one line."""


def application() -> Application:
    """Make the ASGI application of the configuration; nothing is opened yet. Raises `SettingsError`."""
    settings = load()
    logs.configure(settings.log_level, settings.secrets())
    if not settings.mongodb_uri:
        raise SettingsError("MONGODB_URI: must be set: an ASGI server keeps no MongoDB for us")
    return Application(settings, settings.mongodb_uri)


class Application:
    """An ASGI application."""

    def __init__(self, settings: Settings, mongodb_uri: str, *, body_seconds: float = BODY_SECONDS) -> None:
        """Serve with these settings from this database; a body may take so long to arrive."""
        self._settings = settings.model_copy(update={"metering": "direct"})
        self._uri = mongodb_uri
        self._body_seconds = body_seconds
        self._life: _Life | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Live with the server, or answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            try:
                app = await self._start()
            except (Unavailable, StartFailed) as exc:
                await _refuse(scope, send, exc)
                return
            await _Conversation(app, receive, send, body_seconds=self._body_seconds).hold(scope)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            event = (await receive())["type"]
            try:
                await (self._start() if event == "lifespan.startup" else self._stop())
            except (Unavailable, StartFailed) as exc:
                await send({"type": f"{event}.failed", "message": str(exc)})
                return
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return

    async def _start(self) -> App:
        """Open the parts, once; raise `Unavailable` or `StartFailed`."""
        async with self._starting:
            if self._life is None:
                await self._reach_database()
                life = _Life(create_app(self._settings, self._uri, name=f"aipasta-asgi-{next(_numbers)}"))
                await life.begin()
                self._life = life
            return self._life.app

    async def _stop(self) -> None:
        if self._life is not None:
            await self._life.end()

    async def _reach_database(self) -> None:
        """Raise `Unavailable` before anything is opened that would have to be closed again."""
        client = database.connect(self._uri)
        try:
            await database.ping(database.database_of(client, self._settings.database))
        finally:
            await client.close()


class _Life:
    """An application's start and end, asked for in the protocol that Sanic speaks."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self.app.config.TOUCHUP = (
            False  # Sanic can rewrite its methods for one application of a process alone
        )
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
        self._task = asyncio.create_task(
            self.app(scope, self._asked.get, self._answers.put), name="asgi-life"
        )
        answer = await self._ask("lifespan.startup")
        if answer["type"] != "lifespan.startup.complete":
            await background.end([self._task])
            Sanic.unregister_app(self.app)
            raise StartFailed(" ".join(str(answer.get("message", "")).split()))

    async def end(self) -> None:
        await self._ask("lifespan.shutdown")

    async def _ask(self, event: str) -> Message:
        self._asked.put_nowait({"type": event})
        return await self._answers.get()


class _Conversation:
    """One request and its answer, between the server's messages and Sanic."""

    def __init__(self, app: App, receive: Receive, send: Send, *, body_seconds: float) -> None:
        self._app = app
        self._receive = receive
        self._send = send
        self._deadline = asyncio.get_running_loop().time() + body_seconds
        self._room: int = app.ctx.gateway.settings.limits.chat_body_bytes
        self._is_read = asyncio.Event()
        self._is_answered = False
        self._is_gone = False
        self._request_id: str | None = None

    async def hold(self, scope: Message) -> None:
        """Answer the request; when its client leaves, stay until what that leaves behind is written down."""
        handler = asyncio.create_task(self._app(scope, self._read, self._write))
        watcher = asyncio.create_task(self._watch(handler))
        try:
            await asyncio.wait({handler})
        finally:
            await background.end([watcher] if handler.done() else [watcher, handler])
        if self._is_gone:
            await self._finish()
        elif not handler.cancelled():
            handler.result()

    async def _read(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as exc:
            raise RequestTimeout("The request's body did not arrive in time.") from exc
        if message["type"] == "http.disconnect":
            self._is_gone = True
            raise RequestCancelled
        self._room -= len(message.get("body", b""))
        if self._room < 0:
            raise PayloadTooLarge("The request's body is too large.")
        if not message.get("more_body", False):
            self._is_read.set()
        return message

    async def _write(self, message: Message) -> None:
        if self._is_gone:
            raise RequestCancelled
        if message["type"] == "http.response.start":
            message["headers"] = list(message["headers"])  # Sanic hands out what can be read once
            self._request_id = dict(message["headers"]).get(b"x-request-id", b"").decode() or None
            self._is_read.set()  # what an answer does not wait for is not read any more
        elif not message.get("more_body", False):
            await self._settle()
            self._is_answered = True
        await self._send(message)

    async def _watch(self, handler: asyncio.Task[None]) -> None:
        """End the handler when the client leaves before it has its answer."""
        await self._is_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._is_answered:
            self._is_gone = True
            handler.cancel()

    async def _settle(self) -> None:
        if self._request_id is None:
            return
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._app.ctx.gateway.completions.settled(self._request_id)
        except TimeoutError:
            log.warning("an answer ends before its usage is written down", request=self._request_id)

    async def _finish(self) -> None:
        """Wait for all that goes on without a client: nobody else waits for it, and afterwards may be never."""
        gateway = self._app.ctx.gateway
        try:
            async with asyncio.timeout(gateway.settings.longest_exchange + SETTLE_SECONDS):
                await gateway.completions.ended()
                await self._app.ctx.turns.ended()
        except TimeoutError:
            log.warning("a request goes on without its client", request=self._request_id)


async def _refuse(scope: Message, send: Send, cause: Exception) -> None:
    """Answer a request that came before the gateway could be started."""
    log.error("the gateway cannot be started", cause=str(cause))
    error = Unavailable("This gateway is starting; try again.", retry_after=1)
    path = f"{scope['path']}/"
    if path.startswith("/v1/messages/"):
        body = anthropic_body(error, None)
    else:
        body = openai_body(error) if path.startswith("/v1/") else envelope(error, now=utc_now())
    headers = {"content-type": "application/json", **error.headers()}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": orjson.dumps(body)})
