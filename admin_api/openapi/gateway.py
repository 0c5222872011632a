"""The operations of /v1: OpenAI's, whose bodies are theirs to define and pass through us untouched."""

from __future__ import annotations

from admin_api.openapi.operations import EVENTS, JSON, Operation
from admin_api.openapi.shapes import by_name, maybe, named, one_of, raw
from proxy.core.routing import Tier

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

OPERATIONS = (
    Operation("POST /v1/chat/completions", _COMPLETION, body=_REQUEST, media=(JSON, EVENTS), also=_ERRORS),
    Operation("GET /v1/models", {"object": one_of("list"), "data": [_MODEL]}, also=(401, 403)),
    Operation("GET /v1/models/{model}", _MODEL, also=(401, 403)),
)
