"""The demo provider: one free model, `demo/echo`, which says the last user message again.

Law: a token is a word, a run of characters without white space; a tool call is one token. So counts are
exact, never above the number of UTF-8 bytes, and each word arrives in a chunk of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
from msgspec.structs import replace

from plugins.bodies import CAP_FIELDS
from plugins.contract import Api, Json, ModelInfo, Price, UpstreamRequest
from plugins.openai_compatible import OpenAICompatible
from plugins.reading import count, get, text

MODEL = "demo/echo"
CREATED = 1_767_225_600
MOST_CHOICES = 16
# Linear on any text: it fails at once on a space, so that no run of spaces is searched twice.
WORD = re.compile(r"\S+\s*")
IS_JSON = {"text": False, "json_object": True, "json_schema": True}


class Refusal(ValueError):
    """What the demo answers instead of an echo, as OpenAI would."""

    def __init__(
        self, message: str, param: str | None, *, status: int = 400, code: str | None = None
    ) -> None:
        """Describe one refusal; `param` is the field at fault."""
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        }


@dataclass(frozen=True, slots=True)
class Echo:
    """An answer worked out in full, before the first byte of it is written."""

    words: tuple[str, ...]
    tool: str | None
    finish: str
    choices: int
    usage: Json


class Demo(OpenAICompatible):
    """A provider that answers by itself, at no cost."""

    APIS = frozenset({Api.CHAT})

    def read_model(self, entry: Json) -> ModelInfo:
        """Add that the model costs nothing."""
        return replace(super().read_model(entry), price=Price(Decimal(0), Decimal(0)), is_free=True)

    def respond(self, request: UpstreamRequest, *, request_id: str, now: int) -> tuple[int, Iterable[bytes]]:
        """Answer a request for the model list or for a chat completion; any other is unknown."""
        if request.method == "GET" and request.path.endswith("/models"):
            entry = {
                "id": MODEL,
                "object": "model",
                "created": CREATED,
                "owned_by": "demo",
                "name": "Demo: Echo",
            }
            return 200, [orjson.dumps({"object": "list", "data": [entry]})]
        try:
            asked = _read(request)
            echo = _echo(asked)
        except Refusal as refusal:
            return refusal.status, [orjson.dumps(refusal.body)]
        head = {"id": f"chatcmpl-{request_id}", "created": now, "model": MODEL, "system_fingerprint": None}
        if not asked.get("stream"):
            return 200, [orjson.dumps(_whole(echo, head))]
        return 200, _stream(echo, head, shows_usage=get(asked.get("stream_options"), "include_usage") is True)


def _read(request: UpstreamRequest) -> Json:
    if request.method != "POST" or not request.path.endswith("/chat/completions"):
        raise Refusal(f"Unknown request URL: {request.method} {request.path}.", None, status=404)
    try:
        asked = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        raise Refusal("We could not parse the JSON body of your request.", None) from None
    if not isinstance(asked, dict):
        raise Refusal("The body must be a JSON object.", None)
    model, messages = asked.get("model"), asked.get("messages")
    if not isinstance(model, str):
        raise Refusal("You must provide a model parameter.", "model")
    if model != MODEL:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise Refusal(message, "model", status=404, code="model_not_found")
    if not isinstance(messages, list) or not messages:
        raise Refusal("'messages' must be a list of at least one message.", "messages")
    for index, message in enumerate(messages):
        if not text(get(message, "role")):
            raise Refusal(f"Missing required parameter: 'messages[{index}].role'.", f"messages[{index}].role")
    if not isinstance(asked.get("stream"), (bool, type(None))):
        raise Refusal("'stream' must be a boolean.", "stream")
    return asked


def _echo(asked: Json) -> Echo:
    caps = [_whole_number(asked, name) for name in CAP_FIELDS]
    cap = min(filter(None, caps), default=None)
    choices = _whole_number(asked, "n") or 1
    if choices > MOST_CHOICES:
        raise Refusal(f"'n' must be at most {MOST_CHOICES}.", "n")
    tool = _forced_tool(asked)
    said = [] if tool else _words(_answer(asked))
    words = tuple(said[:cap])
    prompt = sum(len(_words(_text(each))) for each in asked["messages"])
    completion = choices * (1 if tool else len(words))
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    finish = "tool_calls" if tool else "length" if len(words) < len(said) else "stop"
    return Echo(words, tool, finish, choices, usage)


def _words(said: str) -> list[str]:
    """Cut a text into words with the white space around them; joined, they are the text again."""
    words = WORD.findall(said)
    return [said[: len(said) - len(said.lstrip())] + words[0], *words[1:]] if words else []


def _whole_number(asked: Json, name: str) -> int | None:
    value = asked.get(name)
    number = count(value)
    if value is not None and not number:
        raise Refusal(f"'{name}' must be an integer of at least 1.", name)
    return number


def _answer(asked: Json) -> str:
    """Find the last user message, in JSON where the caller wants JSON."""
    said = next((_text(each) for each in reversed(asked["messages"]) if each["role"] == "user"), "")
    wanted = asked.get("response_format")
    is_json = IS_JSON.get(text(get(wanted, "type"))) if wanted is not None else False
    if is_json is None:
        raise Refusal(f"'response_format.type' must be one of {', '.join(IS_JSON)}.", "response_format")
    return orjson.dumps({"echo": said}).decode() if is_json else said


def _text(message: Json) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return text(content) or "\n".join(filter(None, (text(get(each, "text")) for each in parts)))


def _forced_tool(asked: Json) -> str | None:
    tools, choice = asked.get("tools"), asked.get("tool_choice")
    names = [text(get(get(each, "function"), "name")) for each in tools] if isinstance(tools, list) else []
    if (tools is not None and not isinstance(tools, list)) or not all(names):
        raise Refusal("'tools' must be a list of functions with names.", "tools")
    if choice in (None, "auto", "none"):
        return None
    wanted = names[0] if names and choice == "required" else text(get(get(choice, "function"), "name"))
    if wanted not in names:
        raise Refusal("'tool_choice' names no function in 'tools'.", "tool_choice")
    return wanted


def _calls(echo: Echo, head: Json, index: int) -> list[Json]:
    function = {"name": echo.tool, "arguments": "{}"}
    return (
        [{"id": f"{head['id']}-call-{index}", "type": "function", "function": function}] if echo.tool else []
    )


def _whole(echo: Echo, head: Json) -> Json:
    choices = []
    for index in range(echo.choices):
        calls = _calls(echo, head, index)
        message: Json = {
            "role": "assistant",
            "content": None if calls else "".join(echo.words),
            "refusal": None,
        }
        if calls:
            message["tool_calls"] = calls
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": echo.finish})
    return {"object": "chat.completion", **head, "choices": choices, "usage": echo.usage}


def _stream(echo: Echo, head: Json, *, shows_usage: bool) -> Iterator[bytes]:
    frame: Json = {"object": "chat.completion.chunk", **head} | ({"usage": None} if shows_usage else {})
    for index in range(echo.choices):
        for delta, finish in _deltas(echo, head, index):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield _event({**frame, "choices": [choice]})
    if shows_usage:
        yield _event({**frame, "choices": [], "usage": echo.usage})
    yield b"data: [DONE]\n\n"


def _deltas(echo: Echo, head: Json, index: int) -> Iterator[tuple[Json, str | None]]:
    calls = _calls(echo, head, index)
    yield {"role": "assistant", "content": None if calls else "", "refusal": None}, None
    for position, call in enumerate(calls):
        yield {"tool_calls": [{"index": position, **call}]}, None
    for word in echo.words:
        yield {"content": word}, None
    yield {}, echo.finish


def _event(frame: Any) -> bytes:
    return b"data: " + orjson.dumps(frame) + b"\n\n"
