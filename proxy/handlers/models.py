"""`GET /v1/models` and `GET /v1/models/{id}`, in OpenAI's shape plus price, context length and tier."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import orjson
from sanic import HTTPResponse, Request

from plugins.contract import Price
from proxy.blueprint import Blueprint
from proxy.core.routing import Entry, may_use, unknown_model
from proxy.gateway import gateway_of
from proxy.handlers.caller import caller_of

blueprint = Blueprint("models", url_prefix="/v1")


@blueprint.get("/models")
async def list_models(request: Request) -> HTTPResponse:
    """List what the caller may use: the operator's aliases, then every model of every provider."""
    gateway = gateway_of(request)
    caller = await caller_of(request, permission="models")
    catalogue = gateway.catalog.current
    models = [
        describe(entry, entry.info.id)
        for entry in catalogue.all()
        if may_use(entry, caller.role, caller.allowed_models, entry.info.id)
    ]
    for alias in catalogue.aliases:
        for target in catalogue.find(alias):
            if may_use(target.entry, caller.role, caller.allowed_models, alias):
                models.append(describe(target.entry, alias))
                break
    return _json({"object": "list", "data": models})


# The SDKs send `openai%2Fgpt-4o`, curl users and Hugging Face's own clients a raw slash.
@blueprint.get("/models/<model:path>", unquote=False)
async def get_model(request: Request, model: str) -> HTTPResponse:
    """Describe one model under the very name that was asked for."""
    gateway = gateway_of(request)
    caller = await caller_of(request, permission="models")
    asked = unquote(model)
    for target in gateway.catalog.current.find(asked):
        if may_use(target.entry, caller.role, caller.allowed_models, asked):
            return _json(describe(target.entry, asked))
    raise unknown_model(asked)


def describe(entry: Entry, name: str) -> dict[str, Any]:
    """Render a catalogue entry as OpenAI's model object with our extra fields."""
    info = entry.info
    return {
        "id": name,
        "object": "model",
        "created": info.created,
        "owned_by": info.owned_by or entry.provider,
        "name": info.name,
        "provider": entry.provider,
        "tier": entry.tier,
        "context_length": info.context_length,
        "max_output_tokens": info.max_output_tokens,
        "input_modalities": info.input_modalities,
        "output_modalities": info.output_modalities,
        "supported_parameters": info.supported_parameters,
        "pricing": _pricing(info.price),
    }


def _pricing(price: Price | None) -> dict[str, str] | None:
    """Render a price as OpenRouter does: USD per token, as decimal strings."""
    if price is None:
        return None
    shown = {
        "prompt": price.prompt,
        "completion": price.completion,
        "request": price.request or None,
        "input_cache_read": price.cache_read,
        "input_cache_write": price.cache_write,
    }
    return {name: _plain(value) for name, value in shown.items() if value is not None}


def _plain(value: Decimal) -> str:
    return format(value, "f")


def _json(body: object) -> HTTPResponse:
    return HTTPResponse(orjson.dumps(body), content_type="application/json")
