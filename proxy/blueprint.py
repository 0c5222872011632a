"""A group of endpoints."""

from __future__ import annotations

from typing import Any

import sanic


class Blueprint(sanic.Blueprint):
    """Sanic's, with one form of errors for all of its endpoints, which is ours (proxy.handlers.errors).

    Without one, Sanic reads and parses the source of every endpoint, to see in which form it may want its errors:
    a sixth of the CPU that an import of the server took. HEAD is a method of each endpoint that answers GET, since
    a route of its own, which Sanic would make, takes as long to make as the first.
    """

    def route(self, *args: Any, **options: Any) -> Any:
        """Add an endpoint; `get`, `post` and the like come here too."""
        methods = frozenset(options.pop("methods", None) or {"GET"})
        if "GET" in methods:
            methods |= {"HEAD"}
        return super().route(*args, **{**options, "methods": methods, "error_format": "json"})
