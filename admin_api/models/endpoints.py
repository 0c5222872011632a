"""`/api/models`: the catalogue of every provider, open to everybody.

Who is signed in sees his favourites and what he may use; without a token one sees what a new user could use. A
bearer token that is sent must be good, else the answer is 401.
"""

from __future__ import annotations

from urllib.parse import unquote

from sanic import HTTPResponse, Request

from admin_api import access, audit
from admin_api.access import SignedIn
from admin_api.envelope import success
from admin_api.models import service
from admin_api.models.popularity import Counts, Popularity
from admin_api.models.schemas import MOST_PER_PAGE, ModelQuery, page_reader, read_category, read_query
from admin_api.models.service import Viewer
from admin_api.pagination import read_page
from proxy.blueprint import Blueprint
from proxy.gateway import gateway_of

blueprint = Blueprint("api-models", url_prefix="/api/models")


@blueprint.get("/")
@access.optional
async def list_models(request: Request, visitor: SignedIn | None) -> HTTPResponse:
    """List the models, filtered and sorted as the query says; the whole list unless a limit is given."""
    query, page_of = read_query(request), page_reader(request)
    viewer, counts = Viewer.of(visitor), await _counts(request)
    found = service.select(service.shown(gateway_of(request).catalog.current, viewer.role), query, counts)
    page = page_of(len(found))
    models = [service.view(model, viewer, counts) for model in found[page.skip : page.skip + page.limit]]
    return success(
        {"models": models},
        results=len(models),
        total=len(found),
        pagination=page.describe(len(found), neighbours=True),
    )


@blueprint.get("/category/<category:str>")
@access.optional
async def list_category(request: Request, visitor: SignedIn | None, category: str) -> HTTPResponse:
    """List the models of one category, the most popular first."""
    query = ModelQuery(category=read_category(category))
    page = read_page(request, 20, MOST_PER_PAGE)
    viewer, counts = Viewer.of(visitor), await _counts(request)
    found = service.select(service.shown(gateway_of(request).catalog.current, viewer.role), query, counts)
    models = [service.view(model, viewer, counts) for model in found[page.skip : page.skip + page.limit]]
    return success({"models": models}, results=len(models), pagination=page.describe(len(found)))


@blueprint.get("/providers")
@access.optional
async def list_providers(request: Request, visitor: SignedIn | None) -> HTTPResponse:
    """List the providers with the number of their models and the range of their prices."""
    viewer = Viewer.of(visitor)
    models = service.shown(gateway_of(request).catalog.current, viewer.role)
    return success({"providers": service.describe_providers(models)})


@blueprint.get("/categories")
@access.optional
async def list_categories(request: Request, visitor: SignedIn | None) -> HTTPResponse:
    """List the categories with the number of their models and the most popular ones."""
    viewer, counts = Viewer.of(visitor), await _counts(request)
    models = service.shown(gateway_of(request).catalog.current, viewer.role)
    return success({"categories": service.describe_categories(models, counts)})


@blueprint.post("/sync")
@access.admin
async def sync_models(request: Request, admin: SignedIn) -> HTTPResponse:
    """Read every provider's models now; 502 only when no provider could be read."""
    await audit.record(request, "models.sync", actor_id=str(admin.user_id))
    results = await service.sync(gateway_of(request))
    return success({"results": results}, message="Model sync completed")


# The frontend sends `openai%2Fgpt-4o`, people at a terminal a raw slash.
@blueprint.get("/<model_id:path>", unquote=False)
@access.optional
async def get_model(request: Request, visitor: SignedIn | None, model_id: str) -> HTTPResponse:
    """Describe one model."""
    viewer, counts = Viewer.of(visitor), await _counts(request)
    found = service.find(gateway_of(request).catalog.current, unquote(model_id), viewer.role)
    return success({"model": service.view(found, viewer, counts)})


async def _counts(request: Request) -> Counts:
    popularity: Popularity = request.app.ctx.popularity
    return await popularity.counts(gateway_of(request))
