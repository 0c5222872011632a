"""A chat request as the gateway sees it: only what it routes, bills or answers by is read and checked.

Everything else in the body passes untouched, known to us or not. What is checked fails with one sentence that
names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.errors import InvalidRequest

MAX_CHOICES = 128
"""The most choices (`n`) that OpenAI's API accepts."""

MAX_MODELS = 16
MAX_DEPTH = 128
_MODEL_ID_LENGTH = 256
_MEDIA = {
    "image_url": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "file": "file",
    "input_file": "file",
    "video_url": "file",
    "input_video": "file",
}
_TEXT = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning"})
_NO_PROMPT = frozenset({"messages", "model", "models", "stream", "stream_options", "metadata", "user"})
_PAID_SERVICE_TIERS = frozenset({"priority", "fast", "ultrafast"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """The size of a prompt in what can be counted without a tokenizer.

    `text_bytes` are UTF-8 bytes of messages, tools and schemas: no tokenizer in use makes more than one token
    of one byte, so they bound the text's tokens.
    """

    text_bytes: int
    messages: int
    images: int = 0
    audios: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request for a chat completion."""

    body: dict[str, Any]
    model: str
    models: tuple[str, ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int
    prompt: Prompt
    paid_extras: tuple[str, ...]


def parse(raw: bytes) -> ChatRequest:
    """Read a request body; raise `InvalidRequest` for the first thing that is wrong with it."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(
            f"The request body is not valid JSON: {exc.msg} (line {exc.lineno}, column {exc.colno})."
        ) from exc
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    # orjson reads deeper nests than it writes, and what we cannot write we cannot send on.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deeper(body, MAX_DEPTH):
        raise InvalidRequest(f"The request body must not be nested deeper than {MAX_DEPTH} levels.")
    return read(body)


def read(body: dict[str, Any]) -> ChatRequest:
    """Read a request that is already decoded."""
    model = _model_id(body.get("model"), "model")
    models = _models(body.get("models"))
    messages = _messages(body.get("messages"))
    stream = _boolean(body, "stream")
    return ChatRequest(
        body=body,
        model=model,
        models=models,
        stream=stream,
        include_usage=_include_usage(body, stream=stream),
        max_tokens=_max_tokens(body),
        choices=_integer(body, "n", most=MAX_CHOICES) or 1,
        prompt=_prompt(messages, body),
        paid_extras=_paid_extras(body, (model, *models)),
    )


def _model_id(value: object, param: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"`{param}` must be a string that names a model.", param=param)
    if not value or len(value) > _MODEL_ID_LENGTH:
        raise InvalidRequest(f"`{param}` must have 1 to {_MODEL_ID_LENGTH} characters.", param=param)
    return value


def _models(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_MODELS:
        raise InvalidRequest(f"`models` must be a list of at most {MAX_MODELS} model ids.", param="models")
    return tuple(_model_id(item, "models") for item in value)


def _messages(value: object) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest("`messages` must be a non-empty list of messages.", param="messages")
    for index, item in enumerate(value):
        if not isinstance(item, dict) or not isinstance(item.get("role"), str):
            raise InvalidRequest(
                f"`messages[{index}]` must be an object with a `role`.", param=f"messages[{index}]"
            )
        content = item.get("content")
        if content is not None and not isinstance(content, str | list):
            raise InvalidRequest(
                f"`messages[{index}].content` must be a string or a list of parts.",
                param=f"messages[{index}].content",
            )
    return value


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f"`{name}` must be true or false.", param=name)
    return value


def _integer(body: Mapping[str, Any], name: str, *, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidRequest(f"`{name}` must be a whole number from 1 to {most}.", param=name)
    return value


def _include_usage(body: Mapping[str, Any], *, stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        # OpenRouter's own spelling of the same wish.
        usage = body.get("usage")
        return stream and isinstance(usage, dict) and usage.get("include") is True
    if not isinstance(options, dict):
        raise InvalidRequest("`stream_options` must be an object.", param="stream_options")
    if not stream:
        raise InvalidRequest(
            "`stream_options` is only allowed when `stream` is true.", param="stream_options"
        )
    return _boolean(options, "include_usage")


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    most = 10**9
    old, new = (_integer(body, name, most=most) for name in ("max_tokens", "max_completion_tokens"))
    if old is not None and new is not None and old != new:
        raise InvalidRequest(
            "`max_tokens` and `max_completion_tokens` must not contradict each other; send one of them.",
            param="max_tokens",
        )
    return new if old is None else old


def _prompt(messages: list[Mapping[str, Any]], body: Mapping[str, Any]) -> Prompt:
    text = 0
    media = dict.fromkeys(_MEDIA.values(), 0)
    for message in messages:
        for name, value in message.items():
            if name != "content" or not isinstance(value, list):
                text += _bytes(value)
                continue
            for part in value:
                kind = str(part.get("type")) if isinstance(part, dict) else "text"
                if kind not in _MEDIA:
                    text += _bytes(part)
                    # A kind that we do not know may show what stands behind an address.
                    media["image"] += kind not in _TEXT
                    continue
                media[_MEDIA[kind]] += 1
                # Whatever stands beside the picture may be read as text.
                text += sum(_bytes(value) for name, value in part.items() if name not in _MEDIA)
    # Servers put more than we know of into their chat templates (`documents`, `chat_template`).
    text += sum(_bytes(value) for name, value in body.items() if name not in _NO_PROMPT and value is not None)
    return Prompt(text, len(messages), media["image"], media["audio"], media["file"])


def _is_deeper(value: object, most: int) -> bool:
    """Say whether a tree has more than `most` levels, without recursion."""
    level: list[Any] = [value]
    for _ in range(most):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _bytes(value: object) -> int:
    if isinstance(value, str):
        # `isascii` is a flag on the string: the length of an ASCII prompt costs nothing, however long.
        return len(value) if value.isascii() else len(value.encode())
    return len(orjson.dumps(value))


def _paid_extras(body: Mapping[str, Any], ids: tuple[str, ...]) -> tuple[str, ...]:
    """Name what the body asks for that costs money on top of the model's tokens."""
    found = []
    # A preset is kept in the operator's account at OpenRouter and may name other models and plugins.
    found += [name for name in ("plugins", "preset") if body.get(name)]
    if body.get("web_search_options") is not None:
        found.append("web_search_options")
    if any(":online" in model for model in ids):
        found.append(":online")
    tools = body.get("tools")
    if isinstance(tools, list) and any(_is_server_tool(tool) for tool in tools):
        found.append("tools")
    if str(body.get("service_tier")) in _PAID_SERVICE_TIERS:
        found.append("service_tier")
    return tuple(found)


def _is_server_tool(tool: object) -> bool:
    return isinstance(tool, dict) and tool.get("type", "function") not in ("function", "custom")
