"""The requests to a server with OpenAI's APIs, or Anthropic's: the caller's body, with what we decide in it."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from plugins.contract import Api, ApiCall, Json

PATHS: Mapping[Api, str] = {
    Api.CHAT: "/chat/completions",
    Api.EMBEDDINGS: "/embeddings",
    Api.RESPONSES: "/responses",
    Api.MESSAGES: "/messages",
}
HEADERS: Mapping[Api, dict[str, str]] = {
    api: {"Content-Type": "application/json"}
    | ({"anthropic-version": "2023-06-01"} if api is Api.MESSAGES else {})
    for api in Api
}
"""The headers that belong to a body; Anthropic's API asks for its version."""

CAP_FIELDS = ("max_completion_tokens", "max_tokens")
_CAP_FIELD_OF: Mapping[Api, str] = {Api.RESPONSES: "max_output_tokens", Api.MESSAGES: "max_tokens"}
_OURS = frozenset({"model", "stream"})
_OURS_IN_CHAT = _OURS | {*CAP_FIELDS, "stream_options"}


def chat_body(call: ApiCall, cap_field: str) -> Json:
    """Write a chat request that asks for usage, with its cap in that field."""
    cap = call.max_tokens
    for each in CAP_FIELDS:
        cap = call.body.get(each) if cap is None else cap
    body = _with_model(call, _OURS_IN_CHAT)
    if cap is not None:
        body[cap_field] = cap
    body["stream"] = call.stream
    if call.stream:
        given = call.body.get("stream_options")
        body["stream_options"] = {**(given if isinstance(given, dict) else {}), "include_usage": True}
    return body


def plain_body(call: ApiCall) -> Json:
    """Write a request of another API, all of which tell usage unasked."""
    cap_field = _CAP_FIELD_OF.get(call.api)
    if cap_field is None:
        return _with_model(call, _OURS)
    body = _with_model(call, _OURS | {cap_field})
    if call.max_tokens is not None:
        body[cap_field] = call.max_tokens
    body["stream"] = call.stream
    return body


def written(body: Json) -> bytes:
    """Write a body in as many bytes as it has: what orjson returns keeps the room that it was made in, ten times as much.

    Thirty prompts of 100 KB that wait for their providers took 32 MiB more, which were got and given back each time.
    """
    return bytes(memoryview(orjson.dumps(body)))


def _with_model(call: ApiCall, ours: frozenset[str]) -> Json:
    """Copy the body without what is ours; `model` goes first, for Hugging Face's router decides on the beginning."""
    return {"model": call.model, **{name: value for name, value in call.body.items() if name not in ours}}
