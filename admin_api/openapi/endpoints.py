"""`/docs/openapi.json`: the document, where DOCS_ENABLED says so; no pages, and nothing from other hosts."""

from __future__ import annotations

import orjson
from sanic import Blueprint, HTTPResponse, Request

from admin_api.openapi.document import build
from proxy.errors import NotFound
from proxy.gateway import gateway_of

blueprint = Blueprint("docs", url_prefix="/docs")


@blueprint.get("/openapi.json")
async def show_document(request: Request) -> HTTPResponse:
    """Describe every endpoint in OpenAPI 3.1."""
    if not gateway_of(request).settings.serves_docs:
        raise NotFound(f"There is no {request.method} {request.path}.", code="unknown_url")
    return HTTPResponse(orjson.dumps(build(request.app)), content_type="application/json")
