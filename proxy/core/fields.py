"""The fields that requests of several APIs share: how each is read, and what is said of a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from proxy.errors import InvalidRequest

MAX_MODELS = 16
MAX_DEPTH = 128
MOST_CONTAINERS = 100_000
MOST_VALUES = 500_000
"""The most objects and lists of a body, and the most values in all: while we read them, nobody else is served.

The worst body within both takes half a second (measured). A conversation of a million tokens has some ten thousand
objects, a long list of tools some thousand; of 2,048 lists of tokens, OpenAI takes 300,000 tokens at once.
"""

MOST_TOKENS = 10**9
ONLINE = ":online"
"""The suffix of a model's id with which OpenRouter searches the web."""

_MODEL_ID_LENGTH = 256
_PAID_SERVICE_TIERS = frozenset({"priority", "fast", "ultrafast"})
_CALLERS_TOOLS = ("function", "custom")


def decode(raw: bytes) -> dict[str, Any]:
    """Decode a request body; raise `InvalidRequest` if it is no object that we could send on."""
    openings = count_openings(raw)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(
            f"The request body is not valid JSON: {exc.msg} (line {exc.lineno}, column {exc.colno})."
        ) from exc
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    # orjson reads deeper nests than it writes, and what we cannot write we cannot send on.
    if openings > MAX_DEPTH and _is_deeper(body, MAX_DEPTH):
        raise InvalidRequest(f"The request body must not be nested deeper than {MAX_DEPTH} levels.")
    return body


def model(body: Mapping[str, Any]) -> str:
    """Read `model`."""
    return _model_id(body.get("model"), "model")


def models(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Read `models`, OpenRouter's list of what may serve instead."""
    value = body.get("models")
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_MODELS:
        raise InvalidRequest(f"`models` must be a list of at most {MAX_MODELS} model ids.", param="models")
    return tuple(_model_id(item, "models") for item in value)


def messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read `messages`."""
    value = body.get("messages")
    if not isinstance(value, list) or not value:
        raise InvalidRequest("`messages` must be a non-empty list of messages.", param="messages")
    for index, item in enumerate(value):
        if not isinstance(item, dict) or not isinstance(item.get("role"), str):
            raise InvalidRequest(
                f"`messages[{index}]` must be an object with a `role`.", param=f"messages[{index}]"
            )
        content = item.get("content")
        if content is not None and not isinstance(content, (str, list)):
            raise InvalidRequest(
                f"`messages[{index}].content` must be a string or a list of parts.",
                param=f"messages[{index}].content",
            )
    return value


def boolean(body: Mapping[str, Any], name: str) -> bool:
    """Read a field that is true or false, and false unless it says more."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f"`{name}` must be true or false.", param=name)
    return value


def integer(body: Mapping[str, Any], name: str, *, most: int) -> int | None:
    """Read a field that is a whole number from 1 on, if it is there."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidRequest(f"`{name}` must be a whole number from 1 to {most}.", param=name)
    return value


def text_or_parts(body: Mapping[str, Any], name: str) -> None:
    """Check a field that is a text or a list of parts, if it is there."""
    if not isinstance(body.get(name), str | list | None):
        raise InvalidRequest(f"`{name}` must be a string or a list of parts.", param=name)


def refuse(body: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Refuse what this gateway cannot route or bill, with the reason of the first field that asks for it."""
    for name, reason in reasons.items():
        if body.get(name):
            raise InvalidRequest(
                f"`{name}` is not supported here: {reason}.", param=name, code="unsupported_parameter"
            )


def tools(body: Mapping[str, Any]) -> list[Any]:
    """Read `tools`, which may be missing."""
    value = body.get("tools")
    if value is not None and not isinstance(value, list):
        raise InvalidRequest("`tools` must be a list.", param="tools")
    return value or []


def paid_extras(
    body: Mapping[str, Any], models: Iterable[str], *, names: Iterable[str] = ("plugins", "preset")
) -> tuple[str, ...]:
    """Name what the body asks for that costs money on top of the tokens of its models; each of `names` does where it is set."""
    # A preset is kept in the operator's account at OpenRouter and may name other models and plugins.
    found = [name for name in names if body.get(name)]
    if body.get("web_search_options") is not None:
        found.append("web_search_options")
    if ONLINE in " ".join(models):
        found.append(ONLINE)
    given = body.get("tools")
    if isinstance(given, list) and any(map(is_server_tool, given)):
        found.append("tools")
    if str(body.get("service_tier")) in _PAID_SERVICE_TIERS:
        found.append("service_tier")
    return tuple(found)


def is_server_tool(tool: object) -> bool:
    """Say whether a tool is one that the provider knows of itself, and not the caller's own function."""
    return isinstance(tool, dict) and tool.get("type", "function") not in _CALLERS_TOOLS


def count_openings(raw: bytes) -> int:
    """Count the brackets and braces of a text of JSON; raise `InvalidRequest` where it has more values than we read."""
    # (`raw.count` takes 72 us for the 100 KB of a long prompt, as it looks at each byte; this 4.)
    openings = len(raw) - len(raw.replace(b"{", b"").replace(b"[", b""))
    # Each takes two bytes at least, so a body of usual size has never too many.
    if len(raw) > 2 * MOST_CONTAINERS and _has_too_many(raw, openings):
        raise InvalidRequest(
            f"The request body must not have more than {MOST_CONTAINERS:,} objects and lists"
            f" and {MOST_VALUES:,} values in all."
        )
    return openings


def _model_id(value: object, param: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"`{param}` must be a string that names a model.", param=param)
    if not value or len(value) > _MODEL_ID_LENGTH:
        raise InvalidRequest(f"`{param}` must have 1 to {_MODEL_ID_LENGTH} characters.", param=param)
    return value


def _has_too_many(raw: bytes, openings: int) -> bool:
    """Say whether a text of JSON has more objects, lists and values than we read, without reading it.

    A value comes after an opening or a comma. Text has both too, so where they are many, strings are taken out first.
    """
    commas = len(raw) - len(raw.replace(b",", b""))
    if openings <= MOST_CONTAINERS and openings + commas <= MOST_VALUES:
        return False
    unescaped = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    # Every second piece is outside of strings. A value that is one and its name have four quotes: who has more of them
    # has too many values, whatever is in the rest.
    outside = b"".join(unescaped.split(b'"', 4 * MOST_VALUES)[::2])
    openings, commas = outside.count(b"{") + outside.count(b"["), outside.count(b",")
    return openings > MOST_CONTAINERS or openings + commas > MOST_VALUES


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
