"""`/api/user`: what belongs to the user who is signed in."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from admin_api import access
from admin_api.access import SignedIn
from admin_api.envelope import success
from admin_api.users import service
from admin_api.users.schemas import NewApiKey
from admin_api.users.view import view_api_key
from admin_api.validation import read_body
from proxy.gateway import gateway_of

blueprint = Blueprint("users", url_prefix="/api/user")


@blueprint.post("/api-keys")
@access.user
async def create_api_key(request: Request, caller: SignedIn) -> HTTPResponse:
    """Make an API key and show it once."""
    gateway = gateway_of(request)
    wish = read_body(request, NewApiKey)
    secret, key = await service.create_api_key(
        caller.user_id, wish, most=gateway.settings.limits.api_keys_per_user, now=gateway.clock()
    )
    data = {"apiKey": secret, "keyInfo": view_api_key(key)}
    return success(data, message="API key generated successfully", status=201)
