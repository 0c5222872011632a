"""An application with nothing but a door, a dispatch and a test's own handlers, served in this process."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.response import BaseHTTPResponse

from proxy import serving
from proxy.bounds import Bounds
from proxy.dispatch import Begin, Dispatch, End
from proxy.door import Door
from proxy.request_log import RequestLog

_numbers = itertools.count(1)


def pass_on(_request: Request) -> HTTPResponse | None:
    """Begin a request by doing nothing."""
    return None


async def count_nothing(_request: Request) -> None:
    """Count no request of /api, of which there is none here."""


def leave(_request: Request, _response: BaseHTTPResponse) -> None:
    """End one likewise."""


def application(*handlers: Callable[..., Any], begin: Begin = pass_on, end: End = leave) -> Sanic[Any, Any]:
    """Make an application in which each handler is at the path of its name."""
    app: Sanic[Any, Any] = Sanic(f"bare-{next(_numbers)}", configure_logging=False)
    app.config.update({"TOUCHUP": False, "ACCESS_LOG": False, "MOTD": False, "FALLBACK_ERROR_FORMAT": "json"})
    app.ctx.door = Door(Bounds(), chat_body_bytes=2**20, answer_seconds=60)
    app.ctx.request_log = RequestLog(None)
    app.ctx.dispatch = Dispatch(app, begin, count_nothing, end)
    for handler in handlers:
        app.add_route(handler, f"/{handler.__name__}", methods=["GET", "HEAD", "POST"], error_format="json")
    return app


@asynccontextmanager
async def port_of(app: Sanic[Any, Any]) -> AsyncIterator[int]:
    """Serve an application; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = await serving.create_server(app, listener)
        await serving.start(server)
        try:
            yield listener.getsockname()[1]
        finally:
            await serving.stop(server, 1)
