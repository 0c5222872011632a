"""Streams of the Responses and Messages APIs for tests, as the simulated providers write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.upstreams.answer import compose, measure
from tests.upstreams.behaviour import Behaviour, ToolCall
from tests.upstreams.books import Entry
from tests.upstreams.failure import Failure
from tests.upstreams.generation import DONE, Event, Generation, Served, Shape
from tests.upstreams.messages_shape import MessagesShape
from tests.upstreams.money import Bill
from tests.upstreams.openrouter_chat import money
from tests.upstreams.responses_shape import ResponsesShape, no_money

MESSAGES: Shape = MessagesShape(money)
RESPONSES: Shape = ResponsesShape(no_money, ends_with_done=False)
RESPONSES_AND_DONE: Shape = ResponsesShape(money, ends_with_done=True)
ASKED = {
    "model": "m",
    "max_tokens": 500,
    "messages": [{"role": "user", "content": "café \N{PARROT}"}],
    "input": "café \N{PARROT}",
}
BEHAVIOURS: Mapping[str, Behaviour] = {
    "plain": Behaviour(),
    "thinking": Behaviour(reasoning="Hm, \N{THINKING FACE}.", cached_tokens=2, cache_write_tokens=1),
    "a tool": Behaviour(tool_calls=(ToolCall("f", '{"x":"\N{PARROT}"}'),)),
    "cut short": Behaviour(text="", finish_reason="length"),
}


def generation_of(shape: Shape, behaviour: Behaviour) -> Generation:
    """Compose an answer without a server."""
    ask = shape.read(ASKED)
    answer = compose(ask, behaviour)
    entry = Entry("gen-1", "/", None, {}, 0.0)
    tokens = measure(ask, answer, behaviour)
    bill = Bill(Decimal("0.25"), Decimal("0.25"))
    return Generation(entry, ask, behaviour, answer, tokens, Served("m-0813", "Groq", None), bill, created=1)


def stream_of(shape: Shape, behaviour: Behaviour) -> bytes:
    """Write a whole stream."""
    return b"".join(map(written, shape.events(generation_of(shape, behaviour))))


def failing_stream_of(shape: Shape, message: str = "boom") -> bytes:
    """Write a stream that ends with an error after its first events."""
    generation = generation_of(shape, Behaviour())
    failure = Failure(502, {"error": {"message": message}})
    events = [*shape.events(generation)[:5], *shape.error_events(generation, failure, first=False)]
    return b"".join(map(written, events))


def written(event: Event) -> bytes:
    """Write one event."""
    name = f"event: {event.name}\n" if event.name else ""
    text = DONE if event.payload == DONE else json.dumps(event.payload, ensure_ascii=False)
    return f"{name}data: {text}\n\n".encode()


def body_of(shape: Shape, behaviour: Behaviour) -> dict[str, Any]:
    """Return a whole answer."""
    return shape.body(generation_of(shape, behaviour))
