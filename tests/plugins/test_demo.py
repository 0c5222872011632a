"""The demo provider: answers in OpenAI's shape, with counts that can be checked by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.contract import ApiCall, Price, Provider, ProviderOptions, SelfAnswering, UpstreamRequest
from plugins.demo import MODEL, Demo
from tests.plugins import recordings

DEMO = Demo(ProviderOptions("demo"))
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def answer(request: UpstreamRequest) -> tuple[int, bytes]:
    """Let the demo answer, and put the pieces together."""
    status, pieces = DEMO.respond(request, request_id="r1", now=1_800_000_000)
    return status, b"".join(pieces)


def post(body: Any) -> tuple[int, Any]:
    """Post a body, and read the answer's."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    status, found = answer(UpstreamRequest("POST", "/chat/completions", {}, raw))
    return status, orjson.loads(found)


def ask(said: Any, **more: Any) -> Any:
    """Ask for a whole answer, as a caller of the gateway does."""
    body = {"messages": [{"role": "user", "content": said}], **more}
    request = DEMO.api_request(ApiCall(body, MODEL, stream=False, max_tokens=None), None)
    status, found = answer(request)
    assert status == 200
    return orjson.loads(found)


def stream(said: str, **more: Any) -> list[Any]:
    """Ask for a stream, and read its chunks; the end must be there."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": said}], "stream": True, **more}
    status, found = answer(UpstreamRequest("POST", "/v1/chat/completions", {}, orjson.dumps(body)))
    assert status == 200
    *events, end, rest = found.split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events]


def test_is_a_provider_that_answers() -> None:
    """The demo satisfies both parts of the contract."""
    assert isinstance(DEMO, Provider)
    assert isinstance(DEMO, SelfAnswering)


def test_model_list() -> None:
    """The one model is free, and its price is known to be zero."""
    status, body = answer(DEMO.models_request(None))
    (model,) = DEMO.read_models(body)
    assert status == 200
    assert (model.id, model.name, model.owned_by) == ("demo/echo", "Demo: Echo", "demo")
    assert (model.price, model.is_free) == (Price(Decimal(0), Decimal(0)), True)


def test_whole_answer() -> None:
    """An answer is the last user message again, with a token for each word."""
    assert ask("hello  big\nworld ") == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "created": 1_800_000_000,
        "model": "demo/echo",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello  big\nworld ", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    }


def test_every_message_counts() -> None:
    """The prompt is the words of all messages; the echo is of the last one of the user."""
    messages = [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "one two"}, {"type": "image_url"}, {"text": "three"}],
        },
        {"role": "assistant", "content": None},
    ]
    status, found = post({"model": MODEL, "messages": messages})
    assert status == 200
    assert found["choices"][0]["message"]["content"] == "one two\nthree"
    assert (found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"]) == (5, 3)


@pytest.mark.parametrize("said", ["", " ", None, 7])
def test_nothing_to_echo(said: Any) -> None:
    """Nothing said is answered with nothing, for no tokens."""
    found = ask(said)
    assert found["choices"][0]["message"]["content"] == ""
    assert found["usage"]["total_tokens"] == 0


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_cap(field: str) -> None:
    """A cap cuts the answer, which then ends for its length."""
    found = ask("a b c", **{field: 2})
    choice = found["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a b ", "length")
    assert found["usage"]["completion_tokens"] == 2
    assert ask("a b c", **{field: 3})["choices"][0]["finish_reason"] == "stop"


def test_choices() -> None:
    """Every choice is answered and counted."""
    found = ask("a b", n=3)
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert (found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"]) == (2, 6)


@pytest.mark.parametrize(
    ("choice", "name"),
    [("required", "weather"), ({"type": "function", "function": {"name": "clock"}}, "clock")],
)
def test_forced_tool(choice: Any, name: str) -> None:
    """A tool that must be called is called, without arguments, for one token."""
    found = ask("rain?", tools=[WEATHER, CLOCK], tool_choice=choice)
    (answered,) = found["choices"]
    (call,) = answered["message"]["tool_calls"]
    assert (answered["finish_reason"], answered["message"]["content"]) == ("tool_calls", None)
    assert (call["type"], call["function"]) == ("function", {"name": name, "arguments": "{}"})
    assert found["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_optional_tool(choice: Any) -> None:
    """A tool that need not be called is not."""
    assert ask("rain?", tools=[WEATHER], tool_choice=choice)["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_json(kind: str) -> None:
    """Where JSON is wanted the answer is JSON."""
    content = ask('say "hi"', response_format={"type": kind})["choices"][0]["message"]["content"]
    assert orjson.loads(content) == {"echo": 'say "hi"'}
    assert ask("hi", response_format={"type": "text"})["choices"][0]["message"]["content"] == "hi"


def test_stream() -> None:
    """A stream opens with the role, brings a word a chunk, and ends with the reason."""
    chunks = stream("one two")
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "one "},
        {"content": "two"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert not any("usage" in chunk for chunk in chunks)


def test_stream_with_usage() -> None:
    """Usage comes last, without choices, and is null before."""
    *chunks, last = stream("one two", stream_options={"include_usage": True})
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 4


def test_stream_of_a_tool_call() -> None:
    """A tool call streams in one chunk."""
    deltas = [chunk["choices"][0]["delta"] for chunk in stream("x", tools=[WEATHER], tool_choice="required")]
    assert deltas[0]["content"] is None
    assert deltas[1]["tool_calls"][0]["index"] == 0
    assert deltas[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}


@recordings.PATIENT
@given(st.text(max_size=60), st.integers(1, 20), st.integers(1, 3))
def test_stream_is_the_whole_answer(said: str, cap: int, choices: int) -> None:
    """A stream joins to the whole answer, and both count the same: never more than the prompt has bytes."""
    whole = ask(said, max_tokens=cap, n=choices)
    *chunks, last = stream(said, max_tokens=cap, n=choices, stream_options={"include_usage": True})
    for index in range(choices):
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert (
            "".join(part["delta"].get("content") or "" for part in parts)
            == whole["choices"][index]["message"]["content"]
        )
        assert parts[-1]["finish_reason"] == whole["choices"][index]["finish_reason"]
    words = [chunk for chunk in chunks if chunk["choices"][0]["delta"].get("content")]
    assert last["usage"] == whole["usage"]
    assert len(words) == whole["usage"]["completion_tokens"] <= cap * choices
    assert whole["usage"]["prompt_tokens"] == len(said.split()) <= len(said.encode())
    if whole["choices"][0]["finish_reason"] == "stop" and said.strip():
        assert whole["choices"][0]["message"]["content"] == said


def test_long_blanks() -> None:
    """A long run of spaces takes no longer than so many letters."""
    assert ask(" " * 1_000_000 + "x")["usage"]["completion_tokens"] == 1


MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        ([], None),
        ({}, "model"),
        ({"model": 7, "messages": MESSAGES}, "model"),
        ({"model": MODEL}, "messages"),
        ({"model": MODEL, "messages": []}, "messages"),
        ({"model": MODEL, "messages": "hi"}, "messages"),
        ({"model": MODEL, "messages": [*MESSAGES, "hi"]}, "messages[1].role"),
        ({"model": MODEL, "messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"model": MODEL, "messages": MESSAGES, "stream": "yes"}, "stream"),
        ({"model": MODEL, "messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        ({"model": MODEL, "messages": MESSAGES, "max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"model": MODEL, "messages": MESSAGES, "n": 0}, "n"),
        ({"model": MODEL, "messages": MESSAGES, "n": 1000}, "n"),
        ({"model": MODEL, "messages": MESSAGES, "n": True}, "n"),
        ({"model": MODEL, "messages": MESSAGES, "tools": {}}, "tools"),
        ({"model": MODEL, "messages": MESSAGES, "tools": [{"type": "function"}]}, "tools"),
        ({"model": MODEL, "messages": MESSAGES, "tool_choice": "required"}, "tool_choice"),
        ({"model": MODEL, "messages": MESSAGES, "tools": [CLOCK], "tool_choice": WEATHER}, "tool_choice"),
        ({"model": MODEL, "messages": MESSAGES, "response_format": "json"}, "response_format"),
        ({"model": MODEL, "messages": MESSAGES, "response_format": {"type": "xml"}}, "response_format"),
    ],
)
def test_wrong_input(body: Any, param: str | None) -> None:
    """Wrong input is answered as OpenAI would: 400, and the field at fault."""
    status, found = post(body)
    assert status == 400
    assert found["error"].keys() == {"message", "type", "param", "code"}
    assert (found["error"]["type"], found["error"]["param"]) == ("invalid_request_error", param)


def test_unknown_model() -> None:
    """Another model is not found."""
    status, found = post({"model": "gpt-9", "messages": MESSAGES})
    assert (status, found["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("method", "path"), [("GET", "/chat/completions"), ("POST", "/embeddings")])
def test_unknown_address(method: str, path: str) -> None:
    """Any other address is not found."""
    assert answer(UpstreamRequest(method, path))[0] == 404


@recordings.PATIENT
@given(
    recordings.BODIES
    | recordings.OBJECTS.map(lambda more: orjson.dumps({"messages": MESSAGES, **more, "model": MODEL}))
)
def test_no_body_breaks_it(body: bytes) -> None:
    """Any body is answered, in full."""
    status, found = answer(UpstreamRequest("POST", "/chat/completions", {}, body))
    assert status in (200, 400, 404)
    assert found
