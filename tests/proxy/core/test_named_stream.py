"""Streams of events with names, of the Responses and the Messages API: at every cut, with every ending."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.contract import Failure, FailureKind, Provider, ProviderOptions, Usage
from plugins.huggingface import HuggingFace
from plugins.openrouter import OpenRouter
from proxy.core import messages, responses
from proxy.core.answer_stream import MALFORMED, OVERSIZED, TRUNCATED, UNEXPLAINED
from proxy.core.messages import MessagesStream
from proxy.core.named_stream import NamedStream
from proxy.core.responses import ResponsesStream
from tests.proxy.core import recorded
from tests.proxy.core.recorded import BEHAVIOURS, failing_stream_of, generation_of, stream_of
from tests.proxy.core.streams import FakeProvider, Outcome, cut, cuts, play
from tests.upstreams.generation import Shape

ROUTER = OpenRouter(ProviderOptions("openrouter"))
HUB = HuggingFace(ProviderOptions("huggingface"))
KINDS: dict[str, tuple[type[NamedStream], Shape, str]] = {
    "messages": (MessagesStream, recorded.MESSAGES, "message_stop"),
    "responses": (ResponsesStream, recorded.RESPONSES, "response.completed"),
    "responses, [DONE]": (ResponsesStream, recorded.RESPONSES_AND_DONE, "response.completed"),
}
STREAMS = {
    f"{kind}: {name}": (stream, stream_of(shape, behaviour))
    for kind, (stream, shape, _) in KINDS.items()
    for name, behaviour in BEHAVIOURS.items()
} | {f"{kind}: an error": (stream, failing_stream_of(shape)) for kind, (stream, shape, _) in KINDS.items()}


def run(stream: type[NamedStream], pieces: list[bytes], provider: Provider = ROUTER) -> Outcome:
    """Play a stream to its end."""
    return play(stream(provider, max_event_bytes=100_000), pieces)


@pytest.mark.parametrize("name", [name for name in STREAMS if name.endswith(("thinking", "error"))])
def test_every_single_cut(name: str) -> None:
    """One cut anywhere, or a cut at every byte, changes nothing that can be seen."""
    stream, data = STREAMS[name]
    expected = run(stream, [data])
    for place in range(len(data) + 1):
        assert run(stream, cut(data, [place])) == expected, place
    assert run(stream, [data[i : i + 1] for i in range(len(data))]) == expected


@pytest.mark.parametrize("name", STREAMS)
@given(
    draw=st.data(),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    start=st.sampled_from([b"", b"\xef\xbb\xbf", b": comment\n\n"]),
)
@settings(max_examples=15, deadline=None)
def test_random_cuts_and_line_ends(name: str, draw: st.DataObject, end: bytes, start: bytes) -> None:
    """Any cuts, any line end, a byte order mark and comments change nothing that can be seen."""
    stream, whole = STREAMS[name]
    data = start + whole.replace(b"\n", end)
    assert run(stream, cut(data, draw.draw(cuts(data)))) == run(stream, [whole])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_stream_says_what_its_whole_answer_says(kind: str, name: str) -> None:
    """Usage, cost, names and text are those of the whole answer; every event passes, the last one when all is settled."""
    stream, shape, last = KINDS[kind]
    outcome = run(stream, [stream_of(shape, BEHAVIOURS[name])])
    generation = generation_of(shape, BEHAVIOURS[name])
    form = messages.MESSAGES if stream is MessagesStream else responses.RESPONSES
    whole = form.read_answer(ROUTER, orjson.dumps(shape.body(generation)), None)
    assert (outcome.usage, outcome.failure, whole.failure) == (whole.usage, None, None)
    assert outcome.usage is not None
    tokens = generation.tokens
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (
        tokens.prompt,
        tokens.completion,
    )
    assert outcome.usage.cached_tokens == tokens.cached
    assert outcome.names[:2] == (whole.upstream_id, whole.served_model) == ("gen-1", "m-0813")
    assert outcome.counts[0] == sum(each.kind != "call" for each in generation.answer.choices[0].deltas)
    data = stream_of(shape, BEHAVIOURS[name]).removesuffix(b"data: [DONE]\n\n")
    assert outcome.sent + outcome.closing == data
    assert outcome.closing.count(b"\n\n") == 1
    if name != "cut short":
        assert outcome.closing.startswith(f"event: {last}\n".encode())
    assert outcome.claims == (True, True, True)


def test_the_cost_is_read_where_the_provider_tells_it() -> None:
    """OpenRouter's cost stands in the record; Hugging Face's is none of its own."""
    for kind in ("messages", "responses, [DONE]"):
        stream, shape, _ = KINDS[kind]
        data = stream_of(shape, BEHAVIOURS["plain"])
        for provider, cost in ((ROUTER, "0.25"), (HUB, "None")):
            usage = run(stream, [data], provider).usage
            assert usage is not None
            assert str(usage.cost) == cost


@pytest.mark.parametrize("name", [name for name in STREAMS if name.endswith("a tool")])
def test_truncated_anywhere(name: str) -> None:
    """A stream cut at any byte before the end of its last event has no clean end, and the last event is not sent."""
    stream, data = STREAMS[name]
    data = data.removesuffix(b"data: [DONE]\n\n")
    for place in range(len(data) - 2):
        outcome = run(stream, [data[:place]])
        assert (outcome.failure, outcome.closing) == (TRUNCATED, b""), place
    assert run(stream, [data[:-1]]).failure is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_ends_a_stream(kind: str) -> None:
    """An error event, or a failed response, is a failure with the provider's words, and does not pass."""
    stream, shape, last = KINDS[kind]
    outcome = run(stream, [failing_stream_of(shape, "the provider is tired")])
    assert outcome.failure is not None
    assert outcome.failure.message == "the provider is tired"
    assert outcome.failure.kind is FailureKind.PROVIDER
    assert b"tired" not in outcome.sent
    assert last.encode() not in outcome.sent
    assert outcome.closing == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        (
            b'event: error\ndata: {"type":"error","error":{"message":"m"}}\n\n',
            Failure(FailureKind.PROVIDER, "m"),
        ),
        (b'data: {"type":"error","error":{"message":"m"}}\n\n', Failure(FailureKind.PROVIDER, "m")),
        (b'data: {"type":"error","message":"m","code":"x"}\n\n', None),
        (b'data: {"error":"m"}\n\n', Failure(FailureKind.PROVIDER, "m")),
        (b'data: {"error":null}\n\n', UNEXPLAINED),
        (b"data: {not json}\n\n", MALFORMED),
        (b"data: [1]\n\n", MALFORMED),
        (b"data: {}\n\n", MALFORMED),
        (b'data: {"type":5}\n\n', MALFORMED),
        (b'data: {"type":"a\\ndata: forged"}\n\n', MALFORMED),
        (b"data: " + b"x" * 200_000, OVERSIZED),
        (b"data: [DONE]\n\n", TRUNCATED),
    ],
)
def test_failures(kind: str, bad: bytes, failure: Failure | None) -> None:
    """What is no event of the API ends the stream for good: what came before it is sent, and nothing after it."""
    stream, shape, _ = KINDS[kind]
    data = stream_of(shape, BEHAVIOURS["plain"])
    first = data[: data.index(b"\n\n") + 2]
    outcome = run(stream, [first, bad, data], FakeProvider())
    assert (outcome.sent, outcome.closing) == (first, b"")
    if failure is None:
        assert outcome.failure is not None
    else:
        assert outcome.failure == failure


