"""`/api/user`: what belongs to the user who is signed in."""

from __future__ import annotations

from asyncio import Transport
from contextlib import aclosing
from typing import cast
from urllib.parse import unquote

import structlog
from pymongo.errors import PyMongoError
from sanic import HTTPResponse, Request
from sanic.exceptions import RequestCancelled

from admin_api import access, audit, ratelimit
from admin_api.access import SignedIn
from admin_api.admin.last_admin import acting_alone
from admin_api.auth.emails import account_of
from admin_api.auth.service import WrongPassword, is_password_of
from admin_api.envelope import success
from admin_api.models import service as models
from admin_api.models.service import Viewer
from admin_api.users import service
from admin_api.users.export import export_user
from admin_api.users.schemas import PERIODS, AccountDeletion, ApiKeyChanges, NewApiKey, ProfileChanges
from admin_api.users.statistics import describe_use
from admin_api.users.view import view_api_key, view_user
from admin_api.validation import read_body, read_choice, read_id
from proxy.blueprint import Blueprint
from proxy.core.routing import Role
from proxy.documents import User
from proxy.errors import InvalidRequest, NotFound
from proxy.gateway import gateway_of

blueprint = Blueprint("users", url_prefix="/api/user")
log = structlog.get_logger(__name__)


@blueprint.get("/profile")
@access.user
async def get_profile(request: Request, caller: SignedIn) -> HTTPResponse:
    """Describe the user."""
    return success({"user": await view_user(caller.user, gateway_of(request))})


@blueprint.patch("/profile")
@access.user
async def change_profile(request: Request, caller: SignedIn) -> HTTPResponse:
    """Change name, bio or preferences; what is not named stays."""
    gateway = gateway_of(request)
    changes = read_body(request, ProfileChanges)
    user = await service.change_profile(caller.user_id, changes, now=gateway.clock())
    return success({"user": await view_user(user, gateway)}, message="Profile updated successfully")


@blueprint.get("/stats")
@access.user
async def get_statistics(request: Request, caller: SignedIn) -> HTTPResponse:
    """Sum what the user has used in a period, and say what is left and when it renews."""
    period = read_choice(request, "period", tuple(PERIODS), default="30d")
    return success(await describe_use(caller.user, caller.user_id, period, gateway_of(request)))


# As everywhere, a model's id may come with its slash encoded or raw.
@blueprint.post("/favorites/<model:path>", unquote=False)
@access.user
async def toggle_favorite(request: Request, caller: SignedIn, model: str) -> HTTPResponse:
    """Make a model a favourite, or no longer one."""
    asked = unquote(model)
    try:
        known = models.find(gateway_of(request).catalog.current, asked, caller.user.role)
    except NotFound:
        known = None  # it may have left the catalogue and still be a favourite
    model_id = asked if known is None else known.id
    is_favorite, favorites = await service.toggle_favorite(
        caller.user_id, model_id, is_known=known is not None
    )
    message = "Model added to favorites" if is_favorite else "Model removed from favorites"
    return success({"favoriteModels": favorites, "isFavorite": is_favorite}, message=message)


@blueprint.get("/favorites")
@access.user
async def list_favorites(request: Request, caller: SignedIn) -> HTTPResponse:
    """Describe the favourites that are in the catalogue, in the order in which they were chosen."""
    gateway = gateway_of(request)
    viewer, counts = Viewer.of(caller), await request.app.ctx.popularity.counts(gateway)
    shown = {model.id: model for model in models.shown(gateway.catalog.current, viewer.role)}
    chosen = [shown[name] for name in caller.user.preferences.favoriteModels if name in shown]
    found = [models.view(model, viewer, counts) for model in chosen]
    return success({"favoriteModels": found}, results=len(found))


@blueprint.post("/api-keys")
@access.user
async def create_api_key(request: Request, caller: SignedIn) -> HTTPResponse:
    """Make an API key and show it once."""
    gateway = gateway_of(request)
    wish = read_body(request, NewApiKey)
    secret, key = await service.create_api_key(
        caller.user_id, wish, most=gateway.settings.limits.api_keys_per_user, now=gateway.clock()
    )
    await audit.record(request, "user.key_created", actor_id=str(caller.user_id), target=str(key.id))
    data = {"apiKey": secret, "keyInfo": view_api_key(key)}
    return success(data, message="API key generated successfully", status=201)


