"""Answers follow the request: tools, formats, limits, the same in a stream and in one piece."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.upstreams import (
    OpenRouter,
    SimulatedUpstream,
    echo,
)
from tests.upstreams.client import MINI, UPSTREAMS, ask, chat

# What is asked


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(("make", "model"), UPSTREAMS)
@pytest.mark.parametrize("stream", [True, False])
def test_tool_calls(make: Callable[[], SimulatedUpstream], model: str, stream: bool) -> None:  # noqa: FBT001
    """A wanted tool is called with JSON arguments, in fragments when streamed."""
    reply = ask(make(), chat(model, "Please call tool", tools=[TOOL], stream=stream))[0]
    if not stream:
        call = reply.json["choices"][0]["message"]["tool_calls"][0]
        assert (call["function"], reply.json["choices"][0]["finish_reason"]) == (
            {"name": "weather", "arguments": '{"location":"Paris"}'},
            "tool_calls",
        )
        return
    deltas = [each["choices"][0]["delta"] for each in reply.chunks if each["choices"]]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert json.loads("".join(each["function"]["arguments"] for each in calls)) == {"location": "Paris"}


@pytest.mark.parametrize(("make", "model"), UPSTREAMS)
def test_stream_equals_whole(make: Callable[[], SimulatedUpstream], model: str) -> None:
    """A stream and a whole answer have the same text, usage and cost, and `n` answers interleave."""
    upstream = make()
    fields: dict[str, Any] = {"n": 2, "seed": 7, "reasoning_effort": "low"}
    whole, streamed = ask(
        upstream,
        chat(model, **fields),
        chat(model, stream=True, stream_options={"include_usage": True}, **fields),
    )
    texts = [choice["message"]["content"] for choice in whole.json["choices"]]
    assert "".join(texts) == echo("Good morning") * 2 + " (1)"
    spoken = ["", ""]
    for chunk in streamed.chunks:
        for choice in chunk["choices"]:
            spoken[choice["index"]] += choice["delta"].get("content") or ""
    assert spoken == texts
    assert streamed.chunks[-1]["usage"] == whole.json["usage"]
    assert upstream.books[0].cost == upstream.books[1].cost
    assert upstream.books[0].reasoning_tokens > 0


def test_limits_stops_formats_images_logprobs() -> None:
    """max_tokens, stop, response_format, images and logprobs are honoured."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x"]}}}
    image = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    cut, stopped, free, formed, seen, likely = ask(
        OpenRouter(),
        chat(max_tokens=2),
        chat(stop=["Good"]),
        chat(response_format={"type": "json_object"}),
        chat(response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}),
        {"model": MINI, "messages": [{"role": "user", "content": image}]},
        chat(logprobs=True),
    )
    assert (cut.json["choices"][0]["finish_reason"], cut.json["usage"]["completion_tokens"]) == ("length", 2)
    assert stopped.json["choices"][0]["message"]["content"] == "You said: "
    assert json.loads(free.json["choices"][0]["message"]["content"]) == {"answer": echo("Good morning")}
    assert json.loads(formed.json["choices"][0]["message"]["content"]) == {"a": 1, "b": "x"}
    assert seen.json["usage"]["prompt_tokens"] == 4 + 1 + 85
    assert likely.json["choices"][0]["logprobs"]["content"][0]["bytes"] == list(b"You ")
