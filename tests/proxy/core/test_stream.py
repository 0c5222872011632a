"""A streamed completion at every cut, with every ending, and with what is no stream at all."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.contract import Failure, FailureKind, Json, Provider, ProviderOptions, Usage
from plugins.huggingface import HuggingFace
from plugins.openai_compatible import OpenAICompatible
from plugins.openrouter import OpenRouter
from proxy.core.answer import NO_CHOICES
from proxy.core.answer_stream import MALFORMED, OVERSIZED, TRUNCATED, UNEXPLAINED
from proxy.core.chat import CHAT
from proxy.core.stream import ChatStream
from tests.proxy.core.streams import (
    DONE,
    FIXTURES,
    HELLO,
    STOP,
    USAGE,
    FakeProvider,
    chunk,
    cut,
    cuts,
    play,
    read,
    run,
    sse,
    text_of,
)

PROVIDERS: list[Provider] = [
    FakeProvider(),
    OpenAICompatible(ProviderOptions("any")),
    OpenRouter(ProviderOptions("openrouter")),
    HuggingFace(ProviderOptions("huggingface")),
]
KEYS = [
    "choices",
    "completion_tokens",
    "content",
    "delta",
    "error",
    "finish_reason",
    "id",
    "index",
    "model",
    "prompt_tokens",
    "provider",
    "reasoning_content",
    "role",
    "tool_calls",
    "usage",
]


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("name", FIXTURES)
def test_every_single_cut(name: str, *, include_usage: bool) -> None:
    """One cut anywhere in a recorded stream, or a cut at every byte, changes nothing that can be seen."""
    data = FIXTURES[name]
    expected = run([data], include_usage=include_usage)
    for place in range(len(data) + 1):
        assert run(cut(data, [place]), include_usage=include_usage) == expected, place
    assert run([data[i : i + 1] for i in range(len(data))], include_usage=include_usage) == expected


@pytest.mark.parametrize("name", FIXTURES)
@given(
    draw=st.data(),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    start=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
@settings(max_examples=50, deadline=None)
def test_random_cuts_and_line_ends(name: str, draw: st.DataObject, end: bytes, start: bytes) -> None:
    """Any cuts, any line end and a byte order mark change nothing that can be seen."""
    data = start + FIXTURES[name].replace(b"\n", end)
    assert run(cut(data, draw.draw(cuts(data)))) == run([FIXTURES[name]])


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
@pytest.mark.parametrize("name", FIXTURES)
def test_real_plugins(name: str, provider: Provider) -> None:
    """Every plugin makes the same of a recorded stream, but for the backing and the cost."""
    outcome, expected = run([FIXTURES[name]], provider=provider), run([FIXTURES[name]])
    assert outcome[:2] == expected[:2]
    assert outcome.counts == expected.counts
    assert outcome.claims == expected.claims
    assert (outcome.failure is None) == (expected.failure is None)
    tokens = outcome.usage and (outcome.usage.prompt_tokens, outcome.usage.completion_tokens)
    assert tokens == (expected.usage and (expected.usage.prompt_tokens, expected.usage.completion_tokens))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=15,
)
GARBAGE = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [sse(HELLO), sse(STOP), DONE, b"\n\n", b"event: error\n", b": x\n\n", b"data: ", b"{}"]
        ),
        JSON.map(lambda value: b"data: %b\n\n" % orjson.dumps(value)),
    ),
    max_size=8,
).map(b"".join)


@given(GARBAGE, st.sampled_from(PROVIDERS), st.data())
@settings(deadline=None)
def test_garbage(data: bytes, provider: Provider, draw: st.DataObject) -> None:
    """No bytes raise, no cut changes what comes of them, and only a clean end closes."""
    outcome = run(cut(data, draw.draw(cuts(data))), provider=provider)
    assert outcome == run([data], provider=provider)
    assert outcome.closing.endswith(DONE) == (outcome.failure is None) == outcome.claims[2]


@pytest.mark.parametrize(
    ("data", "is_done"),
    [
        (sse(HELLO, STOP, "[DONE]"), True),
        (sse(HELLO, STOP), False),
        (sse(HELLO, STOP) + b": late comm", False),
        (sse(HELLO, STOP)[:-1], False),
        (sse(HELLO, STOP)[:-2], False),
        (sse(chunk({"content": "Hello"}, "stop")).rstrip(), False),
        (sse(HELLO, STOP) + b"data: [DONE]", True),
        (sse(HELLO, STOP) + b"data:[DONE]\n", True),
        (sse(HELLO, "[DONE]"), True),
        (sse(HELLO, "[DONE]", "garbage", {"error": "x"}, HELLO), True),
        (sse(HELLO, "[DONE]") + b"data: {", True),
        (sse(HELLO, "[DONE]", HELLO).rstrip(), True),
        (sse(HELLO, "[DONE]") + b"data: " + b"x" * 200_000, True),
        (b"data:\n\n" + sse(HELLO, "", STOP, "[DONE]"), True),
        (b"event: message\n" + sse(HELLO, STOP, "[DONE]"), True),
    ],
)
def test_clean_endings(data: bytes, *, is_done: bool) -> None:
    """`[DONE]`, or an end after every finish_reason, is a clean end; what follows `[DONE]` is ignored."""
    outcome = run([data])
    assert (outcome.failure, outcome.closing[-len(DONE) :]) == (None, DONE)
    assert outcome.claims == (True, is_done, True)
    assert text_of(read(outcome.sent + outcome.closing)) == "Hello"
    assert [frame for frame in read(outcome.sent) if frame == "[DONE]"] == []


def choice_of(index: int, delta: Json, finish: str | None = None) -> Json:
    """Make a chunk of one of several choices."""
    return chunk(choices=[{"index": index, "delta": delta, "finish_reason": finish}])


FIRST, SECOND = ([choice_of(i, {"content": "Hi"}), choice_of(i, {}, "stop")] for i in (0, 1))


@pytest.mark.parametrize(
    "frames",
    [
        [*FIRST, *SECOND],
        [FIRST[0], SECOND[0], SECOND[1], FIRST[1]],
        [*FIRST, *SECOND, chunk(choices=[], usage=USAGE)],
        [*FIRST, "[DONE]"],
    ],
)
def test_every_choice_has_ended(frames: list[Json | str]) -> None:
    """Of several choices all have to end, unless `[DONE]` says that there are no more."""
    outcome = run([sse(*frames)], choices=2)
    assert (outcome.failure, outcome.closing[-len(DONE) :]) == (None, DONE)


@pytest.mark.parametrize(
    "frames", [FIRST, [*FIRST, SECOND[0]], SECOND, [*FIRST, chunk(choices=[], usage=USAGE)]]
)
def test_a_choice_is_cut_off(frames: list[Json]) -> None:
    """An end without `[DONE]` before a choice that was asked for has begun, or ended, is a failure."""
    outcome = run([sse(*frames)], choices=2)
    assert (outcome.failure, outcome.closing) == (TRUNCATED, b"")
    assert outcome.claims[1:] == (False, False)


def test_as_many_choices_as_were_asked_for() -> None:
    """What a request asks for is what its stream must bring."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "n": 2}
    outcomes = [
        play(CHAT.stream(FakeProvider(), CHAT.read(asked), None), [sse(*FIRST)])
        for asked in (body, body | {"n": None})
    ]
    assert [outcome.failure for outcome in outcomes] == [TRUNCATED, None]


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b": OPENROUTER PROCESSING\n\n",
        sse({"object": "ping"}),
        sse(chunk(choices=[], prompt_filter_results=[])),
        sse(chunk(choices=[], usage=USAGE)),
    ],
)
@pytest.mark.parametrize("done", [DONE, DONE.rstrip()])
def test_done_before_any_choice(before: bytes, done: bytes) -> None:
    """`[DONE]` after no choice at all ends no answer, and a usage record before it counts nevertheless."""
    outcome = run([before + done])
    assert (outcome.failure, outcome.closing) == (NO_CHOICES, b"")
    assert outcome.claims[1:] == (False, False)
    assert (outcome.usage is not None) == (b'"usage"' in before)