@pytest.mark.parametrize("kind", ["messages", "responses"])
def test_servers_that_send_no_names(kind: str) -> None:
    """The SDKs go by an event's name, so it is written from the data's type where a server leaves it out."""
    stream, shape, _ = KINDS[kind]
    data = stream_of(shape, BEHAVIOURS["plain"])
    nameless = b"".join(line + b"\n" for line in data.split(b"\n")[:-1] if not line.startswith(b"event:"))
    assert run(stream, [nameless]) == run(stream, [data])


def test_what_a_message_used_is_a_running_total() -> None:
    """The prompt is told at the start and the output at the end; cached tokens stand beside the input, not in it."""
    start = {
        "input_tokens": 10,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 2,
        "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 1},
        "output_tokens": 1,
    }
    frames: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": start}},
        {"type": "message_delta", "usage": {"output_tokens": 5, "input_tokens": None}},
        {"type": "message_delta", "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]
    data = b"".join(b"data: %b\n\n" % orjson.dumps(frame) for frame in frames)
    assert run(MessagesStream, [data]).usage == Usage(
        16, 7, cached_tokens=4, cache_write_tokens=2, cache_write_1h_tokens=1
    )
    # The start alone does not say what was written.
    assert run(MessagesStream, [data[: data.index(b"\n\n") + 2]]).usage is None
    searched = messages.as_chat(
        {"input_tokens": 1, "output_tokens": 2, "server_tool_use": {"web_search_requests": 3}}
    )
    assert searched is not None
    assert ROUTER.read_usage({"usage": searched}) == Usage(1, 2, web_searches=3)


KEYS = [
    "type",
    "message",
    "usage",
    "delta",
    "response",
    "error",
    "text",
    "input_tokens",
    "output_tokens",
    "id",
    "model",
]
VALUES = st.sampled_from(
    [
        "message_start",
        "message_delta",
        "message_stop",
        "content_block_delta",
        "error",
        "response.completed",
        "response.failed",
        "x.delta",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
EVENTS = st.builds(
    lambda kind, rest: {**rest, "type": kind}, VALUES, st.dictionaries(st.sampled_from(KEYS), JSON)
)
GARBAGE = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\n\n", b"event: error\n", b": x\n\n", b"data: ", b"{}", b"data: [DONE]\n\n"]),
        EVENTS.map(lambda event: b"data: %b\n\n" % orjson.dumps(event)),
        JSON.map(lambda value: b"data: %b\n\n" % orjson.dumps(value)),
    ),
    max_size=8,
).map(b"".join)


@pytest.mark.parametrize("stream", [MessagesStream, ResponsesStream])
@given(data=GARBAGE, provider=st.sampled_from([ROUTER, HUB, FakeProvider()]), draw=st.data())
@settings(max_examples=75, deadline=None)
def test_garbage(stream: type[NamedStream], data: bytes, provider: Provider, draw: st.DataObject) -> None:
    """No bytes raise, no cut changes what comes of them, and only a clean end closes."""
    outcome = run(stream, cut(data, draw.draw(cuts(data))), provider)
    assert outcome == run(stream, [data], provider)
    assert bool(outcome.closing) == (outcome.failure is None) == outcome.claims[2]


@given(st.binary() | JSON.map(orjson.dumps), st.sampled_from([ROUTER, HUB]))
@settings(deadline=None)
def test_no_whole_answer_raises(body: bytes, provider: Provider) -> None:
    """Whatever a provider sends as a whole answer, it is read or a failure."""
    for form in (messages.MESSAGES, responses.RESPONSES):
        form.read_answer(provider, body, None)
