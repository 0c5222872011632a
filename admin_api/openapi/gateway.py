"""The operations of /v1: OpenAI's and Anthropic's, whose bodies are theirs to define and pass through us untouched."""

from __future__ import annotations

from admin_api.openapi.operations import EVENTS, JSON, Operation
from admin_api.openapi.shapes import TIME, Json, Named, by_name, maybe, named, one_of, raw
from proxy.core.pricing import CostSource
from proxy.core.routing import Role, Tier
from proxy.documents import Outcome

_ERRORS = (400, 401, 402, 403, 404, 413, 415, 429, 502, 504)
_INTEGER = {"type": ["integer", "null"]}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_TEXT_OR_PARTS = {"type": ["string", "array", "null"]}


def _open(name: str, required: str, **properties: Json) -> Named:
    """Describe an object of somebody else's API: what is read of it here, and whatever else it has."""
    schema = {"type": "object", "properties": properties, "required": required.split()}
    return named(name, raw(schema))


def _asked(name: str, required: str, **properties: Json) -> Named:
    """Describe a request of any of these APIs."""
    routed: dict[str, Json] = {
        "model": {"type": "string"},
        "models": {"type": "array", "items": {"type": "string"}},
    }
    return _open(name, f"model {required}", **routed, **properties)


_USAGE: Json = {"type": ["object", "null"]}
_COMPLETION_REQUEST = _asked(
    "ChatCompletionRequest",
    "messages",
    messages=_OBJECTS | {"minItems": 1},
    stream={"type": "boolean"},
    max_tokens=_INTEGER,
    max_completion_tokens=_INTEGER,
    n=_INTEGER,
)
_COMPLETION = _open(
    "ChatCompletion",
    "choices",
    id={"type": "string"},
    object={"type": "string"},
    created={"type": "integer"},
    model={"type": "string"},
    choices=_OBJECTS,
    usage=_USAGE,
)
_EMBEDDINGS_REQUEST = _asked("EmbeddingsRequest", "input", input={"type": ["string", "array"]})
_EMBEDDINGS = _open(
    "Embeddings", "data", object={"type": "string"}, data=_OBJECTS, model={"type": "string"}, usage=_USAGE
)
_RESPONSE_REQUEST = _asked(
    "ResponseRequest",
    "input",
    input={"type": ["string", "array"]},
    instructions=_TEXT_OR_PARTS,
    tools=_OBJECTS,
    stream={"type": ["boolean", "null"]},
    max_output_tokens=_INTEGER,
    store={"enum": [False, None]},
)
_RESPONSE = _open(
    "Response",
    "output",
    id={"type": "string"},
    status={"type": "string"},
    model={"type": "string"},
    output=_OBJECTS,
    usage=_USAGE,
)
_MESSAGE_REQUEST = _asked(
    "MessageRequest",
    "messages max_tokens",
    messages=_OBJECTS | {"minItems": 1},
    max_tokens={"type": "integer", "minimum": 1},
    system=_TEXT_OR_PARTS,
    tools=_OBJECTS,
    stream={"type": ["boolean", "null"]},
)
_MESSAGE = _open(
    "Message",
    "content",
    id={"type": "string"},
    type={"type": "string"},
    model={"type": "string"},
    content=_OBJECTS,
    stop_reason={"type": ["string", "null"]},
    usage=_USAGE,
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
    "allowed_ips": maybe([str]),
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
            "prompt_cache_write_1h",
            "prompt_audio",
            "completion",
            "completion_reasoning",
            "completion_audio",
            "completion_image",
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
    Operation(
        "POST /v1/chat/completions",
        _COMPLETION,
        body=_COMPLETION_REQUEST,
        media=(JSON, EVENTS),
        also=_ERRORS,
    ),
    Operation("POST /v1/embeddings", _EMBEDDINGS, body=_EMBEDDINGS_REQUEST, also=_ERRORS),
    Operation("POST /v1/responses", _RESPONSE, body=_RESPONSE_REQUEST, media=(JSON, EVENTS), also=_ERRORS),
    Operation("POST /v1/messages", _MESSAGE, body=_MESSAGE_REQUEST, media=(JSON, EVENTS), also=_ERRORS),
    Operation("GET /v1/models", {"object": one_of("list"), "data": [_MODEL]}, also=(401, 403)),
    Operation("GET /v1/models/{model}", _MODEL, also=(401, 403)),
    Operation("GET /v1/key", _KEY, also=(401, 403)),
    Operation(
        "GET /v1/requests/{request_id}",
        {**_EXPLAINED, "corrections": [named("ExplainedRequest", _EXPLAINED)]},
        also=(401, 403),
    ),
)