def test_usage_in_an_unterminated_event() -> None:
    """A usage record that lacks only its empty line counts."""
    outcome = run([sse(HELLO, STOP, chunk(choices=[], usage=USAGE)).rstrip()])
    assert (outcome.usage, outcome.failure) == (Usage(7, 3), None)
    assert [frame["usage"] for frame in read(outcome.closing)[:-1]] == [USAGE]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b": OPENROUTER PROCESSING\n\n",
        b"<html>502 Bad Gateway</html>",
        sse(HELLO),
        sse(HELLO).rstrip(),
        sse(HELLO, STOP) + b"data: [DON",
        sse(HELLO, STOP) + b"data: null",
        sse(HELLO, STOP) + b"dat",
        sse(HELLO, STOP) + sse(chunk(choices=[], usage=USAGE))[:-9],
        sse(HELLO, chunk(choices=[{"index": i, "delta": {}, "finish_reason": i or "stop"} for i in (0, 1)])),
        sse(HELLO, chunk(finish=True)),
        sse({"object": "ping"}),
    ],
)
def test_truncated(data: bytes) -> None:
    """An end in the middle of an event, or before every finish_reason, is a failure and closes nothing."""
    outcome = run([data])
    assert (outcome.failure, outcome.closing) == (TRUNCATED, b"")
    assert outcome.claims[1:] == (False, False)


