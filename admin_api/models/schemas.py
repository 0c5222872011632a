"""What may be asked of /api/models, and what an admin may change about a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from sanic import Request

from admin_api.models.view import CAPABILITIES, CATEGORIES
from admin_api.pagination import Page
from admin_api.schema import Schema
from admin_api.validation import read_choice, read_integer, read_text
from proxy.errors import InvalidRequest

MOST_PER_PAGE = 1000
LONGEST_SEARCH = 100
SORTS = ("popularity", "price_low", "price_high", "name", "newest")
_MOST_USD = 1_000_000
_LEAST_USD = 1e-15  # per 1,000 tokens; what is less is no price where a provider says it either


def _is_a_price(value: float) -> float:
    if 0 < value < _LEAST_USD:
        raise ValueError(f"must be 0 or at least {_LEAST_USD} USD")
    return value


PricePerThousand = Annotated[int | float, Field(ge=0, le=_MOST_USD), AfterValidator(_is_a_price)]


class PriceEdit(Schema):
    """A price in USD per 1,000 tokens; what is missing stays as it is."""

    input: PricePerThousand | None = None
    output: PricePerThousand | None = None


class ModelEdit(Schema):
    """What an admin changes about a model; `pricing: null` goes back to the provider's price."""

    isAvailable: bool = True
    status: Literal["active", "deprecated", "maintenance", "beta"] = "active"
    pricing: PriceEdit | None = None


@dataclass(frozen=True, slots=True)
class ModelQuery:
    """Which models of the catalogue a request asks for, and in which order."""

    provider: str | None = None
    search: str | None = None
    category: str | None = None
    capabilities: tuple[str, ...] = ()
    min_price: Decimal | None = None
    max_price: Decimal | None = None
    sort: str = SORTS[0]


def read_query(request: Request) -> ModelQuery:
    """Read the filters of a list; raise `InvalidRequest` for the first that makes no sense."""
    category = read_text(request, "category")
    provider, search = read_text(request, "provider"), read_text(request, "search", most=LONGEST_SEARCH)
    return ModelQuery(
        provider=provider.strip().casefold() if provider else None,
        search=search.strip().casefold() if search else None,
        category=None if category is None else read_category(category),
        capabilities=_capabilities(read_text(request, "capabilities")),
        min_price=_price(request, "minPrice"),
        max_price=_price(request, "maxPrice"),
        sort=read_choice(request, "sort", SORTS, default=SORTS[0]),
    )


def read_category(value: str) -> str:
    """Read a category; raise `InvalidRequest`, in the words that the frontend knows."""
    if value not in CATEGORIES:
        raise InvalidRequest("Invalid category", param="category")
    return value


def page_reader(request: Request) -> Callable[[int], Page]:
    """Check `page` and `limit`, and return what makes the page of a list; without a limit it is the whole one."""
    page = read_integer(request, "page", default=1, least=1, most=MOST_PER_PAGE)
    limit = read_integer(request, "limit", default=0, least=1, most=MOST_PER_PAGE)
    return lambda total: Page(page, limit or max(1, total))


def _capabilities(value: str | None) -> tuple[str, ...]:
    wanted = tuple(name.strip() for name in (value or "").split(",") if name.strip())
    for name in wanted:
        if name not in CAPABILITIES:
            known = ", ".join(CAPABILITIES)
            raise InvalidRequest(f"Validation failed: capabilities: {name!r} is none of {known}")
    return wanted


def _price(request: Request, name: str) -> Decimal | None:
    value = read_text(request, name, most=30)
    if value is None:
        return None
    try:
        price = Decimal(value)
    except InvalidOperation:
        price = Decimal(-1)
    if not (price.is_finite() and 0 <= price <= _MOST_USD):
        raise InvalidRequest(f"Validation failed: {name}: must be an amount of USD per 1K tokens, 0 or more")
    return price
