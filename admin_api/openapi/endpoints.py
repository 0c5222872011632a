"""`/docs` and `/docs/openapi.json`: the document, as a page and as it is, where DOCS_ENABLED says so."""

from __future__ import annotations

from typing import Any

import orjson
from sanic import HTTPResponse, Request

from admin_api.openapi import page
from admin_api.openapi.document import build
from proxy.blueprint import Blueprint
from proxy.errors import NotFound
from proxy.gateway import gateway_of

blueprint = Blueprint("docs", url_prefix="/docs")


@blueprint.get("/")
async def show_page(request: Request) -> HTTPResponse:
    """Describe every endpoint in a page for people."""
    headers = {"content-security-policy": page.SECURITY_POLICY}
    body = page.render(_document(request)).encode()
    return HTTPResponse(body, headers=headers, content_type="text/html; charset=utf-8")


@blueprint.get("/openapi.json")
async def show_document(request: Request) -> HTTPResponse:
    """Describe every endpoint in OpenAPI 3.1."""
    return HTTPResponse(orjson.dumps(_document(request)), content_type="application/json")


def _document(request: Request) -> dict[str, Any]:
    if not gateway_of(request).settings.serves_docs:
        raise NotFound(f"There is no {request.method} {request.path}.", code="unknown_url")
    return build(request.app)