@pytest.mark.parametrize("name", FIXTURES)
def test_truncated_anywhere(name: str) -> None:
    """A recorded stream cut at any byte before its last finish_reason has no clean end."""
    data = FIXTURES[name]
    last = data.find(b'"finish_reason":"stop"')
    for place in range(last if last >= 0 else len(data)):
        outcome = run([data[:place]])
        assert outcome.failure is not None
        assert outcome.closing == b""
        assert b"[DONE]" not in outcome.sent


@pytest.mark.parametrize("name", ["openrouter_stream_error_first_event", "openrouter_stream_error_mid"])
def test_recorded_errors(name: str) -> None:
    """An error in a chunk ends the stream after what came before it, and tells who failed."""
    outcome = run([FIXTURES[name]])
    assert outcome.failure is not None
    assert outcome.closing == b""
    assert text_of(read(outcome.sent)) == ("Hel" if name.endswith("mid") else "")
    assert outcome.names[0] is not None
    assert outcome.names[2] is not None
    assert outcome.claims == (True, False, False)


@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        (sse({"error": {"message": "m"}}), Failure(FailureKind.PROVIDER, "m")),
        (sse({"error": "text"}), Failure(FailureKind.PROVIDER, "text")),
        (b'event: error\ndata: {"error": {"message": "m"}}\n\n', Failure(FailureKind.PROVIDER, "m")),
        (b'event: error\ndata: {"message": "m"}\n\n', Failure(FailureKind.PROVIDER, "m")),
        (b'event:error\ndata: "m"\n\n', Failure(FailureKind.PROVIDER, "m")),
        (b"event: error\ndata: m \xff\n\n", Failure(FailureKind.PROVIDER, "m \N{REPLACEMENT CHARACTER}")),
        (b'event: error\ndata: {"error": "hidden"}\n\n', UNEXPLAINED),
        (sse("{not json}"), MALFORMED),
        (sse("[1]"), MALFORMED),
        (sse("null"), MALFORMED),
        (sse('{"choices": NaN}'), MALFORMED),
        (sse('{"x": "\\ud83d", "choices": NaN}'), MALFORMED),
        (b'data: {"x": "\xff"}\n\n', MALFORMED),
        (b'data: {"x": "\\ud83d\xff"}\n\n', MALFORMED),
        (sse("[" * 5000), MALFORMED),
        (sse('{"x": "\\ud83d", "y": ' + "[" * 90_000), MALFORMED),
        (b"data: " + b"x" * 200_000, OVERSIZED),
        (b"data: " + b"x" * 200_000 + b"\n\n", OVERSIZED),
    ],
)
@pytest.mark.parametrize("before", [b"", sse(HELLO, STOP)])
@pytest.mark.parametrize("is_joined", [True, False])
def test_failures(before: bytes, bad: bytes, failure: Failure, *, is_joined: bool) -> None:
    """What is no chunk ends the stream for good: what came before it is sent, nothing after it, and no end."""
    pieces = [before, bad, sse(HELLO, STOP, "[DONE]", STOP).rstrip()]
    outcome = run([b"".join(pieces)] if is_joined else pieces)
    assert (outcome.sent, outcome.closing, outcome.failure) == (before, b"", failure)
    assert outcome.claims[1:] == (False, False)