@blueprint.get("/api-keys")
@access.user
async def list_api_keys(_request: Request, caller: SignedIn) -> HTTPResponse:
    """List the user's API keys, revoked ones too, without their secrets."""
    keys = (await service.list_api_keys([caller.user_id])).get(caller.user_id, [])
    return success({"apiKeys": [view_api_key(key) for key in keys]}, results=len(keys))


@blueprint.patch("/api-keys/<key_id:str>")
@access.user
async def change_api_key(request: Request, caller: SignedIn, key_id: str) -> HTTPResponse:
    """Change an API key's name, or where it may be used; every worker knows within a second."""
    found = read_id(key_id, missing="API key not found")
    changes = read_body(request, ApiKeyChanges)
    key = await service.change_api_key(caller.user_id, found, changes)
    details = {"changes": changes.model_dump(exclude_unset=True)}
    await audit.record(
        request, "user.key_changed", actor_id=str(caller.user_id), target=str(found), details=details
    )
    return success({"keyInfo": view_api_key(key)}, message="API key updated successfully")


@blueprint.delete("/api-keys/<key_id:str>")
@access.user
async def revoke_api_key(request: Request, caller: SignedIn, key_id: str) -> HTTPResponse:
    """End an API key; every worker refuses it within a second."""
    found = read_id(key_id, missing="API key not found")
    await service.revoke_api_key(caller.user_id, found)
    await audit.record(request, "user.key_revoked", actor_id=str(caller.user_id), target=str(found))
    return success(message="API key revoked successfully")


@blueprint.get("/export")
@access.user
async def export_data(request: Request, caller: SignedIn) -> None:
    """Stream everything that is stored of the user."""
    gateway = gateway_of(request)
    user = await view_user(caller.user, gateway)
    response = await request.respond(
        headers={
            "cache-control": "no-store",
            "content-disposition": 'attachment; filename="aipasta-export.json"',
        },
        content_type="application/json",
    )
    async with aclosing(export_user(user, caller.user_id, gateway)) as pieces:
        try:
            async for piece in pieces:
                await response.send(piece)
        except PyMongoError as exc:
            # Half an export must not look like a whole one: without its end the client sees a broken transfer.
            log.warning("an export was cut off", user=str(caller.user_id), cause=str(exc)[:200])
            if request.app.asgi:
                raise RequestCancelled from exc
            cast("Transport", request.transport).abort()
            return
    await response.eof()


@blueprint.delete("/account")
@access.user
async def delete_account(request: Request, caller: SignedIn) -> HTTPResponse:
    """Delete the account with everything in it, if the password is right."""
    wish = read_body(request, AccountDeletion)
    account = account_of(caller.user.email)
    await ratelimit.begin_attempt(request, account)
    if not await is_password_of(caller.user, wish.password, request.app.ctx.hasher):
        raise WrongPassword("Incorrect password")
    await ratelimit.attempt_succeeded(request, account)
    if caller.user.role is Role.ADMIN:
        async with acting_alone(gateway_of(request).database, caller):
            await _refuse_last_admin(caller)
            await _delete(request, caller)
    else:
        await _delete(request, caller)
    response = success(message="Account deleted successfully")
    access.forget_cookie(request, response)
    return response


async def _delete(request: Request, caller: SignedIn) -> None:
    await audit.record(request, "user.account_deleted", actor_id=str(caller.user_id))
    await request.app.ctx.deletions.delete_account(caller.user_id, now=gateway_of(request).clock())


async def _refuse_last_admin(caller: SignedIn) -> None:
    others = {"_id": {"$ne": caller.user_id}, "role": Role.ADMIN, "isActive": True}
    if await User.get_pymongo_collection().find_one(others, {"_id": 1}) is None:
        raise InvalidRequest("The last admin cannot be deleted; make another one first.")
