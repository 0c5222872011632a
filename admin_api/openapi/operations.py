"""An operation: what one endpoint takes and answers, as far as its route and its access rule do not say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from admin_api.openapi.shapes import Json, Raw, Shape, one_of, raw
from admin_api.pagination import MOST_PAGES

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of a table.

    `data` is the shape of what the envelope holds (of the whole body outside of /api), `None` when it holds
    nothing; `top` are further fields beside it. `also` are statuses that other rows do not have.
    """

    endpoint: str
    """Method and path, as `GET /api/auth/me`, with `{name}` for what varies."""

    data: Shape = None
    status: int = 200
    body: Shape = None
    query: Mapping[str, Shape] = field(default_factory=dict)
    has_message: bool = False
    top: Mapping[str, Shape] = field(default_factory=dict)
    also: tuple[int, ...] = ()
    media: tuple[str, ...] = (JSON,)

    @property
    def method(self) -> str:
        """Return the method, in small letters as OpenAPI has it."""
        return self.endpoint.partition(" ")[0].lower()

    @property
    def path(self) -> str:
        """Return the path."""
        return self.endpoint.partition(" ")[2]


def integer(default: int, most: int, least: int = 1) -> Raw:
    """Describe a number in a query."""
    return raw({"type": "integer", "minimum": least, "maximum": most, "default": default})


def text(most: int) -> Raw:
    """Describe a text in a query."""
    return raw({"type": "string", "maxLength": most})


def choice(*values: str, default: str | None = None) -> Raw:
    """Describe one of several words in a query."""
    schema: Json = dict(one_of(*values).schema)
    return raw(schema if default is None else schema | {"default": default})


def words(literal: object) -> tuple[str, ...]:
    """Return the words of a `Literal`."""
    return tuple(str(word) for word in get_args(literal))


def paged(limit: int = 20, most: int = 100) -> dict[str, Shape]:
    """Describe the two parameters of every list."""
    return {"page": integer(1, MOST_PAGES), "limit": integer(limit, most)}


PAGINATION = {"page": int, "limit": int, "total": int, "totalPages": int}
LISTED = {"results": int, "pagination": PAGINATION}
"""What stands beside the data of a list."""
