"""The envelope of every answer of /api that is not an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sanic import HTTPResponse


def success(
    data: Mapping[str, Any] | None = None, *, message: str | None = None, status: int = 200, **top: Any
) -> HTTPResponse:
    """Wrap `data`; what else stands in `top` (`token`, `results`, `pagination`) stands beside it."""
    body: dict[str, Any] = {"status": "success"}
    if message is not None:
        body["message"] = message
    body |= top
    if data is not None:
        body["data"] = data
    return HTTPResponse(
        orjson.dumps(body, default=str, option=orjson.OPT_UTC_Z),
        status=status,
        headers={"cache-control": "no-store"},
        content_type="application/json",
    )
