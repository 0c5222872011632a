"""The operations of /api/models, and how a model looks."""

from __future__ import annotations

from admin_api.models.schemas import LONGEST_SEARCH, MOST_PER_PAGE, SORTS, ModelEdit
from admin_api.models.view import CAPABILITIES, CATEGORIES
from admin_api.openapi.operations import (
    LISTED,
    PAGINATION,
    Operation,
    choice,
    integer,
    paged,
    text,
    words,
)
from admin_api.openapi.shapes import by_name, maybe, named, one_of, raw
from proxy.core.routing import Tier

_PRICE = raw({"type": "number", "minimum": 0})
CATEGORY = one_of(*CATEGORIES)
STATUS = one_of(*words(ModelEdit.model_fields["status"].annotation))
MODEL = named(
    "Model",
    {
        "id": str,
        "modelId": str,
        "name": str,
        "provider": str,
        "ownedBy": str,
        "description": str,
        "category": CATEGORY,
        "capabilities": dict.fromkeys(CAPABILITIES, bool),
        "pricing": {
            **dict.fromkeys(
                (
                    "input",
                    "output",
                    "image",
                    "audio",
                    "inputPerMillion",
                    "outputPerMillion",
                    "perRequest",
                ),
                maybe(float),
            ),
            "unit": str,
            "currency": str,
        },
        "limits": {"maxTokens": maybe(int), "contextLength": maybe(int), "rateLimit": raw({"type": "null"})},
        "metadata": {
            "architecture": maybe(str),
            "parameterCount": maybe(str),
            "tags": [str],
            "inputModalities": [str],
            "outputModalities": [str],
            "popularity": {"usage": int},
            "performance": {"speed": maybe(str), "quality": maybe(str), "efficiency": maybe(str)},
            "createdAt": maybe(int),
        },
        "status": STATUS,
        "isAvailable": bool,
        "tier": Tier,
        "isFree": bool,
        "isFavorite": bool,
        "canUse": bool,
    },
)
_PROVIDER = {
    "name": str,
    "modelCount": int,
    "categories": [CATEGORY],
    "pricing": {"average": maybe(float), "min": maybe(float), "max": maybe(float)},
}
_CATEGORY = {
    "name": CATEGORY,
    "modelCount": int,
    "providers": [str],
    "avgPrice": maybe(float),
    "popularModels": [{"modelId": str, "name": str}],
}
_SYNC = named(
    "ProviderSync",
    {"added": int, "updated": int, "gone": int, "errors": int, "message": maybe(str)},
)

OPERATIONS = (
    Operation(
        "GET /api/models",
        {"models": [MODEL]},
        query={
            "page": integer(1, MOST_PER_PAGE),
            "limit": raw({"type": "integer", "minimum": 1, "maximum": MOST_PER_PAGE}),
            "provider": text(200),
            "category": CATEGORY,
            "search": text(LONGEST_SEARCH),
            "minPrice": _PRICE,
            "maxPrice": _PRICE,
            "capabilities": text(200),
            "sort": choice(*SORTS, default=SORTS[0]),
        },
        top={
            "results": int,
            "total": int,
            "pagination": {**PAGINATION, "hasNext": bool, "hasPrev": bool},
        },
    ),
    Operation("GET /api/models/{model_id}", {"model": MODEL}),
    Operation(
        "GET /api/models/category/{category}",
        {"models": [MODEL]},
        query=paged(20, MOST_PER_PAGE),
        top=LISTED,
    ),
    Operation("GET /api/models/providers", {"providers": [_PROVIDER]}),
    Operation("GET /api/models/categories", {"categories": [_CATEGORY]}),
    Operation(
        "POST /api/models/sync",
        {"results": by_name(_SYNC)},
        has_message=True,
        also=(502,),
    ),
)
