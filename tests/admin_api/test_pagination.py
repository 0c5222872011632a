"""Tests of admin_api/pagination.py."""

from __future__ import annotations

import pytest

from admin_api.pagination import MOST_PAGES, Page, read_page
from proxy.errors import InvalidRequest
from tests.admin_api.requests import request_for


def test_a_page_is_read_from_the_query() -> None:
    """Without parameters it is the first page; the default limit is the caller's choice."""
    assert read_page(request_for("/")) == Page(1, 20)
    assert read_page(request_for("/"), 500, 1000) == Page(1, 500)
    assert read_page(request_for("/?page=3&limit=7")) == Page(3, 7)
    assert Page(3, 7).skip == 14


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=-1",
        "page=1.5",
        "page=",
        "page=x",
        "page=%D9%A1",
        "page=1e3",
        "page=1&page=2",
        f"page={MOST_PAGES + 1}",
        "page=" + "9" * 400,
        "page[$gt]=1&page=%00",
        "limit=0",
        "limit=101",
        "limit=true",
    ],
)
def test_a_page_out_of_range_is_refused(query: str) -> None:
    """What is not one whole number within its bounds is a 400 that names the parameter."""
    with pytest.raises(InvalidRequest) as raised:
        read_page(request_for(f"/?{query}"))
    assert raised.value.message.startswith(f"Validation failed: {query[:4]}")


def test_a_page_is_described() -> None:
    """`pagination` counts pages up, an empty list has none, and neighbours are named on demand."""
    assert Page(1, 20).describe(0) == {"page": 1, "limit": 20, "total": 0, "totalPages": 0}
    assert Page(2, 20).describe(41) == {"page": 2, "limit": 20, "total": 41, "totalPages": 3}
    last = Page(3, 20).describe(41, neighbours=True)
    assert (last["hasNext"], last["hasPrev"]) == (False, True)
    first = Page(1, 20).describe(41, neighbours=True)
    assert (first["hasNext"], first["hasPrev"]) == (True, False)
