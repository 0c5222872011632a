"""The requests to a server with OpenAI's APIs, or Anthropic's: the caller's body, with what we decide in it."""

from __future__ import annotations

from collections.abc import Mapping

from plugins.contract import Api, ApiCall, Json

PATHS: Mapping[Api, str] = {
    Api.CHAT: "/chat/completions",
    Api.EMBEDDINGS: "/embeddings",
    Api.RESPONSES: "/responses",
    Api.MESSAGES: "/messages",
}
CAP_FIELDS = ("max_completion_tokens", "max_tokens")
_CAP_FIELD_OF: Mapping[Api, str] = {Api.RESPONSES: "max_output_tokens", Api.MESSAGES: "max_tokens"}


def headers_of(api: Api) -> dict[str, str]:
    """List the headers that belong to a body; Anthropic's API asks for its version."""
    version = {"anthropic-version": "2023-06-01"} if api is Api.MESSAGES else {}
    return {"Content-Type": "application/json", **version}


def chat_body(call: ApiCall, cap_field: str) -> Json:
    """Write a chat request that asks for usage, with its cap in that field."""
    caps = (call.max_tokens, *(call.body.get(each) for each in CAP_FIELDS))
    cap = next((each for each in caps if each is not None), None)
    body = _with_model(call, {*CAP_FIELDS, "stream", "stream_options"})
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
    body = _with_model(call, {cap_field, "stream"})
    if cap_field is not None:
        if call.max_tokens is not None:
            body[cap_field] = call.max_tokens
        body["stream"] = call.stream
    return body


def _with_model(call: ApiCall, ours: set[str | None]) -> Json:
    """Copy the body without what is ours; `model` goes first, for Hugging Face's router decides on the beginning."""
    return {"model": call.model, **{key: call.body[key] for key in call.body if key not in ours | {"model"}}}
