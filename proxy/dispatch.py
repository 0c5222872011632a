"""From a request to its answer: what Sanic's own dispatch does, as far as anything here needs it.

Sanic finds out anew, for each request, of which of many kinds its handler, its middleware and its answer are. Here
they are of one kind: coroutines that return a response, between a beginning and an end that are the same for all. It
takes a few per cent less of a chat's CPU. Errors, and everything under ASGI, go Sanic's way, with the same
beginning and end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import ServerError
from sanic.http import Http, Stage
from sanic.response import BaseHTTPResponse

from proxy.protocol import StrictHttp

Begin = Callable[[Request], HTTPResponse | None]
Count = Callable[[Request], Awaitable[None]]
End = Callable[[Request, BaseHTTPResponse], None]
# Asked for by the class, a member takes ten times as long as by a name.
_IDLE = Stage.IDLE
_COUNTED = "/api/"


class Dispatch:
    """The way of every request through one application."""

    def __init__(self, app: Sanic[Any, Any], begin: Begin, count: Count, end: End) -> None:
        """Let `begin` see every request, which it may answer or refuse, `count` those of /api, and `end` every answer."""
        self._app = app
        self._begin = begin
        self._count = count
        self._end = end
        app.on_request(self._begin_once)
        app.on_response(end)  # type: ignore[no-untyped-call]  # Sanic has no annotation here

    async def answer(self, request: Request, http: StrictHttp) -> None:
        """Answer a request, with an error if need be."""
        is_begun = False
        try:
            path = request.path
            route, handler, arguments = self._app.router.get(path, request.method, None)
            request.route = route
            is_begun = True
            response = self._begin(request)
            if response is None and path.startswith(_COUNTED):
                await self._count(request)
            if http.request_body and not route.extra.ignore_body:
                request.ctx.is_begun = True
                request.body = await http.receive_body(getattr(route.ctx, "admit", None))
            if response is None:
                response = await handler(request, **arguments)
            if response is not None and not request.responded:
                self._respond(request, http, response)
            if not http.answer_now():
                await _send(http)
        except Exception as exc:  # noqa: BLE001  the outermost one: whatever it is, it is rendered
            await self._app.handle_exception(request, exc, run_middleware=not is_begun)

    async def _begin_once(self, request: Request) -> HTTPResponse | None:
        """Begin a request that goes Sanic's way, unless it is one of ours whose body was waited for too long."""
        if getattr(request.ctx, "is_begun", False):
            return None
        response = self._begin(request)
        if response is None and request.path.startswith(_COUNTED):
            await self._count(request)
        return response

    async def respond(self, request: Request, response: HTTPResponse) -> None:
        """Make this a request's answer; it is sent when a part of it is."""
        stream = request.stream
        if isinstance(stream, Http):
            self._respond(request, stream, response)
        else:
            await request.respond(response)

    def _respond(self, request: Request, http: Http, response: HTTPResponse) -> None:
        http.respond(response)
        self._end(request, response)
        # Should it be thrown away for an error's, the first one is what the request's line tells of.
        request._response_middleware_started = True  # noqa: SLF001  Sanic has no other way to say it
        request.responded = True


async def _send(http: Http) -> None:
    """Send an answer, or what is left of it."""
    response = http.response
    if response is None:
        raise ServerError("There is no answer.")
    if http.stage is not _IDLE:  # which it is when a stream has ended
        await response.send(end_stream=True)
