"""The messages shape prints Anthropic's Messages API, with OpenRouter's cost in its usage."""

import json
from collections.abc import Mapping
from typing import Any

from tests.upstreams.answer import Choice, Delta
from tests.upstreams.ask import Ask, read_messages
from tests.upstreams.failure import Failure
from tests.upstreams.generation import Event, Generation
from tests.upstreams.responses_shape import Money

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class MessagesShape:
    """POST /messages."""

    def __init__(self, money: Money) -> None:
        self._money = money

    def read(self, body: Mapping[str, Any]) -> Ask:
        return read_messages(body)

    def refusal(self, failure: Failure) -> Failure:
        error = {"type": "error", "error": self._error(failure), "request_id": None}
        return Failure(failure.status, error, failure.headers, failure.name)

    def _error(self, failure: Failure) -> dict[str, Any]:
        return {"type": ERROR_TYPES.get(failure.status, "api_error"), "message": failure.message}

    def error_events(self, generation: Generation, failure: Failure, *, first: bool) -> list[Event]:
        del generation, first
        return [Event({"type": "error", "error": self._error(failure)}, "finish", "error")]

    def body(self, generation: Generation) -> dict[str, Any]:
        choice = generation.answer.choices[0]
        return {
            "id": generation.id,
            "type": "message",
            "role": "assistant",
            "model": generation.served.model,
            "content": blocks(generation, choice),
            "stop_reason": STOP_REASONS.get(choice.finish, choice.finish),
            "stop_sequence": None,
            "usage": self._usage(generation),
        }

    def _usage(self, generation: Generation) -> dict[str, Any]:
        tokens = generation.tokens
        return self._input_usage(generation) | {"output_tokens": tokens.completion} | self._money(generation)

    def _input_usage(self, generation: Generation) -> dict[str, Any]:
        tokens = generation.tokens
        by_the_hour = tokens.cache_write if generation.ask.one_hour_cache else 0
        return {
            "input_tokens": tokens.prompt - tokens.cached - tokens.cache_write,
            "cache_creation_input_tokens": tokens.cache_write,
            "cache_creation": {
                "ephemeral_5m_input_tokens": tokens.cache_write - by_the_hour,
                "ephemeral_1h_input_tokens": by_the_hour,
            },
            "cache_read_input_tokens": tokens.cached,
            "output_tokens": 0,
        }

    def events(self, generation: Generation) -> list[Event]:
        choice = generation.answer.choices[0]
        empty: dict[str, Any] = {"content": [], "stop_reason": None, "usage": self._input_usage(generation)}
        events = [named("message_start", {"message": self.body(generation) | empty})]
        for at, block in enumerate(blocks(generation, choice)):
            events += block_events(choice, at, block)
        delta = {"stop_reason": STOP_REASONS.get(choice.finish, choice.finish), "stop_sequence": None}
        usage = {} if generation.behaviour.usage == "missing" else {"usage": self._usage(generation)}
        ended = {"type": "message_delta", "delta": delta, **usage}
        events.append(Event(ended, "usage", "message_delta"))
        if generation.behaviour.done is not False:
            events.append(Event({"type": "message_stop"}, "done", "message_stop"))
        return events


def named(name: str, fields: Mapping[str, Any]) -> Event:
    return Event({"type": name, **fields}, "open", name)


def blocks(generation: Generation, choice: Choice) -> list[dict[str, Any]]:
    """Print the content blocks of a whole message."""
    found: list[dict[str, Any]] = []
    thought, text = choice.joined("reasoning"), choice.joined("text")
    if thought:
        found.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text or not choice.calls:
        found.append({"type": "text", "text": text})
    for at, call in enumerate(choice.calls):
        used = {"type": "tool_use", "id": f"toolu_{generation.id[-12:]}{at}", "name": call.name}
        found.append(used | {"input": parsed(call.arguments)})
    return found


def parsed(arguments: str) -> Any:
    """Read a model's arguments, which need not be JSON when they were cut."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {}


def block_events(choice: Choice, at: int, block: dict[str, Any]) -> list[Event]:
    """Open one block, write its deltas, close it."""
    kind, key = {
        "thinking": ("reasoning", "thinking"),
        "text": ("text", "text"),
        "tool_use": ("arguments", "input"),
    }[block["type"]]
    before = sum(1 for each in (choice.joined("reasoning"), choice.joined("text")) if each)
    deltas = [
        each
        for each in choice.deltas
        if each.kind == kind and (kind != "arguments" or each.call == at - before)
    ]
    opened = {**block, key: {} if kind == "arguments" else ""}
    events = [named("content_block_start", {"index": at, "content_block": opened})]
    events += [
        Event(
            {"type": "content_block_delta", "index": at, "delta": delta_of(each)},
            "piece",
            "content_block_delta",
            each.tokens,
        )
        for each in deltas
    ]
    return [*events, Event({"type": "content_block_stop", "index": at}, "finish", "content_block_stop")]


def delta_of(delta: Delta) -> dict[str, Any]:
    if delta.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": delta.text}
    if delta.kind == "arguments":
        return {"type": "input_json_delta", "partial_json": delta.text}
    return {"type": "text_delta", "text": delta.text}
