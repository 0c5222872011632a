"""OPTIONS wherever there is anything: added before the server starts.

sanic-ext would do the same at start, and compile the router anew for every route that it adds: 1.6 s of the 1.9 s
of CPU that an application took to start (measured with 75 of them). HEAD comes with GET (proxy.blueprint).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.response import empty


def add_automatic(app: Sanic[Any, Any]) -> None:
    """Answer OPTIONS with what a path allows."""
    for group in list(app.router.groups.values()):
        answer = partial(_list_methods, allow=", ".join(sorted({*group.methods, "OPTIONS"})))
        app.add_route(
            answer,
            uri=group.uri,
            methods=["OPTIONS"],
            strict_slashes=group.strict,
            unquote=group.unquote,
            name=f"{next(iter(group)).name}.options",
            error_format="json",
        )


async def _list_methods(_request: Request, allow: str, **_path: str) -> HTTPResponse:
    return empty(headers={"allow": allow})
