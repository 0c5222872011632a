"""Sanic's own request objects, for what reads a request without a server."""

from __future__ import annotations

from typing import Any

from sanic import Request, Sanic
from sanic.compat import Header

_app: list[Any] = []


def request_for(target: str = "/", *, body: bytes = b"", method: str = "GET", **headers: str) -> Request:
    """Make a request for a path with its query, as Sanic's server would."""
    if not _app:
        _app.append(Sanic("requests-for-tests", configure_logging=False))
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    transport: Any = None
    request: Request = Request(target.encode(), Header(lines), "1.1", method, transport, _app[0])
    request.body = body
    return request
