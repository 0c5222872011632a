"""A simulated upstream is a real HTTP server on a real socket; what it bills stands in its books.

    async with OpenRouter() as upstream: ...             on the running loop
    with OpenRouter().in_thread() as upstream: ...       on a loop of its own, in a thread

`script` says how it behaves, `books` what it did. By hand the same through POST /_control and GET /_books.
"""

import asyncio
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, ClassVar, Self

from aiohttp import web

from tests.upstreams.ask import Ask
from tests.upstreams.behaviour import Behaviour
from tests.upstreams.books import PATIENCE, Books, Entry
from tests.upstreams.exchange import Exchange, bearer, json_response, letters
from tests.upstreams.failure import Failure, named
from tests.upstreams.generation import Generation, Served, Shape
from tests.upstreams.money import Bill
from tests.upstreams.script import Script
from tests.upstreams.tokens import Tokens

MAX_BODY = 256 * 1024 * 1024


class SimulatedUpstream(ABC):
    """What all upstreams share; a provider adds its routes, refusals, prices and spelling."""

    prefix: ClassVar[str] = "/v1"
    errors_file: ClassVar[str] = "openrouter_errors.json"
    insures_errors: ClassVar[bool] = False

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, keys: frozenset[str] | None = None) -> None:
        self.host = host
        self.port = port
        self.keys = keys
        self.script = Script(self.failure)
        self.books = Books()
        self.requests: list[str] = []
        self.is_stopping = False
        self._runner: web.AppRunner | None = None
        self._kept_port: socket.socket | None = None

    @property
    def base_url(self) -> str:
        return f"{self.root_url}{self.prefix}"

    @property
    def root_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    # Life

    async def start(self) -> None:
        """Listen; a port of 0 becomes a free one, on which it is after a `pause` too."""
        self.is_stopping = False
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._remember])
        self.add_routes(app.router)
        app.router.add_post("/_control", self._control)
        app.router.add_get("/_books", self._show_books)
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=0.1,
            max_line_size=65536,
            max_field_size=65536,
        )
        await self._runner.setup()
        site: web.BaseSite = web.TCPSite(self._runner, self.host, self.port, reuse_address=True, backlog=1024)
        if self._kept_port is not None:
            site = web.SockSite(self._runner, self._kept_port, backlog=1024)
            self._kept_port = None  # the site's now
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the socket and every connection."""
        self.is_stopping = True
        if self._runner:
            await self._runner.cleanup()
            self._runner = None
        if self._kept_port is not None:
            self._kept_port.close()
            self._kept_port = None

    async def pause(self) -> None:
        """Refuse connections until the next `start`: the port is kept, so that no other process gets it meanwhile."""
        await self.stop()
        self._kept_port = socket.socket()
        self._kept_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept_port.bind((self.host, self.port))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Serve from a thread with an event loop of its own until the block ends."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(loop,), name=type(self).__name__, daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), loop).result(PATIENCE)
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.stop(), loop).result(PATIENCE)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(PATIENCE)

    def reset(self) -> None:
        """Forget the books and the script."""
        self.script.clear()
        self.books.clear()
        self.requests.clear()

    # Books

    def entry_for(self, generation_id: str) -> Entry | None:
        return self.books.find(generation_id)

    def wait_idle(self, entries: int = 0) -> None:
        """Block until nothing runs (and `entries` came); only from another thread than the server's."""
        self.books.wait_until(lambda books: not books.running and len(books) >= entries)

    async def idle(self, entries: int = 0) -> None:
        """Wait on a loop until nothing runs (and `entries` came)."""
        await self.books.until(lambda books: not books.running and len(books) >= entries)

    # What a provider decides

    @abstractmethod
    def add_routes(self, router: web.UrlDispatcher) -> None: ...

    @abstractmethod
    def refuse_key(self, key: str | None) -> Failure | None: ...

    @abstractmethod
    def refuse_json(self) -> Failure: ...

    @abstractmethod
    def admit(self, ask: Ask, behaviour: Behaviour) -> Served | Failure: ...

    @abstractmethod
    def bill(self, served: Served, tokens: Tokens, ask: Ask, behaviour: Behaviour) -> Bill: ...

    @abstractmethod
    def headers(self, generation: Generation) -> dict[str, str]: ...

    def names(self, ask: Ask) -> frozenset[str]:
        """Say under which model names a rule of the script finds this request."""
        return frozenset({ask.model})

    def generation_id(self) -> str:
        return f"chatcmpl-{letters(24)}"

    def stops_on_close(self, generation: Generation) -> bool:
        """Tell whether a closed connection stops the billing."""
        return generation.behaviour.on_close != "full"

    def signed(self, failure: Failure, entry: Entry) -> Failure:
        """Add what this provider puts on every error."""
        del entry
        return failure

    def failure(self, behaviour: Behaviour) -> Failure | None:
        """Return the failure that a behaviour asks for."""
        if isinstance(behaviour.error, str):
            return named(self.errors_file, behaviour.error)
        return behaviour.error

    async def wait_headers(self, behaviour: Behaviour, ask: Ask | None = None) -> Failure | None:
        """Spend the time before the response's head; a provider that gives up meanwhile returns its failure."""
        del ask
        await asyncio.sleep(behaviour.delay_headers)
        return None

    async def misbehave(self, request: web.Request, name: str = "") -> Failure | None:
        """Do what the script says about an endpoint that generates nothing: wait, then maybe fail."""
        behaviour = self.script.take(frozenset({name}), bearer(request), request.path, generates=False)
        await self.wait_headers(behaviour)
        return self.failure(behaviour)

    # Endpoints of every simulator

    def endpoint(self, shape: Shape) -> Callable[[web.Request], Any]:
        """Make the aiohttp handler of a generating endpoint."""

        async def answer(request: web.Request) -> web.StreamResponse:
            return await Exchange(self, request, shape).run()

        return answer

    @web.middleware
    async def _remember(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.raw_path}")
        response: web.StreamResponse = await handler(request)
        return response

    async def _control(self, request: web.Request) -> web.Response:
        """Do `{"do": "enqueue"|"always"|"clear"|"reset", "behaviour": {}, "model", "key", "path", "times"}`."""
        order = await request.json()
        action = order.pop("do", "enqueue")
        try:
            behaviour = Behaviour.from_json(order.pop("behaviour", {}))
            if action == "enqueue":
                self.script.enqueue(behaviour, **order)
            elif action == "always":
                self.script.always(behaviour, **order)
            elif action in {"clear", "reset"}:
                (self.script.clear if action == "clear" else self.reset)()
            else:
                return json_response({"error": f"unknown action {action!r}"}, 400)
        except (KeyError, TypeError, ValueError) as error:
            return json_response({"error": str(error)}, 400)
        return json_response({"ok": True, "pending": self.script.pending})

    async def _show_books(self, request: web.Request) -> web.Response:
        del request
        entries = [entry.as_json() for entry in self.books]
        return json_response({"entries": entries, "total_cost": str(self.books.total_cost())})


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


@asynccontextmanager
async def serving(*upstreams: SimulatedUpstream) -> AsyncIterator[None]:
    """Start several upstreams and stop them together."""
    for upstream in upstreams:
        await upstream.start()
    try:
        yield
    finally:
        for upstream in upstreams:
            await upstream.stop()
