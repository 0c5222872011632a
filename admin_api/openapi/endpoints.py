"""`/docs` and `/docs/openapi.json`: the document, as a page and as it is, where DOCS_ENABLED says so."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from sanic import HTTPResponse, Request

from admin_api.openapi import page
from admin_api.openapi.document import build
from proxy.blueprint import Blueprint
from proxy.errors import NotFound
from proxy.gateway import gateway_of

blueprint = Blueprint("docs", url_prefix="/docs")


@dataclass(frozen=True, slots=True)
class Docs:
    """The document of an application, in both forms."""

    page: bytes
    document: bytes


@blueprint.get("/")
async def show_page(request: Request) -> HTTPResponse:
    """Describe every endpoint in a page for people."""
    headers = {"content-security-policy": page.SECURITY_POLICY}
    return HTTPResponse(_docs(request).page, headers=headers, content_type="text/html; charset=utf-8")


@blueprint.get("/openapi.json")
async def show_document(request: Request) -> HTTPResponse:
    """Describe every endpoint in OpenAPI 3.1."""
    return HTTPResponse(_docs(request).document, content_type="application/json")


def _docs(request: Request) -> Docs:
    """Return what never changes, made when somebody asks for the first time: 50 ms of CPU."""
    if not gateway_of(request).settings.serves_docs:
        raise NotFound(f"There is no {request.method} {request.path}.", code="unknown_url")
    docs: Docs | None = getattr(request.app.ctx, "docs", None)
    if docs is None:
        document = build(request.app)
        docs = request.app.ctx.docs = Docs(page.render(document).encode(), orjson.dumps(document))
    return docs
