"""Pages of lists: which one a request asks for, and how an answer describes it.

Both numbers are bounded, so that no request makes the database skip or return more than it should.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beanie import Document
from sanic import Request

from admin_api.validation import read_integer

MOST_PAGES = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, counted from 1."""

    page: int
    limit: int

    @property
    def skip(self) -> int:
        """Return how many items stand before this page."""
        return (self.page - 1) * self.limit

    def describe(self, total: int, *, neighbours: bool = False) -> dict[str, Any]:
        """Render the `pagination` of an answer; `neighbours` adds `hasNext` and `hasPrev`."""
        pages = -(-total // self.limit)
        described: dict[str, Any] = {
            "page": self.page,
            "limit": self.limit,
            "total": total,
            "totalPages": pages,
        }
        if neighbours:
            described |= {"hasNext": self.page < pages, "hasPrev": self.page > 1}
        return described


async def count(document: type[Document], query: Mapping[str, Any]) -> int:
    """Count what a list has in all.

    How much there is altogether the database knows without reading it, a few out after it was killed.
    """
    collection = document.get_pymongo_collection()
    return await (collection.count_documents(query) if query else collection.estimated_document_count())


def read_page(request: Request, default_limit: int = 20, most: int = 100) -> Page:
    """Read `page` and `limit` of the query; raise `InvalidRequest` when one is not in its range."""
    page = read_integer(request, "page", default=1, least=1, most=MOST_PAGES)
    return Page(page, read_integer(request, "limit", default=default_limit, least=1, most=most))
