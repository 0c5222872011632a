"""The operations of /v1: OpenAI's, whose bodies are theirs to define and pass through us untouched."""

from __future__ import annotations

from admin_api.openapi.operations import EVENTS, JSON, Operation
from admin_api.openapi.shapes import TIME, by_name, maybe, named, one_of, raw
from proxy.core.pricing import CostSource
from proxy.core.routing import Role, Tier
from proxy.documents import Outcome

_ERRORS = (400, 401, 402, 403, 404, 413, 415, 429, 502, 504)
_REQUEST = named(
    "ChatCompletionRequest",
    raw(
        {
            "type": "object",
            "properties": {
                "model": {"type": "string"},
                "models": {"type": "array", "items": {"type": "string"}},
                "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                "stream": {"type": "boolean"},
                "max_tokens": {"type": ["integer", "null"]},
                "max_completion_tokens": {"type": ["integer", "null"]},
                "n": {"type": ["integer", "null"]},
            },
            "required": ["model", "messages"],
        }
    ),
)
_COMPLETION = named(
    "ChatCompletion",
    raw(
        {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "object": {"type": "string"},
                "created": {"type": "integer"},
                "model": {"type": "string"},
                "choices": {"type": "array", "items": {"type": "object"}},
                "usage": {"type": ["object", "null"]},
            },
            "required": ["choices"],
        }
    ),
)
_MODEL = named(
    "V1Model",
    {
        "id": str,
        "object": one_of("model"),
        "created": int,
        "owned_by": str,
        "name": str,
        "provider": str,
        "tier": Tier,
        "context_length": maybe(int),
        "max_output_tokens": maybe(int),
        "input_modalities": [str],
        "output_modalities": [str],
        "supported_parameters": [str],
        "pricing": maybe(by_name(str)),
    },
)
_AMOUNT = raw({"type": ["integer", "string"]})
_LIMIT = {
    "scope": one_of("key", "user"),
    "counts": one_of("requests", "tokens", "usd", "concurrent"),
    "window": one_of("minute", "day", "week", "month", "total"),
    "limit": _AMOUNT,
    "used": _AMOUNT,
    "held": _AMOUNT,
    "remaining": _AMOUNT,
    "resets_at": maybe(TIME),
}
_KEY = {
    "object": one_of("key"),
    "id": maybe(str),
    "role": Role,
    "permissions": [str],
    "allowed_models": maybe([str]),
    "expires_at": maybe(TIME),
    "on_disconnect": one_of("auto", "cancel", "drain"),
    "limits": [_LIMIT],
}
_ATTEMPT = {
    "provider": str,
    "model": str,
    "outcome": str,
    "status": maybe(int),
    "started_at": TIME,
    "milliseconds": int,
}
_EXPLAINED = {
    "id": str,
    "object": one_of("request"),
    "kind": one_of("usage", "correction"),
    "created_at": TIME,
    "outcome": Outcome,
    "stream": bool,
    "route": {
        "requested_model": str,
        "provider": str,
        "model": str,
        "served_model": maybe(str),
        "backing": maybe(str),
        "generation_id": maybe(str),
    },
    "attempts": [_ATTEMPT],
    "times": {"first_token_ms": maybe(int), "total_ms": int},
    "tokens": dict.fromkeys(
        (
            "prompt",
            "prompt_uncached",
            "prompt_cached",
            "prompt_cache_write",
            "completion",
            "completion_reasoning",
        ),
        int,
    ),
    "cost": {
        "usd": maybe(str),
        "inr": maybe(str),
        "usd_inr_rate": str,
        "source": CostSource,
        "price_version": maybe(str),
        "estimated": bool,
        "over_hold": bool,
        "lines": [{"item": str, "count": int, "usd_each": str, "usd": str}],
    },
    "counted": by_name(int),
}

OPERATIONS = (
    Operation("POST /v1/chat/completions", _COMPLETION, body=_REQUEST, media=(JSON, EVENTS), also=_ERRORS),
    Operation("GET /v1/models", {"object": one_of("list"), "data": [_MODEL]}, also=(401, 403)),
    Operation("GET /v1/models/{model}", _MODEL, also=(401, 403)),
    Operation("GET /v1/key", _KEY, also=(401,)),
    Operation(
        "GET /v1/requests/{request_id}",
        {**_EXPLAINED, "corrections": [named("ExplainedRequest", _EXPLAINED)]},
        also=(401,),
    ),
)