@pytest.mark.parametrize("name", [b"", b"event: error\n"])
def test_usage_beside_an_error_is_kept(name: bytes) -> None:
    """What a failed stream says that it used is known."""
    outcome = run([sse(HELLO) + name + sse(chunk(error={"message": "m"}, usage=USAGE))])
    assert (outcome.usage, outcome.sent, outcome.closing) == (Usage(7, 3), sse(HELLO), b"")


@pytest.mark.parametrize("include_usage", [True, False])
def test_nests_too_deep_to_write(include_usage: bool) -> None:  # noqa: FBT001
    """A chunk that must be written anew and cannot be is a failure, and one that passes as it is passes."""
    nest = '{"choices": [{"delta": {"content": %s"x"%s}}]%s}'
    deep = ("[" * 900, "]" * 900)
    passing = sse(nest % (*deep, ""))
    assert run([passing], include_usage=include_usage).sent == passing
    outcome = run([sse(nest % (*deep, ', "usage": {"prompt_tokens": 7}'))], include_usage=include_usage)
    assert (outcome.sent, outcome.failure) == (b"", MALFORMED)


def test_half_a_character() -> None:
    """Half a surrogate pair, which JavaScript servers write and the SDKs read, passes as it came."""
    data = b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n'
    outcome = run([data])
    assert (outcome.sent, outcome.counts) == (data, (1, 1))


def test_sources_are_no_part_of_the_answer() -> None:
    """The sources of a web search pass, and are no tokens: an answer that has reached its cap may bring them still."""
    sources = [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]
    data = sse(HELLO, HELLO, chunk({"content": "", "annotations": sources}), chunk(finish="length"))
    outcome = run([data, DONE])
    assert (outcome.sent, outcome.failure, outcome.counts) == (data, None, (2, 10))
    assert run([sse(chunk({"content": "Hello", "annotations": sources}))]).counts == (1, 5)


def test_finish_happens_once() -> None:
    """A second `finish` and a late `feed` give nothing and change nothing."""
    stream = ChatStream(FakeProvider(), choices=1, include_usage=False)
    stream.feed(sse(HELLO, STOP))
    assert not stream.is_complete
    assert (stream.finish(), stream.finish(), stream.feed(sse({"error": "late"}))) == (DONE, b"", b"")
    assert (stream.failure, stream.is_complete) == (None, True)


def test_before_the_first_byte() -> None:
    """A new stream has seen nothing; comments do not start it, its end without a byte is a failure."""
    stream = ChatStream(FakeProvider(), choices=1, include_usage=True)
    assert stream.feed(b": OPENROUTER PROCESSING\n\n") == b""
    assert (stream.started, stream.is_done, stream.is_complete, stream.usage) == (False, False, False, None)
    assert stream.finish() == b""
    assert (stream.started, stream.is_done, stream.is_complete) == (False, False, False)
    assert stream.failure == TRUNCATED
